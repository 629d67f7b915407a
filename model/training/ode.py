"""Stage 1, the start from ODE trajectories (CausVid, arXiv 2412.07772, as Hallo-Live does it for two streams).

A teacher's sampling trajectory is stored at a few noise levels. The causal student sees the whole clip at once, each block at a
level of its own, and learns to jump to the trajectory's clean end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from model.dit.transformer import DualStreamTransformer, Flow, TextMemory
from model.sampling import NoiseTable, clean_from_velocity
from model.training import views
from model.training.views import BlockSizes

Forward = Callable[[Tensor, Tensor, Tensor, Tensor], Flow]
"""A network that has read a text: noisy video and audio of a clip, and the timestep of each of their latents -> velocities."""
STREAM_WEIGHTS = (0.85, 0.15)
"""Shares of video and audio in the published losses."""


def clip_forward(
    dit: DualStreamTransformer,
    video: Tensor,
    audio: Tensor,
    video_timesteps: Tensor,
    audio_timesteps: Tensor,
    text: TextMemory,
    block: BlockSizes,
    *,
    padded_audio: int | None = None,
) -> Flow:
    """Velocity of a whole clip, each block seeing itself and all before it, video also the first audio of the next block.

    Args:
        video: [B, C, F, h, w]; audio: [B, L, C]; whole blocks.
        video_timesteps, audio_timesteps: [B, F] and [B, L].
        padded_audio: the published training code fills the audio stream up to a multiple of 128 tokens with zeros, and video that
            looks ahead past the clip's end attends to them. A length here reproduces that; None attends to audio only.
    """
    seen = views.staircase(dit, video, audio, text.mask, block, padded_audio)
    return dit(video, audio, video_timesteps.double(), audio_timesteps.double(), seen.video, seen.audio, text)


@dataclass(frozen=True)
class Trajectories:
    """Stored states of the teacher's sampling, from noise to clean: video [B, S, C, F, h, w] and audio [B, S, L, C]."""

    video: Tensor
    audio: Tensor


@dataclass(frozen=True)
class ODELoss:
    """The loss, its parts and what it was made of; all but ``total`` for logs and tests."""

    total: Tensor
    video: Tensor
    audio: Tensor
    noisy_video: Tensor
    noisy_audio: Tensor
    clean_video: Tensor
    clean_audio: Tensor
    video_timesteps: Tensor


def ode_loss(
    dit: DualStreamTransformer,
    trajectories: Trajectories,
    states: Tensor,
    text: TextMemory,
    block: BlockSizes,
    timesteps: Sequence[float],
    table: NoiseTable,
    *,
    weights: tuple[float, float] = STREAM_WEIGHTS,
    padded_audio: int | None = None,
) -> ODELoss:
    """:func:`jump_loss` of the published model.

    Args:
        timesteps: of each state but the last, which is clean.
        padded_audio: see :func:`clip_forward`.
    """
    forward = partial(clip_forward, dit, text=text, block=block, padded_audio=padded_audio)
    levels = torch.tensor(timesteps, device=states.device)
    return jump_loss(forward, trajectories, states, block, levels, table, weights=weights)


def jump_loss(
    forward: Forward,
    trajectories: Trajectories,
    states: Tensor,
    block: BlockSizes,
    timesteps: Tensor,
    table: NoiseTable,
    *,
    weights: tuple[float, float] = STREAM_WEIGHTS,
) -> ODELoss:
    """Distance of the student's clean predictions from the trajectories' ends.

    Args:
        forward: the student, under block-causal masks.
        states: int64 [B, N], for each block the state that its latents are taken from.
        timesteps: [S - 1], of each state but the last, which is clean.
        weights: of video and audio.
    """
    of_video, of_audio = states.repeat_interleave(block.video, dim=1), states.repeat_interleave(block.audio, dim=1)
    noisy_video = take_states(trajectories.video.movedim(3, 2), of_video).movedim(1, 2)
    noisy_audio = take_states(trajectories.audio, of_audio)
    flow = forward(noisy_video, noisy_audio, timesteps[of_video], timesteps[of_audio])
    clean_video = clean_from_velocity(noisy_video, flow.video, table.level(timesteps[of_video])[:, None, :, None, None])
    clean_audio = clean_from_velocity(noisy_audio, flow.audio, table.level(timesteps[of_audio])[:, :, None])
    video_loss = F.mse_loss(clean_video.float(), trajectories.video[:, -1].float())
    audio_loss = F.mse_loss(clean_audio.float(), trajectories.audio[:, -1].float())
    total = weights[0] * video_loss + weights[1] * audio_loss
    return ODELoss(total, video_loss, audio_loss, noisy_video, noisy_audio, clean_video, clean_audio, timesteps[of_video])


def take_states(states_BSL: Tensor, index_BL: Tensor) -> Tensor:
    """From [B, S, L, ...] the state of each latent -> [B, L, ...]."""
    batch = torch.arange(index_BL.shape[0], device=index_BL.device).unsqueeze(1)
    latent = torch.arange(index_BL.shape[1], device=index_BL.device).unsqueeze(0)
    return states_BSL[batch, index_BL, latent]
