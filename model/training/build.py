"""From a config to a run: data, text, networks, and the stage around them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from model.dit.transformer import DualStreamTransformer
from model.errors import ConfigError
from model.text.prompt_table import read_prompts
from model.training.clips import open_clips, wait_for
from model.training.config import (
    AudioVAEStage,
    DMDStage,
    DurationsStage,
    FlowStage,
    HalloLiveSubject,
    ODEInitStage,
    TrainConfig,
    VAEStage,
    VideoVAEStage,
)
from model.training.discriminators import Critics, picture_critics, wave_critics
from model.training.distributed import World, dtype_of, spread
from model.training.hallo_live import HalloLive
from model.training.optimizers import choose
from model.training.pocket import Pocket, Speaker
from model.training.rewarding import Rewarding
from model.training.run import Run, check_directory
from model.training.sampling import sample_all
from model.training.stage import Stage
from model.training.stages.audio_vae import AudioVAETraining
from model.training.stages.dmd import CRITIC, DMD, GENERATOR
from model.training.stages.durations import PREDICTOR, Durations, open_examples
from model.training.stages.flow import FlowMatching
from model.training.stages.ode_init import ODEInit, open_data
from model.training.stages.vae import CRITICS, VAE
from model.training.stages.video_vae import VideoVAETraining
from model.training.starts import Kind, make_vae, take_vae
from model.vae.audio import AudioVAE
from model.vae.video import VideoVAE

Report = Callable[[str], None]
OnProgress = Callable[[int, int], None]
M = TypeVar("M", bound=nn.Module)


def open_run(
    config: TrainConfig,
    directory: Path,
    world: World,
    report: Report = lambda _: None,
    on_prompts: OnProgress = lambda done, of: None,
) -> Run:
    """A run that is ready to go on, or to begin.

    Args:
        report: hears in a line what is being done.
        on_prompts: hears how many of the prompts that have to be encoded are.

    Raises:
        ConfigError, CheckpointError, TrainingError: whatever is missing, and what to do.
    """
    check_directory(directory, config)
    return Run(config, build_stage(config, world, report, on_prompts), directory, world)


def build_stage(
    config: TrainConfig, world: World, report: Report = lambda _: None, on_prompts: OnProgress = lambda done, of: None
) -> Stage:
    """A stage with its nets where they will learn."""
    if isinstance(config.subject, HalloLiveSubject):
        return _stage_of_hallo_live(config, config.subject, world, report, on_prompts)
    return _PocketStages(config, world, report).build()


def _stage_of_hallo_live(
    config: TrainConfig, subject_config: HalloLiveSubject, world: World, report: Report, on_prompts: OnProgress
) -> Stage:
    subject, stage = HalloLive(subject_config, config.seed), config.stage

    def net(role: str, learner: str | None) -> DualStreamTransformer:
        report(f"loading the {role}")
        dit = subject.net(role, world.device, dtype_of(config.precision.compute), report)
        if learner is not None:
            choose(dit, config.learners[learner], subject.published_name)
            dit.recomputes = config.recompute
        return spread(dit, config.precision, world)

    if isinstance(stage, ODEInitStage):
        trajectories = open_data(stage, subject)
        subject.prepare_text(trajectories.prompts(), world, on_prompts)
        return ODEInit(stage, subject, net("student", "student"), trajectories, world)
    assert isinstance(stage, DMDStage)
    assert stage.prompts is not None
    if not stage.prompts.is_file():
        raise ConfigError(f"stage.prompts: there is no {stage.prompts}: 'avatar-rtc download train' fetches the published table")
    prompts = [row.prompt for row in read_prompts(stage.prompts)]
    subject.prepare_text(prompts, world, on_prompts)
    nets = net("student", GENERATOR), net("teacher", None), net("critic", CRITIC)
    rewarding = None
    if stage.rewards is not None:
        report("loading the judges")
        rewarding = Rewarding.load(stage.rewards, subject, world)
    return DMD(stage, subject, *nets, prompts, config.seed, world, rewarding)


class _PocketStages:
    """pocket's. Each process has whole networks."""

    def __init__(self, config: TrainConfig, world: World, report: Report) -> None:
        self._config, self._world, self._report = config, world, report
        self._subject = open_pocket(config, world.device)

    def build(self) -> Stage:
        config, world, subject, stage = self._config, self._world, self._subject, self._config.stage
        if world.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
        if isinstance(stage, FlowStage):
            latents = subject.latents()
            self._report(f"{len(latents.video)} clips as latents, video std {float(latents.video[:64].float().std()):.3f}")
            return FlowMatching(stage, subject, latents, self._speaker("student", "student", labels=True))
        if isinstance(stage, ODEInitStage):
            trajectories = open_data(stage, subject)
            return ODEInit(stage, subject, self._speaker("student", "student"), trajectories, world)
        if isinstance(stage, DMDStage):
            # What the student sees grows from block to block: compiled, it would be so a dozen times.
            student = self._speaker("student", GENERATOR, compiles=False)
            nets = student, self._speaker("teacher", None), self._speaker("critic", CRITIC)
            rewarding = None
            if stage.rewards is not None:
                self._report("loading the judges")
                rewarding = Rewarding.load(stage.rewards, subject, world)
            return DMD(stage, subject, *nets, subject.prompts(), config.seed, world, rewarding)
        if isinstance(stage, DurationsStage):
            examples = open_examples(stage, config.seed)
            self._report(f"{len(examples)} sentences in {stage.examples}")
            text = subject.net("student").text
            self._learning(text.durations, PREDICTOR)
            return Durations(stage, text, subject.model.text.max_words, examples, config.seed, world.device)
        if isinstance(stage, VideoVAEStage):
            vae, given = self._vae("video")
            assert isinstance(vae, VideoVAE)
            return VideoVAETraining(
                stage,
                subject,
                open_clips(self._data / stage.clips),
                vae,
                self._critics(picture_critics),
                config.seed,
                world.device,
                encoder_is_given=given,
                decode=torch.compile(vae.decode, dynamic=False) if self._compiles else vae.decode,
            )
        assert isinstance(stage, AudioVAEStage)
        audio_vae, given = self._vae("audio")
        assert isinstance(audio_vae, AudioVAE)
        if self._compiles:
            for part in (audio_vae.decoder, audio_vae.encoder):
                part.compile(dynamic=False)
        critics = self._critics(wave_critics)
        utterances = pickle.loads(wait_for(self._data / "utterances.pkl").read_bytes())
        return AudioVAETraining(stage, subject, utterances, audio_vae, critics, config.seed, world.device, encoder_is_given=given)

    @property
    def _data(self) -> Path:
        assert not isinstance(self._config.subject, HalloLiveSubject)
        return self._config.subject.data

    @property
    def _compiles(self) -> bool:
        return self._config.compile and self._world.device.type == "cuda"

    def _learning(self, module: M, learner: str) -> M:
        choose(module, self._config.learners[learner], lambda name: name)
        return module

    def _speaker(self, role: str, learner: str | None, *, labels: bool = False, compiles: bool = True) -> Speaker:
        self._report(f"loading the {role}")
        speaker = self._subject.net(role, labels=labels)
        if learner is not None:
            self._learning(speaker, learner)
            speaker.dit.recomputes = self._config.recompute
        if self._compiles and compiles:
            for layer in speaker.dit.layers:
                layer.compile(dynamic=False)
        return speaker

    def _critics(self, make: Callable[[], Critics]) -> Critics:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._config.seed)
            return self._learning(make().to(self._world.device), CRITICS)

    def _vae(self, kind: Kind) -> tuple[VideoVAE | AudioVAE, bool]:
        """A VAE, and whether its encoder is another's and stays so."""
        assert not isinstance(self._config.subject, HalloLiveSubject)
        start = self._config.subject.starts.vae
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._config.seed)
            vae = make_vae(self._subject.model, kind)
        stage = self._config.stage
        assert isinstance(stage, VAEStage)
        stays = start is not None and stage.keep_encoder
        if start is not None:
            fits = take_vae(vae, start, kind)
            encoder = "is that of" if stays else "goes on from that of"
            self._report(f"the encoder {encoder} {start}; the decoder {'too' if fits else 'has other sizes and begins anew'}")
        return self._learning(vae.to(self._world.device), VAE), stays


