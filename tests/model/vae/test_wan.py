"""The published video VAE without fixtures: chunks give the whole, nothing looks ahead, layouts and folding change nothing."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from model.adapters.wan import WAN22
from model.config import WanVAEConfig
from model.data.clips import i420_from_rgb
from model.kernels.eager import duplicate, norm_silu
from model.vae.pictures import cover, frames_from_rgb, i420_from_frames
from model.vae.wan import (
    FeatureCache,
    NearestConv2d,
    PhaseConv2d,
    WanDecoder,
    WanEncoder,
    channels_last,
    first_latent,
    fold_upsampling,
    pool,
)
from tests.model.rounding import EXACT, InDouble
from tests.model.support import normal, randomise

TINY = WanVAEConfig(
    latent_channels=4,
    encoder_widths=(4, 8, 16, 16),
    decoder_widths=(4, 8, 16, 16),
    num_blocks=1,
    halves_time=(False, True, True),
)
NUM_LATENTS = 6
NUM_FRAMES = 1 + 4 * (NUM_LATENTS - 1)

ROUNDING: dict[str, Any] = {"atol": 1e-4, "rtol": 1e-4}
"""Where sums are taken in another order. A norm over only four channels can be short, and then makes an error larger."""

chunkings = (
    st.lists(st.integers(1, NUM_LATENTS), min_size=1)
    .map(lambda sizes: np.cumsum([0, *sizes]))
    .map(lambda ends: [int(e) for e in ends if e < NUM_LATENTS] + [NUM_LATENTS])
)
"""Places at which ``NUM_LATENTS`` latents are cut, from 0 to the end."""


def build(kind: Callable[[WanVAEConfig], WanDecoder | WanEncoder], seed: int = 0) -> WanDecoder | WanEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = kind(TINY)
    randomise(module, seed)
    module.latent_mean += 0.3
    module.latent_inverse_std *= 0.6
    return module.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def decoder() -> WanDecoder:
    module = build(WanDecoder)
    assert isinstance(module, WanDecoder)
    return module


@pytest.fixture(scope="module")
def encoder() -> WanEncoder:
    module = build(WanEncoder, seed=1)
    assert isinstance(module, WanEncoder)
    return module


def latents(batch: int = 1) -> Tensor:
    return normal(batch, TINY.latent_channels, NUM_LATENTS, 2, 3)


def video() -> Tensor:
    return normal(1, 3, NUM_FRAMES, 32, 48, seed=2).clamp(-1, 1)


def stream(module: nn.Module, x: Tensor, cuts: list[int]) -> tuple[Tensor, FeatureCache]:
    """Cut along time at ``cuts``."""
    parts, cache = [], None
    for start, stop in itertools.pairwise(cuts):
        part, cache = module(x[:, :, start:stop], cache)
        parts.append(part)
    assert cache is not None
    return torch.cat(parts, dim=2), cache


@settings(max_examples=12, derandomize=True)
@given(cuts=chunkings)
def test_latents_in_chunks_give_the_whole_and_its_cache(decoder: WanDecoder, cuts: list[int]) -> None:
    x, decoder = latents(batch=2).double(), copy.deepcopy(decoder).double()
    with InDouble():
        whole, whole_cache = decoder(x)
        frames, cache = stream(decoder, x, cuts)
    assert whole.shape == (2, 3, NUM_FRAMES, 32, 48)
    torch.testing.assert_close(frames, whole, **EXACT)
    for mine, its in zip(cache.tensors, whole_cache.tensors, strict=True):
        torch.testing.assert_close(mine, its, **EXACT)


@settings(max_examples=12, derandomize=True)
@given(cuts=chunkings)
def test_frames_in_chunks_give_the_whole_and_its_cache(encoder: WanEncoder, cuts: list[int]) -> None:
    x, encoder = video().double(), copy.deepcopy(encoder).double()
    with InDouble():
        whole, whole_cache = encoder(x)
        found, cache = stream(encoder, x, [0, *[4 * cut - 3 for cut in cuts[1:]]])
    assert whole.shape == (1, TINY.latent_channels, NUM_LATENTS, 2, 3)
    torch.testing.assert_close(found, whole, **EXACT)
    for mine, its in zip(cache.tensors, whole_cache.tensors, strict=True):
        torch.testing.assert_close(mine, its, **EXACT)


def test_the_first_latent_gives_one_picture_and_later_ones_four(decoder: WanDecoder) -> None:
    first, cache = decoder(latents()[:, :, :1])
    second, cache = decoder(latents()[:, :, 1:2], cache)
    third, _ = decoder(latents()[:, :, 2:4], cache)
    assert [frames.shape[2] for frames in (first, second, third)] == [1, 4, 8]


@pytest.mark.parametrize("at", range(NUM_LATENTS))
def test_a_later_latent_never_changes_an_earlier_picture(decoder: WanDecoder, at: int) -> None:
    other = latents()
    other[:, :, at:] = torch.nan
    before, after = decoder(latents())[0], decoder(other)[0]
    earlier = max(0, 4 * at - 3)
    assert torch.equal(before[:, :, :earlier], after[:, :, :earlier])
    assert after[:, :, earlier:].isnan().flatten(3).any(dim=3).all(), "a latent has to show in its own pictures"


@pytest.mark.parametrize("at", range(NUM_LATENTS))
def test_a_later_picture_never_changes_an_earlier_latent(encoder: WanEncoder, at: int) -> None:
    other = video()
    other[:, :, max(0, 4 * at - 3) :] = torch.nan
    before, after = encoder.encode(video()), encoder.encode(other)
    assert torch.equal(before[:, :, :at], after[:, :, :at])
    assert after[:, :, at:].isnan().flatten(3).any(dim=3).all()


def test_members_of_a_batch_do_not_mix(decoder: WanDecoder) -> None:
    x = latents(batch=2)
    whole = decoder(x)[0]
    x[1] = torch.nan
    torch.testing.assert_close(decoder(x)[0][0], whole[0])


def test_the_first_latent_is_no_history_of_a_temporal_upsampling(decoder: WanDecoder) -> None:
    """Where the frame rate doubles, the second latent sees zeros behind it; all other layers see the first latent."""
    cache = decoder(latents()[:, :, :1])[1]
    blocks = TINY.num_blocks + 1
    temporal = [1 + 4 + 2 * blocks, 1 + 4 + 4 * blocks + 1]
    silent = [i for i, tensor in enumerate(cache.tensors) if not tensor.any()]
    assert silent == temporal
    assert all(not t[:, :, 0].any() for t in cache.tensors), "only one frame is known"


def test_a_chunk_without_the_cache_differs(decoder: WanDecoder) -> None:
    whole, cache = decoder(latents())[0], decoder(latents()[:, :, :3])[1]
    with_it = decoder(latents()[:, :, 3:], cache)[0]
    torch.testing.assert_close(with_it, whole[:, :, 9:], **ROUNDING)
    emptied = FeatureCache(tuple(torch.zeros_like(t) for t in cache.tensors))
    assert not torch.allclose(decoder(latents()[:, :, 3:], emptied)[0], with_it, atol=1e-3)


def test_the_cache_is_a_value(decoder: WanDecoder) -> None:
    cache = decoder(latents()[:, :, :2])[1]
    kept = cache.clone()
    one, after = decoder(latents()[:, :, 2:], cache)
    for mine, its in zip(cache.tensors, kept.tensors, strict=True):
        assert torch.equal(mine, its), "decoding has written into the cache that it was given"
        assert mine.data_ptr() != its.data_ptr()
    assert torch.equal(decoder(latents()[:, :, 2:], kept)[0], one)
    assert not any(torch.equal(a, b) for a, b in zip(after.tensors, cache.tensors, strict=True))


def test_a_caches_size_is_what_it_holds_in_memory_and_never_grows(decoder: WanDecoder) -> None:
    cache, sizes = None, set()
    for length in (1, 1, 4, 2, 6, 1):
        _, cache = decoder(latents()[:, :, :length], cache)
        assert cache.num_bytes == sum(t.untyped_storage().nbytes() for t in cache.tensors)
        sizes.add(cache.num_bytes)
    assert len(sizes) == 1


def test_a_cache_can_keep_its_addresses(decoder: WanDecoder) -> None:
    fixed = decoder(latents()[:, :, :2])[1]
    addresses = [t.data_ptr() for t in fixed.tensors]
    frames, cache = decoder(latents()[:, :, 2:4], fixed)
    fixed.copy_(cache)
    assert [t.data_ptr() for t in fixed.tensors] == addresses
    whole = decoder(latents())[0]
    torch.testing.assert_close(frames, whole[:, :, 5:13], **ROUNDING)
    torch.testing.assert_close(decoder(latents()[:, :, 4:], fixed)[0], whole[:, :, 13:], **ROUNDING)


def test_gradients_reach_the_latents_through_the_cache(decoder: WanDecoder) -> None:
    """As a reward on pictures needs them."""

    def gradient(cuts: list[int]) -> Tensor:
        x = latents().requires_grad_()
        stream(decoder, x, cuts)[0].square().sum().backward()
        assert x.grad is not None
        return x.grad

    whole = gradient([0, NUM_LATENTS])
    assert (whole.abs().amax(dim=(0, 1, 3, 4)) > 1e-2).all()
    torch.testing.assert_close(gradient([0, 1, 3, NUM_LATENTS]), whole, atol=1e-3, rtol=1e-3)


def test_decoding_clamps(decoder: WanDecoder) -> None:
    loud = 30 * latents()
    plain = decoder(loud)[0]
    assert plain.abs().max() > 1
    assert torch.equal(decoder.decode(loud)[0], plain.clamp(-1, 1))


def test_latents_are_normalised(encoder: WanEncoder, decoder: WanDecoder) -> None:
    """Statistics other than these, and numbers to match, are the same pictures and the same features."""
    plain_encoder, plain_decoder = build(WanEncoder, seed=1), build(WanDecoder)
    for module in (plain_encoder, plain_decoder):
        module.latent_mean.zero_()
        module.latent_inverse_std.fill_(1)
    found = plain_encoder(video())[0]
    torch.testing.assert_close(encoder.encode(video()), (found - 0.3) * 0.6, **ROUNDING)
    torch.testing.assert_close(plain_decoder(latents() / 0.6 + 0.3)[0], decoder(latents())[0], **ROUNDING)


@pytest.mark.parametrize(("in_channels", "out_channels", "time"), [(16, 16, 2), (16, 8, 1), (4, 8, 2), (8, 4, 2)])
def test_duplication_deals_channels_out(in_channels: int, out_channels: int, time: int) -> None:
    x = normal(2, in_channels, 3, 2, 3)
    repeats = out_channels * time * 4 // in_channels
    expected = torch.empty(2, out_channels, 3 * time, 4, 6)
    for o, t, i, j, k in itertools.product(range(out_channels), range(3), range(time), range(2), range(2)):
        channel = (((o * time + i) * 2 + j) * 2 + k) // repeats
        expected[:, o, t * time + i, j::2, k::2] = x[:, channel, t]
    assert torch.equal(duplicate(x, out_channels, time, 0), expected)
    assert torch.equal(duplicate(x, out_channels, time, time - 1), expected[:, :, time - 1 :])


@pytest.mark.parametrize(("out_channels", "time", "space"), [(4, 1, 2), (8, 2, 2), (2, 1, 1), (4, 1, 1)])
@pytest.mark.parametrize("num_frames", [1, 4, 5])
def test_pooling_averages_runs_of_channels(out_channels: int, time: int, space: int, num_frames: int) -> None:
    x = normal(1, 4, num_frames, 4, 6)
    padded = torch.cat((torch.zeros(1, 4, num_frames % time, 4, 6), x), dim=2)
    flat = [
        padded[:, c, i::time, j::space, k::space]
        for c, i, j, k in itertools.product(range(4), range(time), range(space), range(space))
    ]
    run = len(flat) // out_channels
    expected = torch.stack([torch.stack(flat[o * run : (o + 1) * run]).mean(dim=0) for o in range(out_channels)], dim=1)
    torch.testing.assert_close(pool(x, out_channels, time, space), expected)


def test_bfloat16_rounds_once_after_the_activation() -> None:
    gain = (1 + normal(16) * 0.1).bfloat16()
    x = normal(1, 16, 4, 8, 8).bfloat16()
    exact = x.double() / x.double().norm(dim=1, keepdim=True) * 4 * gain.double().view(-1, 1, 1, 1)
    exact = exact / (1 + (-exact).exp())
    found = torch.empty_like(x)
    norm_silu(x, None, gain, found)
    # Half a step of eight binary digits: two roundings would reach further.
    torch.testing.assert_close(found.double(), exact, atol=0, rtol=2**-8 * 1.001)


def test_silence_in_all_channels_is_no_division_by_zero() -> None:
    found = torch.full((1, 8, 1, 2, 2), torch.nan)
    norm_silu(torch.zeros(1, 8, 1, 2, 2), None, torch.ones(8), found)
    assert torch.equal(found, torch.zeros(1, 8, 1, 2, 2))


def test_bfloat16_stays_near_float32(decoder: WanDecoder, encoder: WanEncoder) -> None:
    pairs: list[tuple[WanDecoder | WanEncoder, type[WanDecoder | WanEncoder], int, Tensor]] = [
        (decoder, WanDecoder, 0, latents()),
        (encoder, WanEncoder, 1, video()),
    ]
    for exact, kind, seed, x in pairs:
        half = build(kind, seed).to(torch.bfloat16)
        found, cache = half(x)
        assert found.dtype == torch.bfloat16
        assert all(t.dtype == torch.bfloat16 for t in cache.tensors)
        wanted = exact(x)[0]
        assert (found.float() - wanted).norm() / wanted.norm() < 0.02


@pytest.mark.parametrize("kind", [WanDecoder, WanEncoder])
def test_channels_last_stays_so_through_the_network_and_changes_nothing(kind: type[WanDecoder | WanEncoder]) -> None:
    last, exact, exact_last = channels_last(build(kind)), build(kind).double(), channels_last(build(kind).double())
    strayed: list[str] = []
    for name, module in last.named_modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_hook(
                lambda _, x, y, name=name: strayed.extend(
                    name for t in (*x, y) if not t.is_contiguous(memory_format=torch.channels_last_3d)
                )
            )
    # Below a batch of 16, one thread takes a kernel that knows no layouts.
    x = latents(16) if kind is WanDecoder else video().repeat(16, 1, 1, 1, 1)
    last_cache = None
    for part in (x[:, :, :1], x[:, :, 1:5]):
        _, last_cache = last(part.contiguous(memory_format=torch.channels_last_3d), last_cache)
    # Kernels in float64 know no layouts either, but the numbers are those of the function, whatever the order of sums.
    with InDouble():
        torch.testing.assert_close(exact_last(x[:, :, :5].double())[0], exact(x[:, :, :5].double())[0], **EXACT)
    assert set(strayed) <= {"stem.conv"}, "only what the encoder makes of pixels may come in another layout"
    assert last_cache is not None
    assert all(t.is_contiguous(memory_format=torch.channels_last_3d) for t in last_cache.tensors[1:])


@given(height=st.integers(1, 5), width=st.integers(1, 5), channels=st.integers(1, 4))
@settings(max_examples=20, derandomize=True)
def test_folded_upsampling_is_the_same_function(height: int, width: int, channels: int) -> None:
    plain = NearestConv2d(channels)
    randomise(plain)
    x = normal(2, channels, height, width)
    torch.testing.assert_close(PhaseConv2d(plain)(x), plain(x), **ROUNDING)


def test_a_folded_decoder_gives_the_same_pictures(decoder: WanDecoder) -> None:
    folded = build(WanDecoder)
    assert isinstance(folded, WanDecoder)
    fold_upsampling(folded)
    assert sum(isinstance(m, PhaseConv2d) for m in folded.modules()) == 3
    assert not any(isinstance(m, NearestConv2d) for m in folded.modules())
    whole = decoder(latents())[0]
    torch.testing.assert_close(stream(folded, latents(), [0, 1, 3, 6])[0], whole, **ROUNDING)
    torch.testing.assert_close(channels_last(folded)(latents())[0], whole, **ROUNDING)


def test_the_published_size_is_computed_without_looking_at_a_number() -> None:
    """On the meta device no value exists, so that reading one back, as ``item`` does, would fail. Costs are as published."""
    with torch.device("meta"):
        decoder = WanDecoder(WAN22).to(torch.bfloat16).requires_grad_(False)
        encoder = WanEncoder(WAN22).to(torch.bfloat16).requires_grad_(False)
        first, later = (torch.empty(1, 48, n, 32, 62, dtype=torch.bfloat16) for n in (1, 6))
        picture = torch.empty(1, 3, 1, 512, 992)
    assert sum(p.numel() for m in (decoder, encoder) for p in m.parameters()) == 704_688_668
    with FlopCounterMode(display=False) as first_cost:
        frames, cache = decoder.decode(first)
    assert frames.shape == (1, 3, 1, 512, 992)
    assert cache.num_bytes == pytest.approx(1.81e9, rel=0.01)
    with FlopCounterMode(display=False) as later_cost:
        frames, cache = decoder.decode(later, cache)
    assert frames.shape == (1, 3, 24, 512, 992)
    assert i420_from_frames(frames).shape == (1, 24, 768, 992)
    assert first_cost.get_total_flops() == pytest.approx(11.57e12, rel=0.01)
    assert later_cost.get_total_flops() == pytest.approx(6 * 37.37e12, rel=0.01)
    assert encoder.encode(picture).shape == (1, 48, 1, 32, 62)


def test_planes_made_on_the_device_are_those_of_the_processor() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (2, 512, 992, 3), np.uint8)
    rgb[1] = np.indices((512, 992)).sum(axis=0)[..., None] % 256  # grey ramps, and then saturated colours
    rgb[1, :64, :, 0], rgb[1, 64:128, :, 1], rgb[1, 128:192, :, 2] = 255, 255, 0
    planes = i420_from_frames(frames_from_rgb(torch.from_numpy(rgb)[None]))
    assert planes.shape == (1, 2, 768, 992)
    assert planes.dtype == torch.uint8
    for mine, picture in zip(planes[0].numpy(), rgb, strict=True):
        difference = np.abs(mine.astype(int) - i420_from_rgb(picture).astype(int))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.05


def test_planes_of_values_between_bytes_are_within_a_level() -> None:
    frames = torch.rand(1, 3, 1, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rgb = (frames * 127.5 + 127.5).round().to(torch.uint8)[0, :, 0].permute(1, 2, 0).numpy()
    difference = i420_from_frames(frames)[0, 0].numpy().astype(int) - i420_from_rgb(rgb).astype(int)
    assert np.abs(difference).max() <= 1


def test_black_white_and_primaries() -> None:
    colours = torch.tensor([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 0, 255]], dtype=torch.uint8)
    frames = frames_from_rgb(colours.view(1, 4, 1, 1, 3).expand(1, 4, 4, 4, 3))
    planes = i420_from_frames(frames)[0]
    seen = [(int(p[0, 0]), int(p[4, 0]), int(p[5, 0])) for p in planes]
    assert seen == [(16, 128, 128), (235, 128, 128), (82, 90, 240), (41, 240, 110)]


def test_an_image_starts_a_stream(encoder: WanEncoder) -> None:
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8))
    latent = first_latent(encoder, image, 32, 48)
    clip = frames_from_rgb(image[None, None])
    assert torch.equal(latent, encoder.encode(clip))
    # Whatever follows, the first latent of a clip is that of its first picture.
    torch.testing.assert_close(latent, encoder.encode(torch.cat((clip, video()[:, :, :4]), dim=2))[:, :, :1])


@pytest.mark.parametrize(("height", "width"), [(64, 96), (200, 96), (64, 301), (17, 11), (640, 960)])
def test_an_image_of_any_size_covers_the_picture(height: int, width: int) -> None:
    """A ramp from left to right and one from top to bottom keep their middle in the middle."""
    image = torch.zeros(height, width, 3, dtype=torch.uint8)
    image[..., 0] = torch.linspace(0, 255, width)
    image[..., 1] = torch.linspace(0, 255, height)[:, None]
    picture = cover(image, 64, 96)
    assert picture.shape == (64, 96, 3)
    assert picture.dtype == torch.uint8
    assert picture[..., :2].float().mean(dim=(0, 1)).tolist() == pytest.approx([127, 127], abs=4)
    columns, rows = picture[32, :, 0].int().diff(), picture[:, 48, 1].int().diff()
    assert (columns >= -1).all()
    assert (rows >= -1).all()
    if (height, width) == (64, 96):
        assert torch.equal(picture, image)


@pytest.mark.parametrize(
    "image", [torch.zeros(8, 8, 3), torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(0, 8, 3, dtype=torch.uint8)]
)
def test_what_is_no_image_is_refused(image: Tensor) -> None:
    with pytest.raises(ValueError, match=r"an image is uint8 \[height, width, 3\], got"):
        cover(image, 64, 96)


def test_frames_that_make_no_whole_latent_are_refused(encoder: WanEncoder) -> None:
    with pytest.raises(ValueError, match=r"4 frames do not make whole latents: pass 1 \+ 4 n"):
        encoder(video()[:, :, :4])
    cache = encoder(video()[:, :, :1])[1]
    for wrong in (0, 5):
        with pytest.raises(ValueError, match=rf"{wrong} frames do not make whole latents: pass 4 n"):
            encoder(video()[:, :, :wrong], cache)
    with pytest.raises(ValueError, match="48x24 is not a multiple of 16 px"):
        encoder(video()[:, :, :1, :24])
