"""How the tests are split over processes: what runs in real time goes first, and before what computes."""

from __future__ import annotations

import os
import threading

import pytest

from tests.conftest import FIRST, REAL_TIME, give_way, group, turn


def test_groups_that_run_in_real_time_begin_and_what_converts_pocket_follows() -> None:
    page, call = "tests/e2e/test_page.py::test_a", "tests/avatar_rtc/sessions/test_calls.py::test_b"
    film, rest = f"{FIRST[0]}::test_c", "tests/model/test_vae.py::test_d"
    assert [group(nodeid) for nodeid in (page, call, film, rest)] == [*REAL_TIME, None, None]
    assert sorted((rest, film, call, page), key=turn) == [page, call, film, rest]


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system has no such priority")
def test_what_computes_gives_way() -> None:
    before = os.sched_getscheduler(0)
    found: list[int] = []

    def compute() -> None:
        give_way()
        found.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    assert (found, os.sched_getscheduler(0)) == ([os.SCHED_IDLE], before), "of this thread alone"
