"""A microphone of a headless client: sound that it is given, and silence besides."""

from __future__ import annotations

import asyncio
import time
from fractions import Fraction

import av
import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

SAMPLE_RATE_HZ = 16_000
PIECE_SAMPLES = SAMPLE_RATE_HZ // 50


class Microphone(MediaStreamTrack):
    """A track of aiortc's, in real time."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._pending = np.empty(0, np.int16)
        self._said = asyncio.Event()
        self._start_s: float | None = None
        self._num_samples = 0

    @property
    def pending_s(self) -> float:
        """How long what was put in, and is still to be heard, lasts."""
        return len(self._pending) / SAMPLE_RATE_HZ

    def put(self, samples: np.ndarray) -> None:
        """Have a sound heard, float32 [S] at 16 kHz, behind what is still to be heard."""
        self._pending = np.concatenate([self._pending, (np.clip(samples, -1, 1) * 32767).astype(np.int16)])
        self._said.clear()

    async def say(self, samples: np.ndarray) -> None:
        """The same; returns when all of it was sent."""
        self.put(samples)
        await self._said.wait()

    async def recv(self) -> av.AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        self._start_s = self._start_s or time.monotonic()
        await asyncio.sleep(self._start_s + self._num_samples / SAMPLE_RATE_HZ - time.monotonic())
        piece, self._pending = self._pending[:PIECE_SAMPLES], self._pending[PIECE_SAMPLES:]
        if not len(self._pending):
            self._said.set()
        samples = np.pad(piece, (0, PIECE_SAMPLES - len(piece)))
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.time_base = SAMPLE_RATE_HZ, Fraction(1, SAMPLE_RATE_HZ)
        frame.pts = self._num_samples
        self._num_samples += PIECE_SAMPLES
        return frame
