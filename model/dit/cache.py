"""The memory of a stream: keys and values of recent blocks, at fixed addresses, with one writer.

Every denoise pass reads a view; a block's own keys and values enter once, when the block is clean and ``commit`` is called. The
order of keys does not matter to attention, so a block simply takes the place of the oldest one.

Memories are flat sequences of tensors [B, H, T, K]: layer by layer, the four of :class:`LayerMemory`, a key and a value each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import DiTConfig
from model.dit.rope import Rope


@dataclass(frozen=True)
class CacheShape:
    """Sizes of a history: ``num_blocks`` earlier blocks, and the sink if ``sink_tokens`` is not 0."""

    config: DiTConfig
    num_blocks: int
    video_tokens: int
    audio_tokens: int
    sink_tokens: int


class History:
    """Earlier blocks of one stream.

    Args:
        shape: sizes.
        device, dtype: of the buffers.
    """

    def __init__(self, shape: CacheShape, device: torch.device, dtype: torch.dtype) -> None:
        config = shape.config
        self._shape = shape
        self._rope = Rope(config.video.dim // config.video.num_heads, config.rope_theta)
        self._num_committed = 0
        video, audio = (config.video.num_heads, config.video.dim), (config.audio.num_heads, config.audio.dim)
        # (heads and width, tokens a block, tokens of the sink) of video_self, audio_self, video_cross, audio_cross
        kinds = (
            (video, shape.video_tokens, shape.sink_tokens),
            (audio, shape.audio_tokens, 0),
            (audio, shape.video_tokens, 0),
            (video, shape.audio_tokens, 0),
        )
        self._kinds = [(tokens, sink) for _, tokens, sink in kinds for _ in range(2)] * config.num_layers
        self._buffers = [
            torch.zeros(1, heads, sink + shape.num_blocks * tokens, dim // heads, device=device, dtype=dtype)
            for _ in range(config.num_layers)
            for (heads, dim), tokens, sink in kinds
            for _ in range(2)
        ]

    @property
    def num_bytes(self) -> int:
        return sum(b.numel() * b.element_size() for b in self._buffers)

    def view(self) -> list[Tensor]:
        """What a new block may see. Do not write to it; it is valid until the next ``commit``."""
        blocks = min(self._num_committed, self._shape.num_blocks)
        sizes = [(sink if blocks else 0) + blocks * tokens for tokens, sink in self._kinds]
        return [b[:, :, :n] for b, n in zip(self._buffers, sizes, strict=True)]

    def commit(self, memory: Sequence[Tensor]) -> None:
        """Remember a clean block in place of the oldest one; the first block of a stream also leaves the sink."""
        slot = self._num_committed % self._shape.num_blocks
        for i, (buffer, new, (tokens, sink)) in enumerate(zip(self._buffers, memory, self._kinds, strict=True)):
            if sink and self._num_committed == 0:
                first = new[:, :, :sink]
                buffer[:, :, :sink] = first if i % 2 else self._rope.without_time(first)  # keys stand at even places
            start = sink + slot * tokens
            buffer[:, :, start : start + tokens] = new
        self._num_committed += 1
