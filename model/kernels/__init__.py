"""The arithmetic between matrix products, three times: as PyTorch has it, as Triton kernels that touch each value once, and as a
compiler of graphs for CPUs wants to see it.

:mod:`model.kernels.eager` runs everywhere and is the oracle of :mod:`model.kernels.fused` and :mod:`model.kernels.traced`. Which
of them runs is decided here and nowhere else. All compute in float32 inside; the fused ones round once, at their end.

Legend: B batch, T tokens, L latents, D width, H heads, K channels a head, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from model.kernels import eager, traced


class Kernels(Protocol):
    """What both modules offer."""

    def norm_modulate(self, x_BTD: Tensor, shift_BL1D: Tensor, scale_BL1D: Tensor, eps: float) -> Tensor:
        """Layer norm without weights, times ``1 + scale``, plus ``shift``; T / L tokens share a row of each."""

    def add_gated(self, x_BTD: Tensor, y_BTD: Tensor, gate_BL1D: Tensor) -> Tensor:
        """``x + y * gate``."""

    def split_heads(
        self,
        y_BTD: Tensor,
        num_heads: int,
        norm: tuple[Tensor, float] | None = None,
        table: tuple[Tensor, Tensor] | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """A projection as heads [B, H, T, K].

        Args:
            norm: weight [D] and epsilon of a root-mean-square norm over the whole width.
            table: cosines and sines [T, K] or [B, T, K], each pair of channels with the same two.
            out: where to put the result, any strides with K inmost; it is given back.
        """

    def attention(
        self, q_BHTK: Tensor, keys_BHSK: Sequence[Tensor], values_BHSK: Sequence[Tensor], mask: Tensor | None
    ) -> Tensor:
        """Softmax attention -> [B, T, D].

        Args:
            keys_BHSK, values_BHSK: in one piece or in several, along S.
            mask: bool, True where visible, or a float to be added to the scores; broadcast to [B, H, T, S of all pieces].
        """

    def mlp(self, x_BTD: Tensor, ffn: nn.Sequential) -> Tensor:
        """A linear layer, GELU (its tanh form), a linear layer."""

    def conv1d(self, x_BLC: Tensor, conv: nn.Conv1d) -> Tensor:
        """A convolution over time of the same length, channels last."""

    def quantise(self, x_ND: Tensor, *, gelu: bool = False) -> tuple[Tensor, Tensor]:
        """``x``, or its GELU, in float8 (e4m3), and the scale [N, 1] in float32 that brings each row back."""

    def scaled_product(self, x_ND: Tensor, x_scale: Tensor, weight_OD: Tensor, weight_scale: Tensor, bias: Tensor) -> Tensor:
        """Of float8 rows with scales [N, 1] and [1, O] -> [N, O], plus the bias and in its type."""

    def move_rotated(self, x_BHTK: Tensor, start: int, stop: int, length: int, table: tuple[Tensor, Tensor] | None) -> None:
        """In place, rows ``stop`` to ``length`` of time to ``start`` on, rotated on the way by a table of one row."""

    def norm_silu(self, x_BCTHW: Tensor, bias: Tensor | None, gain: Tensor, out: Tensor) -> None:
        """``x + bias`` to length sqrt(C) at every position, times the gain, SiLU: into ``out``."""

    def add_residual(self, x: Tensor, bias: Tensor, y: Tensor) -> Tensor:
        """``x + bias + y``, channels in dim 1; may give back ``x`` itself, overwritten."""

    def interleave_phases(
        self, phases_N4Chw: Tensor, bias: Tensor, x_BCTHW: Tensor, out_channels: int, time: int, skip: int
    ) -> Tensor:
        """Phases of frames, N = B x T * time - skip, interleaved, plus ``bias``, plus ``x`` duplicated, see
        :func:`model.kernels.eager.interleave` and :func:`model.kernels.eager.duplicate`."""

    def channel_norm(self, x_NChw: Tensor, gain: Tensor, eps: float) -> Tensor:
        """Root-mean-square norm over channels, times the gain."""

    def i420_from_patches(self, x_BCThw: Tensor) -> Tensor:
        """Pictures in 2 x 2 patches, C = RGB x column x row, to planes; see :func:`model.kernels.eager.i420_from_frames`."""


@cache
def _fused() -> Kernels | None:
    """None without Triton, which torch for CUDA brings along."""
    return cast(Kernels, import_module("model.kernels.fused")) if find_spec("triton") else None


def on(x: Tensor) -> Kernels:
    """The kernels for what is computed from ``x``: fused for bfloat16 on a GPU without gradients, traced for graphs.

    Under autocast weights are in another type, and what is computed without gradients is to be what it is with them.
    """
    plain = not (torch.is_grad_enabled() or torch.is_autocast_enabled("cuda"))
    if x.is_cuda and x.dtype == torch.bfloat16 and plain and (fused := _fused()) is not None:
        return fused
    is_traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined]
    return cast(Kernels, traced if is_traced else eager)
