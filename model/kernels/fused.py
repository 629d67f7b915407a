"""The kernels in Triton; see :class:`model.kernels.Kernels` for what they do and :mod:`model.kernels.eager` for their twins.

They take any sizes but for heads, whose channels are a power of two. Channels of pictures are inmost in memory, as cuDNN's
convolutions for bfloat16 want them; what comes in another layout is brought into this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from model.kernels import eager

CUDNN_MIN_QUERIES, CUDNN_MIN_KEYS = 1024, 256
"""From here on cuDNN's attention beats FlashAttention 2: on an H200 at 2976 queries by 1.8, while 150 queries of 14,880 keys,
which FlashAttention splits over the keys, take it 0.15 ms and cuDNN 0.21 ms."""


def _launch(kernel: Any, grid: tuple[int, ...], *inputs: Any, **options: Any) -> None:
    """On the device of the first input: Triton asks only which one is current."""
    with torch.cuda.device_of(inputs[0]):
        kernel[grid](*inputs, **options)


# Transformer


@triton.jit(do_not_specialize=["tokens", "group"])
def _norm_modulate(
    x, shift, scale, out, tokens, group, batch_stride, latent_stride, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    inside = cols < WIDTH
    value = tl.load(x + row * WIDTH + cols, mask=inside, other=0.0).to(tl.float32)
    centred = tl.where(inside, value - tl.sum(value) / WIDTH, 0.0)
    normed = centred / tl.sqrt(tl.sum(centred * centred) / WIDTH + eps)
    modulation = row // tokens * batch_stride + row % tokens // group * latent_stride + cols
    added = tl.load(shift + modulation, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(scale + modulation, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + cols, (normed * (1 + factor) + added).to(out.dtype.element_ty), mask=inside)


def norm_modulate(x_BTD: Tensor, shift_BL1D: Tensor, scale_BL1D: Tensor, eps: float) -> Tensor:
    x = x_BTD.contiguous()
    batch, tokens, width = x.shape
    assert shift_BL1D.stride() == scale_BL1D.stride()
    assert shift_BL1D.stride(3) == 1
    out = torch.empty_like(x)
    _launch(
        _norm_modulate,
        (batch * tokens,),
        x,
        shift_BL1D,
        scale_BL1D,
        out,
        tokens,
        tokens // shift_BL1D.shape[1],
        *_modulation_strides(shift_BL1D),
        eps,
        WIDTH=width,
        BLOCK=triton.next_power_of_2(width),
        num_warps=8,
    )
    return out


def _modulation_strides(x_BL1D: Tensor) -> tuple[int, int]:
    """From one stream's row to the next, and from one latent's."""
    return (x_BL1D.stride(0) if x_BL1D.shape[0] > 1 else 0), x_BL1D.stride(1)


@triton.jit(do_not_specialize=["tokens", "group"])
def _add_gated(x, y, gate, out, tokens, group, batch_stride, latent_stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    inside = cols < WIDTH
    left = tl.load(x + row * WIDTH + cols, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(y + row * WIDTH + cols, mask=inside, other=0.0).to(tl.float32)
    modulation = row // tokens * batch_stride + row % tokens // group * latent_stride + cols
    factor = tl.load(gate + modulation, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + cols, (left + right * factor).to(out.dtype.element_ty), mask=inside)


def add_gated(x_BTD: Tensor, y_BTD: Tensor, gate_BL1D: Tensor) -> Tensor:
    x, y = x_BTD.contiguous(), y_BTD.contiguous()
    batch, tokens, width = x.shape
    assert gate_BL1D.stride(3) == 1
    out = torch.empty_like(x)
    group = tokens // gate_BL1D.shape[1]
    _launch(
        _add_gated,
        (batch * tokens,),
        x,
        y,
        gate_BL1D,
        out,
        tokens,
        group,
        *_modulation_strides(gate_BL1D),
        WIDTH=width,
        BLOCK=triton.next_power_of_2(width),
        num_warps=8,
    )
    return out


@triton.jit
def _rotated(value, cos, sin, HEADS: tl.constexpr, CHANNELS: tl.constexpr):
    """Heads [HEADS, CHANNELS] of one token, by a table's row at the pointers, which has each number twice."""
    pair = tl.arange(0, CHANNELS // 2) * 2
    cosine, sine = tl.load(cos + pair)[None, :], tl.load(sin + pair)[None, :]
    first, second = tl.split(tl.reshape(value, (HEADS, CHANNELS // 2, 2)))
    return tl.reshape(tl.join(first * cosine - second * sine, second * cosine + first * sine), (HEADS, CHANNELS))


@triton.jit(do_not_specialize=["tokens"])
def _heads(
    y,
    weight,
    cos,
    sin,
    out,
    tokens,
    y_stride,
    table_batch_stride,
    out_batch_stride,
    out_head_stride,
    out_token_stride,
    eps,
    NUM_HEADS: tl.constexpr,
    HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    NORM: tl.constexpr,
    ROTATE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head, channel = tl.arange(0, HEADS)[:, None], tl.arange(0, CHANNELS)[None, :]
    inside = head < NUM_HEADS
    place = head * CHANNELS + channel
    value = tl.load(y + row * y_stride + place, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        mean_square = tl.sum(tl.sum(value * value, axis=1), axis=0) / (NUM_HEADS * CHANNELS)
        value = value / tl.sqrt(mean_square + eps) * tl.load(weight + place, mask=inside, other=0.0).to(tl.float32)
    batch, token = row // tokens, row % tokens
    if ROTATE:
        at = batch * table_batch_stride + token * CHANNELS
        value = _rotated(value, cos + at, sin + at, HEADS, CHANNELS)
    at = batch * out_batch_stride + token * out_token_stride
    tl.store(out + at + head * out_head_stride + channel, value.to(out.dtype.element_ty), mask=inside)


def split_heads(
    y_BTD: Tensor,
    num_heads: int,
    norm: tuple[Tensor, float] | None = None,
    table: tuple[Tensor, Tensor] | None = None,
    out: Tensor | None = None,
) -> Tensor:
    if out is None and norm is None and table is None:
        return eager.split_heads(y_BTD, num_heads)
    batch, tokens, width = y_BTD.shape
    channels = width // num_heads
    assert y_BTD.stride(2) == 1
    assert batch == 1 or y_BTD.stride(0) == tokens * y_BTD.stride(1)
    if out is None:
        out = y_BTD.new_empty(batch, tokens, num_heads, channels).transpose(1, 2)
    assert out.stride(3) == 1
    weight, eps = (y_BTD, 0.0) if norm is None else norm
    cos, sin = (y_BTD, y_BTD) if table is None else table
    assert table is None or (cos.stride(-2), cos.stride(-1), cos.shape[-2]) == (channels, 1, tokens)
    _launch(
        _heads,
        (batch * tokens,),
        y_BTD,
        weight,
        cos,
        sin,
        out,
        tokens,
        y_BTD.stride(1),
        cos.stride(0) if table is not None and cos.ndim == 3 else 0,
        out.stride(0),
        out.stride(1),
        out.stride(2),
        eps,
        NUM_HEADS=num_heads,
        HEADS=triton.next_power_of_2(num_heads),
        CHANNELS=channels,
        NORM=norm is not None,
        ROTATE=table is not None,
        num_warps=4,
    )
    return out


def attention(q_BHTK: Tensor, keys_BHSK: Sequence[Tensor], values_BHSK: Sequence[Tensor], mask: Tensor | None) -> Tensor:
    """Kernels are called by name: choosing one through SDPA's context would change a setting of the whole process, under the feet
    of other threads."""
    if mask is not None:
        return eager.attention(q_BHTK, keys_BHSK, values_BHSK, mask)
    k_BHSK, v_BHSK = eager.joined(keys_BHSK), eager.joined(values_BHSK)
    if q_BHTK.shape[2] >= CUDNN_MIN_QUERIES and k_BHSK.shape[2] >= CUDNN_MIN_KEYS:
        y = torch.ops.aten._scaled_dot_product_cudnn_attention(q_BHTK, k_BHSK, v_BHSK, None, False)[0]
    else:
        y = torch.ops.aten._scaled_dot_product_flash_attention(q_BHTK, k_BHSK, v_BHSK)[0]
    return y.transpose(1, 2).flatten(-2)


def mlp(x_BTD: Tensor, ffn: nn.Sequential) -> Tensor:
    """GELU in the first product's epilogue."""
    first, last = (cast(nn.Linear, ffn[i]) for i in (0, 2))
    hidden = torch._addmm_activation(first.bias, x_BTD.flatten(0, 1), first.weight.t(), use_gelu=True)
    return F.linear(hidden.unflatten(0, x_BTD.shape[:2]), last.weight, last.bias)


def conv1d(x_BLC: Tensor, conv: nn.Conv1d) -> Tensor:
    """As one product over windows. Nothing is copied of weights whose taps lie outside their input channels in memory."""
    (kernel,) = conv.kernel_size
    windows = F.pad(x_BLC, (0, 0, kernel // 2, kernel // 2)).unfold(1, kernel, 1)
    return F.linear(windows.transpose(2, 3).flatten(2), conv.weight.transpose(1, 2).flatten(1), conv.bias)


@triton.jit
def _quantise(x, out, scale, WIDTH: tl.constexpr, BLOCK: tl.constexpr, GELU: tl.constexpr, LARGEST: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    inside = cols < WIDTH
    value = tl.load(x + row * WIDTH + cols, mask=inside, other=0.0).to(tl.float32)
    if GELU:  # 0.5 (1 + tanh(z)) is the logistic function of 2 z
        value = value * tl.sigmoid(1.5957691216057308 * (value + 0.044715 * value * value * value))
    factor = tl.maximum(tl.max(tl.abs(value)), 1e-12) / LARGEST
    tl.store(out + row * WIDTH + cols, (value / factor).to(out.dtype.element_ty), mask=inside)
    tl.store(scale + row, factor)


def quantise(x_ND: Tensor, *, gelu: bool = False) -> tuple[Tensor, Tensor]:
    x = x_ND.contiguous()
    rows, width = x.shape
    out, scale = torch.empty_like(x, dtype=torch.float8_e4m3fn), torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(width)
    _launch(
        _quantise,
        (rows,),
        x,
        out,
        scale,
        WIDTH=width,
        BLOCK=block,
        GELU=gelu,
        LARGEST=eager.FLOAT8_MAX,
        num_warps=8 if block <= 8192 else 16,
    )
    return out, scale


def scaled_product(x_ND: Tensor, x_scale: Tensor, weight_OD: Tensor, weight_scale: Tensor, bias: Tensor) -> Tensor:
    if not x_ND.is_cuda:  # in Triton's interpreter
        return eager.scaled_product(x_ND, x_scale, weight_OD, weight_scale, bias)
    return torch._scaled_mm(
        x_ND, weight_OD.t(), scale_a=x_scale, scale_b=weight_scale, bias=bias, out_dtype=bias.dtype, use_fast_accum=True
    )


@triton.jit(do_not_specialize=["start", "stop", "count"])
def _move_rotated(
    x,
    cos,
    sin,
    start,
    stop,
    count,
    batch_stride,
    head_stride,
    token_stride,
    NUM_HEADS: tl.constexpr,
    HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROTATE: tl.constexpr,
):
    # A program has the tokens that take each other's places, in their order, so that none is overwritten before it has been read.
    head, channel = tl.arange(0, HEADS)[:, None], tl.arange(0, CHANNELS)[None, :]
    place = x + tl.program_id(1).to(tl.int64) * batch_stride + head * head_stride + channel
    index, inside = tl.program_id(0).to(tl.int64), head < NUM_HEADS
    # How many they are is no constant: a stream that is cut meets ever new numbers, and to compile for one takes 0.2 s.
    while index < count:
        value = tl.load(place + (stop + index) * token_stride, mask=inside, other=0.0)
        if ROTATE:
            value = _rotated(value.to(tl.float32), cos, sin, HEADS, CHANNELS).to(x.dtype.element_ty)
        tl.debug_barrier()
        tl.store(place + (start + index) * token_stride, value, mask=inside)
        index += stop - start


def move_rotated(x_BHTK: Tensor, start: int, stop: int, length: int, table: tuple[Tensor, Tensor] | None) -> None:
    batch, num_heads, _, channels = x_BHTK.shape
    assert x_BHTK.stride(3) == 1
    cos, sin = (x_BHTK, x_BHTK) if table is None else table
    _launch(
        _move_rotated,
        (stop - start, batch),
        x_BHTK,
        cos,
        sin,
        start,
        stop,
        length - stop,
        x_BHTK.stride(0),
        x_BHTK.stride(1),
        x_BHTK.stride(2),
        NUM_HEADS=num_heads,
        HEADS=triton.next_power_of_2(num_heads),
        CHANNELS=channels,
        ROTATE=table is not None,
        num_warps=4,
    )


# Video VAE


def _positions(x_BCTHW: Tensor) -> Tensor:
    """[B, T, H, W, C], dense; a view where channels are last already."""
    return x_BCTHW.permute(0, 2, 3, 4, 1).contiguous()


@triton.jit(do_not_specialize=["num_positions", "batch_positions"])
def _norm_silu(
    x,
    bias,
    gain,
    out,
    num_positions,
    batch_positions,
    out_batch_stride,
    CHANNELS: tl.constexpr,
    COLS: tl.constexpr,
    ROWS: tl.constexpr,
    BIAS: tl.constexpr,
):
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    col = tl.arange(0, COLS)[None, :]
    inside = (row < num_positions) & (col < CHANNELS)
    value = tl.load(x + row * CHANNELS + col, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        value += tl.load(bias + col, mask=col < CHANNELS, other=0.0).to(tl.float32)
    length = tl.maximum(tl.sqrt(tl.sum(value * value, axis=1)), 1e-12)[:, None]
    factor = tl.load(gain + col, mask=col < CHANNELS, other=0.0).to(tl.float32) * tl.sqrt(CHANNELS * 1.0)
    normed = value / length * factor
    at = row // batch_positions * out_batch_stride + row % batch_positions * CHANNELS
    tl.store(out + at + col, (normed * tl.sigmoid(normed)).to(out.dtype.element_ty), mask=inside)


def norm_silu(x_BCTHW: Tensor, bias: Tensor | None, gain: Tensor, out: Tensor) -> None:
    x, place = _positions(x_BCTHW), out.permute(0, 2, 3, 4, 1)
    batch, channels = x.shape[0], x.shape[4]
    if not place[0].is_contiguous():
        place = torch.empty_like(x)
    num_positions = x.numel() // channels
    cols = triton.next_power_of_2(channels)
    rows = max(1, 4096 // cols)
    _launch(
        _norm_silu,
        (triton.cdiv(num_positions, rows),),
        x,
        gain if bias is None else bias,
        gain,
        out,
        num_positions,
        num_positions // batch,
        place.stride(0),
        CHANNELS=channels,
        COLS=cols,
        ROWS=rows,
        BIAS=bias is not None,
        num_warps=4,
    )
    if place.data_ptr() != out.data_ptr():
        out.copy_(place.permute(0, 4, 1, 2, 3))


@triton.jit(do_not_specialize=["num_positions"])
def _add_residual(x, bias, y, num_positions, CHANNELS: tl.constexpr, COLS: tl.constexpr, ROWS: tl.constexpr):
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    col = tl.arange(0, COLS)[None, :]
    inside = (row < num_positions) & (col < CHANNELS)
    at = row * CHANNELS + col
    total = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) + tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(bias + col, mask=col < CHANNELS, other=0.0).to(tl.float32)
    tl.store(x + at, total.to(x.dtype.element_ty), mask=inside)


def add_residual(x: Tensor, bias: Tensor, y: Tensor) -> Tensor:
    into, other = _positions(x), _positions(y)
    channels = into.shape[4]
    num_positions = into.numel() // channels
    cols = triton.next_power_of_2(channels)
    rows = max(1, 4096 // cols)
    _launch(
        _add_residual,
        (triton.cdiv(num_positions, rows),),
        into,
        bias,
        other,
        num_positions,
        CHANNELS=channels,
        COLS=cols,
        ROWS=rows,
        num_warps=4,
    )
    return into.permute(0, 4, 1, 2, 3)


@triton.jit(do_not_specialize=["num_frames", "skip", "source_frames"])
def _grow(
    phases,
    bias,
    x,
    out,
    num_frames,
    skip,
    source_frames,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    IN_CHANNELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    COLS: tl.constexpr,
    ROWS: tl.constexpr,
    TIME: tl.constexpr,
):
    # A program has some pixels of one phase in one frame. HEIGHT and WIDTH are those of the source.
    frame, phase = tl.program_id(1).to(tl.int64), tl.program_id(2)
    p, q = phase // 2, phase % 2
    cell = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    col = tl.arange(0, COLS)[None, :]
    inside = (cell < HEIGHT * WIDTH) & (col < CHANNELS)
    h, w = cell // WIDTH, cell % WIDTH
    phase_cell = frame * ((HEIGHT + 1) * (WIDTH + 1)) + (h + p) * (WIDTH + 1) + w + q
    total = tl.load(phases + phase_cell * (4 * CHANNELS) + phase * CHANNELS + col, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(bias + col, mask=col < CHANNELS, other=0.0).to(tl.float32)
    stream_frame = frame % num_frames + skip
    source_frame = frame // num_frames * source_frames + stream_frame // TIME
    channel = (col * (4 * TIME) + stream_frame % TIME * 4 + phase) // (CHANNELS * TIME * 4 // IN_CHANNELS)
    source = x + (source_frame * (HEIGHT * WIDTH) + cell) * IN_CHANNELS
    total += tl.load(source + channel, mask=inside, other=0.0).to(tl.float32)
    pixel = frame * (4 * HEIGHT * WIDTH) + (2 * h + p) * (2 * WIDTH) + 2 * w + q
    tl.store(out + pixel * CHANNELS + col, total.to(out.dtype.element_ty), mask=inside)


def interleave_phases(phases_N4Chw: Tensor, bias: Tensor, x_BCTHW: Tensor, out_channels: int, time: int, skip: int) -> Tensor:
    phases, x = phases_N4Chw.permute(0, 2, 3, 1).contiguous(), _positions(x_BCTHW)
    batch, source_frames, height, width, in_channels = x.shape
    num_frames = phases.shape[0] // batch
    out = phases.new_empty(batch, num_frames, 2 * height, 2 * width, out_channels)
    cols = triton.next_power_of_2(out_channels)
    rows = max(1, 4096 // cols)
    _launch(
        _grow,
        (triton.cdiv(height * width, rows), batch * num_frames, 4),
        phases,
        bias,
        x,
        out,
        num_frames,
        skip,
        source_frames,
        HEIGHT=height,
        WIDTH=width,
        IN_CHANNELS=in_channels,
        CHANNELS=out_channels,
        COLS=cols,
        ROWS=rows,
        TIME=time,
        num_warps=4,
    )
    return out.permute(0, 4, 1, 2, 3)


# Pictures


@triton.jit
def _byte(red, green, blue, WEIGHTS: tl.constexpr, OFFSET: tl.constexpr):
    total = red * (WEIGHTS[0] * 127.5 / 256) + green * (WEIGHTS[1] * 127.5 / 256) + blue * (WEIGHTS[2] * 127.5 / 256) + OFFSET
    return tl.floor(total + 0.5).to(tl.uint8)


@triton.jit(do_not_specialize=["num_positions"])
def _i420(
    x,
    out,
    num_positions,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    LUMA: tl.constexpr,
    LUMA_OFFSET: tl.constexpr,
    CHROMA_U: tl.constexpr,
    CHROMA_V: tl.constexpr,
    BLOCK: tl.constexpr,
):
    position = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = position < num_positions
    frame, cell = position // (HEIGHT * WIDTH), position % (HEIGHT * WIDTH)
    top_left = cell // WIDTH * 4 * WIDTH + cell % WIDTH * 2
    plane = out + frame * (6 * HEIGHT * WIDTH)
    red_sum = tl.zeros((BLOCK,), tl.float32)
    green_sum = tl.zeros((BLOCK,), tl.float32)
    blue_sum = tl.zeros((BLOCK,), tl.float32)
    for row in tl.static_range(2):
        for col in tl.static_range(2):
            value = x + position * 12 + col * 2 + row
            red = tl.minimum(tl.maximum(tl.load(value, mask=inside, other=0.0).to(tl.float32), -1.0), 1.0)
            green = tl.minimum(tl.maximum(tl.load(value + 4, mask=inside, other=0.0).to(tl.float32), -1.0), 1.0)
            blue = tl.minimum(tl.maximum(tl.load(value + 8, mask=inside, other=0.0).to(tl.float32), -1.0), 1.0)
            red_sum += red
            green_sum += green
            blue_sum += blue
            tl.store(plane + top_left + row * 2 * WIDTH + col, _byte(red, green, blue, LUMA, LUMA_OFFSET), mask=inside)
    red, green, blue = red_sum / 4, green_sum / 4, blue_sum / 4
    tl.store(plane + 4 * HEIGHT * WIDTH + cell, _byte(red, green, blue, CHROMA_U, 128), mask=inside)
    tl.store(plane + 5 * HEIGHT * WIDTH + cell, _byte(red, green, blue, CHROMA_V, 128), mask=inside)


def i420_from_patches(x_BCThw: Tensor) -> Tensor:
    x = _positions(x_BCThw)
    batch, num_frames, height, width, _ = x.shape
    out = torch.empty(batch, num_frames, 3 * height, 2 * width, dtype=torch.uint8, device=x.device)
    num_positions, block = batch * num_frames * height * width, 256
    _launch(
        _i420,
        (triton.cdiv(num_positions, block),),
        x,
        out,
        num_positions,
        HEIGHT=height,
        WIDTH=width,
        LUMA=eager.LUMA,
        LUMA_OFFSET=16 + 127.5 * sum(eager.LUMA) / 256,
        CHROMA_U=eager.CHROMA[0],
        CHROMA_V=eager.CHROMA[1],
        BLOCK=block,
        num_warps=4,
    )
    return out
