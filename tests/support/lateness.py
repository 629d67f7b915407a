"""How late the event loop itself is: on a busy machine, what a test measures by the clock holds the machine's share, too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

TICK_S = 0.005
TIMER_S = 0.002
"""An idle loop is late by less: the timer's own grain."""


class Lateness:
    """What a task that only ever sleeps ``TICK_S`` was late by."""

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []

    def total_s(self, since_s: float) -> float:
        """All of it since ``time.monotonic()`` was ``since_s``: what whoever ran beside it may have waited for its turns."""
        return sum(late_s for at_s, late_s in self._late if at_s >= since_s)

    def worst_s(self, since_s: float) -> float:
        """The longest time that the loop stood still."""
        return max((late_s for at_s, late_s in self._late if at_s >= since_s), default=0.0)

    async def watch(self) -> None:
        before_s = time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now_s = time.monotonic()
            self._late.append((now_s, max(0.0, now_s - before_s - TICK_S - TIMER_S)))
            before_s = now_s


@asynccontextmanager
async def lateness() -> AsyncIterator[Lateness]:
    found = Lateness()
    watching = asyncio.create_task(found.watch())
    try:
        yield found
    finally:
        watching.cancel()
        await asyncio.wait([watching])
