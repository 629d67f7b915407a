"""The kernels in PyTorch's own operations; see :class:`model.kernels.Kernels` for what they do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Transformer


def norm_modulate(x_BTD: Tensor, shift_BL1D: Tensor, scale_BL1D: Tensor, eps: float) -> Tensor:
    normed = F.layer_norm(x_BTD, x_BTD.shape[-1:], eps=eps)
    return (normed.unflatten(1, (shift_BL1D.shape[1], -1)) * (1 + scale_BL1D) + shift_BL1D).flatten(1, 2)


def add_gated(x_BTD: Tensor, y_BTD: Tensor, gate_BL1D: Tensor) -> Tensor:
    return x_BTD + (y_BTD.unflatten(1, (gate_BL1D.shape[1], -1)) * gate_BL1D).flatten(1, 2)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    # Written as compilers know it: they fuse exactly this form.
    return (wide / torch.sqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def rotate(x_BHTK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """``x * cos + turn(x) * sin``, in float32; the result in the type of ``x``."""
    cos, sin = cos.unsqueeze(-3), sin.unsqueeze(-3)
    return (x_BHTK.float() * cos + quarter_turn(x_BHTK).float() * sin).to(x_BHTK.dtype)


def quarter_turn(x: Tensor) -> Tensor:
    """Each pair (a, b) of the channels of ``x`` [..., K] as (-b, a)."""
    return turn_by_product(x) if x.device.type == "cpu" else turn_by_slices(x)


def turn_by_product(x: Tensor) -> Tensor:
    """A product with a signed permutation: exact, and one operation where slicing pairs apart and together takes six."""
    pairs = np.kron(np.eye(x.shape[-1] // 2, dtype=np.float32), np.asarray(((0, 1), (-1, 0)), np.float32))
    return x @ torch.from_numpy(pairs).to(x)


def turn_by_slices(x: Tensor) -> Tensor:
    """For GPUs, where that matrix would have to be copied from the host, and might be rounded to TF32."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((-second, first), dim=-1).flatten(-2)


def split_heads(
    y_BTD: Tensor,
    num_heads: int,
    norm: tuple[Tensor, float] | None = None,
    table: tuple[Tensor, Tensor] | None = None,
    out: Tensor | None = None,
) -> Tensor:
    y = y_BTD if norm is None else rms_norm(y_BTD, *norm)
    y_BHTK = y.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    if table is not None:
        y_BHTK = rotate(y_BHTK, *table)
    return y_BHTK if out is None else out.copy_(y_BHTK)


def joined(pieces_BHSK: Sequence[Tensor]) -> Tensor:
    """Pieces along S as one; a single one as it is."""
    return pieces_BHSK[0] if len(pieces_BHSK) == 1 else torch.cat(list(pieces_BHSK), dim=2)


def attention(q_BHTK: Tensor, keys_BHSK: Sequence[Tensor], values_BHSK: Sequence[Tensor], mask: Tensor | None) -> Tensor:
    key, value = joined(keys_BHSK), joined(values_BHSK)
    return F.scaled_dot_product_attention(q_BHTK, key, value, attn_mask=mask).transpose(1, 2).flatten(-2)


def mlp(x_BTD: Tensor, ffn: nn.Sequential) -> Tensor:
    return ffn(x_BTD)


def conv1d(x_BLC: Tensor, conv: nn.Conv1d) -> Tensor:
    return conv(x_BLC.transpose(1, 2)).transpose(1, 2)


FLOAT8_MAX = 448.0
"""The largest number in e4m3."""


def quantise(x_ND: Tensor, *, gelu: bool = False) -> tuple[Tensor, Tensor]:
    wide = F.gelu(x_ND.float(), approximate="tanh") if gelu else x_ND.float()
    scale = wide.abs().amax(1, keepdim=True).clamp(min=1e-12) / FLOAT8_MAX
    return (wide / scale).to(torch.float8_e4m3fn), scale


def scaled_product(x_ND: Tensor, x_scale: Tensor, weight_OD: Tensor, weight_scale: Tensor, bias: Tensor) -> Tensor:
    wide = x_ND.float() @ weight_OD.float().t() * x_scale * weight_scale
    return (wide + bias.float()).to(bias.dtype)


def move_rotated(x_BHTK: Tensor, start: int, stop: int, length: int, table: tuple[Tensor, Tensor] | None) -> None:
    moved = x_BHTK[:, :, stop:length]
    x_BHTK[:, :, start : start + length - stop] = moved.clone() if table is None else rotate(moved, *table)


# Video VAE


def channel_norm(x_NChw: Tensor, gain: Tensor, eps: float) -> Tensor:
    return x_NChw * torch.rsqrt(x_NChw.square().mean(dim=1, keepdim=True) + eps) * gain.view(-1, 1, 1)


