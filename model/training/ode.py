"""Stage 1, the start from ODE trajectories (CausVid, arXiv 2412.07772, as Hallo-Live does it for two streams).

A teacher's sampling trajectory is stored at a few noise levels. The causal student sees the whole clip at once, each block at a
level of its own, and learns to jump to the trajectory's clean end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.dit.block import StreamView
from model.dit.masks import Staircase
from model.dit.transformer import DualStreamTransformer, Flow, TextMemory
from model.sampling import NoiseTable, clean_from_velocity

STREAM_WEIGHTS = (0.85, 0.15)
"""Shares of video and audio in the published losses."""


@dataclass(frozen=True)
class BlockSizes:
    """Video latents and audio latents of a block."""

    video: int
    audio: int


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
    grid = dit.grid(video.shape[3], video.shape[4])
    num_blocks, tokens = video.shape[2] // block.video, grid[0] * grid[1]
    assert num_blocks * block.video == video.shape[2]
    assert num_blocks * block.audio == audio.shape[1]
    videos, audios = (block.video * tokens,) * num_blocks, (block.audio,) * num_blocks
    video_table, _ = dit.video_tables(torch.arange(video.shape[2], device=video.device), *grid)
    audio_table, _ = dit.audio_tables(torch.arange(audio.shape[1], device=audio.device))
    ahead = dit.config.future_audio_latents
    video_sees_audio = Staircase.of_blocks(videos, audios, ahead, padded_audio)
    return dit(
        video,
        audio,
        video_timesteps.double(),
        audio_timesteps.double(),
        StreamView(video_table, None, Staircase.of_blocks(videos, videos), text.mask, video_sees_audio),
        StreamView(audio_table, None, Staircase.of_blocks(audios, audios), text.mask, Staircase.of_blocks(audios, videos)),
        text,
    )


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
    """Distance of the student's clean predictions from the trajectories' ends.

    Args:
        states: int64 [B, N], for each block the state that its latents are taken from.
        timesteps: of each state but the last, which is clean.
        weights: of video and audio.
        padded_audio: see :func:`clip_forward`.
    """
    of_video, of_audio = states.repeat_interleave(block.video, dim=1), states.repeat_interleave(block.audio, dim=1)
    levels = torch.tensor(timesteps, device=states.device)
    noisy_video = take_states(trajectories.video.movedim(3, 2), of_video).movedim(1, 2)
    noisy_audio = take_states(trajectories.audio, of_audio)
    flow = clip_forward(dit, noisy_video, noisy_audio, levels[of_video], levels[of_audio], text, block, padded_audio=padded_audio)
    clean_video = clean_from_velocity(noisy_video, flow.video, table.level(levels[of_video])[:, None, :, None, None])
    clean_audio = clean_from_velocity(noisy_audio, flow.audio, table.level(levels[of_audio])[:, :, None])
    video_loss = F.mse_loss(clean_video.float(), trajectories.video[:, -1].float())
    audio_loss = F.mse_loss(clean_audio.float(), trajectories.audio[:, -1].float())
    total = weights[0] * video_loss + weights[1] * audio_loss
    return ODELoss(total, video_loss, audio_loss, noisy_video, noisy_audio, clean_video, clean_audio, levels[of_video])


def take_states(states_BSL: Tensor, index_BL: Tensor) -> Tensor:
    """From [B, S, L, ...] the state of each latent -> [B, L, ...]."""
    batch = torch.arange(index_BL.shape[0], device=index_BL.device).unsqueeze(1)
    latent = torch.arange(index_BL.shape[1], device=index_BL.device).unsqueeze(0)
    return states_BSL[batch, index_BL, latent]
