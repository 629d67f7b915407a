"""Training rolls out the very stream that serves; gradients go where they are meant to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.config import RolloutConfig
from model.dit.transformer import DualStreamTransformer
from model.rollout import Latents
from model.sampling import NoiseTable
from model.training.dmd import Scorer, SelfRollout, critic_loss, generator_loss, score_timesteps, self_rollout
from tests.model.published import BLOCK, SHAPE, drawing, noise, open_rollout, read, run, tiny_dit

TABLE = NoiseTable.shifted(5.0)


def rolled(
    dit: DualStreamTransformer, noises: tuple[Tensor, Tensor], exit_pass: int, *, detached: bool = False, window: int = 6
) -> Latents:
    config = RolloutConfig(window_latents=window)
    rollout = SelfRollout(dit, config, SHAPE, read(dit), exit_pass, detached=detached)
    return self_rollout(rollout, Latents(*noises), [BLOCK] * (noises[0].shape[2] // BLOCK), drawing())


@pytest.mark.parametrize("ahead", [0, 3])
def test_it_is_the_stream_that_serves(ahead: int) -> None:
    dit, noises = tiny_dit(ahead), noise(6)
    served = run(open_rollout(dit), noises)
    trained = rolled(dit.requires_grad_(True), noises, 3)
    torch.testing.assert_close(trained.video, torch.cat([b.video for b in served], dim=2), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(trained.audio, torch.cat([b.audio for b in served], dim=1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("exit_pass", "draws"), [(0, 0), (2, 12)])
def test_no_noise_is_drawn_after_the_exit(exit_pass: int, draws: int) -> None:
    dit, noises, seen = tiny_dit(), noise(6), []
    rollout = SelfRollout(dit, RolloutConfig(window_latents=6), SHAPE, read(dit), exit_pass)

    def draw(shape: tuple[int, ...]) -> Tensor:
        seen.append(shape)
        return torch.zeros(shape)

    self_rollout(rollout, Latents(*noises), [BLOCK] * 3, draw)
    assert len(seen) == draws


@pytest.mark.parametrize("detached", [False, True])
def test_gradients_to_earlier_noise(detached: bool) -> None:
    """If the first pass is the exit, noise belongs to the graph: an earlier block's only while blocks are not detached."""
    noises = tuple(x.requires_grad_() for x in noise(4))
    clip = rolled(tiny_dit(), (noises[0], noises[1]), 0, detached=detached)
    last = clip.video[:, :, BLOCK:].square().sum() + clip.audio[:, BLOCK * 5 :].square().sum()
    video, audio = torch.autograd.grad(last, noises)
    assert video[:, :, BLOCK:].any()
    assert bool(video[:, :, :BLOCK].any()) != detached
    assert bool(audio[:, : BLOCK * 5].any()) != detached


def test_no_gradient_goes_past_a_re_noised_latent() -> None:
    noises = tuple(x.requires_grad_() for x in noise(4))
    clip = rolled(tiny_dit(), (noises[0], noises[1]), 1)
    assert not clip.video.requires_grad
    assert not clip.audio.requires_grad


@pytest.mark.parametrize("detached", [False, True])
def test_gradients_reach_the_pass_that_made_a_block(detached: bool) -> None:
    """A later block's loss reaches earlier keys and values, and through them what only earlier video has touched."""
    dit = tiny_dit().requires_grad_(True)
    clip = rolled(dit, noise(4), 3, detached=detached)
    (whole,) = torch.autograd.grad(clip.video[:, :, BLOCK:].square().sum(), [dit.get_parameter("video_ends.stem.weight")])
    other = rolled(dit, noise(4), 3, detached=not detached)
    (rest,) = torch.autograd.grad(other.video[:, :, BLOCK:].square().sum(), [dit.get_parameter("video_ends.stem.weight")])
    torch.testing.assert_close(clip.video, other.video)
    assert not torch.allclose(whole, rest, rtol=1e-2)


