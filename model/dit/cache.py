"""The memory of a stream: keys and values of recent blocks, at fixed addresses, with one writer.

Every denoise pass reads a view; a block's own keys and values enter once, when the block is clean and ``commit`` is called. The order of
keys does not matter to attention, so a block simply takes the place of the oldest one.

All layers are stacked, keys before values: [layers, 2, B, H, T, K].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from model.config import DiTConfig
from model.dit.attention import KeyValue
from model.dit.block import LayerMemory
from model.dit.rope import Rope


class StackedMemory(NamedTuple):
    """The four memories of all layers, see :class:`LayerMemory` for their meaning."""

    video_self: Tensor
    audio_self: Tensor
    video_cross: Tensor
    audio_cross: Tensor


def stack(memory: Sequence[LayerMemory]) -> StackedMemory:
    return StackedMemory(*(torch.stack([torch.stack(layer[i]) for layer in memory]) for i in range(4)))


def unstack(memory: StackedMemory) -> list[LayerMemory]:
    return [LayerMemory(*(KeyValue(m[i, 0], m[i, 1]) for m in memory)) for i in range(len(memory.video_self))]


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

        def buffer(heads: int, dim: int, tokens: int) -> Tensor:
            return torch.zeros(config.num_layers, 2, 1, heads, tokens, dim // heads, device=device, dtype=dtype)

        video, audio = (config.video.num_heads, config.video.dim), (config.audio.num_heads, config.audio.dim)
        many_video, many_audio = shape.num_blocks * shape.video_tokens, shape.num_blocks * shape.audio_tokens
        self._buffers = StackedMemory(
            buffer(*video, shape.sink_tokens + many_video), buffer(*audio, many_audio), buffer(*audio, many_video), buffer(*video, many_audio)
        )

    @property
    def num_bytes(self) -> int:
        return sum(b.numel() * b.element_size() for b in self._buffers)

    def view(self) -> StackedMemory:
        """What a new block may see. Do not write to it; it is valid until the next ``commit``."""
        blocks = min(self._num_committed, self._shape.num_blocks)
        sink = self._shape.sink_tokens if blocks else 0
        video, audio = blocks * self._shape.video_tokens, blocks * self._shape.audio_tokens
        return StackedMemory(*(b[..., :n, :] for b, n in zip(self._buffers, (sink + video, audio, video, audio), strict=True)))

    def commit(self, memory: StackedMemory) -> None:
        """Remember a clean block in place of the oldest one; the first block of a stream also leaves the sink."""
        slot = self._num_committed % self._shape.num_blocks
        sink = self._shape.sink_tokens
        if sink and self._num_committed == 0:
            keys, values = memory.video_self[:, 0, ..., :sink, :], memory.video_self[:, 1, ..., :sink, :]
            self._buffers.video_self[:, 0, ..., :sink, :] = self._rope.without_time(keys)
            self._buffers.video_self[:, 1, ..., :sink, :] = values
        for buffer, new, first in zip(self._buffers, memory, (sink, 0, 0, 0), strict=True):
            tokens = new.shape[-2]
            start = first + slot * tokens
            buffer[..., start : start + tokens, :] = new
        self._num_committed += 1