def open_pocket(config: TrainConfig, device: torch.device) -> Pocket:
    """The subject of a config that has pocket as one."""
    assert not isinstance(config.subject, HalloLiveSubject)
    return Pocket(config.subject, config.seed, device, config.precision.compute)


def sample_trajectories(
    config: TrainConfig,
    stage: ODEInitStage,
    table: Path | None,
    num: int | None,
    world: World,
    report: Report = lambda _: None,
    on_progress: OnProgress = lambda done, of: None,
    on_prompts: OnProgress = lambda done, of: None,
) -> tuple[int, int]:
    """Sample what is missing of a teacher's trajectories, see :func:`model.training.sampling.sample_all`.

    Args:
        table: of prompts; None for pocket, whose prompts are those of its clips.
        num: so many prompts only, the first of a table, of pocket's as many as are spread over all clips.

    Raises:
        ConfigError: a table is missing, or there is one too many.
    """
    if isinstance(config.subject, HalloLiveSubject):
        if table is None:
            raise ConfigError("--prompts: name a table of prompts to sample trajectories of")
        hallo_live, precision = HalloLive(config.subject, config.seed), config.precision
        prompts = [row.prompt for row in read_prompts(table)][:num]
        hallo_live.prepare_text(prompts, world, on_prompts)

        def open_teacher() -> DualStreamTransformer:
            report("loading the teacher")
            teacher = hallo_live.net("teacher", world.device, dtype_of(precision.compute))
            return spread(teacher, precision, World.alone(world.device))

        return sample_all(config, stage, hallo_live, open_teacher, prompts, world, on_progress)
    if table is not None:
        raise ConfigError("--prompts: pocket's prompts are those of its clips; leave it out")
    pocket = open_pocket(config, world.device)
    prompts = pocket.prompts()
    if num is not None and num < len(prompts):
        prompts = [prompts[i * len(prompts) // num] for i in range(num)]
    return sample_all(config, stage, pocket, lambda: pocket.net("teacher"), prompts, world, on_progress)
