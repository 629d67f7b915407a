"""Each fused kernel against its eager twin: on a GPU, or with TRITON_INTERPRET=1 in Triton's interpreter."""

from __future__ import annotations

import os
from importlib.util import find_spec
from types import ModuleType
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from model.kernels import eager, on

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton") is not None
DEVICE = torch.device("cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda")
pytestmark = [] if INTERPRETED else [pytest.mark.gpu]


@pytest.fixture(scope="module")
def fused() -> ModuleType:
    from model.kernels import fused

    return fused


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, torch.bfloat16)


def close(actual: Tensor, half: Tensor, full: Tensor) -> None:
    """``actual`` is as near to the float32 result as the eager one in bfloat16."""
    assert actual.shape == full.shape
    assert actual.dtype == half.dtype
    error, allowed = ((x.float() - full).norm() / full.norm() for x in (actual, half))
    # The interpreter cuts bfloat16 off instead of rounding it.
    assert error <= (2.5 if INTERPRETED else 1.2) * max(float(allowed), 2e-3), (error, allowed)


def table(tokens: int, channels: int, batch: int | None = None) -> tuple[Tensor, Tensor]:
    shape = (tokens, channels // 2) if batch is None else (batch, tokens, channels // 2)
    angles = normal(*shape, seed=8).float().repeat_interleave(2, dim=-1)
    return angles.cos(), angles.sin()


@pytest.mark.parametrize(("batch", "latents"), [(1, 1), (1, 3), (2, 3), (2, 12)])
@pytest.mark.parametrize("width", [48, 96])
def test_norms_and_gates(fused: ModuleType, batch: int, latents: int, width: int) -> None:
    x, y = normal(batch, 12, width), normal(batch, 12, width, seed=1)
    six = normal(batch, latents, 6, width, seed=2).unsqueeze(3).unbind(2)
    full = [part.float() for part in six]
    close(
        fused.norm_modulate(x, six[0], six[1], 1e-6),
        eager.norm_modulate(x, six[0], six[1], 1e-6),
        eager.norm_modulate(x.float(), full[0], full[1], 1e-6),
    )
    close(fused.add_gated(x, y, six[2]), eager.add_gated(x, y, six[2]), eager.add_gated(x.float(), y.float(), full[2]))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_kernel_runs_where_its_values_are(fused: ModuleType) -> None:
    """Not on the current device."""
    x, gate = normal(1, 12, 96).to("cuda:1"), normal(1, 1, 1, 96, seed=1).to("cuda:1")
    found = torch.zeros_like(x)
    torch.cuda.synchronize(1)
    torch.cuda._sleep(200_000_000)  # the current device is busy, and nobody waits for it
    found.copy_(fused.add_gated(x, x, gate))
    torch.cuda.synchronize(1)
    close(found, eager.add_gated(x, x, gate), eager.add_gated(x.float(), x.float(), gate.float()))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("num_heads", [2, 3])
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("rotated", [None, "one", "each"])
def test_heads_into_a_cache(fused: ModuleType, batch: int, num_heads: int, normed: bool, rotated: str | None) -> None:
    tokens, channels = 5, 16
    width = num_heads * channels
    y = normal(batch, tokens, 3 * width)[..., width : 2 * width]
    norm = (normal(width, seed=1), 1e-6) if normed else None
    turns = None if rotated is None else table(tokens, channels, batch if rotated == "each" else None)
    buffer = torch.full((batch, 9, num_heads, channels), torch.nan, device=DEVICE, dtype=torch.bfloat16).transpose(1, 2)
    place = buffer[:, :, 2 : 2 + tokens]
    got = fused.split_heads(y, num_heads, norm, turns, place)
    half = eager.split_heads(y, num_heads, norm, turns)
    full = eager.split_heads(y.float(), num_heads, None if norm is None else (norm[0].float(), norm[1]), turns)
    assert got is place
    close(place, half, full)
    close(fused.split_heads(y, num_heads, norm, turns), half, full)
    assert buffer[:, :, :2].isnan().all()
    assert buffer[:, :, 2 + tokens :].isnan().all()


@pytest.mark.parametrize(("start", "stop", "length"), [(0, 2, 9), (0, 7, 9), (3, 5, 9), (2, 6, 9), (0, 3, 3)])
@pytest.mark.parametrize("rotated", [True, False])
def test_rows_move_down(fused: ModuleType, start: int, stop: int, length: int, rotated: bool) -> None:
    turns = table(1, 16) if rotated else None
    ours = normal(2, 12, 3, 16).transpose(1, 2)
    theirs = ours.clone()
    fused.move_rotated(ours, start, stop, length, turns)
    eager.move_rotated(theirs, start, stop, length, turns)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")
def test_a_new_place_compiles_nothing(fused: ModuleType) -> None:
    """Streams are cut wherever a line comes in; a new kernel would keep the host for longer than a chunk lasts."""
    rows = normal(1, 512, 3, 16).transpose(1, 2)
    compiled = fused._move_rotated.device_caches[torch.cuda.current_device()][0]
    fused.move_rotated(rows, 0, 16, 512, table(1, 16))
    num_compiled = len(compiled)
    for start, stop, length in [(0, 1, 2), (1, 2, 3), (15, 31, 500), (32, 48, 49), (7, 400, 512)]:
        fused.move_rotated(rows, start, stop, length, table(1, 16))
    assert len(compiled) == num_compiled


@pytest.mark.parametrize(("batch", "channels"), [(1, 32), (2, 32), (2, 20)])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("last", [True, False])
def test_norm_silu_into_a_window(fused: ModuleType, batch: int, channels: int, biased: bool, last: bool) -> None:
    x = normal(batch, channels, 2, 3, 5)
    x = x.contiguous(memory_format=torch.channels_last_3d) if last else x
    bias, gain = normal(channels, seed=1) if biased else None, normal(channels, seed=2)

    def window(dtype: torch.dtype) -> Tensor:
        shape = batch, channels, 4, 3, 5
        return torch.full(shape, 7.0, device=DEVICE, dtype=dtype).contiguous(memory_format=torch.channels_last_3d)

    ours, half, full = window(torch.bfloat16), window(torch.bfloat16), window(torch.float32)
    fused.norm_silu(x, bias, gain, ours[:, :, 2:])
    eager.norm_silu(x, bias, gain, half[:, :, 2:])
    eager.norm_silu(x.float(), None if bias is None else bias.float(), gain.float(), full[:, :, 2:])
    close(ours, half, full)
    assert (ours[:, :, :2] == 7).all()


def test_residuals(fused: ModuleType) -> None:
    x, y = (normal(2, 20, 2, 3, 5, seed=i).contiguous(memory_format=torch.channels_last_3d) for i in (0, 1))
    bias = normal(20, seed=2)
    half, full = eager.add_residual(x, bias, y), eager.add_residual(x.float(), bias.float(), y.float())
    close(fused.add_residual(x.clone(), bias, y), half, full)


@pytest.mark.parametrize(("in_channels", "time", "skip"), [(16, 1, 0), (32, 1, 0), (16, 2, 0), (16, 2, 1), (8, 2, 0)])
@pytest.mark.parametrize("batch", [1, 2])
def test_phases_and_the_shortcut(fused: ModuleType, batch: int, in_channels: int, time: int, skip: int) -> None:
    channels, source_frames = 8, 2
    num_frames = source_frames * time - skip
    x = normal(batch, in_channels, source_frames, 3, 5).contiguous(memory_format=torch.channels_last_3d)
    phases = normal(batch * num_frames, 4 * channels, 4, 6, seed=1).contiguous(memory_format=torch.channels_last)
    bias = normal(channels, seed=2)
    half = eager.interleave_phases(phases, bias, x, channels, time, skip)
    full = eager.interleave_phases(phases.float(), bias.float(), x.float(), channels, time, skip)
    assert full.shape == (batch, channels, num_frames, 6, 10)
    close(fused.interleave_phases(phases, bias, x, channels, time, skip), half, full)


def test_planes(fused: ModuleType) -> None:
    x = normal(2, 12, 3, 4, 6).contiguous(memory_format=torch.channels_last_3d)
    ours, theirs = fused.i420_from_patches(x), eager.i420_from_patches(x)
    assert ours.shape == theirs.shape
    assert (ours.int() - theirs.int()).abs().max() <= 1
    assert (ours != theirs).float().mean() < 0.01


def test_a_convolution_is_a_product(fused: ModuleType) -> None:
    x, conv = normal(2, 9, 6), nn.Conv1d(6, 10, 7, padding=3).to(DEVICE, torch.bfloat16)
    close(fused.conv1d(x, conv), eager.conv1d(x, conv), eager.conv1d(x.float(), nn.Conv1d.float(conv)))


@pytest.mark.skipif(INTERPRETED, reason="no kernel of Triton's")
@pytest.mark.parametrize(("queries", "keys"), [(2976, 5952), (2976, 60), (150, 5952), (150, 150)])
def test_attention(fused: ModuleType, queries: int, keys: int) -> None:
    q, k, v = (normal(1, n, 4, 128, seed=n + i).transpose(1, 2) for i, n in enumerate((queries, keys, keys)))
    half, full = eager.attention(q, [k], [v], None), eager.attention(q.float(), [k.float()], [v.float()], None)
    close(fused.attention(q, [k], [v], None), half, full)


@pytest.mark.skipif(INTERPRETED, reason="no kernel of Triton's")
@torch.inference_mode()
def test_gelu_between_two_products(fused: ModuleType) -> None:
    x = normal(1, 64, 128)
    ffn = nn.Sequential(nn.Linear(128, 256), nn.GELU(approximate="tanh"), nn.Linear(256, 128)).to(DEVICE, torch.bfloat16)
    half = eager.mlp(x, ffn)
    got = fused.mlp(x, ffn)
    close(got, half, eager.mlp(x.float(), ffn.float()))


def test_who_is_chosen() -> None:
    x = torch.zeros(2)
    assert on(x) is eager
    if DEVICE.type == "cuda":
        from model.kernels import fused

        with torch.no_grad():
            assert on(x.to(DEVICE, torch.bfloat16)) is cast(Any, fused)
            assert on(x.to(DEVICE)) is eager
        assert on(x.to(DEVICE, torch.bfloat16)) is eager, "no gradients flow through fused kernels"


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("width", [48, 128])
def test_rows_in_8_bits(fused: ModuleType, width: int, gelu: bool) -> None:
    x = normal(7, width) * torch.tensor([1e-3, 1, 30, 1, 1, 1, 0], device=DEVICE, dtype=torch.bfloat16)[:, None]
    (rows, scale), (exact_rows, exact_scale) = fused.quantise(x, gelu=gelu), eager.quantise(x, gelu=gelu)
    torch.testing.assert_close(scale, exact_scale, rtol=1e-5, atol=0)
    if INTERPRETED:  # where a carry is lost when a number is rounded up to the next power of two
        assert (rows.float() - exact_rows.float()).norm() <= 0.15 * exact_rows.float().norm()
    else:  # where a number lies between two of them, either will do
        torch.testing.assert_close(rows.float(), exact_rows.float(), rtol=0.13, atol=0.01)
    weight, weight_scale = eager.quantise(normal(32, width, seed=1))
    bias = normal(32, seed=2)
    found = fused.scaled_product(rows, scale, weight, weight_scale.t().contiguous(), bias)
    exact = eager.scaled_product(rows, scale, weight, weight_scale.t().contiguous(), bias)
    assert found.dtype == torch.bfloat16
    assert (found.float() - exact.float()).norm() <= 0.01 * exact.float().norm()
