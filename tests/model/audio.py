"""The published audio side at a size for tests, under its published names: random weights of magnitudes that keep it alive."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from model.adapters.mmaudio import Shapes, bigvgan_shapes, load_bigvgan, load_mmaudio_vae, mmaudio_vae_shapes
from model.config import BigVGANConfig, MMAudioVAEConfig
from model.vae.bigvgan import BigVGAN, antialias_filter
from model.vae.mmaudio import MMAudioVAE

VAE = MMAudioVAEConfig(num_mels=8, latent_channels=4, hidden_dim=8, width_multipliers=(1, 2), num_res_blocks=1)
VOCODER = BigVGANConfig(
    num_mels=8,
    initial_channels=16,
    upsample_rates=(2, 2),
    upsample_kernels=(4, 4),
    res_kernels=(3, 5),
    res_dilations=((1,), (1,)),
)


def random_tensors(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith(".filter"):
            tensors[name] = antialias_filter().view(1, 1, -1)
        elif name.endswith("weight_g") or name == "data_std":
            tensors[name] = 1 + 0.1 * noise
        elif noise.dim() < 2 or name == "data_mean":
            tensors[name] = 0.1 * noise
        else:
            tensors[name] = noise / math.sqrt(math.prod(shape[1:]))
    return tensors


def write_vae(path: Path, tensors: dict[str, Tensor] | None = None) -> Path:
    torch.save(random_tensors(mmaudio_vae_shapes(VAE)) if tensors is None else tensors, path)
    return path


def write_vocoder(path: Path, tensors: dict[str, Tensor] | None = None) -> Path:
    torch.save({"generator": random_tensors(bigvgan_shapes(VOCODER), 1) if tensors is None else tensors}, path)
    return path


def tiny_audio(directory: Path) -> tuple[MMAudioVAE, BigVGAN]:
    vae = load_mmaudio_vae(write_vae(directory / "v1-16.pth"), VAE)
    return vae, load_bigvgan(write_vocoder(directory / "best_netG.pt"), VOCODER)
