"""Session: the life of one generated stream, whoever sees it and whether anybody does.

It waits until its first viewer is connected, lives while somebody watches, is held when nobody does (its clock stands still,
nothing is said), and ends by whoever owns it, or because nobody came back. What is said and shown in it is its performance's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Literal

from aiortc import MediaStreamTrack

from avatar_rtc.config import ServerConfig
from avatar_rtc.ears.ears import Ears
from avatar_rtc.engine.api import Engine, speed_of
from avatar_rtc.event_log import EventLog
from avatar_rtc.logs import SessionLog
from avatar_rtc.media.broadcast import Broadcast
from avatar_rtc.metrics import Metrics
from avatar_rtc.mind.source import ReplySource
from avatar_rtc.outputs.webrtc import Departure, Viewer
from avatar_rtc.sessions.audience import Audience
from avatar_rtc.sessions.listening import Listening
from avatar_rtc.sessions.outputs import Outputs
from avatar_rtc.sessions.performance import Performance
from model.chunk import StreamSettings
from model.text.prompt import MAX_PROMPT_CHARS
from signaling.dialects.avatar import name_of
from signaling.dialects.dialect import Dialect
from signaling.dialects.frames import MAX_MESSAGE_BYTES
from signaling.service import Rights
from signaling.vocabulary import (
    AvatarState,
    ClientStats,
    Command,
    Event,
    EventError,
    Limits,
    Ping,
    Pong,
    SessionClosing,
    SessionCreated,
)

WATCH_EVERY_S = 0.1
COUNT_EVERY_S = 1.0
UNHEARD_AFTER_S = 1.2
"""Playing stops when nothing has come from any viewer for so long, and goes back to when something came last."""
CLOSING_NOTICE_S = 0.2
CLOSE_STEP_TIMEOUT_S = 3.0

MOVED = "moved"
"""Why a session ends here that goes on elsewhere."""

Phase = Literal["waiting", "live", "held", "ended"]


class Session:
    """One stream, its conversation and its viewers.

    Args:
        settings: who is seen and heard at first.
        executor: encodes.
        owner: id of the principal whose it is.
        is_named: it was made without a viewer: it waits for one, and for the next one, until ``idle_s``; one that came with a
            call ends with it.
        source: makes up answers; see ``Performance``.
        on_second: called each second while it lives.
        ears: hear who may speak; see ``Listening``.

    Attributes:
        phase: where in its life it is.
        reason: why it ended; empty while it lives.
        events: what has happened in it.
    """

    def __init__(
        self,
        session_id: str,
        config: ServerConfig,
        engine: Engine,
        settings: StreamSettings,
        metrics: Metrics,
        executor: Executor,
        *,
        name: str = "",
        owner: str = "",
        is_named: bool = False,
        idle_s: float | None = None,
        source: ReplySource | None = None,
        on_second: Callable[[], None] = lambda: None,
        ears: Ears | None = None,
    ) -> None:
        self.session_id = session_id
        self.name = name
        self.owner = owner
        self.reason = ""
        self.phase: Phase = "waiting"
        self.events = EventLog()
        self._config = config
        self._engine = engine
        self._metrics = metrics
        self._log = SessionLog(session_id)
        self.performance = Performance(config, engine, settings, self.events, metrics, self._log, source)
        self._listening = Listening(ears, self.performance, self.events, self._log)
        self._playout = self.performance.playout
        self.clock = self._playout.clock
        self.broadcast = Broadcast(self._playout, config.media.rates(engine.info.fps), config.media.audio_bps, executor)
        self.outputs = Outputs(
            session_id, config, self.broadcast, self.clock, engine.info, metrics, self.events, self._log, self._on_outputs
        )
        self.audience = Audience(self, config, metrics, self._log, self._guarded, self._on_left)
        self.born_s = self._left_s = self.clock.now()
        self._is_named = is_named
        self._hold_s = (idle_s or config.limits.idle_s) if is_named else config.limits.grace_s
        self._over = asyncio.Event()
        self._finished = asyncio.Event()
        self._seen = asyncio.Event()
        self._counters = metrics.session_counters()
        self._on_second = on_second

    @property
    def state(self) -> str:
        """What the avatar does."""
        return self.performance.state

    # Viewers.

    def viewer(self, viewer_id: str, rights: Rights, dialect: Dialect, *, after: int | None) -> Viewer:
        """A new viewer, which has not negotiated yet.

        Args:
            dialect: of its data channel.
            after: number of the last event that it knows; None if it was not there before.
        """
        is_first = self.phase == "waiting" and not self.audience.viewers
        known = after if after is not None else 0 if is_first else self.events.last_seq
        if after is not None:
            # Whoever comes back does so because nothing arrives any more.
            self.audience.leave_silent()
        return self.audience.join(viewer_id, rights, dialect, after=known, is_resumed=not is_first)

    def hello(self, rights: Rights, *, is_resumed: bool) -> Sequence[Event]:
        info = self._engine.info
        chunk_ms = round(info.chunk_duration_s * 1000)
        created = SessionCreated(
            session_id=self.session_id,
            model=info.model,
            fps=info.fps,
            width=info.width_px,
            height=info.height_px,
            chunk_ms=chunk_ms,
            block_ms=chunk_ms * info.chunks_per_block,
            scene=self.performance.settings.scene,
            voice=self.performance.settings.voice,
            limits=Limits(
                max_message_bytes=MAX_MESSAGE_BYTES,
                max_prompt_chars=MAX_PROMPT_CHARS,
                max_queued_replies=self._config.limits.max_queued_replies,
            ),
            grace_ms=round(self._hold_s * 1000),
            resumed=True if is_resumed else None,
            may_speak=rights.may_speak,
            may_record=True if rights.may_record and self._config.recording.directory is not None else None,
            llm=True if self._config.llm is not None else None,
            listens=True if rights.may_speak and self._config.listen is not None else None,
            **speed_of(self._engine),
        )
        return [created, AvatarState(state=self.performance.state), *self.outputs.hello()]

    def on_shown(self, viewer: Viewer) -> None:
        if viewer.viewer_id not in self.audience.viewers or self.reason:
            return
        self.audience.leave_silent(but=viewer)
        self._set_phase("live")

    def on_microphone(self, viewer: Viewer, track: MediaStreamTrack) -> None:
        if viewer.viewer_id in self.audience.viewers and not self.reason:
            self._listening.begin(viewer.viewer_id, track)

    def on_gone(self, viewer: Viewer, reason: Departure) -> None:
        self.audience.leave(viewer, reason)

    def _on_left(self, viewer: Viewer, reason: Departure) -> None:
        self._listening.end(viewer.viewer_id)
        if self.phase == "live" and not self._is_seen:
            self._playout.hold(viewer.silent_s if reason == "vanished" else 0.0)
            self._set_phase("held")
        if not self._is_kept:
            if viewer.connected_s is not None:
                self._left_s = viewer.heard_s
            # Who hangs up does not come back; who vanishes, or fails to come back, may try again.
            is_over = reason in ("deleted", "left") or self.phase == "waiting"
            if is_over and viewer.rights.is_caller and not self._is_named:
                self.end(reason)

    def hang_up(self) -> None:
        """Whoever called hangs up, after its viewer has gone: a session that came with a call is over then."""
        if not self._is_kept and not self._is_named:
            self.end("deleted")

    @property
    def _is_kept(self) -> bool:
        """Whether somebody is there whose going would end it: who only watches does not keep a call, nor does an output, nor a
        recording any session."""
        if self._is_named:
            return bool(self.audience.viewers) or self.outputs.keep_session
        return self.audience.has_caller

    @property
    def _is_seen(self) -> bool:
        """Whether somebody is shown it. To a session that was made without a viewer an output is an audience; a call stands still
        without its caller."""
        return self.audience.is_shown or (self._is_named and self.outputs.are_seen)

    def _on_outputs(self) -> None:
        if self.reason:
            return
        if self._is_seen:
            self._set_phase("live")
        elif self.phase == "live":
            self._playout.hold()
            self._set_phase("held")
        if not self._is_kept:
            self._left_s = self.clock.now()

    # Commands.

    async def handle(self, command: Command) -> None:
        """Carry out a command that came over HTTP; returns when it is done.

        Raises:
            signaling.vocabulary.EventError: it could not be carried out.
        """
        await self.performance.turns.handle(command)

    @property
    def may_move(self) -> bool:
        """Whether it could go on elsewhere: it is a call, it goes to nobody but its viewers, and they would follow."""
        is_call = self.phase in ("live", "held") and not self.reason and not self._is_named
        return is_call and not self.outputs.are_running and self.audience.can_come_back

    def on_message(self, viewer: Viewer, frame: str | bytes) -> None:
        if self.reason == MOVED:
            return  # whoever sends it sends it again, to where it goes

        def on_outcome(outcome: EventError | None) -> None:
            if outcome is not None:
                viewer.channels.send(outcome.as_event())

        try:
            message = viewer.dialect.read(frame)
            viewer.channels.answer(message.answers)
            for command in message.commands:
                self._metrics.messages.labels("in", name_of(command), "ok").inc()
                if isinstance(command, Ping):
                    viewer.channels.send(Pong(t=command.t))
                elif viewer.rights.may_speak or isinstance(command, ClientStats):
                    self.performance.turns.submit(command, on_outcome)
                else:
                    why = "It came without the scope speak." if viewer.rights.is_caller else "It watches."
                    raise EventError("not_allowed", f"This connection may not speak. {why}", command.event_id)
        except EventError as error:
            self._metrics.messages.labels("in", "any", error.code).inc()
            on_outcome(error)
        except Exception:
            # The transport has called; an exception would end the connection.
            on_outcome(self.performance.turns.surprised(None))

    # Life.

    def announce_end(self, in_s: float) -> None:
        """Tell who watches that the server shuts down then; until then it goes on."""
        self.events.append(SessionClosing(reason="shutdown", in_ms=round(in_s * 1000)))

    def end(self, reason: str) -> None:
        """Begin to end; the first reason counts. Returns at once, ``run`` does the rest."""
        self.reason = self.reason or reason
        self._over.set()

    async def finished(self) -> None:
        """Wait until ``run`` has closed everything."""
        await self._finished.wait()

    async def run(self) -> None:
        """Live until ``end`` is called or nobody comes back; then close everything. Never raises."""
        try:
            async with asyncio.TaskGroup() as group:
                lives = (self.performance.run(), self._watch(), self._play())
                tasks = [group.create_task(life) for life in lives]
                await self._over.wait()
                for task in tasks:
                    task.cancel()
        except Exception:
            self._log.exception("failed")
            self.end("internal_error")
        finally:
            await self._close()

    async def _play(self) -> None:
        await self._seen.wait()
        await self.broadcast.run()

    async def _watch(self) -> None:
        """Notice who has left, and what has gone on for too long."""
        counted_s = self.clock.now()
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            now = self.clock.now()
            self.audience.watch()
            unheard_s = 0.0 if self._is_named and self.outputs.are_seen else self.audience.unheard_s
            if self.phase == "live" and unheard_s > UNHEARD_AFTER_S:
                self._playout.hold(unheard_s)
            elif self.phase == "live":
                self._playout.go_on()
            if self._is_named and self.outputs.are_running and self.performance.is_busy:
                self._left_s = now  # it is recorded what is said, though nobody watches
            if not self._is_kept and now - self._left_s > self._hold_s:
                self.end("idle" if self._is_named else "vanished")
            self.performance.expire()
            if now - counted_s >= COUNT_EVERY_S:
                counted_s = now
                self._count()
                self._on_second()

    def _set_phase(self, phase: Phase) -> None:
        if phase == "live":
            self._seen.set()
            self._playout.go_on()
        if phase != self.phase:
            self._log.info("%s", phase)
            self.phase = phase

    async def _close(self) -> None:
        """Replies, notice, viewers, stream: in this order, each guarded alone."""
        self.end("cancelled")
        self.phase = "ended"
        await self._guarded("listening", self._listening.close())
        await self._guarded("performance", self.performance.close(goes_on=self.reason == MOVED))
        if self.audience.is_told and self.reason != MOVED:
            self.events.append(SessionClosing(reason=self.reason, in_ms=int(CLOSING_NOTICE_S * 1000)))
            await self._guarded("notice", asyncio.sleep(CLOSING_NOTICE_S))
        await self.audience.close()
        await self.outputs.close()
        self.broadcast.close()
        self._count()
        self._metrics.session_end.labels(self.reason).inc()
        buffer = self._playout.buffer
        self._log.info(
            "ended: %s after %.1f s, %d replies, %d frames, %d underruns",
            self.reason,
            self.age_s,
            self.performance.num_replies,
            buffer.num_decided,
            buffer.num_underruns,
        )
        self._finished.set()

    async def _guarded(self, step: str, action: Awaitable[None]) -> None:
        try:
            await asyncio.wait_for(action, CLOSE_STEP_TIMEOUT_S)
        except TimeoutError:  # a peer's TURN server has died, say
            self._log.warning("closing: %s was given up after %.0f s", step, CLOSE_STEP_TIMEOUT_S)
        except Exception:
            self._log.exception("closing: %s", step)

    # Figures.

    @property
    def age_s(self) -> float:
        """Since it got its seat."""
        return self.clock.now() - self.born_s

    @property
    def num_underruns(self) -> int:
        """How often there was nothing new to show."""
        return self._playout.buffer.num_underruns

    def stats(self) -> dict[str, Any]:
        """Counters for ``GET /v1/sessions/{id}/stats``."""
        buffer = self._playout.buffer
        return {
            "id": self.session_id,
            "name": self.name,
            "phase": self.phase,
            "state": self.state,
            "outputs": self.outputs.describe(),
            "age_s": round(self.age_s, 3),
            "frames": buffer.num_decided,
            "underruns": self.num_underruns,
            "held_frames": buffer.num_held_frames,
            "dropped_frames": self._playout.num_dropped,
            "buffer_ms": round(buffer.buffered_s * 1000),
            "replies": self.performance.num_replies,
            "video_bitrate_bps": self.broadcast.video_bps,
            **self.audience.stats(),
        }

    def _count(self) -> None:
        buffer = self._playout.buffer
        self._counters.bring_to(
            sent=self._playout.num_sent,
            dropped=self._playout.num_dropped,
            held=buffer.num_held_frames,
            underruns=self.num_underruns,
            keyframes=self.broadcast.num_keyframes,
        )
