"""Whether a call gets a seat: how many there are, and whether any are given."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from avatar_rtc.config import LimitsConfig
from avatar_rtc.engine.api import Engine
from avatar_rtc.sessions.capacity import Capacity, Totals
from signaling.errors import Unavailable

logger = logging.getLogger(__name__)


class Admission:
    """Counts seats; who sits in them it is told."""

    def __init__(self, limits: LimitsConfig, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._engine = engine
        self._clock = clock
        self._capacity = Capacity()
        self._num_told = 0
        self._closed_s: float | None = None

    @property
    def num_seats(self) -> int:
        """A number of the config, or as many as the machine carries, by what it has measured."""
        if self._limits.max_sessions != "auto":
            return self._limits.max_sessions
        return self._capacity.num_seats(self._clock(), self._engine.stats().rtf_warm_up)

    @property
    def is_closed(self) -> bool:
        """Whether no more calls are taken."""
        return self._closed_s is not None

    def close(self, left_s: float) -> None:
        """Take no more calls. Those that there are go on for ``left_s`` at most; the first time counts."""
        if self._closed_s is None:
            self._closed_s = self._clock() + left_s

    def learn(self, underruns: Mapping[str, int]) -> None:
        """Measure how fast the machine is with the calls that are live. To be told often, and whenever they change.

        Args:
            underruns: how often each of them has run dry, by their ids.
        """
        stats = self._engine.stats()
        if stats.state != "ready":
            return
        busy_s = sum(seconds for stage, seconds in stats.stage_s.items() if stage != "copy")
        self._capacity.look(self._clock(), underruns, Totals(stats.chunks * self._engine.info.chunk_duration_s, busy_s))
        if self._limits.max_sessions == "auto" and self.num_seats != self._num_told:
            logger.info("this machine carries %d calls, by its speed with the %d that it has", self.num_seats, len(underruns))
            self._num_told = self.num_seats

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

    def check(self, num_taken: int) -> None:
        """Raises ``Unavailable`` where there is no seat, with so many taken."""
        retry_after_s = self._limits.retry_after_s
        if self.is_closed:
            raise Unavailable("The server is shutting down. Call again later.", code="draining", retry_after_s=retry_after_s)
        stats = self._engine.stats()
        if stats.state != "ready":
            raise Unavailable(
                f"The engine is {stats.state}: {stats.message}. Try again in {retry_after_s} s.",
                code="engine_unavailable",
                retry_after_s=retry_after_s,
            )
        num_seats = self.num_seats
        if num_taken >= num_seats:
            seats = "The only seat is taken" if num_seats == 1 else f"All {num_seats} seats are taken"
            raise Unavailable(f"{seats}. Try again in {retry_after_s} s.", code="full", retry_after_s=retry_after_s)
