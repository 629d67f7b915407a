"""Who has a seat. The registry implements ``signaling.service.SessionService`` and owns the sessions and their tasks."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from avatar_rtc import resources
from avatar_rtc.config import LlmConfig, ServerConfig
from avatar_rtc.ears.ears import Ears
from avatar_rtc.engine.api import Engine, speed_of
from avatar_rtc.event_log import MAX_REMEMBERED
from avatar_rtc.metrics import Metrics
from avatar_rtc.mind.mind import changed
from avatar_rtc.mind.source import Brief, ReplySource
from avatar_rtc.outputs.recording import find_recording
from avatar_rtc.outputs.webrtc import Viewer
from avatar_rtc.presets import Presets
from avatar_rtc.sessions.admission import Admission
from avatar_rtc.sessions.outputs import check_output
from avatar_rtc.sessions.session import Session
from model.chunk import StreamSettings
from signaling.dialects.dialect import Dialect
from signaling.errors import (
    Conflict,
    NotFound,
    SignalingError,
    StaleETag,
    Unavailable,
    UnknownSession,
    Unprocessable,
)
from signaling.ice import IceFragment, IceServer
from signaling.nodes import new_id
from signaling.service import Answer, NewOutput, NewSession, Rights
from signaling.vocabulary import Command, Event, EventError

MAX_ENDED = 1024
"""So many sessions are remembered after their end."""
STATES = ("initializing", "idle", "listening", "thinking", "speaking")
MAX_VIEWERS = 64
"""Of one session."""
MAX_UNREAD_EVENTS = 2 * MAX_REMEMBERED
"""A reader of events that does not keep up is let go; it knows where to go on."""


class Registry:
    """Seats and their sessions.

    Args:
        source: makes up what is answered in all of them.
        ears: hear what is said in all of them.
        node: of a cluster, whose name this is.
    """

    def __init__(
        self,
        config: ServerConfig,
        engine: Engine,
        metrics: Metrics,
        source: ReplySource | None = None,
        ears: Ears | None = None,
        *,
        node: str = "",
    ) -> None:
        self._config = config
        self._node = node
        self._engine = engine
        self._metrics = metrics
        self._source = source
        self._presets = Presets(config)
        self._ears = ears
        self._sessions: dict[str, Session] = {}
        # Of a viewer the id of its session and whether it is a caller, also after it has gone.
        self._viewers: OrderedDict[str, tuple[str, bool]] = OrderedDict()
        self._ended: OrderedDict[str, str] = OrderedDict()  # and whose they were
        self._lives: set[asyncio.Task[None]] = set()
        self._admission = Admission(config.limits, engine, self._sessions.values, self.new_id)
        self._limit: asyncio.TimerHandle | None = None
        self._encoding = ThreadPoolExecutor(max_workers=max(4, resources.num_cores()), thread_name_prefix="encode")

    @property
    def ice_servers(self) -> tuple[IceServer, ...]:
        return self._config.ice.wire_servers()

    @property
    def live(self) -> list[Session]:
        """The sessions that have a seat."""
        return list(self._sessions.values())

    @property
    def num_sessions(self) -> int:
        return len(self._sessions)

    def owner(self, session_id: str) -> str | None:
        session_id = self._session_id(session_id)
        session = self._sessions.get(session_id)
        return self._ended.get(session_id) if session is None else session.owner

    def new_id(self) -> str:
        return new_id(self._node)

    def check_call(self, wanted: NewSession) -> None:
        self._presets.settings(wanted)
        self._admission.check()

    async def call(self, offer: str, wanted: NewSession, rights: Rights, dialect: Dialect) -> Answer:
        session = await self._admit(wanted, is_named=False)
        return await self._connect(session, session.viewer(self.new_id(), rights, dialect, after=None), offer)

    async def join(self, session_id: str, offer: str, rights: Rights, dialect: Dialect, *, after: int | None) -> Answer:
        session = self._session(session_id)
        if len(session.audience.viewers) >= MAX_VIEWERS:
            raise Unavailable(
                f"{MAX_VIEWERS} viewers watch this session, and no more can.",
                code="full",
                retry_after_s=self._config.limits.retry_after_s,
            )
        return await self._connect(session, session.viewer(self.new_id(), rights, dialect, after=after), offer)

    async def _connect(self, session: Session, viewer: Viewer, offer: str) -> Answer:
        try:
            answer = await viewer.negotiate(offer)
        except BaseException as error:
            leaving = session.audience.leave(viewer, "refused")
            if leaving is not None:
                await leaving
            if session.reason:
                await session.finished()  # when the client hears of it, the seat is free again
            if isinstance(error, SignalingError):
                self._metrics.admission.labels("refused", error.code).inc()
            raise
        self._viewers[viewer.viewer_id] = session.session_id, viewer.rights.is_caller
        if len(self._viewers) > MAX_ENDED + MAX_VIEWERS * len(self._sessions):
            del self._viewers[next(v for v, (s, _) in self._viewers.items() if not self._is_there(v, s))]
        self._metrics.admission.labels("admitted", "").inc()
        return Answer(viewer.viewer_id, viewer.etag, answer, session.session_id)

    async def trickle(self, viewer_id: str, etags: Collection[str], fragment: IceFragment) -> None:
        session = self._session(viewer_id)
        viewer = session.audience.viewers.get(viewer_id)
        if viewer is None:
            raise UnknownSession(f"This viewer has left. Come back with POST /whep?session={session.session_id}.")
        if not {"*", viewer.etag}.intersection(etags):
            raise StaleETag("If-Match is not the ETag of this session's answer.")
        if viewer.is_other_ice_session(fragment):
            raise Unprocessable(
                f"An ICE restart is not possible. Go on with POST /whep?session={session.session_id}.", code="ice_restart"
            )
        await viewer.trickle(fragment)

    async def leave(self, viewer_id: str) -> None:
        # A client that hangs up is often heard over its connection first, so one that has gone already is no error.
        if viewer_id not in self._viewers:
            raise UnknownSession
        session_id, is_caller = self._viewers[viewer_id]
        session = self._sessions.get(session_id)
        if session is None:
            return
        viewer = session.audience.viewers.get(viewer_id)
        leaving = None if viewer is None else session.audience.leave(viewer, "deleted")
        if leaving is not None:
            await leaving
        elif viewer is None and is_caller:
            session.hang_up()
        if session.reason:
            await session.finished()

    async def create(self, wanted: NewSession) -> dict[str, Any]:
        for output in wanted.outputs:
            await check_output(self._config, output)
        if any(
            (session.name, session.owner) == (wanted.name, wanted.owner) for session in self._sessions.values() if wanted.name
        ):
            raise Conflict(f"A session with the name {wanted.name!r:.80} lives already. Choose another name, or end that one.")
        session = await self._admit(wanted, is_named=True)
        for output in wanted.outputs:
            session.outputs.add(output)
        return session.stats()

    def sessions(self) -> list[dict[str, Any]]:
        return [session.stats() for session in self._sessions.values()]

    async def end(self, session_id: str) -> None:
        if self._session_id(session_id) in self._ended:
            return
        session = self._session(session_id, ending=True)
        session.end("deleted")
        await session.finished()

    async def handle(self, session_id: str, command: Command) -> None:
        await self._session(session_id).handle(command)

    async def events(self, session_id: str, after: int | None) -> AsyncGenerator[tuple[Event, int]]:
        session = self._session(session_id)
        log = session.events
        queue: asyncio.Queue[tuple[Event, int]] = asyncio.Queue(MAX_UNREAD_EVENTS)
        for item in log.since(log.last_seq if after is None else after):
            queue.put_nowait(item)

        is_behind = False

        def on_event(event: Event, seq: int) -> None:
            nonlocal is_behind
            is_behind = is_behind or queue.full()
            if not is_behind:
                queue.put_nowait((event, seq))

        stop = log.listen(on_event)
        over = asyncio.ensure_future(session.finished())
        try:
            while not is_behind:
                news = asyncio.ensure_future(queue.get())
                try:
                    await asyncio.wait((news, over), return_when=asyncio.FIRST_COMPLETED)
                    if not news.done():
                        return
                finally:
                    news.cancel()  # also where the reader has gone meanwhile
                yield news.result()
        finally:
            stop()
            over.cancel()

    async def attend(self, session_id: str, rights: Rights) -> AsyncGenerator[tuple[Event, int | None]]:
        session = self._session(session_id)
        known = session.events.last_seq
        for event in session.hello(rights, is_resumed=True):
            yield event, None
        async with contextlib.aclosing(self.events(session_id, known)) as events:
            async for item in events:
                yield item

    async def stats(self, session_id: str) -> dict[str, Any]:
        return self._session(session_id).stats()

    async def add_output(self, session_id: str, wanted: NewOutput) -> dict[str, Any]:
        self._session(session_id)
        await check_output(self._config, wanted)
        return self._session(session_id).outputs.add(wanted)

    def output(self, session_id: str, output_id: str) -> dict[str, Any]:
        return self._session(session_id).outputs.get(output_id).describe()

    async def end_output(self, session_id: str, output_id: str) -> dict[str, Any]:
        return await self._session(session_id).outputs.end(output_id)

    def recording(self, session_id: str, file_name: str) -> Path:
        path = find_recording(self._config.recording.directory, self._session_id(session_id), file_name)
        if path is None:
            raise NotFound("There is no such recording.")
        return path

    def avatars(self) -> dict[str, Any]:
        return self._presets.as_json()

    def models(self) -> dict[str, Any]:
        can = {"llm": self._config.llm is not None, "listens": self._config.listen is not None}
        talks = {name: True for name, is_so in can.items() if is_so}
        if self._engine.stats().state in ("new", "starting"):
            return {"models": [], **talks}
        info = self._engine.info
        chunk_ms = round(info.chunk_duration_s * 1000)
        return {
            "models": [
                {
                    "id": info.model,
                    "width": info.width_px,
                    "height": info.height_px,
                    "fps": info.fps,
                    "sample_rate_hz": info.sample_rate_hz,
                    "chunk_ms": chunk_ms,
                    "block_ms": chunk_ms * info.chunks_per_block,
                }
            ],
            **talks,
        }

    def not_ready(self) -> list[str]:
        return self._admission.not_ready()

    def speed(self) -> dict[str, Any]:
        return speed_of(self._engine)

    def capacity(self) -> dict[str, Any]:
        return {
            "seats": self._admission.num_seats,
            "free": self._admission.num_free,
            "waiting": self._admission.num_waiting,
            "rtf_p95": round(self._engine.stats().rtf_p95, 3),
            "models": [model["id"] for model in self.models()["models"]],
            "avatars": self._presets.avatar_ids,
            "draining": self._admission.is_closed,
        }

    def metrics(self) -> tuple[bytes, str]:
        states: Counter[str] = Counter(session.state for session in self._sessions.values())
        for state in STATES:
            self._metrics.sessions.labels(state).set(states[state])
        self._metrics.seats.labels("taken").set(len(self._sessions))
        self._metrics.seats.labels("free").set(self._admission.num_free)
        self._metrics.waiting.set(self._admission.num_waiting)
        stats = self._engine.stats()
        for stage, seconds in stats.stage_s.items():
            self._metrics.stage_s.labels(stage).set(seconds)
        for percentile, factor in (("50", stats.rtf_p50), ("95", stats.rtf_p95)):
            self._metrics.engine_rtf.labels(percentile).set(factor)
        return self._metrics.render()

    def drain(self) -> dict[str, Any]:
        if not self._admission.is_closed:
            limit_s = self._config.limits.drain_s
            self._admission.close(limit_s)
            self._limit = asyncio.get_running_loop().call_later(limit_s, self._end_all)
            for session in self._sessions.values():
                session.announce_end(limit_s)
        return self.capacity()

    async def emptied(self) -> None:
        """Wait until the last session has ended."""
        while self._lives:
            await asyncio.wait(self._lives)

    async def close(self) -> None:
        """Stop admission, tell the peers, end all sessions; returns when nothing is left."""
        self._admission.close(0)
        if self._limit is not None:
            self._limit.cancel()
        self._end_all()
        await self.emptied()
        self._encoding.shutdown(wait=False)

    def _end_all(self) -> None:
        for session in self._sessions.values():
            session.end("shutdown")

    async def _admit(self, wanted: NewSession, *, is_named: bool) -> Session:
        try:
            make = partial(self._make, self._presets.settings(wanted), wanted, is_named, _brief(wanted, self._config.llm))
            return await self._admission.seat(wanted, make)
        except SignalingError as error:
            result = "waits" if "ticket" in error.members else "refused"
            self._metrics.admission.labels(result, error.code).inc()
            raise

    def _make(self, settings: StreamSettings, wanted: NewSession, is_named: bool, brief: Brief) -> Session:
        session = Session(
            self.new_id(),
            self._config,
            self._engine,
            settings,
            self._metrics,
            self._encoding,
            name=wanted.name or "",
            owner=wanted.owner,
            is_named=is_named,
            idle_s=wanted.idle_s,
            source=self._source,
            on_second=self._admission.learn,
            ears=self._ears,
        )
        session.performance.answering.recall((), brief)
        self._sessions[session.session_id] = session
        self._start(session)
        return session

    def _start(self, session: Session) -> None:
        life = asyncio.create_task(session.run(), name=f"session {session.session_id}")
        self._lives.add(life)

        def free_seat(done: asyncio.Task[None]) -> None:
            self._lives.discard(done)
            del self._sessions[session.session_id]
            self._ended[session.session_id] = session.owner
            if len(self._ended) > MAX_ENDED:
                self._ended.popitem(last=False)
            self._admission.freed(session)
            resources.give_back_memory_soon()

        life.add_done_callback(free_seat)

    def _session(self, session_id: str, *, ending: bool = False) -> Session:
        """The session of that id, or of the viewer of that id. Raises ``UnknownSession``."""
        session = self._sessions.get(self._session_id(session_id))
        if session is None or (session.reason and not ending):
            raise UnknownSession
        return session

    def _session_id(self, session_or_viewer_id: str) -> str:
        return self._viewers.get(session_or_viewer_id, (session_or_viewer_id, False))[0]

    def _is_there(self, viewer_id: str, session_id: str) -> bool:
        session = self._sessions.get(session_id)
        return session is not None and viewer_id in session.audience.viewers


def _brief(wanted: NewSession, llm: LlmConfig | None) -> Brief:
    """What a session tells its language model from its beginning on.

    Raises:
        Unprocessable: there is no language model, or it cannot be told this.
    """
    if wanted.instructions is None and wanted.tools is None:
        return Brief()
    if llm is None:
        raise Unprocessable("This server has no language model, which instructions and tools are for.", code="no_llm")
    try:
        return changed(Brief(), wanted.instructions, wanted.tools, llm)
    except EventError as error:
        raise Unprocessable(error.message, code=error.code) from None
