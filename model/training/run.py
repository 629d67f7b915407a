"""The only training loop: draw, loss, gradients, refusal of what is not finite, step, average, log, save.

A run's directory has ``config.yaml``, ``journal.jsonl`` and ``curves.html``, ``checkpoints/`` and ``weights/``. Begun again with
the same config it goes on from its newest checkpoint, and on a CPU to the very weights that a run without a break would have
reached.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

import torch
import yaml
from torch import Tensor
from torch.distributed.tensor import DTensor

from model.errors import ConfigError, TrainingError
from model.training import checkpoints
from model.training.config import TrainConfig, differences
from model.training.distributed import World
from model.training.journal import Journal
from model.training.optimizers import Learner, rate_at, rate_before
from model.training.randomness import generator, order
from model.training.recorded import Recorded, backward
from model.training.stage import Drawn, Stage

CONFIG = "config.yaml"


@dataclass(frozen=True)
class StepReport:
    """One step that was done.

    Attributes:
        step: its number; ``figures`` as the journal has them, empty where it has none.
    """

    step: int
    figures: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """How a piece of a run ended.

    Attributes:
        first, last: steps from, and up to without it.
        why: ``done``, ``time`` or ``interrupted``.
        weights: where they were exported, None if nothing was done.
        measured: what the stage measured of them.
    """

    first: int
    last: int
    why: str
    weights: Path | None
    measured: dict[str, float]


def check_directory(directory: Path, config: TrainConfig) -> None:
    """See whether a run can be, or go on, in a directory: before much is loaded.

    Raises:
        ConfigError: one with another config has come to a checkpoint there.
    """
    path = directory / CONFIG
    if path.is_file() and checkpoints.saved_steps(directory):
        began = TrainConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        if changed := differences(began, config):
            raise ConfigError(
                f"{directory} began with another config:\n  " + "\n  ".join(changed) + "\n"
                "Change it back, or begin another run with --run; its starts may be weights of this one"
            )


class Run:
    """A stage under way.

    Args:
        stage: built, its nets where they will learn; see :meth:`Learner.of`.
        directory: after :func:`check_directory`; made if it is not there.
    """

    def __init__(self, config: TrainConfig, stage: Stage, directory: Path, world: World) -> None:
        self.config, self.stage, self.directory, self.world = config, stage, directory, world
        self._ahead: dict[str, Drawn] = {}
        self.learners = [Learner.of(name, net, config.learners[name], stage.published_name) for name, net in stage.nets.items()]
        self.step, self._before_s, self._began_s = 0, 0.0, time.monotonic()
        spread = any(isinstance(p, DTensor) for learner in self.learners for p in learner.parameters.values())
        self._records = config.record and world.device.type == "cuda" and not spread
        self._backward = Recorded(stage) if self._records else partial(backward, stage)
        torch.manual_seed(config.seed + world.rank)
        if world.rank == 0:
            directory.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
            (directory / CONFIG).write_text(text, encoding="utf-8")
        steps = checkpoints.saved_steps(directory)
        if steps:
            progress = checkpoints.load(directory, steps[-1], self.learners, world)
            self.step, self._before_s = progress.step, progress.seconds
            stage.begin(progress.phase)
        if world.rank == 0:
            stage.hand_over(directory)
        world.barrier()

    @property
    def _by_name(self) -> dict[str, Learner]:
        return {learner.name: learner for learner in self.learners}

    @property
    def seconds(self) -> float:
        """Trained so far, over all pieces."""
        return self._before_s + time.monotonic() - self._began_s

    def train(
        self,
        minutes: float | None = None,
        on_step: Callable[[StepReport], None] = lambda _: None,
        *,
        cooldown: float = 0.0,
    ) -> Outcome:
        """Until all steps are done, the time is up, or the process is told to stop. Each way the state is saved.

        Args:
            cooldown: share of the minutes, the last of them, over which learning rates fall.

        Raises:
            TrainingError: a loss or gradient is not finite. Then nothing was changed by it, and the last checkpoint stays.
        """
        config, first = self.config, self.step
        began_s = time.monotonic()
        ends_s = None if minutes is None else began_s + 60 * minutes
        saved_s, saved_step, why, measured = began_s, self.step, "done", dict[str, float]()
        journal = Journal(self.directory, self.step, self.directory.name) if self.world.rank == 0 else None
        try:
            with _asked_to_stop() as asked:
                while self.step < config.max_steps:
                    now = time.monotonic()
                    due = config.saving.every_minutes is not None and now - saved_s > 60 * config.saving.every_minutes
                    turn = self.stage.phase_at(self.seconds) > self.stage.phase
                    stop, late, due, turn = self._agree(asked.is_set(), ends_s is not None and now >= ends_s, due, turn)
                    if stop or late:
                        why = "interrupted" if stop else "time"
                        break
                    if turn:
                        self._turn()
                    by_step = self.step > saved_step and self.step % config.saving.every_steps == 0
                    if by_step or due or turn:
                        self._save(journal, export=by_step)
                        saved_s, saved_step = time.monotonic(), self.step
                    if turn and self.world.rank == 0:
                        self.stage.hand_over(self.directory)
                    logs = self.step % config.log_every == 0 or self.step + 1 == config.max_steps
                    share = 1.0 if ends_s is None else rate_before(ends_s - now, 60 * (minutes or 0) * cooldown)
                    figures = self.one_step(logs, share)
                    if journal is not None and logs:
                        journal.write(self.step - 1, figures)
                    on_step(StepReport(self.step - 1, figures))
            if self.step > first:
                exported, measured = self._save(journal, export=True)
            else:
                exported = None
        finally:
            if journal is not None:
                journal.close()
        return Outcome(first, self.step, why, exported, measured)

    def _turn(self) -> None:
        """The stage's next phase begins. What was drawn and recorded for the one before is forgotten."""
        self.stage.turn(self._by_name)
        self.stage.begin(self.stage.phase + 1)
        self._ahead.clear()
        if self._records:
            self._backward = Recorded(self.stage)

    def _agree(self, *flags: bool) -> list[bool]:
        """What is true for any process is for all."""
        if self.world.size == 1:
            return list(flags)
        return [bool(x) for x in self.world.sum(torch.tensor(flags, dtype=torch.int32, device=self.world.device)).tolist()]

    def _save(self, journal: Journal | None, *, export: bool) -> tuple[Path | None, dict[str, float]]:
        config, counts = self.config, (self.step, self.seconds, self.stage.phase)
        progress = checkpoints.Progress.of(*counts, self.learners, self.world)
        checkpoints.save(self.directory, progress, self.learners, self.world, config.saving.keep)
        exported, measured = None, dict[str, float]()
        if export:
            dtype = config.saving.weights or config.precision.compute
            exported = checkpoints.export(self.directory, self.step, self.stage, self.learners, self.world, dtype)
            measured = self.stage.measure(self._by_name)
        if journal is not None:
            if measured:
                journal.write(self.step - 1, measured)
            journal.draw()
        return exported, measured

    def one_step(self, logs: bool, share: float = 1.0) -> dict[str, float]:
        """All learners whose turn it is learn once; figures of it if they are to be logged. Nothing is saved.

        Args:
            share: of the learning rates that the schedule gives.

        Raises:
            TrainingError: see :meth:`train`.
        """
        began_s, figures = time.monotonic(), dict[str, float]()
        rate = share * rate_at(self.step, self.config.max_steps, self.config.schedule)
        for learner in self.learners:
            if self.step % learner.config.every == 0 and self.stage.learns(learner.name):
                found = self._learn(learner, rate * self.stage.rate_share(learner.name))
                if logs:
                    figures |= {f"{learner.name}/{name}": value for name, value in self._means(found).items()}
        if logs:
            figures |= {"learning rate share": rate, "seconds a step": time.monotonic() - began_s, "seconds": self.seconds}
            if self.world.device.type == "cuda":
                figures["peak memory GiB"] = torch.cuda.max_memory_allocated() / 2**30
        self.step += 1
        return figures

    def _learn(self, learner: Learner, rate: float) -> dict[str, Tensor]:
        """One optimizer step of one learner."""
        parts = self.config.accumulate
        learner.zero(stay=self._records)
        sums: dict[str, Tensor] = {}
        for part in range(parts):
            drawn = self._ahead.pop(learner.name, None) or self._draw(learner, part)
            loss = self._backward(learner, drawn, 1 / parts)
            # While the device computes that, the host draws what comes next.
            self._ahead[learner.name] = self._draw(learner, part + 1)
            for name, value in {"loss": loss.total, **loss.figures}.items():
                sums[name] = sums[name] + value / parts if name in sums else value / parts
        learner.share_gradients(self.world)
        norm = learner.gradient_norm()
        self._refuse(learner, sums["loss"], norm)
        learner.learn(norm, self.step, rate)
        learner.samples += parts * self.world.size * self.config.batch
        return sums | {"gradient norm": norm}

    def _draw(self, learner: Learner, part: int) -> Drawn:
        """For a part of the learner's next update, or of the ones that follow it."""
        config, world = self.config, self.world
        first = learner.samples + (part * world.size + world.rank) * config.batch
        numbers = range(first, first + config.batch)
        # Which sample a number is, and what is drawn for it, no count of processes or parts decides.
        samples = [order(self.stage.num_samples, n, config.seed, learner.name) for n in numbers]
        dice = [generator(world.device, config.seed, learner.name, n) for n in numbers]
        return self.stage.draw(learner.name, learner.updates + part // config.accumulate, samples, dice)

    def _refuse(self, learner: Learner, loss: Tensor, norm: Tensor) -> None:
        finite = torch.stack((loss.detach().float(), norm.detach().float().to(loss.device))).isfinite()
        (wrong,) = self._agree(not bool(finite.all()))
        if not wrong:
            return
        steps = checkpoints.saved_steps(self.directory)
        last = f"the newest checkpoint, of step {steps[-1]}, is as it was" if steps else "there is no checkpoint yet"
        raise TrainingError(
            f"step {self.step}: the {learner.name}'s loss is {loss.item():g}, the norm of its gradients {norm.item():g}. "
            f"Nothing was changed by it; {last}. Look at the data and the learning rates before it is begun again"
        )

    def _means(self, figures: dict[str, Tensor]) -> dict[str, float]:
        """Over all processes."""
        values = torch.stack([x.detach().float().to(self.world.device) for x in figures.values()])
        return dict(zip(figures, (self.world.sum(values) / self.world.size).tolist(), strict=True))


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """Set once the process is told to end: the step in work is finished and saved first. Told twice, it ends at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        for told, former in before.items():
            signal.signal(told, former)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for told, former in before.items():
            signal.signal(told, former)
