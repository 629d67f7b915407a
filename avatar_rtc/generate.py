"""A prompt in, a film out: the same model as in a call, as fast as the machine can, without a server."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av

from avatar_rtc.media.film import AAC_SAMPLES, FilmFile
from model.chunk import AVChunk, StreamInfo, StreamSettings
from model.stream import Model, Stream
from model.text.prompt import Prompt, parse_prompt

H264_ENCODERS = ("libx264", "libopenh264", "h264_videotoolbox")
VIDEO_BITRATE_BPS = 1_000_000
REPLY_ID = "film"
LEAD_CHUNKS = 1
"""So long the face listens before it speaks: without, the film begins in the middle of a movement."""
TAIL_CHUNKS = 1
"""So long it goes on after the last word, so that the film does not break off with it."""

OnProgress = Callable[[float, float], None]
"""Hears, after each chunk, the seconds of film so far and the seconds of work they took."""


@dataclass(frozen=True)
class Film:
    """What was made."""

    duration_s: float
    compute_s: float

    @property
    def rtf(self) -> float:
        """Seconds of computing a second of film, encoding included."""
        return self.compute_s / self.duration_s


class FilmWriter:
    """Writes chunks to an MP4 file, H.264 and AAC. It takes its name when it is finished: what has the name is whole."""

    def __init__(self, path: Path, info: StreamInfo) -> None:
        self._path, self._unfinished = path, path.with_name(f".{path.name}.part")
        self._film = FilmFile(self._unfinished)
        self._video = self._film.add_video_encoder(
            h264_encoder(), info.width_px, info.height_px, info.fps, bit_rate=VIDEO_BITRATE_BPS
        )
        self._audio = self._film.add_sound("aac", info.sample_rate_hz, "mono", AAC_SAMPLES / info.sample_rate_hz)
        self._num_frames = self._num_samples = 0

    def write(self, chunk: AVChunk) -> None:
        for picture in chunk.frames:
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts, frame.time_base = self._num_frames, Fraction(1, chunk.fps)
            self._num_frames += 1
            self._film.write(self._video.encode(frame))
        sound = av.AudioFrame.from_ndarray(chunk.samples[None], format="s16", layout="mono")
        sound.sample_rate = chunk.sample_rate_hz
        sound.pts, sound.time_base = self._num_samples, Fraction(1, chunk.sample_rate_hz)
        self._num_samples += len(chunk.samples)
        self._film.write(self._audio.encode(sound))

    def __enter__(self) -> FilmWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        is_whole = False
        try:
            if kind is None:
                self._film.write(self._video.encode())
                self._film.write(self._audio.encode())
                self._film.finish()
                self._unfinished.replace(self._path)
                is_whole = True
        finally:
            if not is_whole:
                self._film.close()
                self._unfinished.unlink(missing_ok=True)


def h264_encoder() -> str:
    """The first H.264 encoder that this PyAV has. Raises ``ValueError`` where there is none."""
    for name in H264_ENCODERS:
        if name in av.codecs_available:
            return name
    raise ValueError(f"PyAV {av.__version__} has no H.264 encoder: reinstall it with 'pip install --force-reinstall av'")


def generate(
    model: Model,
    prompt: str | Prompt,
    settings: StreamSettings,
    path: Path,
    on_progress: OnProgress,
    *,
    lead_chunks: int = LEAD_CHUNKS,
    until_s: float = math.inf,
) -> Film:
    """Say a prompt into an MP4 file.

    Args:
        model: loaded.
        prompt: plain text, the full grammar, or parsed; a scene and a voice named in it win over ``settings``.
        settings: who says it.
        path: written, and overwritten.
        on_progress: told after each chunk.
        lead_chunks: of a face that listens, before it speaks.
        until_s: then the film breaks off, whatever is being said.

    Raises:
        model.errors.PromptError: before anything is written.
    """
    parsed = parse_prompt(prompt) if isinstance(prompt, str) else prompt
    settings = replace(settings, scene=parsed.scene or settings.scene, voice=parsed.voice or settings.voice)
    stream = model.open(settings)
    # Only a try tells whether a line can be spoken; nothing has been made for it yet.
    _push(stream, parsed)
    if lead_chunks:
        stream.cancel()
    started_s = time.perf_counter()
    num_samples = 0
    with FilmWriter(path, model.info) as writer:
        num_chunks, end_chunk = 0, None
        until = until_s * model.info.sample_rate_hz
        while num_samples < until and (end_chunk is None or num_chunks <= end_chunk + TAIL_CHUNKS):
            chunk = stream.step()
            if chunk is None:
                continue
            writer.write(chunk)
            num_samples += len(chunk.samples)
            if any(mark.kind == "end" for mark in chunk.marks):
                end_chunk = num_chunks
            num_chunks += 1
            if num_chunks == lead_chunks:
                _push(stream, parsed)
            on_progress(num_samples / model.info.sample_rate_hz, time.perf_counter() - started_s)
    stream.close()
    return Film(num_samples / model.info.sample_rate_hz, time.perf_counter() - started_s)


def _push(stream: Stream, prompt: Prompt) -> None:
    for index, line in enumerate(prompt.lines):
        stream.push(REPLY_ID, line, last=index == len(prompt.lines) - 1)