def normalise(x: Tensor, gain: Tensor) -> Tensor:
    """Every position of ``x`` [B, C, ...] to length sqrt(C), times one gain a channel; float32."""
    wide = gain.float() * x.shape[1] ** 0.5
    return F.normalize(x.float(), dim=1) * wide.view(-1, *[1] * (x.ndim - 2))


def norm_silu(x_BCTHW: Tensor, bias: Tensor | None, gain: Tensor, out: Tensor) -> None:
    out.copy_(F.silu(normalise(x_BCTHW if bias is None else x_BCTHW + bias.view(-1, 1, 1, 1), gain)))


def add_residual(x: Tensor, bias: Tensor, y: Tensor) -> Tensor:
    return x + bias.view(-1, 1, 1, 1) + y


def interleave(phases_N4Chw: Tensor) -> Tensor:
    """[N, 4 C, H + 1, W + 1] -> [N, C, 2 H, 2 W], channels last: pixel (2 h + p, 2 w + q) is phase (p, q) at (h + p, w + q)."""
    batch, _, height, width = phases_N4Chw.shape
    height, width = height - 1, width - 1
    phases = phases_N4Chw.unflatten(1, (2, 2, -1)).permute(0, 4, 5, 1, 2, 3)
    y = phases.new_empty(batch, height, 2, width, 2, phases.shape[5])
    for p in range(2):
        for q in range(2):
            y[:, :, p, :, q] = phases[:, p : p + height, q : q + width, p, q]
    return y.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def duplicate(x_BCTHW: Tensor, out_channels: int, time: int, skip: int) -> Tensor:
    """Channels are repeated and dealt out over twice the size each way -> [B, out_channels, T * time - skip, 2 H, 2 W].

    Args:
        time: frames that one becomes.
        skip: so many of the first frames are left out.
    """
    repeats = out_channels * time * 4 // x_BCTHW.shape[1]
    y = x_BCTHW.permute(0, 2, 3, 4, 1).repeat_interleave(repeats, dim=4).unflatten(4, (out_channels, time, 2, 2))
    y = y.permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(5, 6).flatten(3, 4).flatten(1, 2).permute(0, 4, 1, 2, 3)
    return y[:, :, skip:]


def interleave_phases(phases_N4Chw: Tensor, bias: Tensor, x_BCTHW: Tensor, out_channels: int, time: int, skip: int) -> Tensor:
    y = interleave(phases_N4Chw) + bias.view(-1, 1, 1)
    return y.unflatten(0, (x_BCTHW.shape[0], -1)).transpose(1, 2) + duplicate(x_BCTHW, out_channels, time, skip)


# Pictures

LUMA = (66, 129, 25)
CHROMA = ((-38, -74, 112), (112, -94, -18))
"""Parts in 256 of R, G and B, which lie between 0 and 255, in Y and in U and V: BT.601, limited range."""


def i420_from_patches(x_BCThw: Tensor) -> Tensor:
    return i420_from_frames(frames_from_patches(x_BCThw).float().clamp(-1, 1))


def frames_from_patches(x_BCThw: Tensor) -> Tensor:
    """[B, 12, T, h, w] -> [B, 3, T, 2 h, 2 w]."""
    x = x_BCThw.unflatten(1, (3, 2, 2))
    return x.permute(0, 1, 4, 5, 3, 6, 2).flatten(5, 6).flatten(3, 4)


def i420_from_frames(frames: Tensor) -> Tensor:
    """Stacked I420 planes, BT.601 limited range, chroma averaged over 2 x 2 pixels; computed in float32.

    Args:
        frames: [B, 3, T, H, W] in [-1, 1], H a multiple of 4 and W of 2.

    Returns:
        uint8 [B, T, H * 3 / 2, W]. Rows: H of luma, H / 4 of U (two rows of W / 2 side by side), H / 4 of V.
    """
    batch, _, num_frames, height, width = frames.shape
    frames = frames.float()
    quarters = F.avg_pool3d(frames, (1, 2, 2))
    planes = [_mix(frames, LUMA, 16 + 127.5 * sum(LUMA) / 256)]
    planes += [_mix(quarters, weights, 128).reshape(batch, num_frames, height // 4, width) for weights in CHROMA]
    return torch.cat(planes, dim=2)


def _mix(frames: Tensor, weights: tuple[int, int, int], offset: float) -> Tensor:
    """One plane's bytes [B, T, H, W]. Products by hand: a matrix product may run in TF32, which has not the digits."""
    red, green, blue = (frames[:, i] * (w * 127.5 / 256) for i, w in enumerate(weights))
    return (red + green + blue + offset).round().to(torch.uint8)
