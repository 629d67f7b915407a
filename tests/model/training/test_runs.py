"""Runs of the shipped configs, at a size for tests: what a user begins, breaks off, goes on with and gets out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks import training_step
from model.adapters.hallo_live import load_generator
from model.errors import CheckpointError, ConfigError, TrainingError
from model.training import checkpoints
from model.training.distributed import World
from model.training.run import Run
from model.training.stage import Drawn, Loss, Stage
from testkit.published_files import TINY, write_config
from tests.support.training_runs import CONFIGS, begin, shipped, write_everything

STAGES = ("hallo_live_ode_init", "hallo_live_dmd")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_everything(tmp_path_factory.mktemp("everything"))


def state(run: Run) -> Iterator[tuple[str, Tensor]]:
    """All that a run has learned, named."""
    for learner in run.learners:
        for name, parameter in learner.parameters.items():
            yield f"{learner.name}/{name}", parameter
            for kind, moment in learner.optimizer.state[parameter].items():
                yield f"{learner.name}/{name}/{kind}", moment
        if learner.average is not None:
            yield from ((f"{learner.name}/{name}/average", x) for name, x in learner.average.tensors.items())


def same(a: Run, b: Run) -> bool:
    pairs = list(zip(state(a), state(b), strict=True))
    return bool(pairs) and all(name == other and torch.equal(x, y) for (name, x), (other, y) in pairs)


@pytest.mark.parametrize("name", [name for name in shipped() if "rewards" not in name])  # see test_rewarding.py
def test_every_shipped_config_runs(directory: Path, tmp_path: Path, name: str) -> None:
    run = begin(name, directory, tmp_path, "max_steps=2")
    before = {key: x.clone() for key, x in state(run)}
    outcome = run.train()
    assert (outcome.first, outcome.last, outcome.why) == (0, 2, "done")
    assert any(not torch.equal(x, before[key]) for key, x in state(run) if key in before)
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1]
    assert all(f"{learner.name}/loss" in lines[0] for learner in run.learners)
    assert "<polyline" in (tmp_path / "curves.html").read_text()


@pytest.mark.parametrize("name", STAGES)
def test_two_pieces_are_one_run_bit_for_bit(directory: Path, tmp_path: Path, name: str) -> None:
    learner = "student" if "ode" in name else "generator"
    values = ["max_steps=4", f"learners.{learner}.average={{decay: 0.9, from_step: 1}}", "schedule.warmup_steps=3"]
    if learner == "generator":
        values.append("learners.generator.every=2")
    straight = begin(name, directory, tmp_path / "straight", *values)
    straight.train()
    first = begin(name, directory, tmp_path / "pieces", *values)
    seen: list[int] = []
    for _ in range(3):  # as if it had been told to stop after three steps
        first.one_step(False)
    first._save(None, export=False)
    torch.rand(7)  # whatever else draws numbers meanwhile
    second = begin(name, directory, tmp_path / "pieces", *values)
    assert second.step == 3
    second.train(on_step=lambda report: seen.append(report.step))
    assert seen == [3]
    assert same(straight, second)


def test_a_part_of_a_step_is_as_good_as_a_sample_more(directory: Path, tmp_path: Path) -> None:
    gradients = []
    for i, values in enumerate((("batch=2", "accumulate=1"), ("batch=1", "accumulate=2"))):
        run = begin("hallo_live_dmd", directory, tmp_path / str(i), "max_steps=1", *values)
        run.one_step(False)
        gradients.append(dict(state(run)))
    for name, x in gradients[0].items():
        if name.endswith("exp_avg_sq"):
            torch.testing.assert_close(x, gradients[1][name], rtol=2e-3, atol=x.max().item() * 1e-5, msg=name)


def test_the_video_tower_stays_bit_equal_in_an_audio_only_run(directory: Path, tmp_path: Path) -> None:
    run = begin("hallo_live_dmd_audio", directory, tmp_path, "max_steps=2")
    weights = run.train().weights
    assert weights is not None
    for name, start in (("generator", "student"), ("critic", "critic")):
        before, after = load_file(directory / "weights" / f"{start}.safetensors"), load_file(weights / f"{name}.safetensors")
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        assert changed
        assert all(key.startswith("audio_model.") and ("self_attn." in key or "cross_attn." in key) for key in changed)


def test_exported_weights_are_what_serves(directory: Path, tmp_path: Path) -> None:
    run = begin("hallo_live_dmd", directory, tmp_path, "max_steps=2", "learners.generator.average.from_step=0")
    weights = run.train().weights
    assert weights is not None
    generator, averaged = (
        load_generator(weights / f"{name}.safetensors", TINY.dit, TINY.geometry.patch_cells)
        for name in ("generator", "generator_ema")
    )
    for name, parameter in run.learners[0].module.named_parameters():
        torch.testing.assert_close(generator.get_parameter(name), parameter, rtol=0, atol=0)
    average = run.learners[0].average
    assert average is not None
    for name, x in average.tensors.items():
        torch.testing.assert_close(averaged.get_parameter(name), x, rtol=0, atol=0)


class Spoiled:
    """A stage whose loss is not a number in one update."""

    def __init__(self, run: Run, update: int, value: float) -> None:
        self._stage, self._update, self._value, self._num = run.stage, update, value, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._stage, name)

    def loss(self, learner: str, drawn: Drawn) -> Loss:
        loss = self._stage.loss(learner, drawn)
        self._num += 1
        return Loss(loss.total * self._value, loss.figures) if self._num > self._update else loss


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_changes_nothing(directory: Path, tmp_path: Path, value: float) -> None:
    run = begin("hallo_live_ode_init", directory, tmp_path, "max_steps=5", "saving.every_steps=2")
    run._backward = _backward_of(Spoiled(run, 3, value))
    kept: dict[str, Tensor] = {}
    with pytest.raises(TrainingError, match=r"step 3: the student's loss is .*checkpoint, of step 2, is as it was"):
        run.train(on_step=lambda _: kept.update({name: x.detach().clone() for name, x in state(run)}))
    assert all(torch.equal(x, kept[name]) for name, x in state(run))
    assert checkpoints.saved_steps(tmp_path) == [2]
    again = begin("hallo_live_ode_init", directory, tmp_path, "max_steps=5", "saving.every_steps=2")
    assert again.train().why == "done"


def _backward_of(stage: Spoiled) -> partial[Loss]:
    from model.training.recorded import backward

    return partial(backward, cast(Stage, stage))


def test_a_run_goes_on_only_as_it_began(directory: Path, tmp_path: Path) -> None:
    begin("hallo_live_ode_init", directory, tmp_path, "max_steps=1").train()
    with pytest.raises(ConfigError, match=r"seed: 103 then, 7 now"):
        begin("hallo_live_ode_init", directory, tmp_path, "max_steps=1", "seed=7")
    assert begin("hallo_live_ode_init", directory, tmp_path, "max_steps=2").train().first == 1


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_there(directory: Path, tmp_path: Path) -> None:
    values = "max_steps=3", "saving.every_steps=1"
    begin("hallo_live_ode_init", directory, tmp_path, *values).train()
    assert checkpoints.saved_steps(tmp_path) == [2, 3]
    for path in (tmp_path / "checkpoints" / "step_000003").glob("*.distcp"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="step_000003 is damaged"):
        begin("hallo_live_ode_init", directory, tmp_path, *values)


def test_what_a_cpu_saved_goes_on_beside_a_gpu_and_on_one(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin("hallo_live_ode_init", directory, tmp_path, "max_steps=1").train()
    states: list[object] = []
    with monkeypatch.context() as there_is_a_gpu:
        there_is_a_gpu.setattr(torch.cuda, "is_available", lambda: True)
        there_is_a_gpu.setattr(torch.cuda, "get_rng_state", lambda device="cuda": torch.zeros(16, dtype=torch.uint8))
        there_is_a_gpu.setattr(torch.cuda, "set_rng_state", lambda *args: states.append(args))
        run = begin("hallo_live_ode_init", directory, tmp_path, "max_steps=2")
        assert checkpoints.load(tmp_path, 1, run.learners, World(0, 1, torch.device("cuda"))).step == 1
    assert not states, "a CPU's checkpoint has no random state of a GPU"
    assert run.train().first == 1


def test_a_run_ends_with_its_time_and_is_saved(directory: Path, tmp_path: Path) -> None:
    outcome = begin("hallo_live_ode_init", directory, tmp_path, "max_steps=100000").train(minutes=1 / 300)
    assert outcome.why == "time"
    assert 0 < outcome.last < 100000
    assert checkpoints.saved_steps(tmp_path) == [outcome.last]


def test_what_a_step_costs_is_measured_without_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(tmp_path / "model.yaml", TINY)
    values = f"subject.model={tmp_path}/model.yaml", "precision={master: float32, compute: float32}", "learners.generator.every=2"
    sets = [part for value in values for part in ("--set", value)]
    places = ["--directory", str(tmp_path), "--out", str(tmp_path / "figures.json")]
    config = str(CONFIGS / "hallo_live_dmd.yaml")
    monkeypatch.setattr("sys.argv", ["training_step", config, *places, *sets, "--steps", "2"])
    training_step.main()
    steps = json.loads((tmp_path / "figures.json").read_text())["steps"]
    assert [("generator/loss" in step, "critic/loss" in step) for step in steps] == [(True, True), (False, True)]
    assert all(step["seconds a step"] > 0 for step in steps)
    assert not list(tmp_path.glob("run_*/checkpoints"))
