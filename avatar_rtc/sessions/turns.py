"""What changes a session happens one thing after the other, and each command once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from avatar_rtc.logs import SessionLog
from signaling.vocabulary import Command, EventError

MAX_REMEMBERED_OUTCOMES = 1024
MAX_WAITING_COMMANDS = 256

OnOutcome = Callable[[EventError | None], None]
"""Hears how something ended: None if it was carried out."""


Outcome = tuple[str, tuple[str, str] | None]
"""The ``event_id`` of a command that was carried out; code and message where it could not be."""


@dataclass(frozen=True)
class _Job:
    """Something that waits for its turn, and who hears how it ended."""

    act: Callable[[], Awaitable[EventError | None]]
    on_outcome: OnOutcome


class Turns:
    """Commands, and whatever else changes a session. One whose ``event_id`` comes again has the outcome of the first.

    Args:
        carry_out: does what a command says; raises ``EventError`` where it cannot be done.
    """

    def __init__(self, carry_out: Callable[[Command], Awaitable[None]], log: SessionLog) -> None:
        self._carry_out = carry_out
        self._log = log
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._outcomes: OrderedDict[str, EventError | None] = OrderedDict()
        self._is_over = False
        self._is_busy = False

    def submit(self, command: Command, on_outcome: OnOutcome) -> None:
        """Let a command wait for its turn; bounded.

        Raises:
            EventError: it cannot wait.
        """
        if self._is_over:
            raise session_over()
        if self._jobs.qsize() >= MAX_WAITING_COMMANDS:
            raise EventError("queue_full", "Too many events wait to be carried out. Send fewer.", command.event_id)
        self._jobs.put_nowait(_Job(lambda: self._once(command), on_outcome))

    async def handle(self, command: Command) -> None:
        """Have a command carried out; returns when it is done.

        Raises:
            EventError: it could not be carried out.
        """
        await _outcome_of(lambda on_outcome: self.submit(command, on_outcome))

    async def take(self, act: Callable[[], Awaitable[None]]) -> None:
        """Do something when it is its turn; returns when it is done. Raises ``EventError`` as it does."""

        async def job() -> EventError | None:
            try:
                await act()
            except EventError as error:
                return error
            return None

        await _outcome_of(lambda on_outcome: self._jobs.put_nowait(_Job(job, on_outcome)))

    def take_soon(self, act: Callable[[], Awaitable[None]]) -> None:
        """Do something when it is its turn; returns at once."""

        async def job() -> None:
            await act()

        self._jobs.put_nowait(_Job(job, lambda outcome: None))

    @property
    def are_waiting(self) -> bool:
        """Whether there is something that has not been done."""
        return self._is_busy or not self._jobs.empty()

    @property
    def outcomes(self) -> list[Outcome]:
        """What became of the latest commands that have an ``event_id``."""
        outcomes = self._outcomes.items()
        return [(event_id, None if error is None else (error.code, error.message)) for event_id, error in outcomes]

    def recall(self, outcomes: Iterable[Outcome]) -> None:
        """These were carried out elsewhere."""
        for event_id, error in outcomes:
            self._outcomes[event_id] = None if error is None else EventError(*error, event_id)

    def surprised(self, event_id: str | None) -> EventError:
        """A command has met an error of ours, which is being handled: whoever sent it hears so, and the session goes on."""
        self._log.exception("an event failed")
        return EventError("internal_error", "The server failed to carry this out; its log says why.", event_id)

    async def run(self) -> None:
        """Do what waits, one after the other, until it is cancelled."""
        while True:
            job = await self._jobs.get()
            self._is_busy = True
            outcome: EventError | None = session_over()  # also when it ends in the middle: nobody waits for ever
            try:
                outcome = await job.act()
            finally:
                self._is_busy = False
                job.on_outcome(outcome)

    def close(self) -> None:
        """Nothing that waits is done any more. To be called when ``run`` has ended."""
        self._is_over = True
        while not self._jobs.empty():
            self._jobs.get_nowait().on_outcome(session_over())

    async def _once(self, command: Command) -> EventError | None:
        event_id = command.event_id
        if event_id is not None and event_id in self._outcomes:
            return self._outcomes[event_id]
        outcome: EventError | None = None
        try:
            await self._carry_out(command)
        except EventError as error:
            outcome = EventError(error.code, error.message, event_id)
        except Exception:
            outcome = self.surprised(event_id)
        if event_id is not None:
            self._outcomes[event_id] = outcome
            if len(self._outcomes) > MAX_REMEMBERED_OUTCOMES:
                self._outcomes.popitem(last=False)
        return outcome


async def _outcome_of(begin: Callable[[OnOutcome], None]) -> None:
    """Begin something, and wait until it has ended. Raises ``EventError`` if it ended with one."""
    done: asyncio.Future[EventError | None] = asyncio.get_running_loop().create_future()

    def on_outcome(outcome: EventError | None) -> None:
        if not done.done():
            done.set_result(outcome)

    begin(on_outcome)
    if (outcome := await done) is not None:
        raise outcome


def session_over() -> EventError:
    """A command came too late."""
    return EventError("session_over", "The session is over. Start a new one.")
