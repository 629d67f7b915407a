"""From rollouts to the weights of their losses, with judges that stand in for the published ones."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model.errors import CheckpointError
from model.rewards.aesthetics import AestheticsJudge, load_aesthetics_judge
from model.rewards.judge import Clip, lent
from model.rewards.sync import resampled
from model.rollout import Latents
from model.training.config import HalloLiveSubject, RewardsConfig
from model.training.distributed import World
from model.training.hallo_live import HalloLive
from model.training.pocket import Pocket
from model.training.rewarding import PocketDecoders, Rewarding, load_decoders, load_pocket_decoders
from model.training.run import Run
from model.training.stages.dmd import DMD
from model.vae.causal import Memory
from model.vae.mmaudio import MMAudioVAE
from tests.model.support import normal
from tests.support import pocket_runs
from tests.support.pocket_runs import write_judges, write_pocket
from tests.support.training_runs import NUM_VIDEO, PROMPTS, begin, config_of, write_everything

ALONE = World.alone(torch.device("cpu"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_everything(tmp_path_factory.mktemp("everything"))


class Fixed:
    """Gives what it is told, and keeps what it was shown."""

    def __init__(self, **rewards: list[float]) -> None:
        self.module: nn.Module = nn.Linear(1, 1)
        self._rewards, self.shown = rewards, list[Clip]()

    def __call__(self, clips: Sequence[Clip]) -> Mapping[str, Tensor]:
        self.shown = list(clips)
        return {name: torch.tensor(values[: len(clips)]) for name, values in self._rewards.items()}


def subject_of(directory: Path) -> HalloLive:
    config = config_of("hallo_live_dmd", directory).subject
    assert isinstance(config, HalloLiveSubject)
    return HalloLive(config, 0)


def test_what_is_judged_is_the_decoded_rollout(directory: Path) -> None:
    subject, judge = subject_of(directory), Fixed(sync=[5.0, 3.0], aesthetics=[20.0, 24.0])
    decoders = load_decoders(subject)
    rewarding = Rewarding(RewardsConfig(beta=2.0), decoders, {"all": judge}, ALONE)
    latents = Latents(normal(2, 48, NUM_VIDEO, 4, 6), normal(2, NUM_VIDEO * 5, 20))
    (video, audio), figures = rewarding.scales(latents, PROMPTS[:2])
    assert video.tolist() == pytest.approx([math.exp(2), math.exp(-2)])
    assert audio.tolist() == pytest.approx([1, 1])  # sync and sound are against each other
    assert {name: float(x) for name, x in figures.items()} == {"sync": 4, "aesthetics": 22}
    for number, clip in enumerate(judge.shown):
        assert (clip.prompt, clip.fps, clip.sample_rate_hz) == (PROMPTS[number], 25, 16_000)
        assert clip.frames.shape == (4 * NUM_VIDEO - 3, 64, 96, 3)
        assert clip.samples.shape == (NUM_VIDEO * 5 * 512,)
    whole, _ = decoders.video.decode(latents.video)
    expected = ((whole[1].permute(1, 2, 3, 0) + 1) * 127.5).round()
    assert (judge.shown[1].frames.float() - expected).abs().max() <= 1
    assert isinstance(decoders.audio, MMAudioVAE)
    torch.testing.assert_close(
        judge.shown[1].samples, decoders.vocoder(decoders.audio.decode(latents.audio.transpose(1, 2)))[1], rtol=1e-4, atol=1e-4
    )


def gradient(run: Run, rewarding: Rewarding | None) -> dict[str, Tensor]:
    """Of a generator's loss, by our names."""
    stage = run.stage
    assert isinstance(stage, DMD)
    stage._rewarding = rewarding
    generator = run.learners[0]
    generator.zero(stay=False)
    dice = [torch.Generator().manual_seed(i) for i in range(2)]
    stage.loss("generator", stage.draw("generator", 0, [0, 1], dice)).total.backward()
    return {name: p.grad.clone() for name, p in generator.parameters.items() if p.grad is not None}


def test_equal_rewards_change_nothing_and_others_weigh_their_samples(directory: Path, tmp_path: Path) -> None:
    run = begin("hallo_live_dmd", directory, tmp_path, "batch=2")
    decoders, config = load_decoders(subject_of(directory)), RewardsConfig(kinds=("sync",), beta=1.0)

    def judged(*sync: float) -> Rewarding:
        return Rewarding(config, decoders, {"sync": Fixed(sync=list(sync))}, ALONE)

    plain, equal, unequal = (gradient(run, x) for x in (None, judged(4.0, 4.0), judged(2.0, 4.0)))
    other = gradient(run, judged(4.0, 2.0))
    for name, x in plain.items():
        torch.testing.assert_close(equal[name], x, rtol=1e-4, atol=1e-8)
    # Each sample's gradient, times exp(-1) or exp(1): the two cases together are both samples times their sum.
    for name, x in plain.items():
        both = (unequal[name] + other[name]) / (math.e + 1 / math.e)
        torch.testing.assert_close(both, x, rtol=1e-3, atol=x.abs().max().item() * 1e-4, msg=name)
    assert any(not torch.allclose(unequal[name], x, rtol=0.01) for name, x in plain.items())


@pytest.fixture(scope="module")
def pocket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pocket(tmp_path_factory.mktemp("pocket"))


def pocket_decoders(directory: Path) -> PocketDecoders:
    config = pocket_runs.config_of("dmd_rewards", directory)
    assert not isinstance(config.subject, HalloLiveSubject)
    return load_pocket_decoders(Pocket(config.subject, 0, torch.device("cpu"), "float32"))


