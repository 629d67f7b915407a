from __future__ import annotations

import math

import pytest
import torch

from model.training.rewards import AUDIO_AESTHETICS, LIP_SYNC, VIDEO_ALIGNMENT, Rewards, loss_scales, standardised

REWARDS = Rewards(
    text_alignment=torch.tensor([0.5, 0.0]),
    visual_quality=torch.tensor([0.0, -1.0]),
    motion_quality=torch.tensor([0.5, 0.0]),
    aesthetics=torch.tensor([20.0, 24.0]),
    sync=torch.tensor([5.0, 3.0]),
)


def test_values_are_measured_against_their_step() -> None:
    assert standardised(torch.tensor([1.0, 3.0])).tolist() == [-1, 1]
    assert standardised(torch.tensor([7.0, 7.0, 7.0])).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("kinds", "video", "audio"),
    [
        ((), (0, 0), (0, 0)),
        ((LIP_SYNC,), (1, -1), (1, -1)),
        ((AUDIO_AESTHETICS,), (0, 0), (-1, 1)),
        ((VIDEO_ALIGNMENT,), (1, -1), (0, 0)),
        ((VIDEO_ALIGNMENT, AUDIO_AESTHETICS, LIP_SYNC), (2, -2), (0, 0)),
    ],
)
def test_each_reward_weighs_its_stream_and_sync_both(
    kinds: tuple[str, ...], video: tuple[float, ...], audio: tuple[float, ...]
) -> None:
    for scale, exponents in zip(loss_scales(REWARDS, 2.0, kinds), (video, audio), strict=True):
        assert scale.tolist() == pytest.approx([math.exp(2.0 * e) for e in exponents])
