"""What SIGINT and SIGTERM ask of a program that serves."""

from __future__ import annotations

import asyncio
import signal


class Shutdown:
    """SIGTERM lets calls go on for a while; SIGINT, or a second signal of either kind, does not wait. One that comes before the
    program serves cancels the task that starts it. To be made in that task.

    Attributes:
        leave: the program is to end.
        hurry: nobody is waited for.
        has_started: the program serves.
    """

    def __init__(self) -> None:
        self.leave, self.hurry = asyncio.Event(), asyncio.Event()
        self.has_started = False
        task = asyncio.current_task()
        assert task is not None
        self._starting = task
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGINT or self.leave.is_set() or not self.has_started:
            self.hurry.set()
        self.leave.set()
        if not self.has_started:
            self._starting.cancel()
