"""What the stages of pocket's two VAEs share: an encoder that learns for some time, then is frozen and handed over."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from model.training.config import VAEStage
from model.training.optimizers import Learner
from model.training.stage import Stage
from model.training.starts import ENCODER_FILE, encoder_tensors
from model.vae.audio import AudioVAE
from model.vae.video import VideoVAE

VAE, CRITICS = "vae", "critics"
FROZEN = 1
"""The phase in which the encoder is, and latents stay what they are."""


class VAETraining(Stage):
    """A VAE's stage in two phases.

    Args:
        vae: where it will learn.
        encoder_is_given: it is frozen from the first step.
    """

    def __init__(self, config: VAEStage, vae: VideoVAE | AudioVAE, *, encoder_is_given: bool) -> None:
        self._encoder_s, self._frozen_rate, self.vae = 60 * config.encoder_minutes, config.frozen_rate, vae
        if encoder_is_given:
            self.begin(FROZEN)

    @property
    def frozen(self) -> bool:
        return self.phase == FROZEN

    def phase_at(self, seconds: float) -> int:
        return FROZEN if self.frozen or seconds >= self._encoder_s else 0

    def begin(self, phase: int) -> None:
        super().begin(phase)
        if self.frozen:
            self.vae.encoder.requires_grad_(False)

    def turn(self, learners: Mapping[str, Learner]) -> None:
        """The averaged encoder is the one that stays; its latents are measured."""
        learner = learners[VAE]
        if learner.average is not None:
            learner.put({name: x for name, x in learner.average.tensors.items() if name.startswith("encoder.")})
        with torch.no_grad():
            mean, std = self.measure_latents()
        self.vae.latent_mean.copy_(mean)
        self.vae.latent_std.copy_(std.clamp(min=1e-3))

    @abstractmethod
    def measure_latents(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation [C] of latents before they are normalised, over some of the data."""

    def rate_share(self, learner: str) -> float:
        return self._frozen_rate if self.frozen and learner == VAE else 1.0

    def hand_over(self, directory: Path) -> None:
        path = directory / ENCODER_FILE
        if self.frozen and not path.exists():
            part = path.with_suffix(".part")
            save_file({name: x.detach().cpu().contiguous() for name, x in encoder_tensors(self.vae).items()}, part)
            os.replace(part, path)