def test_a_clip_that_is_too_long_is_told() -> None:
    with pytest.raises(ValueError, match="has to fit its window"):
        rolled(tiny_dit(), noise(6), 0, window=4)


def scorers(dit: DualStreamTransformer, other: DualStreamTransformer) -> tuple[Scorer, Scorer]:
    return Scorer(dit, read(dit), read(dit, seed=8)), Scorer(other, read(other))


def student() -> Latents:
    return Latents(*(x.requires_grad_() for x in noise(4, seed=30)))


def test_equal_scores_leave_the_student_alone() -> None:
    dit, clip, at = tiny_dit(), student(), torch.tensor([500.0])
    real, fake = scorers(dit, dit)
    loss = generator_loss(clip, Latents(*noise(4)), at, real, fake, TABLE, (1.0, 1.0))
    assert not loss.gradient.video.any()
    assert loss.total.item() == 0
    guided = generator_loss(clip, Latents(*noise(4)), at, real, fake, TABLE, (4.0, 5.0))
    assert guided.total.item() > 0


def test_the_losss_gradient_is_the_difference_of_the_scores() -> None:
    real, fake = scorers(tiny_dit(), tiny_dit(2).requires_grad_(False))
    with torch.no_grad():
        for parameter in fake.dit.parameters():
            parameter.mul_(1.1)
    clip, at = student(), torch.tensor([700.0])
    loss = generator_loss(
        clip, Latents(*noise(4)), at, real, fake, TABLE, (4.0, 5.0), scales=(torch.tensor([2.0]), torch.tensor([1.0]))
    )
    loss.total.backward()
    for stream, weight in (("video", 0.85 * 2.0), ("audio", 0.15)):
        latents, gradient = getattr(clip, stream), getattr(loss.gradient, stream)
        assert gradient.any()
        torch.testing.assert_close(latents.grad, (weight * gradient / latents.numel()).float(), atol=1e-7, rtol=1e-4)


def test_each_sample_has_a_scale_of_its_own() -> None:
    dit, other = tiny_dit(), tiny_dit(2)
    clip = Latents(*(x.requires_grad_() for x in noise(4, seed=30, batch=2)))
    real = Scorer(dit, read(dit, batch=2), read(dit, seed=8, batch=2))
    at, fake = torch.tensor([700.0, 300.0]), Scorer(other, read(other, batch=2))
    scales = torch.tensor([0.0, 3.0]), torch.tensor([2.0, 0.0])
    weighed = generator_loss(clip, Latents(*noise(4, batch=2)), at, real, fake, TABLE, (4.0, 5.0), scales=scales)
    video, audio = torch.autograd.grad(weighed.total, (clip.video, clip.audio))
    assert not video[0].any()
    assert not audio[1].any()
    expected = 0.85 * 3.0 * weighed.gradient.video[1] / clip.video.numel()
    torch.testing.assert_close(video[1], expected.float(), atol=1e-7, rtol=1e-4)


def test_decoupled_guidance_at_the_same_timestep_is_guidance() -> None:
    real, fake = scorers(tiny_dit(), tiny_dit(2))
    at = torch.tensor([700.0])
    plain, decoupled, other = (
        generator_loss(student(), Latents(*noise(4)), at, real, fake, TABLE, (4.0, 5.0), guidance_timesteps=also).gradient.video
        for also in (None, at, torch.tensor([200.0]))
    )
    torch.testing.assert_close(plain, decoupled)
    assert not torch.allclose(plain, other, rtol=1e-2)


def test_the_critic_learns_and_the_student_does_not() -> None:
    fake = Scorer(tiny_dit().requires_grad_(True), read(tiny_dit()))
    clip = student()
    critic_loss(clip, Latents(*noise(4)), torch.tensor([500.0]), fake, TABLE).backward()
    assert clip.video.grad is None
    assert fake.dit.video_ends.head.weight.grad is not None


def test_scores_are_compared_off_the_ends() -> None:
    assert score_timesteps(torch.tensor([0, 500, 999]), 5.0).tolist() == [20.0, pytest.approx(833.3333), 980.0]
