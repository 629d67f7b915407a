"""Writes what a client receives to an MP4 file, both tracks on the sender's own clock."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np

Kind = Literal["video", "audio"]
AUDIO_HZ = 48_000
VIDEO_HZ = 90_000
MAX_WAITING = 250
"""Pictures and sounds that are kept until sender reports have told how the tracks lie to each other; some three seconds."""


class Recorder:
    """An MP4 file. Time stamps come from RTP and sender reports, never from the time of arrival, so nothing drifts.

    Lost sound becomes silence, a lost picture lets the one before stand longer.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            OSError: the file cannot be written.
        """
        with path.open("wb"):
            pass
        self._container = av.open(str(path), "w", format="mp4")
        self._video: Any = None
        self._audio: Any = None
        self._zero_s: dict[Kind, float] = {}
        self._start_s: float | None = None
        self._waiting: list[tuple[Kind, Any]] = []
        self._next_sample = 0
        self._last_pts = -1
        self._queue: asyncio.Queue[tuple[Kind, Any] | None] = asyncio.Queue()
        self._writer = asyncio.create_task(self._write_all())

    def align(self, kind: Kind, zero_s: float) -> None:
        """The wall time of the sender at which time stamp 0 of a track lies. The first word counts."""
        self._zero_s.setdefault(kind, zero_s)
        if self._start_s is None and len(self._zero_s) == 2:
            self._begin()

    def add(self, kind: Kind, frame: Any) -> None:
        """A decoded picture or sound, with its time stamp."""
        if self._start_s is None:
            self._waiting.append((kind, frame))
            if len(self._waiting) > MAX_WAITING:
                # A sender without reports: both tracks began together, as far as anybody knows.
                self.align("video", 0.0)
                self.align("audio", 0.0)
            return
        self._queue.put_nowait((kind, frame))

    async def close(self) -> None:
        """Write what waits and finish the file."""
        if self._start_s is None and self._waiting:
            self.align("video", self._zero_s.get("audio", 0.0))
            self.align("audio", self._zero_s.get("video", 0.0))
        self._queue.put_nowait(None)
        await self._writer

    def _begin(self) -> None:
        first = {kind: frame for kind, frame in reversed(self._waiting)}
        self._start_s = min((self._time_s(kind, frame) for kind, frame in first.items()), default=self._zero_s["video"])
        for item in self._waiting:
            self._queue.put_nowait(item)
        self._waiting.clear()

    def _time_s(self, kind: Kind, frame: Any) -> float:
        return self._zero_s[kind] + int(frame.pts) / (VIDEO_HZ if kind == "video" else AUDIO_HZ)

    async def _write_all(self) -> None:
        while (item := await self._queue.get()) is not None:
            await asyncio.to_thread(self._write, *item)
        await asyncio.to_thread(self._finish)

    def _write(self, kind: Kind, frame: Any) -> None:
        assert self._start_s is not None
        since_s = self._time_s(kind, frame) - self._start_s
        if kind == "video":
            if self._video is None:
                self._video = self._container.add_stream("libx264", rate=25, options={"preset": "veryfast", "crf": "18"})
                self._video.width, self._video.height, self._video.pix_fmt = frame.width, frame.height, "yuv420p"
                self._video.codec_context.time_base = Fraction(1, VIDEO_HZ)
                self._audio = self._container.add_stream("aac", rate=AUDIO_HZ, layout="stereo")
                self._audio.bit_rate = 128_000
            pts = round(since_s * VIDEO_HZ)
            if pts <= self._last_pts:
                return
            self._last_pts = pts
            picture = av.VideoFrame.from_ndarray(frame.to_ndarray(format="yuv420p"), format="yuv420p")
            picture.pts, picture.time_base = pts, Fraction(1, VIDEO_HZ)
            self._container.mux(self._video.encode(picture))
        elif self._audio is not None:
            samples = frame.to_ndarray().reshape(1, -1)
            position = round(since_s * AUDIO_HZ)
            gap = position - self._next_sample
            if gap > 0:
                self._encode(np.zeros((1, 2 * gap), np.int16))
            elif gap < 0:
                samples = samples[:, -2 * gap :]
            if samples.shape[1]:
                self._encode(samples)

    def _encode(self, samples: np.ndarray) -> None:
        sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="s16", layout="stereo")
        sound.sample_rate = AUDIO_HZ
        sound.pts, sound.time_base = self._next_sample, Fraction(1, AUDIO_HZ)
        self._next_sample += samples.shape[1] // 2
        self._container.mux(self._audio.encode(sound))

    def _finish(self) -> None:
        for stream in (self._video, self._audio):
            if stream is not None:
                self._container.mux(stream.encode(None))
        self._container.close()
