"""Stage 2, distribution matching on the student's own rollouts (DMD2, arXiv 2405.14867; Self Forcing, arXiv 2506.08009), for two
streams."""

from __future__ import annotations

from torch import Tensor

from model.sampling import shift_levels

LOWEST_TIMESTEP, HIGHEST_TIMESTEP = 20.0, 980.0
"""Where scores are compared: neither end of the scale tells anything."""


def score_timesteps(drawn: Tensor, shift: float) -> Tensor:
    """Timesteps at which the scores are compared, from integers drawn uniformly from 0 to 999."""
    return (1000 * shift_levels(drawn / 1000, shift)).clamp(LOWEST_TIMESTEP, HIGHEST_TIMESTEP)
