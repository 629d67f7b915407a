"""The published video VAE against its fixtures."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from model.adapters.wan import fill_wan
from model.config import WanVAEConfig
from model.vae.wan import PATCH_PX, FeatureCache, WanDecoder, WanEncoder
from testkit.golden import Fixture


@torch.inference_mode()
def check_wan(fixture: Fixture) -> None:
    config = fixture.meta["config"]
    assert config["pixel_patch"] == PATCH_PX
    widths = WanVAEConfig(
        latent_channels=config["z_dim"],
        encoder_widths=tuple(config["dim"] * m for m in config["dim_mult"]),
        decoder_widths=tuple(config["dec_dim"] * m for m in config["dim_mult"]),
        num_blocks=config["num_res_blocks"],
        halves_time=tuple(config["temperal_downsample"]),
    )
    _check_decoder(fixture, widths)
    _check_encoder(fixture, widths)


def _check_decoder(fixture: Fixture, config: WanVAEConfig) -> None:
    with torch.device("meta"):
        decoder = WanDecoder(config)
    _fill(fixture, decoder, ("decoder.", "conv2."))
    fixture.close(decoder.latent_mean, "norm.mean")
    fixture.close(1 / decoder.latent_inverse_std, "norm.std")

    latents = fixture.tensors["in.latent"]
    whole, _ = decoder(latents)
    fixture.close(whole, "out.decode_unclamped")
    fixture.close(whole.clamp(-1, 1), "out.decode")
    chunks, cache = [], None
    expected_caches = fixture.meta["decoder_feature_cache_after_chunk"]
    for part, expected in zip(latents.split(fixture.meta["stream_chunks_latent_frames"], dim=2), expected_caches, strict=True):
        frames, cache = decoder.decode(part, cache)
        chunks.append(frames)
        _check_cache(cache, expected)
    assert [chunk.shape[2] for chunk in chunks] == fixture.meta["stream_chunk_output_frames"]
    fixture.close(torch.cat(chunks, dim=2), "out.decode", name="out.decode, decoded in chunks")


def _check_cache(cache: FeatureCache, expected: list[Any]) -> None:
    """Slots of the published cache: a shape, ``Rep`` for a temporal layer that was passed by, ``None`` for one that is not used.

    Ours always holds as many frames as a layer looks back, zeros at first, where the published one holds what there is.
    """
    used = [slot for slot in expected if slot != "None"]
    for tensor, slot in zip(cache.tensors, used, strict=True):
        batch, channels, num_frames, *size = tensor.shape
        known = 0 if slot == "Rep" else slot[2]
        if slot != "Rep":
            assert [batch, channels, *size] == [*slot[:2], *slot[3:]]
        assert known <= num_frames
        assert not tensor[:, :, : num_frames - known].any()
        assert tensor[:, :, num_frames - known :].any() or not known


def _check_encoder(fixture: Fixture, config: WanVAEConfig) -> None:
    with torch.device("meta"):
        encoder = WanEncoder(config)
    _fill(fixture, encoder, ("encoder.", "conv1."))
    for i, case in enumerate(fixture.meta["encode_cases"]):
        video = fixture.tensors[f"in.video{i}"]
        assert list(video.shape) == case["in"]
        latents = encoder.encode(video)
        assert list(latents.shape) == case["out"]
        fixture.close(latents, f"out.encode{i}")
    stored = {name for name in fixture.tensors if re.fullmatch(r"out\.encode\d+", name)}
    assert stored == {f"out.encode{i}" for i in range(len(fixture.meta["encode_cases"]))}


def _fill(fixture: Fixture, module: WanEncoder | WanDecoder, prefixes: tuple[str, ...]) -> None:
    shapes = {key: shape for key, shape in fixture.meta["weights"]["state_dict"].items() if key.startswith(prefixes)}
    tensors: dict[str, Tensor] = fixture.state_dict(shapes)
    fill_wan(module, tensors, fixture.path)
