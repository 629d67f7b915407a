"""Causal layers that run the same way over a whole clip and over one chunk at a time.

A layer that needs the past asks the :class:`Memory` for it. A whole clip starts from an empty memory; a stream passes the memory
of its last chunk. The network itself holds no state: weights are shared, memory is a value.

Shapes: audio [B, C, T]; video [B, C, T, H, W].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Memory:
    """What the causal layers of one network remember, one tensor a layer, in the order in which the forward meets them.

    ``past`` is read and never written; ``present`` fills up during the forward and is the ``past`` of the next chunk.
    """

    def __init__(self, past: Sequence[Tensor] | None = None) -> None:
        self._past = list(past) if past else None
        self.present: list[Tensor] = []

    def recall(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        """The layer's tensor from the last chunk, zeros at the start of a stream. Follow it with ``remember``."""
        return like.new_zeros(shape) if self._past is None else self._past[len(self.present)]

    def remember(self, value: Tensor) -> None:
        self.present.append(value)

    def extend(self, x: Tensor, length: int, dim: int) -> Tensor:
        """``x`` with the ``length`` steps before it in front, along ``dim``."""
        shape = list(x.shape)
        shape[dim] = length
        extended = torch.cat((self.recall(x, shape), x), dim=dim)
        self.remember(extended.narrow(dim, extended.shape[dim] - length, length))
        return extended


class CausalConv1d(nn.Module):
    """1-D convolution that sees the present and ``kernel - 1`` steps of the past."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, groups: int = 1) -> None:
        super().__init__()
        self.context = kernel - 1
        self.conv = nn.Conv1d(in_channels, out_channels, kernel, groups=groups)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        return self.conv(memory.extend(x, self.context, 2) if self.context else x)


class CausalConv3d(nn.Module):
    """3-D convolution, causal in time, same size in space."""

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int, int]) -> None:
        super().__init__()
        self.context = kernel[0] - 1
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, padding=(0, kernel[1] // 2, kernel[2] // 2))

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        return self.conv(memory.extend(x, self.context, 2) if self.context else x)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, then a gated-free MLP a step, with a residual (arXiv 2201.03545, 1-D as in Vocos, 2306.00814).

    ``causal`` blocks take a memory; others pad both sides with zeros.
    """

    def __init__(self, dim: int, ffn_dim: int, *, causal: bool) -> None:
        super().__init__()
        self.depthwise: nn.Module = (
            CausalConv1d(dim, dim, 7, groups=dim) if causal else nn.Conv1d(dim, dim, 7, padding=3, groups=dim)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.expand = nn.Linear(dim, ffn_dim)
        self.contract = nn.Linear(ffn_dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), 0.2))

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        y = self.depthwise(x) if memory is None else self.depthwise(x, memory)
        y = self.contract(F.gelu(self.expand(self.norm(y.transpose(1, 2)))))
        return x + (y * self.scale).transpose(1, 2)
