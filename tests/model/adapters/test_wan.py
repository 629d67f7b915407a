"""The published video VAE's file: its names and shapes, loading a half of it, and what is said of files that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.adapters.wan import LATENT_MEAN, LATENT_STD, WAN22, load_wan_decoder, load_wan_encoder, published_names
from model.config import WanVAEConfig
from model.errors import CheckpointError
from model.vae.wan import WanDecoder, WanEncoder
from tests.model.support import normal, randomise

TINY = WanVAEConfig(
    latent_channels=48,
    encoder_widths=(4, 8, 16, 16),
    decoder_widths=(4, 8, 16, 16),
    num_blocks=1,
    halves_time=(False, True, True),
)


def published(name: str, tensor: Tensor) -> Tensor:
    """A tensor of ours in the shape that the file gives it."""
    if name.endswith("gamma"):
        return tensor.reshape(-1, 1, 1) if name.endswith(".norm.gamma") else tensor.reshape(-1, 1, 1, 1)
    return tensor[..., None, None] if name.endswith(("to_qkv.weight", "proj.weight")) else tensor


@pytest.fixture(scope="module")
def halves() -> tuple[WanEncoder, WanDecoder]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder, decoder = WanEncoder(TINY), WanDecoder(TINY)
    for seed, half in enumerate((encoder, decoder)):
        randomise(half, seed)
        half.latent_mean.copy_(torch.tensor(LATENT_MEAN))
        half.latent_inverse_std.copy_(1 / torch.tensor(LATENT_STD))
        half.requires_grad_(False)
    return encoder, decoder


@pytest.fixture
def tensors(halves: tuple[WanEncoder, WanDecoder]) -> dict[str, Any]:
    """What the file holds."""
    found: dict[str, Any] = {}
    for half in halves:
        ours = half.state_dict()
        found |= {name: published(name, ours[our_name]) for name, our_name in published_names(half).items()}
    return found


def write(directory: Path, content: object) -> Path:
    path = directory / "Wan2.2_VAE.pth"
    torch.save(content, path)
    return path


def test_the_published_file_is_expected_key_by_key() -> None:
    with torch.device("meta"):
        halves = WanEncoder(WAN22), WanDecoder(WAN22)
    shapes = {
        name: list(published(name, half.state_dict()[ours]).shape)
        for half in halves
        for name, ours in published_names(half).items()
    }
    assert len(shapes) == 196
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 704_688_668
    some = {
        "encoder.conv1.weight": [160, 12, 3, 3, 3],
        "encoder.downsamples.0.downsamples.2.resample.1.weight": [160, 160, 3, 3],
        "encoder.downsamples.1.downsamples.0.shortcut.weight": [320, 160, 1, 1, 1],
        "encoder.downsamples.2.downsamples.2.time_conv.weight": [640, 640, 3, 1, 1],
        "encoder.downsamples.3.downsamples.1.residual.6.bias": [640],
        "encoder.middle.0.residual.2.weight": [640, 640, 3, 3, 3],
        "encoder.middle.1.norm.gamma": [640, 1, 1],
        "encoder.middle.1.to_qkv.weight": [1920, 640, 1, 1],
        "encoder.head.0.gamma": [640, 1, 1, 1],
        "encoder.head.2.weight": [96, 640, 3, 3, 3],
        "conv1.weight": [96, 96, 1, 1, 1],
        "conv2.bias": [48],
        "decoder.conv1.weight": [1024, 48, 3, 3, 3],
        "decoder.middle.1.proj.bias": [1024],
        "decoder.middle.2.residual.3.gamma": [1024, 1, 1, 1],
        "decoder.upsamples.0.upsamples.3.time_conv.weight": [2048, 1024, 3, 1, 1],
        "decoder.upsamples.2.upsamples.0.shortcut.bias": [512],
        "decoder.upsamples.2.upsamples.3.resample.1.bias": [512],
        "decoder.upsamples.3.upsamples.2.residual.0.gamma": [256, 1, 1, 1],
        "decoder.head.2.weight": [12, 256, 3, 3, 3],
    }
    assert {name: shapes.get(name) for name in some} == some


def test_both_halves_load_from_one_file(halves: tuple[WanEncoder, WanDecoder], tensors: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path, tensors)
    encoder, decoder = load_wan_encoder(path, TINY), load_wan_decoder(path, TINY)
    frames, latents = normal(1, 3, 5, 32, 32), normal(1, 48, 2, 2, 2)
    assert torch.equal(encoder.encode(frames), halves[0].encode(frames))
    assert torch.equal(decoder(latents)[0], halves[1](latents)[0])
    assert not any(p.requires_grad or p.is_meta for half in (encoder, decoder) for p in (*half.parameters(), *half.buffers()))


def test_a_half_needs_only_its_part_of_the_file(
    halves: tuple[WanEncoder, WanDecoder], tensors: dict[str, Any], tmp_path: Path
) -> None:
    path = write(tmp_path, {name: t for name, t in tensors.items() if name.startswith(("decoder.", "conv2."))})
    latents = normal(1, 48, 2, 2, 2)
    assert torch.equal(load_wan_decoder(path, TINY)(latents)[0], halves[1](latents)[0])
    with pytest.raises(CheckpointError, match=r"encoder's 62 keys, 62 missing \(first: encoder.conv1.weight\)"):
        load_wan_encoder(path, TINY)


def test_weights_may_be_rounded_while_they_are_loaded(tensors: dict[str, Any], tmp_path: Path) -> None:
    decoder = load_wan_decoder(write(tmp_path, tensors), TINY, dtype=torch.bfloat16)
    assert {t.dtype for t in decoder.state_dict().values()} == {torch.bfloat16}
    # The published code rounds the inverse of the standard deviation, not the deviation.
    assert torch.equal(decoder.latent_inverse_std, (1 / torch.tensor(LATENT_STD)).bfloat16())
    assert decoder.decode(normal(1, 48, 1, 2, 2))[0].dtype == torch.float32


def test_names_that_are_missing_or_unexpected_are_told(tensors: dict[str, Any], tmp_path: Path) -> None:
    tensors["decoder.head.3.weight"] = tensors.pop("decoder.head.2.weight")
    path = write(tmp_path, tensors)
    with pytest.raises(CheckpointError) as told:
        load_wan_decoder(path, TINY)
    message = str(told.value)
    assert str(path) in message
    assert "Wan2.2_VAE.pth" in message
    assert "1 missing (first: decoder.head.2.weight), 1 unexpected (first: decoder.head.3.weight)" in message
    load_wan_encoder(path, TINY)


def test_a_shape_that_differs_is_told_in_the_files_terms(tensors: dict[str, Any], tmp_path: Path) -> None:
    tensors["decoder.middle.1.to_qkv.weight"] = tensors["decoder.middle.1.to_qkv.weight"][:-3]
    with pytest.raises(CheckpointError, match=r"decoder.middle.1.to_qkv.weight has shape \[45, 16, 1, 1\], .* \[48, 16, 1, 1\]"):
        load_wan_decoder(write(tmp_path, tensors), TINY)


def test_a_file_of_another_size_is_told(tensors: dict[str, Any], tmp_path: Path) -> None:
    wider = TINY.model_copy(update={"decoder_widths": (8, 16, 32, 32)})
    with pytest.raises(CheckpointError, match=r"has shape \[16, 48, 3, 3, 3\], the config asks for \[32, 48, 3, 3, 3\]"):
        load_wan_decoder(write(tmp_path, tensors), wider)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"video_model.head.head.weight": torch.zeros(2)},
            r"86 keys, 86 missing .*1 unexpected .first: video_model.head.head.weight",
        ),
        ({"state_dict": {}}, r"86 keys, 86 missing .*1 unexpected .first: state_dict"),
        ({}, r"86 keys, 86 missing \(first: conv2.weight\), 0 unexpected \(first: none\)"),
        ([torch.zeros(2)], "holds a list, not named tensors"),
    ],
)
def test_an_unrelated_file_is_refused(content: object, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, content)
    with pytest.raises(CheckpointError, match=said) as told:
        load_wan_decoder(path, TINY)
    assert str(path) in str(told.value)


def test_what_is_no_tensor_is_refused(tensors: dict[str, Any], tmp_path: Path) -> None:
    tensors["conv2.bias"] = 3
    with pytest.raises(CheckpointError, match=r"conv2.bias has a int, the config asks for \[48\]"):
        load_wan_decoder(write(tmp_path, tensors), TINY)


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(tensors: dict[str, Any], tmp_path: Path, kept: float) -> None:
    path = write(tmp_path, tensors)
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(CheckpointError, match=r"Wan2.2_VAE.pth is damaged or no file of weights"):
        load_wan_decoder(path, TINY)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Wan2.2_VAE.pth is missing"):
        load_wan_encoder(tmp_path / "Wan2.2_VAE.pth", TINY)


def test_widths_and_steps_have_to_fit() -> None:
    with pytest.raises(ValueError, match="3 entries of halves_time need 4 widths"):
        WanVAEConfig(latent_channels=4, encoder_widths=(4, 8), decoder_widths=(4, 8), num_blocks=1, halves_time=(True,) * 3)
