"""A client's microphone as blocks of samples, as steady as time, whatever the client sends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator

import av
import numpy as np
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from avatar_rtc.ears.voice_activity import BLOCK_SAMPLES, SAMPLE_RATE_HZ

MISSING_AFTER_S = 0.1
"""A client sends nothing while its microphone is off, and may send nothing while it is silent (DTX). Silence takes its place."""


async def blocks_of(track: MediaStreamTrack) -> AsyncGenerator[np.ndarray]:
    """Blocks, float32 [512] at 16 kHz, to the end of a track. The first sound begins them."""
    resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE_HZ)
    pending = np.empty(0, np.int16)
    has_begun = False
    while True:
        try:
            async with asyncio.timeout(MISSING_AFTER_S if has_begun else None):
                frame = await track.recv()
            assert isinstance(frame, av.AudioFrame)
            pieces = [pending, *(piece.to_ndarray()[0] for piece in resampler.resample(frame))]
        except TimeoutError:
            pieces = [pending, np.zeros(round(MISSING_AFTER_S * SAMPLE_RATE_HZ), np.int16)]
        except MediaStreamError:
            return
        has_begun = True
        pending = np.concatenate(pieces)
        for block in _cut(pending):
            yield block
        pending = pending[len(pending) // BLOCK_SAMPLES * BLOCK_SAMPLES :]


def _cut(samples: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(samples) // BLOCK_SAMPLES * BLOCK_SAMPLES, BLOCK_SAMPLES):
        yield samples[start : start + BLOCK_SAMPLES].astype(np.float32) / 32768
