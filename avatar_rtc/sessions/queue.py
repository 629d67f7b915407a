"""Who waits for a seat, in which order, and for about how long: values, without I/O and without a clock of their own.

Owners take turns, and the callers of each are served in the order in which they came: an owner that joins is behind all that are
there, and one that got a seat goes to the end of them. So between two turns of an owner every other has one at most, however many
come. Where there is one owner, this is a line.
"""

from __future__ import annotations

import heapq
import itertools
import random
import secrets
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

RETURN_S = 2.0
"""A seat waits for so long for somebody who is between two requests."""
KEPT_S = 15.0
"""So long a place is kept that nobody asks for."""
NUM_REMEMBERED = 64
"""Calls by which it is reckoned how long calls last."""
NUM_KNOWN = 3
"""Before so many have ended, nobody is told how long it takes."""
NUM_DRAWS = 32


_random_id = partial(secrets.token_hex, 16)


@dataclass(eq=False)
class Ticket:
    """A place among those that wait.

    Attributes:
        ticket_id: known to its holder only.
        owner: id of the principal that calls.
        away_s: since when no request waits with it; None while one does.
    """

    owner: str
    ticket_id: str
    away_s: float | None = None


class Queue:
    """Those who wait.

    Args:
        max_length: so many may wait.
        max_of_one: and so many of one owner, so that there is room for others.
        new_id: makes names for tickets.
    """

    def __init__(self, max_length: int, max_of_one: int, new_id: Callable[[], str] = _random_id) -> None:
        self._max_length = max_length
        self._max_of_one = max_of_one
        self._new_id = new_id
        self._waiting: dict[str, list[Ticket]] = {}  # by owner; whose turn is next comes first

    def __len__(self) -> int:
        return sum(len(tickets) for tickets in self._waiting.values())

    def join(self, owner: str, ticket_id: str | None, now_s: float) -> Ticket | None:
        """Take a place, or go on with that of a ticket. None: there is no room."""
        self._forget(now_s)
        tickets = self._waiting.get(owner, [])
        ticket = next((ticket for ticket in tickets if ticket.ticket_id == ticket_id), None)
        if ticket is None:
            if len(self) >= self._max_length or len(tickets) >= self._max_of_one:
                return None
            ticket = Ticket(owner, self._new_id())
            self._waiting.setdefault(owner, []).append(ticket)
        ticket.away_s = None
        return ticket

    def step_away(self, ticket: Ticket, now_s: float) -> None:
        """Its request was answered; the place is kept for a while."""
        ticket.away_s = now_s

    def leave(self, ticket: Ticket) -> None:
        """Give the place up."""
        tickets = self._waiting.get(ticket.owner, [])
        if ticket in tickets:
            tickets.remove(ticket)
        if not tickets:
            self._waiting.pop(ticket.owner, None)

    def seat(self, ticket: Ticket) -> None:
        """It has got a seat; the next one is for another owner."""
        self.leave(ticket)
        if ticket.owner in self._waiting:
            self._waiting[ticket.owner] = self._waiting.pop(ticket.owner)

    def order(self) -> list[Ticket]:
        """Everybody, in the order in which they get seats if nobody else comes."""
        rounds = itertools.zip_longest(*self._waiting.values())
        return [ticket for turn in rounds for ticket in turn if ticket is not None]

    def place(self, ticket: Ticket) -> int:
        """1: it gets the next seat."""
        return self.order().index(ticket) + 1

    def first(self, now_s: float) -> Ticket | None:
        """Whose turn it is: that of the first who asks, or did a moment ago. None: whoever comes next may have the seat."""
        self._forget(now_s)
        here = (ticket for ticket in self.order() if ticket.away_s is None or now_s - ticket.away_s <= RETURN_S)
        return next(here, None)

    def _forget(self, now_s: float) -> None:
        for ticket in self.order():
            if ticket.away_s is not None and now_s - ticket.away_s > KEPT_S:
                self.leave(ticket)


class CallLengths:
    """How long calls last, and so when seats become free."""

    def __init__(self) -> None:
        self._lengths_s: deque[float] = deque(maxlen=NUM_REMEMBERED)

    def add(self, length_s: float) -> None:
        """A call has ended after so long."""
        self._lengths_s.append(length_s)

    def wait_s(self, place: int, num_seats: int, ages_s: Sequence[float]) -> float | None:
        """In how many seconds a place gets its seat: the median of what happens if calls go on as those before did.

        Args:
            ages_s: how long the calls have lasted that have seats.

        Returns:
            None where too few have ended to tell.
        """
        if len(self._lengths_s) < NUM_KNOWN:
            return None
        chance = random.Random(place)
        lengths_s = list(self._lengths_s)
        # What is left of a call, if it is one of those that lasted for longer; one that outlasts all may do so once more.
        lefts_s = [[length - age for length in lengths_s if length > age] or lengths_s for age in ages_s]
        num_to_end = place + max(0, len(ages_s) - num_seats)
        waits_s = []
        for _ in range(NUM_DRAWS):
            ends_s = [chance.choice(left_s) for left_s in lefts_s] + [0.0] * (num_seats - len(ages_s))
            heapq.heapify(ends_s)
            for _ in range(num_to_end - 1):
                heapq.heapreplace(ends_s, ends_s[0] + chance.choice(lengths_s))
            waits_s.append(ends_s[0])
        return statistics.median(waits_s)
