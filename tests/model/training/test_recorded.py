"""What is replayed adds up the gradients that the loss itself would."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model.graphs import CudaGraphCache, Function
from model.kernels import eager
from model.training import recorded
from model.training.recorded import Recorded, backward
from tests.support import pocket_runs
from tests.support.training_runs import begin, write_everything


class Replayed(CudaGraphCache):
    """Does with a function what a CUDA graph's owner does: tries it out, puts its state back, then runs it on fixed inputs."""

    keys: list[Hashable] = []  # noqa: RUF012

    def __call__(self, key: Hashable, function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
        if key not in self.keys:
            before = [x.clone() for x in self._state]
            function(*(x.clone() for x in inputs))
            for mine, kept in zip(self._state, before, strict=True):
                mine.copy_(kept)
            self.keys.append(key)
        return function(*(x.clone() for x in inputs))


@pytest.mark.parametrize("subject", ["hallo_live", "pocket"])
def test_records_add_up_the_same_gradients_where_they_lie(subject: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "CudaGraphCache", Replayed)
    monkeypatch.setattr(Replayed, "keys", [])
    if subject == "pocket":
        run = pocket_runs.begin("dmd", pocket_runs.write_pocket(tmp_path), tmp_path / "run")
    else:
        run = begin("hallo_live_dmd", write_everything(tmp_path / "everything"), tmp_path / "run")
    replay = Recorded(run.stage)
    for learner in run.learners:
        drawn = [run.stage.draw(learner.name, update, [update], [torch.Generator().manual_seed(update)]) for update in range(3)]
        learner.zero(stay=False)
        expected = [backward(run.stage, learner, x, 1 / 3) for x in drawn]
        gradients = {name: p.grad.clone() for name, p in learner.parameters.items() if p.grad is not None}
        learner.zero(stay=True)
        addresses = [p.grad.data_ptr() for p in learner.parameters.values() if p.grad is not None]
        for x, loss in zip(drawn, expected, strict=True):
            found = replay(learner, x, 1 / 3)
            torch.testing.assert_close(found.total, loss.total)
            assert found.figures.keys() == loss.figures.keys()
        for name, gradient in gradients.items():
            found_gradient = learner.parameters[name].grad
            assert found_gradient is not None
            torch.testing.assert_close(found_gradient, gradient)
        assert [p.grad.data_ptr() for p in learner.parameters.values() if p.grad is not None] == addresses
    exits = {
        (learner.name, run.stage.draw(learner.name, update, [0], [torch.Generator()]).choice)
        for learner in run.learners
        for update in range(3)
    }
    assert set(Replayed.keys) == exits


class Questions(TorchDispatchMode):
    """Hears what a record cannot hold: values that the host asks for, shapes that depend on values, and data that it sends."""

    CANNOT = ("_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        self.heard += [name for name in self.CANNOT if name in str(func)]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["video_vae", "audio_vae", "base", "teacher", "ode_init", "dmd"])
def test_nothing_that_is_recorded_asks_the_host(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the stages that record, in all their phases."""
    monkeypatch.setattr(eager, "quarter_turn", eager.turn_by_slices)  # as on a GPU
    directory = pocket_runs.write_pocket(tmp_path)
    if name == "ode_init":
        pocket_runs.sample_trajectories(directory)
    more = {"dmd": "stage.decoupled=true", "video_vae": "stage.adversarial_weight=0.05"}
    values = (more[name],) if name in more else ()
    run = pocket_runs.begin(name, directory, tmp_path / "run", *values)
    assert run.config.record
    for phase in range(2 if name.endswith("_vae") else 1):
        run.stage.begin(phase)
        for learner in run.learners:
            if run.stage.learns(learner.name):
                drawn = run._draw(learner, 0)
                with Questions() as questions:
                    backward(run.stage, learner, drawn, 1.0)
                assert questions.heard == []
