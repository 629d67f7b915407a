"""The kernels in the form that a compiler of graphs for CPUs makes most of; see :class:`model.kernels.Kernels` for what they do.

Chosen while a graph is traced. The sums are those of :mod:`model.kernels.eager`; what differs is where things lie and which
operations stand side by side, because that decides what OpenVINO fuses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model.kernels.eager import conv1d as conv1d
from model.kernels.eager import joined, rms_norm, turn_by_product
from model.kernels.eager import mlp as mlp


def norm_modulate(x_BTD: Tensor, shift_BL1D: Tensor, scale_BL1D: Tensor, eps: float) -> Tensor:
    shift, scale = _of_all(shift_BL1D), _of_all(scale_BL1D)
    return F.layer_norm(x_BTD, x_BTD.shape[-1:], eps=eps) * (1 + scale) + shift


def add_gated(x_BTD: Tensor, y_BTD: Tensor, gate_BL1D: Tensor) -> Tensor:
    return x_BTD + y_BTD * _of_all(gate_BL1D)


def _of_all(row_BL1D: Tensor) -> Tensor:
    """[B, 1, D]: one row for all tokens, which spares taking them apart and together."""
    assert row_BL1D.shape[1] == 1, "a block is at one noise level"
    return row_BL1D.squeeze(1)


def split_heads(
    y_BTD: Tensor,
    num_heads: int,
    norm: tuple[Tensor, float] | None = None,
    table: tuple[Tensor, Tensor] | None = None,
    out: Tensor | None = None,
) -> Tensor:
    assert out is None
    y = y_BTD if norm is None else rms_norm(y_BTD, *norm)
    y_BTHK = y.unflatten(-1, (num_heads, -1))
    if table is not None:  # before heads are moved: a product then takes that in
        cos, sin = (x.unsqueeze(-2) for x in table)
        y_BTHK = y_BTHK * cos + turn_by_product(y_BTHK) * sin
    return y_BTHK.transpose(1, 2)


def attention(q_BHTK: Tensor, keys_BHSK: Sequence[Tensor], values_BHSK: Sequence[Tensor], mask: Tensor | None) -> Tensor:
    num_queries, channels = int(q_BHTK.shape[2]), int(q_BHTK.shape[3])
    if num_queries >= channels:  # there is less of keys and values than of scores: join those
        keys_BHSK, values_BHSK = ([joined(pieces)] for pieces in (keys_BHSK, values_BHSK))
    q_BHTK = q_BHTK * channels**-0.5
    scores = [q_BHTK @ key.transpose(2, 3) for key in keys_BHSK]
    total_scores = scores[0] if len(scores) == 1 else torch.cat(scores, dim=-1)
    weights = torch.softmax(total_scores if mask is None else total_scores + mask, dim=-1)
    shares = weights.split([int(value.shape[2]) for value in values_BHSK], dim=-1) if len(scores) > 1 else [weights]
    total = shares[0] @ values_BHSK[0]
    for share, value in zip(shares[1:], values_BHSK[1:], strict=True):
        total = total + share @ value
    return total.transpose(1, 2).flatten(-2)


def channel_norm(x_NChw: Tensor, gain: Tensor, eps: float) -> Tensor:
    """The mean by a convolution with one output, which reads values in the order in which those before and behind it do."""
    channels = int(x_NChw.shape[1])
    mean = F.conv2d(x_NChw * x_NChw, torch.full((1, channels, 1, 1), 1 / channels))
    return x_NChw * torch.rsqrt(mean + eps) * gain.view(-1, 1, 1)
