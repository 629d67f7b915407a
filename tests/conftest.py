"""Skips what this machine cannot run, says which machine it is, and splits the tests over processes where that is honest."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from avatar_rtc import resources
from testkit import GOLDEN

settings.register_profile("untimed", deadline=None)  # how long an example takes says something of the machine alone
settings.load_profile("untimed")

NUM_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if NUM_WORKERS > 1:  # before torch and numpy are imported: workers share the cores instead of fighting for all of them
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, str(max(1, resources.num_cores() // NUM_WORKERS)))

TESTS = Path(__file__).parent
ALONE = (
    "tests/e2e/",
    "tests/avatar_rtc/cluster/test_ray.py",
    "tests/avatar_rtc/test_hallo_live_call.py",
    "tests/avatar_rtc/outputs/test_recording.py",
    "tests/avatar_rtc/outputs/test_whip.py",
    "tests/avatar_rtc/sessions/test_calls.py::test_the_seat_of_a_client_that_vanishes",
    "tests/avatar_rtc/sessions/test_resume.py",
    "tests/test_benchmarks.py::test_as_many_calls",
)
"""What runs in real time on all cores, so that nothing may run beside it; by the beginnings of names."""
FIRST = (
    "tests/avatar_rtc/test_film.py",
    "tests/model/test_pocket.py",
    "tests/model/test_split_passes.py",
    "tests/golden/",
    "tests/model/test_hallo_live.py",
)
"""What takes longest, so that no process is left with it at the end; the one that converts pocket before all others."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", default=str(GOLDEN), metavar="DIR", help="golden fixtures of the published modules")


def pytest_report_header() -> str:
    from benchmarks import machine

    return f"machine: {machine.headline(machine.describe(resources.num_cores()))}"


def is_alone(nodeid: str) -> bool:
    return nodeid.startswith(ALONE)


def turn(nodeid: str) -> int:
    """The smaller, the sooner."""
    if is_alone(nodeid):
        return len(FIRST) + 1
    return next((i for i, name in enumerate(FIRST) if nodeid.startswith(name)), len(FIRST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: turn(item.nodeid))
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


# -- in several processes (pytest -n) --------------------------------------------------------------------------------------------


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file stays in one process, whose fixtures it shares; so does everything that runs alone, after all else."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "alone" if is_alone(nodeid) else nodeid.partition("::")[0]

    config.option.loadscopereorder = False  # our order
    return ByFile(config, log)


class Turns:
    """Locks of two files, which all processes of a run see: many tests at once, or one that runs alone."""

    def __init__(self, gate: Path, floor: Path) -> None:
        self._gate = gate.open()  # held by who wants to be alone, so that no other begins
        self._floor = floor.open()  # shared by all that run
        self._has_all = False

    def begin(self, alone: bool) -> None:
        if not self._has_all:
            fcntl.flock(self._gate, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            fcntl.flock(self._floor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            self._has_all = alone
            if not alone:
                fcntl.flock(self._gate, fcntl.LOCK_UN)

    def end(self, next_alone: bool) -> None:
        if not (self._has_all and next_alone):
            self._has_all = False
            fcntl.flock(self._floor, fcntl.LOCK_UN)
            fcntl.flock(self._gate, fcntl.LOCK_UN)


turns = Turns(TESTS / "__init__.py", TESTS / "conftest.py") if NUM_WORKERS > 1 else None


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside of the time that a test may take
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, bool, bool]:
    if turns is None:
        return (yield)
    turns.begin(is_alone(item.nodeid))
    try:
        return (yield)
    finally:
        turns.end(nextitem is not None and is_alone(nextitem.nodeid))
