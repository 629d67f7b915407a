"""The types that cross from the network to the service. Numpy only: importing this never imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

MarkKind = Literal["start", "word", "end"]


@dataclass(frozen=True)
class Mark:
    """Something that happens in a reply at a moment of a chunk, for captions and for the end of a reply.

    Attributes:
        reply_id: the reply it belongs to.
        kind: ``start`` is the first voiced moment, ``word`` a spoken word, ``end`` the moment after the last voiced sample of the
            whole reply (exactly one a reply that is spoken to its end).
        start_sample, end_sample: place within the chunk's samples; a word that goes on into the next chunk ends there, so
            ``end_sample`` may exceed the chunk's length. Equal for ``start`` and ``end``.
        text: the word as typed, with its punctuation; empty for other kinds.
        spoken: how it is read, in words, where those are others than what was typed ("nine forty five" of "9:45"); else empty.
    """

    reply_id: str
    kind: MarkKind
    start_sample: int
    end_sample: int
    text: str = ""
    spoken: str = ""


@dataclass(frozen=True)
class AVChunk:
    """Decoded video and audio of a block or a part of one: exactly as many frames as samples need, so in sync by construction.

    Attributes:
        index: number of the chunk in its stream, from 0.
        frames: uint8 [T, H * 3 / 2, W], I420 (BT.601, limited range), planes stacked as ``av.VideoFrame`` takes them.
        samples: int16 [S], mono.
        fps: pictures a second.
        sample_rate_hz: samples a second.
        speaking: whether any of it belongs to a reply.
        marks: moments of replies, ordered by ``start_sample``.

    Raises:
        ValueError: frames and samples do not last equally long, or have the wrong shape or type.
    """

    index: int
    frames: np.ndarray
    samples: np.ndarray
    fps: int
    sample_rate_hz: int
    speaking: bool = False
    marks: tuple[Mark, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.frames.dtype != np.uint8 or self.frames.ndim != 3 or self.frames.shape[1] % 3:
            raise ValueError(f"frames must be uint8 [T, H * 3 / 2, W], got {self.frames.dtype} {self.frames.shape}")
        if self.samples.dtype != np.int16 or self.samples.ndim != 1:
            raise ValueError(f"samples must be int16 [S], got {self.samples.dtype} {self.samples.shape}")
        if len(self.frames) * self.sample_rate_hz != len(self.samples) * self.fps:
            raise ValueError(
                f"{len(self.frames)} frames at {self.fps} fps and {len(self.samples)} samples at {self.sample_rate_hz} Hz "
                "do not last equally long"
            )

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate_hz


@dataclass(frozen=True)
class Image:
    """A picture, RGB, 3 bytes a pixel, row by row from the top."""

    height_px: int
    width_px: int
    rgb: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.rgb) != 3 * self.height_px * self.width_px:
            raise ValueError(f"{self.height_px} x {self.width_px} pixels have 3 bytes each, got {len(self.rgb)} bytes")


@dataclass(frozen=True)
class StreamSettings:
    """Who is seen, where, and in which voice: free English text, as in the prompt grammar.

    Attributes:
        scene: look, clothes, place and light, e.g. "A woman with long red hair and glasses in a bright office."
        voice: e.g. "a warm, clear female voice".
        seed: for everything that the text leaves open.
        image: what the stream begins with, where the model can.
    """

    scene: str
    voice: str
    seed: int = 0
    image: Image | None = None


@dataclass(frozen=True)
class StreamInfo:
    """What a client must know of a model before the first chunk.

    Attributes:
        chunk_frames, chunk_samples: what the model hands out at once.
        chunks_per_block: what it computes at once is a block, handed out chunk by chunk.
    """

    model: str
    width_px: int
    height_px: int
    fps: int
    sample_rate_hz: int
    chunk_frames: int
    chunk_samples: int
    chunks_per_block: int = 1

    @property
    def chunk_duration_s(self) -> float:
        return self.chunk_frames / self.fps

    @property
    def block_duration_s(self) -> float:
        return self.chunk_duration_s * self.chunks_per_block
