"""The masked forward over a clip equals one under dense masks, and the loss is taken block by block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from model.dit import masks
from model.dit.block import StreamView
from model.dit.transformer import DualStreamTransformer, Flow
from model.sampling import NoiseTable
from model.training.ode import Trajectories, clip_forward, ode_loss
from model.training.teacher import kept_states, teacher_table, whole_forward
from model.training.views import BlockSizes
from tests.model.published import noise, read, tiny_dit
from tests.model.support import normal

SIZES, TOKENS, NUM_BLOCKS = BlockSizes(2, 10), 6, 3
TIMESTEPS = torch.tensor([[937.5, 625.0, 1000.0]])


def forward(dit: DualStreamTransformer, noises: tuple[Tensor, Tensor], **options: Any) -> Flow:
    times = TIMESTEPS.repeat_interleave(2, dim=1), TIMESTEPS.repeat_interleave(10, dim=1)
    return clip_forward(dit, *noises, *times, read(dit), SIZES, **options)


def dense_forward(dit: DualStreamTransformer, noises: tuple[Tensor, Tensor]) -> Flow:
    ahead = dit.config.future_audio_latents
    videos, audios = (torch.arange(NUM_BLOCKS).repeat_interleave(n) for n in (2 * TOKENS, 10))
    return dit(
        *noises,
        TIMESTEPS.repeat_interleave(2, dim=1).double(),
        TIMESTEPS.repeat_interleave(10, dim=1).double(),
        StreamView(
            dit.video_tables(torch.arange(6), 2, 3)[0],
            None,
            masks.block_causal(videos, videos),
            None,
            masks.future_expanding(videos, audios, torch.arange(30), 10, ahead),
        ),
        StreamView(
            dit.audio_tables(torch.arange(30))[0],
            None,
            masks.block_causal(audios, audios),
            None,
            masks.block_causal(audios, videos),
        ),
        read(dit),
    )


def by_block(flow: Flow) -> list[Tensor]:
    pairs = zip(flow.video.chunk(NUM_BLOCKS, dim=2), flow.audio.chunk(NUM_BLOCKS, dim=1), strict=True)
    return [torch.cat((video.flatten(), audio.flatten())) for video, audio in pairs]


def differing(a: Flow, b: Flow) -> list[int]:
    pairs = zip(by_block(a), by_block(b), strict=True)
    return [i for i, (x, y) in enumerate(pairs) if not torch.allclose(x, y, atol=1e-6)]


@pytest.mark.parametrize("ahead", [0, 3, 10, 14])
def test_groups_equal_dense_masks(ahead: int) -> None:
    dit, noises = tiny_dit(ahead), noise(6)
    actual, expected = forward(dit, noises), dense_forward(dit, noises)
    torch.testing.assert_close(actual.video, expected.video, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(actual.audio, expected.audio, atol=1e-5, rtol=1e-5)


def test_later_video_changes_nothing_earlier() -> None:
    """Without look-ahead, that is: the audio ahead has seen its own video. Nor is there such a test of audio, whose stem sees
    both ways."""
    dit, noises = tiny_dit(), noise(6)
    changed = noises[0].clone()
    changed[:, :, 2] += 1
    assert differing(forward(dit, noises), forward(dit, (changed, noises[1]))) == [1, 2]


def test_zeros_behind_the_clip_are_seen_by_its_last_block_alone() -> None:
    noises = noise(6)
    for ahead, expected in ((0, []), (3, [2])):
        dit = tiny_dit(ahead)
        assert differing(forward(dit, noises), forward(dit, noises, padded_audio=128)) == expected


def test_a_first_block_alone_is_seen_whole() -> None:
    dit, (video, audio) = tiny_dit(), noise(2)
    times = torch.full((1, 2), 800.0), torch.full((1, 10), 800.0)
    block = clip_forward(dit, video, audio, *times, read(dit), SIZES)
    whole = whole_forward(dit, video, audio, times[0][:, :1], times[1][:, :1], read(dit))
    torch.testing.assert_close(block.video, whole.video, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(block.audio, whole.audio, atol=1e-5, rtol=1e-5)


def test_each_block_starts_from_its_own_state() -> None:
    dit = tiny_dit()
    trajectories = Trajectories(normal(1, 4, 6, 6, 4, 6), normal(1, 4, 30, 5, seed=1))
    states, timesteps = torch.tensor([[2, 0, 1]]), (1000.0, 800.0, 600.0)
    loss = ode_loss(dit, trajectories, states, read(dit), SIZES, timesteps, NoiseTable.shifted(5.0))
    for block, state in enumerate(states[0].tolist()):
        video, audio = slice(2 * block, 2 * block + 2), slice(10 * block, 10 * block + 10)
        assert torch.equal(loss.noisy_video[:, :, video], trajectories.video[:, state, :, video])
        assert torch.equal(loss.noisy_audio[:, audio], trajectories.audio[:, state, audio])
        assert set(loss.video_timesteps[0, video].tolist()) == {timesteps[state]}
    ends = trajectories.video[:, -1], trajectories.audio[:, -1]
    losses = [(clean - end).square().mean() for clean, end in zip((loss.clean_video, loss.clean_audio), ends, strict=True)]
    torch.testing.assert_close(loss.total, 0.85 * losses[0] + 0.15 * losses[1])


def test_every_parameter_learns() -> None:
    dit = tiny_dit(3).requires_grad_(True)
    trajectories = Trajectories(normal(1, 2, 6, 6, 4, 6), normal(1, 2, 30, 5, seed=1))
    states = torch.zeros(1, NUM_BLOCKS, dtype=torch.int64)
    ode_loss(dit, trajectories, states, read(dit), SIZES, (1000.0,), NoiseTable.shifted(5.0)).total.backward()
    assert [name for name, p in dit.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_layer_may_be_left_out() -> None:
    dit, (video, audio) = tiny_dit(num_layers=2), noise(2)
    time = torch.full((1, 1), 500.0)
    short = tiny_dit(num_layers=1)
    short.load_state_dict({k: v for k, v in dit.state_dict().items() if not k.startswith("layers.1.")})
    skipped = whole_forward(dit, video, audio, time, time, read(dit), skip_layer=1)
    expected = whole_forward(short, video, audio, time, time, read(short))
    torch.testing.assert_close(skipped.video, expected.video)
    torch.testing.assert_close(skipped.audio, expected.audio)
    assert len(skipped.memory) == 1


def test_the_teacher_keeps_states_near_the_students_levels() -> None:
    table, kept = teacher_table(49, 5.0), kept_states(49, 5)
    assert kept == [0, 12, 24, 36, 49]
    assert [round(float(table.timesteps[i]), 2) for i in kept[:-1]] == [1000.0, 937.89, 834.71, 629.63]
