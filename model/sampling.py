"""Few-step sampling of flow-matching models: pure functions.

A noisy latent is ``(1 - t) * clean + t * noise``; the network predicts the velocity ``noise - clean``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor


def intervals(timesteps: Sequence[float]) -> list[tuple[float, float]]:
    """Each denoise pass as (from, to): the given noise levels, falling, then 0.

    Raises:
        ValueError: levels that do not fall, or lie outside (0, 1].
    """
    levels = [*timesteps, 0.0]
    if not timesteps or timesteps[0] > 1 or any(a <= b for a, b in pairwise(levels)):
        raise ValueError(f"timesteps must fall from at most 1 and stay above 0, got {list(timesteps)}")
    return list(pairwise(levels))


def euler_step(noisy: Tensor, velocity: Tensor, level: float, next_level: float) -> Tensor:
    """One Euler step along the velocity from one noise level to the next."""
    return noisy - (level - next_level) * velocity
