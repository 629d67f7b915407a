"""What a stream remembers of its recent blocks: keys and values of both towers in all layers, at fixed addresses, one writer.

Every pass reads it; a block's own keys and values enter once, when the block is clean and ``commit`` is called. The order of keys
does not matter to attention, so a block simply takes the place of the oldest one. Shapes never change: places that nobody has
filled yet are hidden from attention by a mask, which is exact.

It only fills places and counts, and does not care whether its arrays are NumPy's or PyTorch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.config import DiTConfig
from model.dit.positions import Ladder

HIDDEN = -1e9
"""Added to a score, it leaves a weight of exactly 0."""

Array = Any
"""NumPy's, or a tensor of PyTorch, or what else a runtime computes with."""


@dataclass(frozen=True)
class HistoryShape:
    """Sizes of a history: ``num_blocks`` earlier blocks, and the sink if ``sink_tokens`` is not 0."""

    config: DiTConfig
    num_blocks: int
    video_tokens: int
    audio_tokens: int
    sink_tokens: int

    @property
    def kinds(self) -> tuple[tuple[int, int, int, int], ...]:
        """Of a layer's four memories, in their order in :class:`model.dit.block.LayerMemory`: heads, channels a head, tokens a
        block, tokens of the sink."""
        video, audio = self.config.video, self.config.audio
        in_video, in_audio = (video.num_heads, video.dim // video.num_heads), (audio.num_heads, audio.dim // audio.num_heads)
        return (
            (*in_video, self.video_tokens, self.sink_tokens),
            (*in_audio, self.audio_tokens, 0),
            (*in_audio, self.video_tokens, 0),
            (*in_video, self.audio_tokens, 0),
        )

    @property
    def shapes(self) -> list[tuple[int, int, int, int]]:
        """Of all arrays [1, H, S, K]: layer by layer, the four memories, a key and a value each."""
        one = [(1, heads, sink + self.num_blocks * tokens, channels) for heads, channels, tokens, sink in self.kinds]
        return [shape for shape in one for _ in range(2)] * self.config.num_layers


class History:
    """Earlier blocks of one stream.

    Args:
        shape: sizes.
        arrays: of ``shape.shapes``, zeros; they are kept and filled.
    """

    def __init__(self, shape: HistoryShape, arrays: Sequence[Array]) -> None:
        self._shape = shape
        self.arrays = list(arrays)
        self._num_committed = 0
        video = shape.config.video
        self._num_time_channels = Ladder(video.dim // video.num_heads, shape.config.rope_theta).num_time_channels
        self.masks = self._make_masks()

    def _make_masks(self) -> list[np.ndarray]:
        """What a new block may see, float32 [1, 1, 1, S] to be added to its scores, of each of the four memories: the places of
        the history, then the block's own tokens."""
        filled = min(self._num_committed, self._shape.num_blocks)
        masks = []
        for _, _, tokens, sink in self._shape.kinds:
            mask = np.zeros((1, 1, 1, sink + (self._shape.num_blocks + 1) * tokens), np.float32)
            mask[..., sink + filled * tokens : sink + self._shape.num_blocks * tokens] = HIDDEN
            if not filled:
                mask[..., :sink] = HIDDEN
            masks.append(mask)
        return masks

    def commit(self, memory: Sequence[Array]) -> None:
        """Remember a clean block in place of the oldest one; a stream's first block also leaves the sink, without its time."""
        slot = self._num_committed % self._shape.num_blocks
        for i, (array, new) in enumerate(zip(self.arrays, memory, strict=True)):
            _, _, tokens, sink = self._shape.kinds[i // 2 % 4]
            if sink and self._num_committed == 0:
                array[:, :, :sink] = new[:, :, :sink]
                if i % 2 == 0:  # keys
                    array[:, :, :sink, : self._num_time_channels] = 0
            start = sink + slot * tokens
            array[:, :, start : start + tokens] = new
        self._num_committed += 1
        if self._num_committed <= self._shape.num_blocks:
            self.masks = self._make_masks()
