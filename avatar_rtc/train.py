"""``avatar-rtc train``: a run of training, and the data that one begins with. Torch comes in when a command runs, not before."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from model.training.config import TrainConfig
    from model.training.distributed import World

RUNS = Path("runs")


class _Bar:
    """A progress bar that appears when it first has something to show, on the first process's terminal."""

    def __init__(self, unit: str, shown: bool) -> None:
        self._unit, self._shown = unit, shown and sys.stderr.isatty()

    def __call__(self, done: int, of: int) -> None:
        from tqdm import tqdm

        if not hasattr(self, "_bar"):
            self._bar = tqdm(total=of, unit=self._unit, disable=not self._shown)
        self._bar.update(done - self._bar.n)
        if done == of:
            self._bar.close()


def _in_world(config: TrainConfig, run: Callable[[World], int]) -> int:
    from model.training.distributed import World

    world = World.join(config.sharding)
    try:
        return run(world)
    finally:
        world.leave()


def _report_to(world: World) -> Callable[[str], None]:
    def report(line: str) -> None:
        if world.rank == 0:
            print(line, file=sys.stderr, flush=True)

    return report


def train(options: argparse.Namespace) -> int:
    """Begin a run, or go on with it."""
    from model.training.config import load_train_config

    if options.cooldown and options.minutes is None:
        raise ConfigError("--cooldown is a share of --minutes: give both, or set schedule.cooldown_steps")
    config = load_train_config(options.config, options.set)
    directory = options.run or RUNS / options.config.stem
    return _in_world(config, lambda world: _train(config, directory, options.minutes, options.cooldown, world))


def _train(config: TrainConfig, directory: Path, minutes: float | None, cooldown: float, world: World) -> int:
    from tqdm import tqdm

    from model.training.build import open_run
    from model.training.run import StepReport

    report = _report_to(world)
    run = open_run(config, directory, world, report, _Bar("prompt", world.rank == 0))
    for learner in run.learners:
        trained, everything = (
            sum(p.numel() for p in some) for some in (learner.parameters.values(), learner.module.parameters())
        )
        report(f"{learner.name}: {_many(trained)} of {_many(everything)} parameters learn")
    if run.step >= config.max_steps:
        report(f"{directory}: all {config.max_steps} steps are done; --set max_steps=N goes on")
        return 0
    where = f"from step {run.step}" if run.step else "from the beginning"
    report(f"{directory}: {where} to step {config.max_steps}, on {world.size} x {world.device.type}")
    shown = world.rank == 0 and sys.stderr.isatty()
    with tqdm(total=config.max_steps, initial=run.step, unit="step", disable=not shown) as bar:

        def on_step(done: StepReport) -> None:
            losses = {name: value for name, value in done.figures.items() if name.endswith("/loss")}
            if losses:
                bar.set_postfix_str("  ".join(f"{name} {value:.4g}" for name, value in losses.items()), refresh=False)
            bar.update()

        outcome = run.train(minutes, on_step, cooldown=cooldown)
    ends = {"done": "all steps are done", "time": "the time is up", "interrupted": "it was told to stop"}
    if world.rank == 0:
        on = "" if outcome.why == "done" else "; the same command goes on"
        print(f"{directory}: steps {outcome.first} to {outcome.last} done, {ends[outcome.why]}{on}")
        if outcome.measured:
            print("  ".join(f"{name} {value:.3f}" for name, value in outcome.measured.items()))
        if outcome.weights is not None:
            print(f"weights in {outcome.weights}, curves in {directory / 'curves.html'}")
    return 0


def _many(number: int) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e8 else f"{number / 1e6:.2f} M"


def sample_ode(options: argparse.Namespace) -> int:
    """The teacher's trajectories of a table of prompts."""
    from model.training.build import sample_trajectories
    from model.training.config import ODEInitStage, load_train_config

    config = load_train_config(options.config, options.set)
    stage = config.stage
    if not isinstance(stage, ODEInitStage):
        raise ConfigError(
            f"{options.config} has no stage of kind ode_init, which says how trajectories are sampled, and where to"
        )

    def run(world: World) -> int:
        first, report = world.rank == 0, _report_to(world)
        bars = _Bar("step", first), _Bar("prompt", first)
        made, there = sample_trajectories(config, stage, options.prompts, options.num, world, report, *bars)
        print(f"{stage.trajectories}: {made} made, {there} already there")
        return 0

    return _in_world(config, run)


def pack_ode(options: argparse.Namespace) -> int:
    """Trajectories from files into an LMDB, or back."""
    from model.training.trajectories import TrajectoryLMDB, pack, write_file

    if options.unpack:
        if len(options.source) != 1:
            raise ConfigError("--unpack takes one LMDB")
        options.output.mkdir(parents=True, exist_ok=True)
        packed, bar = TrajectoryLMDB(options.source[0]), _Bar("file", True)
        for i in range(len(packed)):
            write_file(options.output / f"{i:06d}.pt", packed[i], packed[i].prompt)
            bar(i + 1, len(packed))
        print(f"{options.output}: {len(packed)} trajectories")
        return 0
    number, double = pack(options.source, options.output, _Bar("file", True))
    print(f"{options.output}: {number} trajectories, {double} left out whose prompt was there already")
    return 0


def map_films(options: argparse.Namespace) -> int:
    """``video_prompt_mappings.json`` of films that lie in a directory."""
    from model.text.prompt_table import MAPPINGS_FILE, film_name, read_prompts, remember_films

    if not options.directory.is_dir():
        raise TrainingError(f"{options.directory}: no such directory of films")
    height, width = options.size
    films = {film_name(row.prompt, height, width, options.seed): row.prompt for row in read_prompts(options.prompts)}
    there = {path.name for path in options.directory.glob("*.mp4")}
    found = {name: prompt for name, prompt in films.items() if name in there}
    if not found:
        raise TrainingError(
            f"none of the {len(there)} films in {options.directory} is named after a prompt of {options.prompts}, "
            f"seed {options.seed} and size {height}x{width}: correct --seed and --size"
        )
    remember_films(options.directory, found)
    path = options.directory / MAPPINGS_FILE
    print(f"{path}: {len(found)} films; {len(there - found.keys())} have no prompt, {len(films) - len(found)} prompts no film")
    return 0
