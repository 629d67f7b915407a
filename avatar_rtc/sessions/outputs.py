"""Where a session goes besides to its viewers: which outputs it has, and what is told of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from avatar_rtc.config import ServerConfig
from avatar_rtc.event_log import EventLog
from avatar_rtc.logs import SessionLog
from avatar_rtc.media.broadcast import Broadcast
from avatar_rtc.media.clock import MediaClock
from avatar_rtc.metrics import Metrics
from avatar_rtc.outputs.output import Output
from avatar_rtc.outputs.recording import Recording
from avatar_rtc.outputs.targets import check_host, check_target
from avatar_rtc.outputs.whip import Push
from model.chunk import StreamInfo
from signaling.errors import Conflict, NotFound, Unprocessable
from signaling.outputs import file_url
from signaling.service import NewOutput, NewPush
from signaling.vocabulary import Event, OutputEnded, OutputStarted, OutputUpdated

MAX_OUTPUTS = 16
"""Of one session, with those that are over and still tell how they ended."""
FINISH_TIMEOUT_S = 60.0
"""A recording of hours is copied once more when it ends."""


async def check_output(config: ServerConfig, wanted: NewOutput) -> None:
    """Raises ``signaling.errors.Unprocessable`` where this server cannot do that for anybody."""
    if isinstance(wanted, NewPush):
        await check_host(check_target(wanted.url, config.whip.allow), config.whip.allow)
    elif config.recording.directory is None:
        raise Unprocessable(
            "This server keeps no recordings. Set recording.directory in its config to a directory that it may write to.",
            code="no_recordings",
        )


class Outputs:
    """The outputs of one session; each has a task, which ends with it.

    Args:
        broadcast: what they read.
        events: of the session; what becomes of an output is appended.
        on_change: told when one has begun, has another state, or is over.
    """

    def __init__(
        self,
        session_id: str,
        config: ServerConfig,
        broadcast: Broadcast,
        clock: MediaClock,
        info: StreamInfo,
        metrics: Metrics,
        events: EventLog,
        log: SessionLog,
        on_change: Callable[[], None],
    ) -> None:
        self._session_id = session_id
        self._config = config
        self._broadcast = broadcast
        self._clock = clock
        self._metrics = metrics
        self._info = info
        self._events = events
        self._log = log
        self._on_change = on_change
        self._outputs: dict[str, Output] = {}
        self._lives: dict[str, asyncio.Task[None]] = {}

    @property
    def are_running(self) -> bool:
        """Whether there is one that is not over."""
        return any(not output.is_over for output in self._outputs.values())

    @property
    def keep_session(self) -> bool:
        """Whether there is one that is not over and for which the session goes on, though nothing is said."""
        return any(not output.is_over and output.keeps_session for output in self._outputs.values())

    @property
    def are_seen(self) -> bool:
        """Whether the stream is to go on for one of them."""
        return any(output.is_seen for output in self._outputs.values())

    def add(self, wanted: NewOutput) -> dict[str, Any]:
        """Begin an output that ``check_output`` has let pass.

        Raises:
            signaling.errors.SignalingError: it is not possible now.
        """
        self._forget_oldest()
        output = self._new_push(wanted) if isinstance(wanted, NewPush) else self._new_recording()
        self._outputs[output.output_id] = output
        self._events.append(OutputStarted(output_id=output.output_id, kind=output.kind))
        self._log.info("%s begins", output.kind)
        life = asyncio.create_task(output.run(), name=f"{output.kind} {self._session_id[:8]}")
        life.add_done_callback(lambda done: self._on_over(output, done))
        self._lives[output.output_id] = life
        self._on_change()
        return output.describe()

    def get(self, output_id: str) -> Output:
        """Raises ``signaling.errors.NotFound`` where there is none."""
        output = self._outputs.get(output_id)
        if output is None:
            raise NotFound("There is no such output in this session.")
        return output

    def describe(self) -> list[dict[str, Any]]:
        """All of them, the oldest first, with those that are over."""
        return [output.describe() for output in self._outputs.values()]

    def hello(self) -> list[Event]:
        """How those stand that run, for a viewer that has just come."""
        return [self._event(output) for output in self._outputs.values() if not output.is_over]

    async def end(self, output_id: str) -> dict[str, Any]:
        """End an output, and wait until it has; idempotent."""
        output = self.get(output_id)
        output.stop()
        await asyncio.wait((self._lives[output_id],), timeout=FINISH_TIMEOUT_S)
        return output.describe()

    async def close(self) -> None:
        """End all of them."""
        for output in self._outputs.values():
            output.stop()
        if self._lives:
            await asyncio.wait(self._lives.values(), timeout=FINISH_TIMEOUT_S)
        for life in self._lives.values():
            life.cancel()

    def _new_recording(self) -> Recording:
        if any(isinstance(output, Recording) and not output.is_over for output in self._outputs.values()):
            raise Conflict("This session is being recorded already. End that recording first.")
        # Whatever is encoded anyway; nothing is encoded for a recording that a viewer's codec could be.
        codec = next(iter(self._broadcast.codecs), self._config.media.video_codecs[0])
        return Recording(self._session_id, self._config.recording, self._broadcast, self._info, codec, self._log, self._on_state)

    def _new_push(self, wanted: NewPush) -> Push:
        return Push(wanted, self._broadcast, self._clock, self._config, self._metrics, self._log, self._on_state)

    def _forget_oldest(self) -> None:
        if len(self._outputs) < MAX_OUTPUTS:
            return
        oldest = next((output for output in self._outputs.values() if output.is_over), None)
        if oldest is None:
            raise Conflict(f"This session has {MAX_OUTPUTS} outputs, and no more are possible. End one first.")
        del self._outputs[oldest.output_id], self._lives[oldest.output_id]

    def _on_state(self, output: Output) -> None:
        """Must not raise."""
        if output.is_over:
            self._log.info("%s: %s", output.kind, output.message or output.state)
        self._events.append(self._event(output))
        self._on_change()

    def _event(self, output: Output) -> OutputUpdated | OutputEnded:
        """How it stands."""
        url = None if output.file_name is None else file_url(self._session_id, output.file_name)
        event = OutputEnded if output.is_over else OutputUpdated
        return event(output_id=output.output_id, kind=output.kind, state=output.state, message=output.message, file_url=url)

    def _on_over(self, output: Output, life: asyncio.Task[None]) -> None:
        if not life.cancelled() and (error := life.exception()) is not None:
            self._log.error("%s failed", output.kind, exc_info=error)
            output.fail("The server failed to go on with it, and logged why.")
