"""How many calls a machine carries: what is expected, and what is learned from what happened."""

from __future__ import annotations

from itertools import pairwise

import pytest

from avatar_rtc.sessions import capacity
from avatar_rtc.sessions.capacity import HALF_LIFE_S, Capacity, Totals


class Machine:
    """A machine that is told about as a registry would: each second, with so many calls."""

    def __init__(self) -> None:
        self.capacity = Capacity()
        self.now_s = 0.0
        self._totals = Totals()
        self._underruns: dict[str, int] = {}

    def serve(self, num_calls: int, seconds: int, factor: float, underruns_a_minute: float = 0.0) -> None:
        """So many calls, each of which makes a second of media a second; the first one runs dry."""
        self._underruns = {f"call {number}": self._underruns.get(f"call {number}", 0) for number in range(num_calls)}
        owed = 0.0
        self.capacity.look(self.now_s, self._underruns, self._totals)
        for _ in range(seconds):
            self.now_s += 1
            owed += underruns_a_minute / 60
            if owed >= 1:
                owed -= 1
                self._underruns["call 0"] += 1
            self._totals = Totals(self._totals.made_s + num_calls, self._totals.busy_s + num_calls * factor)
            self.capacity.look(self.now_s, self._underruns, self._totals)

    def num_seats(self, warm_up: float) -> int:
        return self.capacity.num_seats(self.now_s, warm_up)


@pytest.mark.parametrize(("warm_up", "num_seats"), [(0.0, 30), (0.05, 11), (0.24, 3), (0.42, 2), (0.43, 1), (0.9, 1), (2.0, 1)])
def test_before_the_first_call_the_warm_up_says_how_many_fit(warm_up: float, num_seats: int) -> None:
    assert Machine().num_seats(warm_up) == num_seats


def test_one_more_call_is_expected_to_be_as_fast_as_those_that_there_are() -> None:
    machine = Machine()
    machine.serve(1, 60, factor=0.1)
    assert machine.num_seats(warm_up=0.24) > 3, "it was a slow warm-up"
    machine.serve(2, 60, factor=0.32)
    assert machine.num_seats(warm_up=0.24) == 2, "two take more than one has promised; a third would not fit"


def test_calls_that_slow_one_another_down_are_expected_to_go_on_so() -> None:
    machine = Machine()
    machine.serve(1, 60, factor=0.2)
    machine.serve(2, 60, factor=0.2)
    assert machine.num_seats(warm_up=0.17) == 3
    machine = Machine()
    machine.serve(1, 60, factor=0.2)
    machine.serve(2, 60, factor=0.25)
    assert machine.num_seats(warm_up=0.17) == 2, "with a third, 0.3 each"


def test_a_number_of_calls_that_was_too_many_is_not_tried_again_soon_but_later() -> None:
    machine = Machine()
    machine.serve(2, 60, factor=0.2)
    assert machine.num_seats(warm_up=0.2) == 3
    machine.serve(3, 60, factor=0.4)
    assert machine.num_seats(warm_up=0.2) == 2
    machine.serve(2, 60, factor=0.2)
    assert machine.num_seats(warm_up=0.2) == 2, "one has left, but nobody takes the seat"
    machine.now_s += 5 * HALF_LIFE_S
    assert machine.num_seats(warm_up=0.2) == 3


def test_calls_that_run_dry_are_too_many_however_fast_the_engine_says_it_is() -> None:
    machine = Machine()
    machine.serve(2, 60, factor=0.1)
    assert machine.num_seats(warm_up=0.1) == 6
    machine.serve(4, 120, factor=0.1, underruns_a_minute=12)
    assert machine.num_seats(warm_up=0.1) == 3
    machine = Machine()
    machine.serve(4, 120, factor=0.1, underruns_a_minute=1)
    assert machine.num_seats(warm_up=0.1) == 6, "one in four minutes of media is an accident"


def test_a_machine_that_becomes_busy_and_free_again_is_followed_within_a_minute() -> None:
    machine = Machine()
    machine.serve(2, 600, factor=0.25)
    assert machine.num_seats(warm_up=0.25) == 3
    machine.serve(2, 60, factor=0.44)
    assert machine.num_seats(warm_up=0.25) == 2
    machine.serve(2, 60, factor=0.25)
    assert machine.num_seats(warm_up=0.25) == 2, "half of what it remembers is of the busy minute"
    machine.serve(2, 60, factor=0.24)
    assert machine.num_seats(warm_up=0.25) == 3


@pytest.mark.parametrize(("margin", "is_steady"), [(capacity.MARGIN, True), (0.0, False)])
def test_at_the_bound_the_number_does_not_go_up_and_down(margin: float, is_steady: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "MARGIN", margin)
    machine, told = Machine(), []
    machine.serve(2, 120, factor=0.27)
    for second in range(600):
        machine.serve(2, 1, factor=0.3 if second % 20 < 10 else 0.24)
        told.append(machine.num_seats(warm_up=0.27))
    num_changes = sum(now != before for before, now in pairwise(told))
    assert (num_changes <= 1) == is_steady, num_changes


def test_what_happens_while_calls_come_and_go_is_nobodys() -> None:
    machine = Capacity()
    machine.look(0, {"a": 0}, Totals())
    machine.look(10, {"b": 0}, Totals(10, 9))
    machine.look(20, {}, Totals(20, 18))
    machine.look(30, {"b": 0}, Totals(30, 27))
    assert machine.num_seats(30, warm_up=0.2) == 3
