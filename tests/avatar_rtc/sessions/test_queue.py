"""Who waits for a seat: in which order, whose turn it is, and how long it takes."""

from __future__ import annotations

import heapq
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from avatar_rtc.sessions.queue import KEPT_S, RETURN_S, CallLengths, Queue, Ticket


def joined(queue: Queue, owners: str) -> list[Ticket]:
    """A ticket for each letter, which is its owner."""
    tickets = [queue.join(owner, None, 0.0) for owner in owners]
    assert None not in tickets
    return [ticket for ticket in tickets if ticket is not None]


@pytest.mark.parametrize(
    ("owners", "order"),
    [
        ("aaa", [0, 1, 2]),
        ("abc", [0, 1, 2]),
        ("aaab", [0, 3, 1, 2]),
        ("aabbc", [0, 2, 4, 1, 3]),
    ],
)
def test_owners_take_turns_and_the_callers_of_each_come_in_order(owners: str, order: list[int]) -> None:
    queue = Queue(10, 10)
    tickets = joined(queue, owners)
    assert [tickets.index(ticket) for ticket in queue.order()] == order
    assert [queue.place(tickets[number]) for number in order] == list(range(1, len(owners) + 1))
    for number in order:
        ticket = queue.first(0.0)
        assert ticket is tickets[number]
        queue.seat(ticket)
    assert len(queue) == 0
    assert queue.first(0.0) is None


def test_who_comes_later_does_not_overtake_an_owner_that_has_waited() -> None:
    queue = Queue(1000, 1000)
    joined(queue, "aa")
    seated = []
    for number in range(3):
        queue.join(f"passer-by {number}", None, 0.0)
        ticket = queue.first(0.0)
        assert ticket is not None
        seated.append(ticket.owner)
        queue.seat(ticket)
    assert seated == ["a", "passer-by 0", "a"], "in turns with those that were there, however many come"


def test_a_place_is_kept_for_who_asks_again_and_no_longer() -> None:
    queue = Queue(10, 10)
    first, second = joined(queue, "aa")
    queue.step_away(first, 100.0)
    assert queue.first(100.0 + RETURN_S) is first, "a seat waits for a moment"
    assert queue.first(100.0 + RETURN_S + 0.1) is second
    assert queue.join("a", first.ticket_id, 100.0 + KEPT_S) is first
    assert queue.place(first) == 1
    stranger = queue.join("b", first.ticket_id, 101.0)
    assert stranger not in (first, None), "a ticket is good for its owner only"
    queue.step_away(first, 200.0)
    queue.step_away(second, 200.0)
    assert queue.first(200.0 + KEPT_S + 0.1) is stranger
    assert len(queue) == 1
    again = queue.join("a", first.ticket_id, 300.0)
    assert again not in (first, None)


def test_there_is_room_for_so_many_and_for_more_than_one_owner() -> None:
    queue = Queue(4, 3)
    kept, *_ = joined(queue, "aaa")
    assert queue.join("a", None, 0.0) is None
    assert queue.join("a", kept.ticket_id, 0.0) is kept
    joined(queue, "b")
    assert queue.join("c", None, 0.0) is None
    queue.leave(kept)
    queue.leave(kept)
    joined(queue, "c")


@dataclass
class Caller:
    owner: str
    length_s: float
    expected_s: float | None = None
    waited_s: float = 0.0


def simulate(callers: list[Caller], num_seats: int, every_s: float, history_s: list[float]) -> list[Caller]:
    """Everybody comes, ``every_s`` after the one before; returned in the order in which they got seats."""
    queue, lengths = Queue(len(callers), len(callers)), CallLengths()
    for length_s in history_s:
        lengths.add(length_s)
    seated: list[Caller] = []
    waiting: dict[Ticket, tuple[Caller, float]] = {}
    calls: list[tuple[float, float, float]] = []  # ends, began, length
    arrivals = [(number * every_s, caller) for number, caller in enumerate(callers)]
    while arrivals or calls:
        if arrivals and (not calls or arrivals[0][0] <= calls[0][0]):
            now_s, caller = arrivals.pop(0)
            ticket = queue.join(caller.owner, None, now_s)
            assert ticket is not None
            waiting[ticket] = caller, now_s
            if len(calls) == num_seats:
                caller.expected_s = lengths.wait_s(queue.place(ticket), num_seats, [now_s - began_s for _, began_s, _ in calls])
        else:
            now_s, _, length_s = heapq.heappop(calls)
            lengths.add(length_s)
        while len(calls) < num_seats and (next_one := queue.first(now_s)) is not None:
            caller, came_s = waiting.pop(next_one)
            queue.seat(next_one)
            caller.waited_s = now_s - came_s
            heapq.heappush(calls, (now_s + caller.length_s, now_s, caller.length_s))
            seated.append(caller)
    return seated


LENGTHS: dict[str, Callable[[random.Random], float]] = {
    "all alike": lambda chance: 120.0,
    "as one likes": lambda chance: chance.uniform(30, 300),
    "without memory": lambda chance: chance.expovariate(1 / 120),
    "many short ones, some long": lambda chance: chance.lognormvariate(4.3, 1.0),
}


@pytest.mark.parametrize("kind", list(LENGTHS))
@pytest.mark.parametrize("every_s", [0.0, 15.0])
def test_a_hundred_callers_for_four_seats_wait_about_as_long_as_they_are_told(kind: str, every_s: float) -> None:
    errors = []
    for seed in range(5):
        chance = random.Random(seed)
        history_s = [LENGTHS[kind](chance) for _ in range(64)]
        callers = [Caller("anyone", LENGTHS[kind](chance)) for _ in range(100)]
        assert simulate(callers, 4, every_s, history_s) == callers, "one owner's callers come in order"
        told = [(caller.expected_s, caller.waited_s) for caller in callers if caller.expected_s is not None]
        assert len(told) > 80
        errors += [abs(expected_s - waited_s) / waited_s for expected_s, waited_s in told]
    assert statistics.median(errors) < 0.3


def test_of_two_principals_neither_starves_the_other() -> None:
    callers = [Caller("crowd", 60.0) for _ in range(80)] + [Caller("few", 60.0) for _ in range(20)]
    seated = simulate(callers, 4, 0.0, [60.0] * 5)
    for owner in ("crowd", "few"):
        own = [caller for caller in callers if caller.owner == owner]
        assert [caller for caller in seated if caller.owner == owner] == own
    assert {caller.owner for caller in seated[:4]} == {"crowd"}
    in_turns = {caller.owner for caller in seated[4:44:2]}, {caller.owner for caller in seated[5:44:2]}
    assert in_turns in (({"crowd"}, {"few"}), ({"few"}, {"crowd"}))


def test_nobody_is_told_how_long_it_takes_before_that_is_known() -> None:
    lengths = CallLengths()
    lengths.add(60)
    lengths.add(60)
    assert lengths.wait_s(1, 1, [10]) is None
    lengths.add(60)
    assert lengths.wait_s(1, 1, [10]) == 50
    assert lengths.wait_s(2, 1, [10]) == 110
    assert lengths.wait_s(1, 2, [10, 40]) == 20
    assert lengths.wait_s(1, 2, [10]) == 0, "a seat is free"
    assert lengths.wait_s(1, 1, [10, 40]) == 50, "there are fewer seats than before"
    assert lengths.wait_s(1, 1, [90]) == 60, "one that outlasts all others may do so once more"
