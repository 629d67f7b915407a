"""Few-step sampling of flow-matching models: pure functions.

A noisy latent is ``(1 - level) * clean + level * noise``, level in [0, 1]; the network predicts the velocity ``noise - clean``.
Arithmetic is in float32, results are in the latents' own type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Level = float | Tensor
"""One level, or one for each latent, shaped to broadcast."""


def euler_step(noisy: Tensor, velocity: Tensor, level: Level, next_level: Level) -> Tensor:
    """One Euler step along the velocity from one noise level to the next."""
    return noisy - (level - next_level) * velocity


def add_noise(clean: Tensor, noise: Tensor, level: Level) -> Tensor:
    return ((1 - level) * clean.float() + level * noise.float()).to(clean.dtype)


def clean_from_velocity(noisy: Tensor, velocity: Tensor, level: Level) -> Tensor:
    return (noisy.float() - level * velocity.float()).to(noisy.dtype)


def velocity_from_clean(noisy: Tensor, clean: Tensor, level: Level) -> Tensor:
    """The inverse of :func:`clean_from_velocity`; ``level`` must not be 0."""
    return ((noisy.float() - clean.float()) / level).to(noisy.dtype)


def shift_levels(levels: Tensor, shift: float) -> Tensor:
    """Levels moved towards noise by ``shift`` > 1 (SD3, arXiv 2403.03206, equation 23)."""
    return shift * levels / (1 + (shift - 1) * levels)


@dataclass(frozen=True)
class NoiseTable:
    """A falling table of noise levels. Timesteps on the 0..1000 scale find their level by the nearest entry.

    The last entry is above 0, so that a timestep of 0 stands for a little noise; the published model was trained that way.

    Attributes:
        levels: float32 [N], on the CPU.
    """

    levels: Tensor

    @staticmethod
    def shifted(shift: float, num_levels: int = 1000) -> NoiseTable:
        """The table of a network that was trained on ``num_levels`` equally spaced levels, shifted; 0 is not among them."""
        return NoiseTable(shift_levels(torch.linspace(1.0, 0.0, num_levels + 1)[:-1], shift))

    @property
    def timesteps(self) -> Tensor:
        return self.levels * 1000

    def nearest(self, timesteps: Tensor) -> Tensor:
        """The place of the entry nearest to each timestep, in its shape; the earlier one if two are equally near."""
        return (self.timesteps.to(timesteps.device) - timesteps.float().unsqueeze(-1)).abs().argmin(dim=-1)

    def level(self, timesteps: Tensor) -> Tensor:
        """The level nearest to each timestep, in its shape."""
        return self.levels.to(timesteps.device)[self.nearest(timesteps)]

    def level_of(self, timestep: float) -> float:
        """The same for one timestep, on the host."""
        return float(self.level(torch.tensor(timestep)))

    def warped(self, steps: Sequence[int]) -> list[float]:
        """Timesteps of the given equally spaced steps, counted down from the table's length: 1000, 750, 500, 250 of 1000 entries
        at shift 5 are 1000, 937.5, 833.33 and 625. Step 0 is timestep 0."""
        timesteps = [*self.timesteps.tolist(), 0.0]
        return [timesteps[len(self.levels) - step] for step in steps]

    def training_weights(self) -> Tensor:
        """Bell-shaped loss weights [N] about the middle of the scale, with a mean of 1 (Wan's flow-matching trainer)."""
        bell = torch.exp(-2 * ((self.timesteps - len(self.levels) / 2) / len(self.levels)) ** 2)
        bell = bell - bell.min()
        return bell * (len(self.levels) / bell.sum())
