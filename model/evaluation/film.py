"""A film as judges see it: its pictures, its sound, and the prompt that it was made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np

from model.text.prompt import Prompt

SAMPLE_RATE_HZ = 16_000
"""What recognisers and judges of voices take."""

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Film:
    """What is judged.

    Attributes:
        prompt: who was asked for, and what was to be said; without lines where that is not known.
        pictures: uint8 [T, H, W, 3], RGB; about ``fps`` of them a second.
        times_s: middle of each picture [T], where the sound begins at 0.
        samples: float32 [N] in [-1, 1], :data:`SAMPLE_RATE_HZ` of them a second.
        truth: the drawn film that this one was decoded from, picture by picture, if it was.
    """

    path: Path
    prompt: Prompt
    pictures: Array
    times_s: Array
    fps: float
    samples: Array
    truth: Path | None = None

    @property
    def duration_s(self) -> float:
        return len(self.samples) / SAMPLE_RATE_HZ


def read_film(path: Path, prompt: Prompt, span_s: tuple[float, float] | None = None) -> Film:
    """Decode an MP4 file.

    Args:
        span_s: start and end of the piece that is wanted, of which nobody knows what is said; all of it if None.

    Raises:
        OSError: it is missing or damaged.
    """
    start_s, end_s = span_s or (0.0, float("inf"))
    with av.open(str(path)) as container:
        fps = float(container.streams.video[0].average_rate or 25)
        frames = [
            (float(frame.time or 0) + 0.5 / fps - start_s, frame.to_ndarray(format="rgb24"))
            for frame in container.decode(video=0)
            if start_s <= float(frame.time or 0) + 0.5 / fps < end_s
        ]
    samples = read_sound(path)
    if span_s is not None:
        prompt = replace(prompt, lines=())
        samples = samples[round(start_s * SAMPLE_RATE_HZ) : round(end_s * SAMPLE_RATE_HZ)]
    return Film(path, prompt, np.stack([x for _, x in frames]), np.array([t for t, _ in frames]), fps, samples)


def read_sound(path: Path, rate_hz: int = SAMPLE_RATE_HZ) -> Array:
    """float32 [N], mono, of any audio or video file."""
    resampler = av.AudioResampler("flt", "mono", rate_hz)
    with av.open(str(path)) as container:
        pieces = [f.to_ndarray()[0] for frame in container.decode(audio=0) for f in resampler.resample(frame)]
    return np.concatenate(pieces)
