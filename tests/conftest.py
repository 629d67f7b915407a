"""Skips what this machine cannot run, says which machine it is, and splits the tests over processes."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator
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

REAL_TIME = {
    "services": (
        "tests/e2e/",
        "tests/avatar_rtc/cluster/test_ray.py",
        "tests/avatar_rtc/test_hallo_live_call.py",
        "tests/avatar_rtc/outputs/test_recording.py",
        "tests/test_benchmarks.py::test_as_many_calls",
    ),
    "calls": (
        "tests/avatar_rtc/cluster/",
        "tests/avatar_rtc/ears/",
        "tests/avatar_rtc/mind/",
        "tests/avatar_rtc/outputs/",
        "tests/avatar_rtc/sessions/",
        "tests/avatar_rtc/test_",
        "tests/signaling/",
        "tests/test_clip.py",
        "tests/test_docs.py",
        "tests/test_fuzz.py",
    ),
}
"""What waits more than it computes and must not be kept waiting, by the beginnings of names; of each group one test at a time."""
FIRST = (
    "tests/avatar_rtc/test_film.py",
    "tests/model/test_pocket.py",
    "tests/model/training/test_pocket_runs.py",
    "tests/model/test_hallo_live.py",
    "tests/golden/",
)
"""What computes longest, so that no process is left with it at the end; the one that converts pocket before all others."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", default=str(GOLDEN), metavar="DIR", help="golden fixtures of the published modules")


def pytest_report_header() -> str:
    from benchmarks import machine

    return f"machine: {machine.headline(machine.describe(resources.num_cores()))}"


def group(nodeid: str) -> str | None:
    """In which it runs in real time; None of what computes."""
    if nodeid.startswith(FIRST):
        return None
    return next((name for name, beginnings in REAL_TIME.items() if nodeid.startswith(beginnings)), None)


def turn(nodeid: str) -> int:
    """The smaller, the sooner."""
    name = group(nodeid)
    if name is not None:
        return list(REAL_TIME).index(name) - len(REAL_TIME)
    return next((i for i, beginning in enumerate(FIRST) if nodeid.startswith(beginning)), len(FIRST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: turn(item.nodeid))
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what is imported stays, so looking for garbage in a test passes over it


# -- in several processes (pytest -n) --------------------------------------------------------------------------------------------


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: what runs in real time mostly waits."""
    return resources.num_cores() + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file stays in one process, whose fixtures it shares; so does each group that runs in real time, from the beginning."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid) or nodeid.partition("::")[0]

    config.option.loadscopereorder = False  # our order
    return ByFile(config, log)


def give_way() -> None:
    """From now on this thread, and what it starts, gets what others leave of the cores. Nobody but root can take that back."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)


gives_way = NUM_WORKERS == 1  # one process has nobody to give way to


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool, bool]:
    global gives_way
    if not gives_way and group(item.nodeid) is None:
        give_way()
        gives_way = True
    return (yield)
