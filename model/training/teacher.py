"""The bidirectional model, as it is sampled from and as it scores."""

from __future__ import annotations

import torch
from torch import Tensor

from model.dit.transformer import DualStreamTransformer, Flow, TextMemory
from model.sampling import NoiseTable, shift_levels
from model.training import views


def whole_forward(
    dit: DualStreamTransformer,
    video: Tensor,
    audio: Tensor,
    video_timesteps: Tensor,
    audio_timesteps: Tensor,
    text: TextMemory,
    skip_layer: int | None = None,
) -> Flow:
    """Velocity of a whole clip in which everything sees everything.

    Args:
        video: [B, C, F, h, w]; audio: [B, L, C].
        video_timesteps: [B, F], or [B, 1] where all latents have the same; a first latent that is given has 0.
        audio_timesteps: [B, L] or [B, 1].
        skip_layer: left out, for skip-layer guidance.
    """
    seen = views.whole(dit, video, audio, text.mask)
    times = video_timesteps.double(), audio_timesteps.double()
    return dit(video, audio, *times, seen.video, seen.audio, text, skip_layer=skip_layer)


def teacher_table(num_steps: int, shift: float) -> NoiseTable:
    """Levels of the teacher's Euler steps, a last one to 0 left out. Its sampler spaces them equally between the ends of a table
    that is shifted already, then shifts again: close to the student's levels where states are kept, but not equal."""
    lowest = float(NoiseTable.shifted(shift).levels[-1])
    return NoiseTable(shift_levels(torch.linspace(1.0, lowest, num_steps), shift))


def kept_states(num_steps: int, num_states: int) -> list[int]:
    """Which states of a trajectory are stored, by the number of steps that led there: equally spaced, both ends included."""
    return [num_steps * i // (num_states - 1) for i in range(num_states)]
