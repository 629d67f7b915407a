"""The state of a run on disk, whole or not at all, and weights for use.

``checkpoints/step_000500`` has all that the run goes on from: what trains, averages, moments, random state, counters. Each
process writes its part; fewer or more of them read it back. What does not train is not in it, but read from the files that the
run began with. ``weights/step_000500`` has whole networks under their published names, one file each, for everything else.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader

from model.errors import CheckpointError
from model.training.distributed import World, dtype_of, whole
from model.training.optimizers import Learner
from model.training.stage import Stage

PROGRESS = "progress.json"


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: that is next.
        seconds: trained so far, over all pieces.
        processes: that wrote it.
        learners: by name, their updates, samples, and updates of the average; the last is None without one.
        phase: of the stage.
    """

    step: int
    seconds: float
    processes: int
    learners: dict[str, tuple[int, int, int | None]]
    phase: int = 0

    @staticmethod
    def of(step: int, seconds: float, phase: int, learners: Sequence[Learner], world: World) -> Progress:
        counts = {x.name: (x.updates, x.samples, x.average.updates if _averages(x) else None) for x in learners}  # type: ignore[union-attr]
        return Progress(step, seconds, world.size, counts, phase)


def directory_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step:06d}"


def saved_steps(run: Path) -> list[int]:
    """Of whole checkpoints, rising."""
    return sorted(int(path.name.removeprefix("step_")) for path in (run / "checkpoints").glob("step_*") if path.is_dir())


def save(run: Path, progress: Progress, learners: Sequence[Learner], world: World, keep: int) -> Path:
    """Write the state; older checkpoints but the ``keep`` newest go."""
    final = directory_of(run, progress.step)
    part = final.with_name(f".{final.name}.part")
    if world.rank == 0:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    world.barrier()
    with _without_torchrun():
        state_dict_saver.save(_state(learners, world), checkpoint_id=part, no_dist=world.mesh is None)
    if world.rank == 0:
        (part / PROGRESS).write_text(json.dumps(asdict(progress), indent=2) + "\n", encoding="utf-8")
        if final.exists():
            shutil.rmtree(final)
        os.replace(part, final)
        for old in saved_steps(run)[:-keep]:
            shutil.rmtree(directory_of(run, old))
    world.barrier()
    return final


def load(run: Path, step: int, learners: Sequence[Learner], world: World) -> Progress:
    """Put the state after ``step`` steps into learners that were made as then.

    Raises:
        CheckpointError: it is damaged, or of another run.
    """
    directory = directory_of(run, step)
    try:
        progress = Progress(**json.loads((directory / PROGRESS).read_text(encoding="utf-8")))
        for learner in learners:
            updates, samples, average_updates = progress.learners[learner.name]
            learner.updates, learner.samples = updates, samples
            if average_updates is not None and learner.average is not None:
                learner.average.begin(learner.parameters)
                learner.average.updates = average_updates
        state = _state(learners, world)
        if world.rank >= progress.processes:
            del state["random"]
        elif f"random.{world.rank}.device" not in FileSystemReader(directory).read_metadata().state_dict_metadata:
            state["random"][str(world.rank)].pop("device", None)  # begun on a CPU
        with _without_torchrun():
            state_dict_loader.load(state, checkpoint_id=directory, no_dist=world.mesh is None)
    except (OSError, ValueError, KeyError, TypeError, CheckpointException) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise CheckpointError(
            f"{directory} is damaged or of another run ({reason}): remove it, and the run goes on from the one before it"
        ) from None
    if "random" in state:
        _set_random_state(state["random"][str(world.rank)], world.device)
    return progress


@contextmanager
def _without_torchrun() -> Iterator[None]:
    """Torch warns of it, but here it is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield


def _averages(learner: Learner) -> bool:
    return learner.average is not None and bool(learner.average.tensors)


def _state(learners: Sequence[Learner], world: World) -> dict[str, Any]:
    """All tensors of a run, by what they are; the very ones, so that reading fills them."""
    state: dict[str, Any] = {"random": {str(world.rank): _random_state(world.device)}}
    for learner in learners:
        state[learner.name] = {
            "weights": {name: p.detach() for name, p in learner.parameters.items()},
            "moments": learner.moments(),
        }
        if buffers := _buffers(learner.module):
            state[learner.name]["buffers"] = buffers
        if _averages(learner):
            assert learner.average is not None
            state[learner.name]["average"] = learner.average.tensors
    return state


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    """Those that belong to a network's weights."""
    names = {name for name, _ in module.named_buffers()}
    return {name: x for name, x in module.state_dict().items() if name in names}


def _random_state(device: torch.device) -> dict[str, Tensor]:
    """Of this process's generators that have no owner; samples have their own, see :mod:`model.training.randomness`."""
    state = {"host": torch.get_rng_state()}
    if device.type == "cuda":
        state["device"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["host"])
    if "device" in state:
        torch.cuda.set_rng_state(state["device"], device)


def export(run: Path, step: int, stage: Stage, learners: Sequence[Learner], world: World, dtype: str) -> Path:
    """Write each network whole, averaged and as it is, under published names.

    Returns:
        The directory: ``NAME.safetensors`` of each learner, and ``NAME_ema.safetensors`` where there is an average.
    """
    directory = run / "weights" / f"step_{step:06d}"
    if world.rank == 0:
        directory.mkdir(parents=True, exist_ok=True)
    for learner in learners:
        files: dict[str, Mapping[str, Tensor]] = {learner.name: {}}
        if learner.average is not None and learner.average.tensors:
            files[f"{learner.name}_ema"] = learner.average.tensors
        for name, instead in files.items():
            _write(directory / f"{name}.safetensors", stage, learner, instead, world, dtype_of(dtype))
    world.barrier()
    return directory


def _write(path: Path, stage: Stage, learner: Learner, instead: Mapping[str, Tensor], world: World, dtype: torch.dtype) -> None:
    tensors: dict[str, Tensor] = {}
    buffers = _buffers(learner.module)
    for name, value in learner.module.state_dict().items():
        gathered = whole(instead.get(name, value))  # asked of every process
        if world.rank == 0:
            tensors[name] = gathered.detach().to(device="cpu", dtype=gathered.dtype if name in buffers else dtype)
    if world.rank == 0:
        part = path.with_suffix(".part")
        save_file({name: x.contiguous() for name, x in stage.published(tensors).items()}, part)
        os.replace(part, path)
