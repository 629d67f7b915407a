"""Chunks whose every picture and sample says which frame it is, so that a test sees what was played when."""

from __future__ import annotations

import numpy as np

from model.chunk import AVChunk, Mark, StreamInfo

INFO = StreamInfo("numbered", width_px=16, height_px=16, fps=25, sample_rate_hz=8000, chunk_frames=8, chunk_samples=2560)


def speaking_chunk(index: int) -> AVChunk:
    """The same in the middle of a line, where nothing is shown but what belongs to the sound."""
    return numbered_chunk(index, marks=(Mark("r", "word", 0, 1, "on"),), speaking=True)


def numbered_chunk(index: int, *, info: StreamInfo = INFO, marks: tuple[Mark, ...] = (), speaking: bool = False) -> AVChunk:
    """Frame n of the stream has brightness ``n % 200 + 1`` everywhere, and its samples that value."""
    values = [(index * info.chunk_frames + frame) % 200 + 1 for frame in range(info.chunk_frames)]
    frames = np.stack([np.full((info.height_px * 3 // 2, info.width_px), value, np.uint8) for value in values])
    samples = np.repeat(np.array(values, np.int16), info.chunk_samples // info.chunk_frames)
    return AVChunk(index, frames, samples, info.fps, info.sample_rate_hz, speaking, marks)
