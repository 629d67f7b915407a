"""Simulated time: tasks sleep on it, and it moves only when all of them sleep."""

from __future__ import annotations

import asyncio
import heapq
import itertools


class SimulatedClock:
    """``now`` and ``sleep`` for whatever takes a clock; ``run_until`` moves time."""

    def __init__(self, start_s: float = 1000.0) -> None:
        self.time_s = start_s
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> float:
        return self.time_s

    async def sleep(self, duration_s: float) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.time_s + max(0.0, duration_s), next(self._order), waiting))
        await waiting

    async def run_until(self, end_s: float) -> None:
        """Let tasks run until simulated time is ``end_s``."""
        ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
        while True:
            await asyncio.sleep(0)
            if ready:  # who was woken has not gone to sleep again
                continue
            if not self._sleepers or self._sleepers[0][0] > end_s:
                self.time_s = end_s
                return
            due_s, _, waiting = heapq.heappop(self._sleepers)
            self.time_s = max(self.time_s, due_s)
            if not waiting.done():
                waiting.set_result(None)
