"""Who may see whom, from block numbers and never from places in a buffer.

True means visible. Streaming needs no mask at all: its caches hold exactly what these masks leave visible, and a test holds them
to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor


def block_causal(query_blocks: Tensor, key_blocks: Tensor, window_blocks: int | None = None) -> Tensor:
    """bool [..., Q, K]: a block sees itself, whole, and the ``window_blocks - 1`` blocks before it (all, if None)."""
    age = query_blocks.unsqueeze(-1) - key_blocks.unsqueeze(-2)
    visible = age >= 0
    return visible if window_blocks is None else visible & (age < window_blocks)


def future_expanding(
    query_blocks: Tensor,
    key_blocks: Tensor,
    key_index: Tensor,
    block_keys: int,
    future_keys: int,
    window_blocks: int | None = None,
) -> Tensor:
    """Like :func:`block_causal`, but ``future_keys`` keys of the next block are visible too (Hallo-Live, future-expanding
    attention).

    Args:
        key_index: each key's absolute number in its stream [..., K].
        block_keys: keys a block.
    """
    visible = block_causal(query_blocks, key_blocks, window_blocks)
    end = (query_blocks.unsqueeze(-1) + 1) * block_keys + future_keys
    ahead = (key_blocks.unsqueeze(-2) > query_blocks.unsqueeze(-1)) & (key_index.unsqueeze(-2) < end)
    return visible | ahead


def time_window(query_blocks: Tensor, key_times: Tensor, block_duration: float, past: float, future: float) -> Tensor:
    """bool [..., Q, K]: keys whose time lies in a block's own span, ``past`` before it or ``future`` after it.

    All times in one unit; block b spans [b, b + 1) * block_duration.
    """
    start = query_blocks.unsqueeze(-1) * block_duration
    times = key_times.unsqueeze(-2)
    return (times >= start - past) & (times < start + block_duration + future)


def sink(query_blocks: Tensor, sink_block: Tensor, num_keys: int) -> Tensor:
    """bool [..., Q, num_keys]: the sink is visible to every block after its own."""
    return (query_blocks.unsqueeze(-1) > sink_block.unsqueeze(-1).unsqueeze(-1)).expand(*query_blocks.shape, num_keys)


def full(query_blocks: Tensor, num_keys: int) -> Tensor:
    """bool [..., Q, num_keys], all True."""
    return torch.ones(*query_blocks.shape, num_keys, dtype=torch.bool, device=query_blocks.device)


@dataclass(frozen=True)
class Staircase:
    """A mask whose queries come in groups, each of which sees all keys before an end: block-causal without a window.

    Attention runs it group by group with no mask at all, so that nothing is computed only to be thrown away.

    Attributes:
        group_sizes: queries of each group, in order.
        key_ends: keys that each group sees. An end behind the last key means keys of zeros there, which take part in the softmax
            (the published training forward pads so, see :func:`model.training.ode.clip_forward`).
    """

    group_sizes: tuple[int, ...]
    key_ends: tuple[int, ...]

    @staticmethod
    def of_blocks(
        query_sizes: Sequence[int], key_sizes: Sequence[int], future_keys: int = 0, num_keys: int | None = None
    ) -> Staircase:
        """Block b of the queries sees the keys of blocks 0 to b and ``future_keys`` more.

        Args:
            query_sizes, key_sizes: tokens of each block in either stream.
            num_keys: keys there are, zeros behind the last block counted; None if there are none such.
        """
        last = sum(key_sizes) if num_keys is None else num_keys
        return Staircase(tuple(query_sizes), tuple(min(end + future_keys, last) for end in accumulate(key_sizes)))

    @property
    def num_keys(self) -> int:
        return max(self.key_ends)

    def dense(self) -> Tensor:
        """The same as bool [Q, K]."""
        mask = torch.zeros(sum(self.group_sizes), self.num_keys, dtype=torch.bool)
        for (start, stop), end in zip(pairwise(accumulate(self.group_sizes, initial=0)), self.key_ends, strict=True):
            mask[start:stop, :end] = True
        return mask
