"""From a config to a run: data, text, networks, and the stage around them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from model.dit.transformer import DualStreamTransformer
from model.errors import ConfigError
from model.text.prompt_table import read_prompts
from model.training.config import ODEInitStage, TrainConfig
from model.training.distributed import World, dtype_of, spread
from model.training.hallo_live import HalloLive
from model.training.optimizers import choose
from model.training.rewarding import Rewarding
from model.training.run import Run, check_directory
from model.training.stage import Stage
from model.training.stages.dmd import CRITIC, DMD, GENERATOR
from model.training.stages.ode_init import ODEInit, open_data

Report = Callable[[str], None]
OnProgress = Callable[[int, int], None]


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
    subject, stage = HalloLive(config.subject, config.seed), config.stage

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
    if not stage.prompts.is_file():
        raise ConfigError(f"stage.prompts: there is no {stage.prompts}: 'avatar-rtc download train' fetches the published table")
    prompts = [row.prompt for row in read_prompts(stage.prompts)]
    subject.prepare_text([*prompts, stage.unwanted.video, stage.unwanted.audio], world, on_prompts)
    nets = net("student", GENERATOR), net("teacher", None), net("critic", CRITIC)
    rewarding = None
    if stage.rewards is not None:
        report("loading the judges")
        rewarding = Rewarding.load(stage.rewards, subject, world)
    return DMD(stage, subject, *nets, prompts, config.seed, world, rewarding)
