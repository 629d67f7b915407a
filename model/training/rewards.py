"""Reward-weighted distribution matching (Hallo-Live's HP-DMD): what a rollout is worth weighs its loss."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

VIDEO_ALIGNMENT, AUDIO_AESTHETICS, LIP_SYNC = KINDS = ("videoalign", "audiobox", "sync")


@dataclass(frozen=True)
class Rewards:
    """Of the rollouts of one step, one a rank: [R] each.

    Attributes:
        text_alignment, visual_quality, motion_quality: as the video judge gives them, normalised by its own statistics.
        aesthetics: the sum of the audio judge's axes.
        sync: confidence of the lip-sync judge.
    """

    text_alignment: Tensor
    visual_quality: Tensor
    motion_quality: Tensor
    aesthetics: Tensor
    sync: Tensor


def standardised(values: Tensor) -> Tensor:
    """Over the ranks, by the population's standard deviation; equal values give zeros."""
    wide = values.double()
    return (wide - wide.mean()) / wide.std(correction=0).clamp_min(1e-6)


def loss_scales(rewards: Rewards, beta: float, kinds: Collection[str] = KINDS) -> tuple[Tensor, Tensor]:
    """float64 [R] twice: what each rank's video and audio losses are multiplied by.

    Args:
        beta: how strongly rewards count; the scale is exponential in them and has no bound.
        kinds: of :data:`KINDS`, those that are judged.
    """
    assert set(kinds) <= set(KINDS), kinds
    none = torch.zeros_like(rewards.sync, dtype=torch.float64)
    sync = standardised(rewards.sync) if LIP_SYNC in kinds else none
    judged = rewards.text_alignment.double() + rewards.visual_quality + rewards.motion_quality
    quality = judged if VIDEO_ALIGNMENT in kinds else none
    sound = standardised(rewards.aesthetics) if AUDIO_AESTHETICS in kinds else none
    return torch.exp(beta * (quality + sync)), torch.exp(beta * (sound + sync))
