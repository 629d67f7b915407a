"""Writes what a client receives to an MP4 file, both tracks on the sender's own clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np

from avatar_rtc.media.film import AAC_SAMPLES, FilmFile

Kind = Literal["video", "audio"]
AUDIO_HZ = 48_000
VIDEO_HZ = 90_000
FRAME_S = 0.04
AUDIO_BPS = 128_000
KEYFRAME_EVERY_S = 2.0
MAX_WAITING = 250
"""Pictures and sounds that are kept until sender reports have told how the tracks lie to each other; some three seconds."""
MAX_UNWRITTEN = 1000
"""Pictures and sounds that wait for an encoder or a disk that is too slow; some thirteen seconds."""


class Recorder:
    """An MP4 file. Time stamps come from RTP and sender reports, never from the time of arrival, so nothing drifts.

    Lost sound becomes silence, a lost picture lets the one before stand longer; so it is with what cannot be written in time. The
    film begins where both tracks have begun and ends where the first of them ends, so that they last equally long but for less
    than a frame.

    It can be played up to the last second, whatever ends it (``FilmFile``). What the file held before stays until there is
    something to record.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            OSError: the file cannot be written.
        """
        self._path = path
        self._was_there = path.exists()
        with path.open("ab"):
            pass
        self._error: OSError | None = None
        self._film: Any = None
        self._video: Any = None
        self._audio: Any = None
        self._zero_s: dict[Kind, float] = {}
        self._start_s: float | None = None
        self._waiting: list[tuple[Kind, Any]] = []
        self._sounds: list[np.ndarray] = []  # int16 [2 * samples], stereo, not encoded yet
        self._num_samples = self._num_encoded = 0
        self._last_pts = -1
        self._queue: asyncio.Queue[tuple[Kind, Any] | None] = asyncio.Queue(MAX_UNWRITTEN)
        self._writer = asyncio.create_task(self._write_all())

    def align(self, kind: Kind, zero_s: float) -> None:
        """The wall time of the sender at which time stamp 0 of a track lies. The first word counts."""
        self._zero_s.setdefault(kind, zero_s)
        self._begin_when_both_are_there()

    def add(self, kind: Kind, frame: Any) -> None:
        """A decoded picture or sound, with its time stamp."""
        if self._start_s is None:
            self._waiting.append((kind, frame))
            self._begin_when_both_are_there()
            if self._start_s is None and len(self._waiting) > MAX_WAITING:
                self._begin_anyway()
            return
        if not self._queue.full():
            self._queue.put_nowait((kind, frame))

    async def close(self) -> None:
        """Write what waits and finish the file; one that holds nothing is not left behind.

        Raises:
            OSError: it could not be written to its end, because the disk is full, for example. What it holds can be played.
        """
        if self._start_s is None and self._waiting:
            self._begin_anyway()
        await self._queue.put(None)
        await self._writer
        if self._film is None and not self._was_there:
            self._path.unlink(missing_ok=True)
        if self._error is not None:
            raise OSError(f"the recording {self._path} could not be written to its end: {self._error.strerror}") from self._error

    def _begin_when_both_are_there(self) -> None:
        if self._start_s is None and len(self._zero_s) == 2 and len({kind for kind, _ in self._waiting}) == 2:
            self._begin()

    def _begin_anyway(self) -> None:
        """A sender without reports, or with one track: both began together, as far as anybody knows."""
        self._zero_s.setdefault("video", self._zero_s.get("audio", 0.0))
        self._zero_s.setdefault("audio", self._zero_s["video"])
        self._begin()

    def _begin(self) -> None:
        times: dict[Kind, list[float]] = {
            kind: [self._time_s(kind, frame) for at, frame in self._waiting if at == kind] for kind in ("video", "audio")
        }
        both_s = max((found[0] for found in times.values() if found), default=self._zero_s["video"])
        # With a picture, so that the first one does not have to stand for less than its time.
        pictures_s = times["video"]
        later_s = [at_s for at_s in pictures_s if at_s >= both_s] or [at_s + FRAME_S for at_s in pictures_s[-1:]]
        self._start_s = later_s[0] if later_s else both_s
        for item in self._waiting:
            self._queue.put_nowait(item)
        self._waiting.clear()

    def _time_s(self, kind: Kind, frame: Any) -> float:
        return self._zero_s[kind] + int(frame.pts) / (VIDEO_HZ if kind == "video" else AUDIO_HZ)

    async def _write_all(self) -> None:
        while (item := await self._queue.get()) is not None:
            await self._try(self._write, *item)
        await self._try(self._finish)
        if self._film is not None and self._error is not None:
            await self._try(self._film.close)

    async def _try(self, step: Callable[..., None], *arguments: Any) -> None:
        """One step of writing. After the first that fails only closing is tried: what is written so far must stay as it is."""
        if self._error is not None and arguments:
            return
        try:
            await asyncio.to_thread(step, *arguments)
        except OSError as error:
            self._error = self._error or error

    def _write(self, kind: Kind, frame: Any) -> None:
        assert self._start_s is not None
        since_s = self._time_s(kind, frame) - self._start_s
        if kind == "video":
            pts = round(since_s * VIDEO_HZ)
            if pts <= self._last_pts:
                return
            if self._film is None:
                self._begin_film(frame.width, frame.height)
            self._last_pts = pts
            picture = av.VideoFrame.from_ndarray(frame.to_ndarray(format="yuv420p"), format="yuv420p")
            picture.pts, picture.time_base = pts, Fraction(1, VIDEO_HZ)
            self._film.write(self._video.encode(picture))
            return
        samples = frame.to_ndarray().reshape(-1)
        gap = round(since_s * AUDIO_HZ) - self._num_samples
        samples = np.concatenate([np.zeros(2 * max(gap, 0), np.int16), samples[2 * max(-gap, 0) :]])
        if len(samples):
            self._sounds.append(samples)
            self._num_samples += len(samples) // 2
        if self._film is not None:
            self._encode_sounds()

    def _begin_film(self, width_px: int, height_px: int) -> None:
        self._film = FilmFile(self._path)
        # Without latency: what the encoder keeps for later would be lost. A player that seeks decodes from the keyframe before.
        coding = {"preset": "veryfast", "crf": "18", "tune": "zerolatency", "g": str(round(KEYFRAME_EVERY_S / FRAME_S))}
        self._video = self._film.add_video_encoder(
            "libx264", width_px, height_px, round(1 / FRAME_S), time_base=Fraction(1, VIDEO_HZ), options=coding
        )
        self._audio = self._film.add_sound("aac", AUDIO_HZ, "stereo", AAC_SAMPLES / AUDIO_HZ, AUDIO_BPS)

    def _encode_sounds(self) -> None:
        """Encode what has come since the film began, and before."""
        for samples in self._sounds:
            sound = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="stereo")
            sound.sample_rate = AUDIO_HZ
            sound.pts, sound.time_base = self._num_encoded, Fraction(1, AUDIO_HZ)
            self._num_encoded += len(samples) // 2
            self._film.write(self._audio.encode(sound))
        self._sounds.clear()

    def _finish(self) -> None:
        if self._film is None or self._error is not None:
            return
        self._encode_sounds()
        for stream in (self._video, self._audio):
            self._film.write(stream.encode(None))
        self._film.finish()
