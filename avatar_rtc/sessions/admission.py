"""Whether a call gets a seat: how many there are, who has one, who waits for one, and until when there are any."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection

from avatar_rtc.config import LimitsConfig
from avatar_rtc.engine.api import Engine
from avatar_rtc.sessions.capacity import Capacity, Totals
from avatar_rtc.sessions.queue import CallLengths, Queue, Ticket
from avatar_rtc.sessions.session import MOVED, Session
from signaling.errors import Unavailable
from signaling.service import NewSession

logger = logging.getLogger(__name__)

MAX_WAITING, MAX_WAITING_OF_ONE = 128, 64
"""Callers that may wait for a seat: in all, and of one owner."""
LOOK_EVERY_S = 0.25
"""One of those who wait looks for seats so often: none may have been left, and there be more of them all the same."""


class Admission:
    """Gives seats, and lets wait for them.

    Args:
        seated: the sessions that have a seat.
        new_id: makes names for tickets.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        limits: LimitsConfig,
        engine: Engine,
        seated: Callable[[], Collection[Session]],
        new_id: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._engine = engine
        self._seated = seated
        self._clock = clock
        self._capacity = Capacity()
        self._queue = Queue(MAX_WAITING, MAX_WAITING_OF_ONE, new_id)
        self._lengths = CallLengths()
        # What each ticket gets for which a request waits: a seat, as soon as it is called.
        self._waiting: dict[Ticket, tuple[asyncio.Future[Session], Callable[[], Session]]] = {}
        self._num_told = 0
        self._closed_s: float | None = None

    @property
    def num_seats(self) -> int:
        """A number of the config, or as many as the machine carries, by what it has measured."""
        if self._limits.max_sessions != "auto":
            return self._limits.max_sessions
        return self._capacity.num_seats(self._clock(), self._engine.stats().rtf_warm_up)

    @property
    def num_free(self) -> int:
        """Seats that can be had now."""
        return 0 if self.not_ready() else max(0, self.num_seats - len(self._seated()))

    @property
    def num_waiting(self) -> int:
        return len(self._queue)

    @property
    def is_closed(self) -> bool:
        """Whether no more calls are taken."""
        return self._closed_s is not None

    @property
    def _has_free(self) -> bool:
        """Whether a seat is free, and nobody waits for it."""
        return self.num_free > 0 and self._queue.first(self._clock()) is None

    def close(self, left_s: float) -> None:
        """Take no more calls; who waits is told. Those that there are go on for ``left_s`` at most; the first time counts."""
        if self._closed_s is None:
            self._closed_s = self._clock() + left_s
            for seat, _ in self._waiting.values():
                if not seat.done():
                    seat.set_exception(self._refusal())

    def not_ready(self) -> list[str]:
        """Why no call can be taken, whether or not there are seats."""
        reasons = []
        if self._closed_s is not None:
            left_s = max(0, round(self._closed_s - self._clock()))
            reasons.append(f"The server is shutting down: no new calls, and those that run end within {left_s} s.")
        stats = self._engine.stats()
        if stats.state != "ready":
            reasons.append(f"The engine is {stats.state}: {stats.message}.")
        return reasons

    def check(self) -> None:
        """Raises what ``seat`` would now, if it did not wait."""
        if self.is_closed or self._engine.stats().state != "ready":
            raise self._refusal()
        if not self._has_free:
            raise self._full(len(self._queue) + 1)

    async def seat(self, wanted: NewSession, make: Callable[[], Session]) -> Session:
        """A new session in a seat of its own. Nothing is awaited between looking and taking it, so none is promised twice.

        Args:
            make: makes the session, once there is a seat, which it takes.

        Raises:
            signaling.errors.Unavailable: there is no seat, or none within ``wanted.wait_s``; then its place is kept for a while.
        """
        if self._has_free or wanted.wait_s is None or self.not_ready():
            self.check()
            return make()
        ticket = self._queue.join(wanted.owner, wanted.ticket, self._clock())
        if ticket is None:
            raise self._full(len(self._queue) + 1)
        return await self._wait(ticket, wanted.wait_s, make)

    async def _wait(self, ticket: Ticket, wait_s: float, make: Callable[[], Session]) -> Session:
        seat: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        former, _ = self._waiting.get(ticket, (None, None))
        if former is not None and not former.done():
            former.set_exception(self._full(self._queue.place(ticket)))
        self._waiting[ticket] = seat, make
        deadline_s = self._clock() + wait_s
        try:
            self.hand_out()
            while not seat.done() and (left_s := deadline_s - self._clock()) > 0:
                await asyncio.wait((seat,), timeout=min(left_s, LOOK_EVERY_S))
                if ticket is next(iter(self._waiting), None):
                    self.hand_out()
            if seat.done():
                return seat.result()
            place = self._queue.place(ticket)
            self._queue.step_away(ticket, self._clock())
            raise self._full(place, ticket)
        except asyncio.CancelledError:
            # Who asked has gone. A newer request may wait with the same ticket.
            if self._waiting.get(ticket, (seat,))[0] is seat:
                self._queue.leave(ticket)
            if seat.done() and seat.exception() is None:
                seat.result().end("refused")
            raise
        finally:
            if self._waiting.get(ticket, (None,))[0] is seat:
                del self._waiting[ticket]

    def hand_out(self) -> None:
        """Free seats go to those whose turn it is."""
        while self.num_free and (ticket := self._queue.first(self._clock())) in self._waiting:
            assert ticket is not None
            seat, make = self._waiting.pop(ticket)
            self._queue.seat(ticket)
            seat.set_result(make())

    def freed(self, session: Session) -> None:
        """A session has ended, and no longer has its seat."""
        if session.reason not in ("refused", MOVED):
            self._lengths.add(session.age_s)
        self.hand_out()

    def learn(self) -> None:
        """Measure how fast the machine is with the calls that are live. To be called often."""
        stats = self._engine.stats()
        if stats.state != "ready":
            return
        underruns = {session.session_id: session.num_underruns for session in self._seated() if session.phase == "live"}
        busy_s = sum(seconds for stage, seconds in stats.stage_s.items() if stage != "copy")
        self._capacity.look(self._clock(), underruns, Totals(stats.chunks * self._engine.info.chunk_duration_s, busy_s))
        if self._limits.max_sessions == "auto" and (num_seats := self.num_seats) != self._num_told:
            logger.info("this machine carries %d calls, by its speed with the %d that it has", num_seats, len(underruns))
            self._num_told = num_seats

    def _refusal(self) -> Unavailable:
        """Why nobody is taken, seats or not."""
        retry_after_s = self._limits.retry_after_s
        if self.is_closed:
            return Unavailable("The server is shutting down. Call again later.", code="draining", retry_after_s=retry_after_s)
        stats = self._engine.stats()
        return Unavailable(
            f"The engine is {stats.state}: {stats.message}. Try again in {retry_after_s} s.",
            code="engine_unavailable",
            retry_after_s=retry_after_s,
        )

    def _full(self, place: int, ticket: Ticket | None = None) -> Unavailable:
        """All seats are taken, and whoever asks is at this place; with a ticket, the place is kept."""
        num_seats, ages_s = self.num_seats, [session.age_s for session in self._seated()]
        wait_s = self._lengths.wait_s(place, num_seats, ages_s)
        retry_after_s = self._limits.retry_after_s if wait_s is None else max(1, math.ceil(wait_s))
        seats = "The only seat is taken" if num_seats == 1 else f"All {num_seats} seats are taken"
        members: dict[str, object] = {}
        if ticket is not None:
            members = {"ticket": ticket.ticket_id, "place": place, "wait_s": None if wait_s is None else round(wait_s)}
            seats += f", and you are number {place} of those who wait"
        return Unavailable(f"{seats}. Try again in {retry_after_s} s.", code="full", retry_after_s=retry_after_s, members=members)
