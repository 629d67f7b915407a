"""The one media clock of a session. Pictures and sound are sent when it says so, and stamped with what it says.

Media time starts at 0 with the first picture. All positions are integers of the stream's own rates; the clock only says when a
position is due. It stands still while nobody watches. After a stall of the machine (a laptop that slept) media time is moved on
for both kinds at once, so that nothing is sent in a burst and nothing drifts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from fractions import Fraction

MAX_LATE_S = 1.0
"""Later than this nothing is caught up any more: the media clock is stopped for the length of the stall."""

NTP_EPOCH_OFFSET_S = 2_208_988_800


class MediaClock:
    """Maps media time to the monotonic clock and back.

    Args:
        now: seconds of a monotonic clock.
        wall: seconds since 1970, read once at the start: sender reports need wall time, and must not jump with it.
        sleep: waits for so many seconds of ``now``.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.now = now
        self._wall = wall
        self.sleep = sleep
        self._start_s: float | None = None
        self._wall_start_s = 0.0
        self._stopped_s: float | None = None
        self._goes = asyncio.Event()
        self._goes.set()

    @property
    def started(self) -> bool:
        return self._start_s is not None

    @property
    def is_stopped(self) -> bool:
        return self._stopped_s is not None

    def start(self) -> None:
        """Media time 0 is now. A second call changes nothing."""
        if self._start_s is None:
            self._start_s = self.now()
            self._wall_start_s = self._wall()

    def stop(self) -> None:
        """Media time stands still until ``go_on``; idempotent."""
        if self._stopped_s is None:
            self._stopped_s = self.now()
            self._goes.clear()

    def go_on(self) -> None:
        """Media time goes on where it stood; idempotent."""
        if self._stopped_s is not None:
            stood_s, self._stopped_s = self.now() - self._stopped_s, None
            if self._start_s is not None:
                self._start_s += stood_s
                self._wall_start_s += stood_s
            self._goes.set()

    def media_s(self) -> float:
        """Media time now; 0 before the start."""
        now = self.now() if self._stopped_s is None else self._stopped_s
        return 0.0 if self._start_s is None else max(0.0, now - self._start_s)

    def late_s(self, due: Fraction) -> float:
        """How long ago ``due`` was; negative while it lies ahead."""
        return self.media_s() - float(due)

    def forgive(self, due: Fraction) -> bool:
        """Move media time so that ``due`` is now, if it is later than ``MAX_LATE_S``. Returns whether it was."""
        late_s = self.late_s(due)
        if self._start_s is None or late_s <= MAX_LATE_S:
            return False
        self._start_s += late_s
        self._wall_start_s += late_s
        return True

    async def wait(self, due: Fraction) -> None:
        """Sleep until ``due``; at least once through the event loop, so that a late track starves nobody."""
        while True:
            await self._goes.wait()
            await self.sleep(max(0.0, -self.late_s(due)))
            if not self.is_stopped and self.late_s(due) >= -1e-3:
                return

    def ntp(self, media_s: float) -> int:
        """Wall time of a media time as a 64-bit NTP timestamp, for sender reports."""
        return int((self._wall_start_s + media_s + NTP_EPOCH_OFFSET_S) * (1 << 32))
