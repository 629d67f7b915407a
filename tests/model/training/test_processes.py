"""A run over two processes, on one machine and on two, is the run of one process: begun as a user begins it, by torchrun."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support import pocket_runs
from tests.support.training_runs import CONFIGS, begin, small, write_everything

VALUES = (
    "max_steps=2",
    "learners.student.learning_rates={'model': 0.01}",
    "learners.student.eps=0.01",  # far above rounding: Adam would blow it up where gradients are next to nothing
    "learners.student.average={decay: 0.5, from_step: 0}",
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_everything(tmp_path_factory.mktemp("everything"))


def torchrun(config: str, values: list[str], run: Path, machines: int = 1) -> None:
    """Two processes in all."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    train = ["train", str(CONFIGS / f"{config}.yaml"), "--run", str(run)]
    train += [part for value in values for part in ("--set", value)]
    programs = Path(sys.executable).parent
    common = ["--nnodes", str(machines), "--nproc-per-node", str(2 // machines)]
    common += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    run_it = ["--no-python", "--", str(programs / "avatar-rtc"), *train]
    commands = [[str(programs / "torchrun"), *common, "--node-rank", str(n), *run_it] for n in range(machines)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command in commands
    ]
    outputs = [process.communicate(timeout=400)[0] for process in started]
    assert [process.returncode for process in started] == [0] * machines, "\n".join(outputs)[-4000:]


@pytest.mark.slow
@pytest.mark.timeout(900)  # four programs that import torch, on a busy machine
@pytest.mark.parametrize("machines", [1, 2])
def test_two_processes_are_one(directory: Path, tmp_path: Path, machines: int) -> None:
    alone = begin("hallo_live_ode_init", directory, tmp_path / "alone", *VALUES, "batch=2")
    alone.train()
    sharding = f"sharding={('full', 'hybrid')[machines - 1]}"
    values = small(directory, f"stage.trajectories={directory}/trajectories", sharding, *VALUES)
    torchrun("hallo_live_ode_init", values, tmp_path / "two", machines)
    for name in ("student", "student_ema"):
        one, two = (load_file(tmp_path / run / "weights" / "step_000002" / f"{name}.safetensors") for run in ("alone", "two"))
        start = load_file(directory / "weights" / "student.safetensors")
        assert one.keys() == two.keys() == start.keys()
        for key, x in one.items():
            torch.testing.assert_close(two[key], x, rtol=1e-5, atol=1e-6, msg=f"{name} {key}")
        assert sum(not torch.equal(x, start[key]) for key, x in one.items()) > len(one) / 2
    # Saved by two, and read by one.
    resumed = begin("hallo_live_ode_init", directory, tmp_path / "two", *VALUES, "max_steps=3")
    assert resumed.step == 2
    (mine,), (theirs,) = alone.learners, resumed.learners
    assert (mine.updates, mine.samples) == (theirs.updates, theirs.samples)
    for name, parameter in mine.parameters.items():
        for kind, moment in mine.optimizer.state[parameter].items():
            other = theirs.optimizer.state[theirs.parameters[name]][kind]
            torch.testing.assert_close(other, moment, rtol=1e-4, atol=1e-8, msg=f"{name} {kind}")
    assert resumed.train().last == 3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_with_a_pocket_each_are_one(tmp_path: Path) -> None:
    """Of stage 2, whose losses are means over samples."""
    directory = pocket_runs.write_pocket(tmp_path)
    values = ["max_steps=2", "learners.generator.every=1"]
    values += [f"learners.{name}.{value}" for name in ("generator", "critic") for value in ("learning_rates.^=0.01", "eps=0.01")]
    pocket_runs.begin("dmd", directory, tmp_path / "alone", *values).train()
    torchrun("pocket_dmd", pocket_runs.small("dmd", directory, *values, "batch=1"), tmp_path / "two")
    for name in ("generator", "critic"):
        one, two = (load_file(tmp_path / run / "weights" / "step_000002" / f"{name}.safetensors") for run in ("alone", "two"))
        start = load_file(directory / "start" / "dit.safetensors")
        for key, x in one.items():
            torch.testing.assert_close(two[key], x, rtol=1e-4, atol=1e-5, msg=f"{name} {key}")
        assert sum(not torch.equal(one[f"dit.{key}"], x) for key, x in start.items()) > len(start) / 2
    resumed = pocket_runs.begin("dmd", directory, tmp_path / "two", *values, "max_steps=3")
    assert (resumed.step, resumed.learners[0].samples) == (2, 4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_rollouts_of_spread_networks_are_those_of_one_process(directory: Path, tmp_path: Path) -> None:
    """Stage 2: one network is called many times before its one backward pass, and three of them are spread."""
    values = ["max_steps=2", "learners.generator.every=1"]
    values += [f"learners.{name}.eps=0.01" for name in ("generator", "critic")]
    alone = begin("hallo_live_dmd", directory, tmp_path / "alone", *values, "batch=2")
    alone.train()
    torchrun("hallo_live_dmd", small(directory, f"stage.prompts={directory}/prompts.csv", *values), tmp_path / "two")
    for learner in alone.learners:
        name = learner.name
        one, two = (load_file(tmp_path / run / "weights" / "step_000002" / f"{name}.safetensors") for run in ("alone", "two"))
        assert one.keys() == two.keys()
        for key, x in one.items():
            torch.testing.assert_close(two[key], x, rtol=1e-5, atol=1e-6, msg=f"{name} {key}")
