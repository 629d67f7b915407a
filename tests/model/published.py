"""The published model at a size for tests: a conv stem, audio narrower than video, look-ahead, random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model.config import DiTConfig, RolloutConfig, TowerConfig
from model.dit.transformer import DualStreamTransformer, TextMemory
from model.rollout import Draw, Latents, Rollout, RolloutShape, roll_out
from tests.model.support import normal, randomise

SHAPE = RolloutShape(height=4, width=6, audio_per_video=5)
PATCH_CELLS = 2
BLOCK = 2

GPU_CONFIG = DiTConfig(
    video=TowerConfig(dim=256, ffn_dim=512, num_heads=2, latent_channels=6),
    audio=TowerConfig(dim=128, ffn_dim=256, num_heads=1, latent_channels=5, stem="conv", time_scale=0.2),
    num_layers=2,
    text_dim=16,
    freq_dim=16,
)
"""Small, with heads as wide as GPU kernels want them."""


def tiny_dit_config(ahead: int = 0, num_layers: int = 2) -> DiTConfig:
    return DiTConfig(
        video=TowerConfig(dim=48, ffn_dim=64, num_heads=2, latent_channels=6),
        audio=TowerConfig(dim=24, ffn_dim=32, num_heads=1, latent_channels=5, stem="conv", time_scale=0.2),
        num_layers=num_layers,
        text_dim=16,
        freq_dim=16,
        future_audio_latents=ahead,
    )


def tiny_dit(ahead: int = 0, num_layers: int = 2) -> DualStreamTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dit = DualStreamTransformer(tiny_dit_config(ahead, num_layers), PATCH_CELLS)
    randomise(dit)
    return dit.requires_grad_(False).eval()


def read(dit: DualStreamTransformer, seed: int = 5, batch: int = 1) -> TextMemory:
    return dit.read_text(normal(batch, 7, 16, seed=seed), (None, None), None)


def open_rollout(dit: DualStreamTransformer, text: TextMemory | None = None, **config: Any) -> Rollout:
    return Rollout(dit, RolloutConfig(**{"window_latents": 6, **config}), SHAPE, text or read(dit))


def noise(num_video: int, seed: int = 0, batch: int = 1) -> tuple[Tensor, Tensor]:
    """Of a clip: video, audio."""
    video = normal(batch, 6, num_video, SHAPE.height, SHAPE.width, seed=seed)
    return video, normal(batch, num_video * SHAPE.audio_per_video, 5, seed=seed + 1)


def drawing(seed: int = 9) -> Draw:
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=generator)


def run(rollout: Rollout, noises: tuple[Tensor, Tensor], seed: int = 9) -> list[Latents]:
    num_blocks = noises[0].shape[2] // BLOCK
    return list(roll_out(rollout, *noises, [BLOCK] * num_blocks, drawing(seed)))