def test_pockets_rollouts_are_decoded_by_the_vaes_of_its_latents_and_told_by_captions(pocket: Path, tmp_path: Path) -> None:
    """What goes in as a clip comes out as what its VAEs make of it."""
    decoders, judge = pocket_decoders(pocket), Fixed(sync=[1.0, 2.0])
    run = pocket_runs.begin("dmd_rewards", pocket, tmp_path, "batch=2")
    stage = run.stage
    assert isinstance(stage, DMD)
    stage._rewarding = Rewarding(RewardsConfig(kinds=("sync",)), decoders, {"sync": judge}, ALONE)
    dice = [torch.Generator().manual_seed(i) for i in range(2)]
    stage.loss("generator", stage.draw("generator", 0, [0, 4], dice))
    first, second = judge.shown
    assert first.frames.shape == (pocket_runs.BLOCKS * 8, 128, 128, 3)
    assert first.samples.shape == (pocket_runs.BLOCKS * 8 * 320,)
    assert (first.fps, first.sample_rate_hz) == (25, 8000)
    captions = [json.loads(line)["caption"] for line in (pocket / "data" / "clips" / "clips.jsonl").read_text().splitlines()]
    assert (first.prompt, second.prompt) == (captions[0], captions[1])
    video = decoders.video.encode(torch.zeros(1, 6, 8, 64, 64))
    (flat,) = decoders(Latents(video, torch.zeros(1, 8, 5)), ["nobody"])
    (again,) = decoders(Latents(video, torch.zeros(1, 8, 5)), ["nobody"])
    assert torch.equal(flat.samples, again.samples)  # no chance
    luma = decoders.video.decode_i420(video, Memory())[0, :, :128].float()
    grey = flat.frames.float() @ torch.tensor((0.299, 0.587, 0.114))
    assert float(torch.corrcoef(torch.stack((luma.flatten(), grey.flatten())))[0, 1]) > 0.95


def test_a_reward_weighs_the_samples_of_pocket(pocket: Path, tmp_path: Path) -> None:
    run = pocket_runs.begin("dmd_rewards", pocket, tmp_path, "batch=2")
    config, decoders = RewardsConfig(kinds=("sync",), beta=1.0), pocket_decoders(pocket)

    def judged(*sync: float) -> Rewarding:
        return Rewarding(config, decoders, {"sync": Fixed(sync=list(sync))}, ALONE)

    plain, equal, unequal, other = (gradient(run, x) for x in (None, judged(3.0, 3.0), judged(2.0, 4.0), judged(4.0, 2.0)))
    for name, x in plain.items():
        torch.testing.assert_close(equal[name], x, rtol=1e-4, atol=1e-8)
        both = (unequal[name] + other[name]) / (math.e + 1 / math.e)
        torch.testing.assert_close(both, x, rtol=2e-3, atol=x.abs().max().item() * 1e-3, msg=name)
    assert any(not torch.allclose(unequal[name], x, rtol=0.01) for name, x in plain.items())


def test_sound_at_another_rate_is_the_same_sound() -> None:
    times_s = torch.arange(24_000, dtype=torch.float64) / 24_000
    wave = torch.sin(2 * math.pi * 440 * times_s)
    found = resampled(wave, 24_000, 16_000)
    expected = torch.sin(2 * math.pi * 440 * torch.arange(16_000, dtype=torch.float64) / 16_000)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    high = torch.sin(2 * math.pi * 9_000 * times_s)  # above half of 16 kHz: gone, and not folded back
    assert resampled(high, 24_000, 16_000).abs().max() < 1e-3
    assert resampled(wave, 16_000, 16_000) is wave


def test_the_shipped_config_runs_with_the_published_files(directory: Path, tmp_path: Path) -> None:
    write_judges(directory / "weights")
    outcome = begin("hallo_live_dmd_rewards", directory, tmp_path, "max_steps=2").train()
    assert outcome.why == "done"
    assert '"generator/sync": 0.0' in (tmp_path / "journal.jsonl").read_text()  # nobody is seen in noise


class Watched(nn.Module):
    """Tells where it has been."""

    def __init__(self) -> None:
        super().__init__()
        self.been: list[str] = []

    def to(self, device: torch.device | str) -> Watched:  # type: ignore[override]
        self.been.append(str(device))
        return self


@pytest.mark.parametrize(("offload", "expected"), [(True, ["cuda:0", "cpu"]), (False, ["cuda:0"])])
def test_judges_are_on_the_device_only_while_they_work(offload: bool, expected: list[str]) -> None:
    module = Watched()

    def judge() -> None:
        with lent(module, torch.device("cuda:0"), offload=offload):
            assert module.been == ["cuda:0"]
            raise RuntimeError("the judge fails")

    with pytest.raises(RuntimeError, match="the judge fails"):
        judge()
    assert module.been == expected


def test_three_axes_of_sound_are_added_up(tmp_path: Path) -> None:
    asked: list[dict[str, object]] = []

    def predict(batch: list[dict[str, object]]) -> list[dict[str, float]]:
        asked.extend(batch)
        return [{"CE": 5.0, "CU": 6.0, "PC": 100.0, "PQ": 7.0} for _ in batch]

    clip = Clip(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), 25, torch.linspace(-1, 1, 640), 16_000, "A room.")
    assert AestheticsJudge(predict, nn.Identity())([clip, clip])["aesthetics"].tolist() == [18, 18]
    assert asked[0]["sample_rate"] == 16_000
    assert torch.equal(asked[1]["path"], clip.samples.unsqueeze(0))  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="avatar-rtc download reward"):
        load_aesthetics_judge(tmp_path)
