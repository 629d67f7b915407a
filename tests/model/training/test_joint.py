"""The joint stage: what it learns from, and that its losses reach everything that learns."""

from __future__ import annotations

import torch
from torch import Tensor

from model.config import ModelConfig
from model.liveliness import CONTROLS
from model.training.joint import WEIGHTS, Speaker, losses, noise_levels
from tests.model.support import normal, randomise, tiny_config

BATCH, BLOCKS, SYMBOLS = 4, 3, 9


def told_config() -> ModelConfig:
    raw = tiny_config()
    raw["geometry"]["patch_cells"] = [1, 2]
    raw["dit"] |= {"output": "clean", "grid": [4, 3], "control_channels": 4 * len(CONTROLS)}
    return ModelConfig.model_validate(raw)


def batch(config: ModelConfig, speaker: Speaker) -> dict[str, Tensor]:
    geometry = config.geometry.build()
    num_video, num_audio = BLOCKS * geometry.block_video_latents, BLOCKS * geometry.block_audio_latents
    cells = geometry.latent_height, geometry.latent_width
    ids = torch.randint(1, config.text.num_phonemes, (BATCH, SYMBOLS))
    return {
        "blocks": torch.arange(BLOCKS).expand(BATCH, -1),
        "video": normal(BATCH, config.dit.video.latent_channels, num_video, *cells, seed=1),
        "weight": torch.ones(BATCH, num_video, *cells),
        "audio": normal(BATCH, num_audio, config.dit.audio.latent_channels, seed=2),
        "control": normal(BATCH, num_video, config.dit.control_channels, seed=3),
        "ids": ids,
        "durations_s": 0.05 + 0.1 * torch.rand(BATCH, SYMBOLS),
        "times": torch.arange(SYMBOLS).float().mul(2.5).expand(BATCH, -1),
        "text_mask": torch.ones(BATCH, SYMBOLS, dtype=torch.bool),
        "caption": torch.randint(1, config.text.num_words, (BATCH, config.text.max_words)),
        "labels": torch.zeros(BATCH, len(speaker.labels), dtype=torch.long),
    }


def test_every_weight_learns_from_the_joint_loss() -> None:
    config = told_config()
    torch.manual_seed(0)
    speaker = Speaker(config)
    randomise(speaker)
    parts = losses(speaker, config, config.geometry.build(), batch(config, speaker))
    assert set(parts) == set(WEIGHTS)
    torch.stack([WEIGHTS[name] * value for name, value in parts.items()]).sum().backward()
    for name, parameter in speaker.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0 or parameter.numel() == 1, name


def test_levels_that_are_served_come_up_most_and_the_last_block_is_always_learned() -> None:
    torch.manual_seed(0)
    level = noise_levels(512, 12, (1.0, 0.25), torch.device("cpu"))
    assert level.min() == 0
    assert level.max() == 1
    assert (level[:, -1] > 0).all()
    assert 0.3 < (level[:, 1:-1] == 0).float().mean() < 0.5
    learned = level[level > 0]
    near = ((learned >= 0.7) | ((learned > 0.175) & (learned < 0.325))).float().mean()
    assert near > 0.6, "with none favoured, 0.4"
