"""Stage 2 of pocket rolls out the very stream that serves; its gradients are those of the masked forward, and go where they are
meant to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from model.config import ModelConfig
from model.errors import ConfigError
from model.rollout import Latents
from model.training.config import PocketStarts, PocketSubject
from model.training.objective import Sequence, masked_forward
from model.training.pocket import Pocket, Speaker
from tests.model.support import normal, randomise
from tests.support.pocket_runs import BLOCKS, CPU, pocket_config, write_pocket

PROMPTS = ["clip 0 from block 1", "clip 1 from block 0"]
EXACT: dict[str, Any] = {"atol": 2e-4, "rtol": 1e-3}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pocket(tmp_path_factory.mktemp("pocket"))


def open_subject(directory: Path, *, blocks: int = BLOCKS, **sampling: object) -> tuple[Pocket, Speaker]:
    """Of two layers, so that what is remembered of a block has seen the one before."""
    raw = pocket_config(num_layers=2)
    raw["sampling"] |= sampling  # type: ignore[operator]
    path = directory / f"model_{len(list(directory.glob('model_*')))}.yaml"
    path.write_text(yaml.safe_dump(raw))
    config = PocketSubject(kind="pocket", model=path, data=directory / "data", starts=PocketStarts(), blocks=blocks)
    subject = Pocket(config, 0, CPU, "float32")
    speaker = subject.net("student")
    randomise(speaker)
    return subject, speaker.requires_grad_(True)


def test_a_run_may_have_other_passes_than_the_model(directory: Path) -> None:
    path = directory / "model_2_passes.yaml"
    path.write_text(yaml.safe_dump(pocket_config()))
    config = PocketSubject(kind="pocket", model=path, data=directory / "data", timesteps=(1.0,))
    assert list(Pocket(config, 0, CPU, "float32").steps) == [1000]
    with pytest.raises(ConfigError, match=r"subject.timesteps: .*must fall"):
        Pocket(config.model_copy(update={"timesteps": (0.2, 0.5)}), 0, CPU, "float32")


def noise(subject: Pocket, batch: int = 2) -> Latents:
    video, audio = subject.clip
    return Latents(normal(batch, *video, seed=3), normal(batch, *audio, seed=4))


def rolled(subject: Pocket, speaker: Speaker, start: Latents, exit_pass: int, *, detached: bool = False) -> Latents:
    given = subject.given(PROMPTS[: len(start.video)], CPU)
    return subject.roll_out(speaker, given, start, exit_pass, iter(()), detached=detached)


def in_one(subject: Pocket, speaker: Speaker, latents: Latents, level: Tensor) -> Latents:
    """Clean predictions of the masked forward over whole sequences, each block at its level [N]."""
    given = subject.given(PROMPTS[: len(latents.video)], CPU)
    model: ModelConfig = subject.model
    blocks = torch.arange(subject.num_blocks).expand(len(latents.video), -1)
    sequence = Sequence(latents.video, latents.audio, given["control"], blocks)
    times = 1000 * level.expand(len(latents.video), -1)
    flow = masked_forward(speaker.dit, model, subject.geometry, sequence, speaker.read(given), times)
    of_video, of_audio = (level.repeat_interleave(n) for n in (subject.block.video, subject.block.audio))
    return Latents(
        latents.video - of_video.view(1, 1, -1, 1, 1) * flow.video, latents.audio - of_audio.view(1, -1, 1) * flow.audio
    )


@pytest.mark.parametrize("sink", [True, False])
def test_without_a_clean_pass_values_and_gradients_are_those_of_the_masked_forward(directory: Path, sink: bool) -> None:
    """One pass a block, and what it saw is history: that is a masked forward over noise. It is longer than the window."""
    subject, speaker = open_subject(directory, timesteps=[1.0], clean_pass=False, sink=sink)
    assert subject.num_blocks > subject.model.sampling.window_blocks
    start = noise(subject)
    gradients = []
    for clip in (rolled(subject, speaker, start, 0), in_one(subject, speaker, start, torch.ones(BLOCKS))):
        # A sum of squares would not notice which block an error is in.
        weights = normal(*clip.video.shape, seed=5), normal(*clip.audio.shape, seed=6)
        loss = (clip.video * weights[0]).mean() + (clip.audio * weights[1]).mean()
        found = torch.autograd.grad(loss, list(speaker.parameters()), allow_unused=True)
        gradients.append((clip, found))
    (clip, found), (expected, right) = gradients
    torch.testing.assert_close(clip.video, expected.video, **EXACT)
    torch.testing.assert_close(clip.audio, expected.audio, **EXACT)
    for (name, _), x, y in zip(speaker.named_parameters(), found, right, strict=True):
        assert (x is None) == (y is None), name
        if x is not None and y is not None:
            torch.testing.assert_close(x, y, atol=float(y.abs().max()) * 1e-3 + 1e-7, rtol=1e-3, msg=name)
    assert sum(y is not None and bool(y.any()) for y in right) > 50


def test_with_a_clean_pass_each_block_follows_the_clean_ones_before_it(directory: Path) -> None:
    """Values: the last block of a rollout is what the masked forward makes of its noise behind the others, clean."""
    subject, speaker = open_subject(directory, timesteps=[1.0, 0.5])
    start = noise(subject)
    with torch.no_grad():
        clip = rolled(subject, speaker, start, 0)
        of_block = subject.block.video, subject.block.audio
        behind = Latents(
            torch.cat((clip.video[:, :, : -of_block[0]], start.video[:, :, -of_block[0] :]), dim=2),
            torch.cat((clip.audio[:, : -of_block[1]], start.audio[:, -of_block[1] :]), dim=1),
        )
        expected = in_one(subject, speaker, behind, torch.tensor([0.0] * (BLOCKS - 1) + [1.0]))
    torch.testing.assert_close(clip.video[:, :, -of_block[0] :], expected.video[:, :, -of_block[0] :], **EXACT)
    torch.testing.assert_close(clip.audio[:, -of_block[1] :], expected.audio[:, -of_block[1] :], **EXACT)


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("clean_pass", [False, True])
def test_gradients_reach_earlier_blocks_unless_they_are_detached(directory: Path, detached: bool, clean_pass: bool) -> None:
    subject, speaker = open_subject(directory, timesteps=[1.0], clean_pass=clean_pass)
    start = Latents(*(x.requires_grad_() for x in (noise(subject).video, noise(subject).audio)))
    clip = rolled(subject, speaker, start, 0, detached=detached)
    num_video, num_audio = subject.block.video, subject.block.audio
    last = clip.video[:, :, -num_video:].square().sum() + clip.audio[:, -num_audio:].square().sum()
    video, audio = torch.autograd.grad(last, (start.video, start.audio))
    assert video[:, :, -num_video:].any()
    assert bool(video[:, :, :-num_video].any()) != detached
    assert bool(audio[:, :-num_audio].any()) != detached


def test_the_variants_give_the_same_clip_and_other_gradients(directory: Path) -> None:
    subject, speaker = open_subject(directory, timesteps=[1.0, 0.5])
    start, found = noise(subject), []
    for detached in (False, True):
        clip = rolled(subject, speaker, start, 1, detached=detached)
        (gradient,) = torch.autograd.grad(clip.video.square().sum(), [speaker.dit.get_parameter("video_ends.stem.weight")])
        found.append((clip, gradient))
    torch.testing.assert_close(found[0][0].video, found[1][0].video)
    assert not torch.allclose(found[0][1], found[1][1], rtol=1e-2)


def test_a_rollout_leaves_after_any_pass_only_where_a_clean_one_follows(directory: Path) -> None:
    assert list(open_subject(directory, timesteps=[1.0, 0.5])[0].exits) == [0, 1]
    assert list(open_subject(directory, timesteps=[1.0, 0.5], clean_pass=False)[0].exits) == [1]


def test_prompts_are_places_in_clips(directory: Path) -> None:
    subject, _ = open_subject(directory)
    assert subject.prompts()[:4] == [f"clip 0 from block {i}" for i in range(3)] + ["clip 1 from block 0"]
    late, early = (subject.given([f"clip 0 from block {i}"], CPU) for i in (1, 0))
    shift = subject.geometry.block_audio_latents
    torch.testing.assert_close(late["times"], early["times"] - shift)
    assert not late["text_mask"][late["times"] < -0.5].any(), "a stream knows nothing of what was said before it began"
    assert torch.equal(late["control"][:, : -subject.block.video], early["control"][:, subject.block.video :])
