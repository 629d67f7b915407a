"""The published audio side with the weights of a golden fixture."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from model.adapters.mmaudio import bigvgan_shapes, load_bigvgan, load_mmaudio_vae, mmaudio_vae_shapes
from model.config import BigVGANConfig, MMAudioVAEConfig
from model.vae.bigvgan import BigVGAN
from model.vae.mmaudio import MMAudioVAE
from testkit.golden import Fixture


def vae_tensors(fixture: Fixture, salted_as: Fixture | None = None) -> dict[str, Tensor]:
    """As ``v1-16.pth`` holds them."""
    made = (salted_as or fixture).state_dict(fixture.meta["weights"]["state_dict"], fixture.meta["weights"]["hash_prefix"])
    return made | {name: fixture.tensors[f"const.{name}"] for name in fixture.meta["weights"]["constants"]}


def vocoder_tensors(fixture: Fixture) -> dict[str, Tensor]:
    """As ``best_netG.pt`` holds them under ``generator``."""
    return fixture.state_dict() | {name: fixture.tensors["const.filter"] for name in fixture.meta["weights"]["constants"]}


def build_vae(fixture: Fixture, tensors: Mapping[str, Tensor]) -> MMAudioVAE:
    config = fixture.meta["config"]
    ours = MMAudioVAEConfig(
        num_mels=config["data_dim"],
        latent_channels=config["embed_dim"],
        hidden_dim=config["hidden_dim"],
        width_multipliers=config["ch_mult"],
        num_res_blocks=config["num_res_blocks"],
        down_levels=config["down_layers"],
    )
    assert mmaudio_vae_shapes(ours) == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "v1-16.pth"
        torch.save(dict(tensors), path)
        return load_mmaudio_vae(path, ours)


def build_vocoder(fixture: Fixture, tensors: Mapping[str, Tensor]) -> BigVGAN:
    config = fixture.meta["config"]
    assert (config["resblock"], config["activation"], config["snake_logscale"]) == ("1", "snakebeta", True)
    ours = BigVGANConfig(
        num_mels=config["num_mels"],
        initial_channels=config["upsample_initial_channel"],
        upsample_rates=config["upsample_rates"],
        upsample_kernels=config["upsample_kernel_sizes"],
        res_kernels=config["resblock_kernel_sizes"],
        res_dilations=config["resblock_dilation_sizes"],
    )
    assert len(bigvgan_shapes(ours)) == len(tensors)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "best_netG.pt"
        torch.save({"generator": dict(tensors)}, path)
        return load_bigvgan(path, ours)
