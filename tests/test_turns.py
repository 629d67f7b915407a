"""What runs in real time has the machine for itself, however many processes the tests are split over."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.conftest import Turns

SOON_S = 0.2
LATE_S = 20


def begun(turns: Turns, alone: bool) -> threading.Event:
    """Set as soon as the other process, played by a thread, may run its test."""
    event = threading.Event()

    def begin() -> None:
        turns.begin(alone)
        event.set()

    threading.Thread(target=begin, daemon=True).start()
    return event


def test_alone_is_alone_and_not_kept_waiting_by_tests_that_come_later(tmp_path: Path) -> None:
    files = tmp_path / "gate", tmp_path / "floor"
    for file in files:
        file.touch()
    many, also, alone, later = (Turns(*files) for _ in range(4))
    many.begin(False)
    assert begun(also, False).wait(LATE_S)
    real_time = begun(alone, True)
    assert not real_time.wait(SOON_S), "two others still run"
    other = begun(later, False)
    assert not other.wait(SOON_S), "who comes later lets it go first"
    many.end(False)
    also.end(False)
    assert real_time.wait(LATE_S)
    alone.end(True)
    alone.begin(True)
    assert not other.wait(SOON_S), "the next one that runs alone follows at once"
    alone.end(False)
    assert other.wait(LATE_S)
