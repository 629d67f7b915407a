"""Who has a seat. The registry implements ``signaling.service.SessionService`` and owns the tasks of the sessions."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, OrderedDict
from collections.abc import Collection
from typing import Any

from avatar_rtc import pace
from avatar_rtc.config import ServerConfig
from avatar_rtc.engine import Engine, speed_of
from avatar_rtc.metrics import Metrics
from avatar_rtc.session import Session
from model.chunk import StreamSettings
from model.text.prompt import MAX_PROMPT_CHARS
from signaling.errors import SignalingError, StaleETag, Unavailable, UnknownAvatar, UnknownSession, Unprocessable
from signaling.ice import IceFragment, IceServer
from signaling.messages import ClientEvent
from signaling.service import Answer

MAX_ENDED = 1024
"""So many sessions are remembered after their end."""
STATES = ("initializing", "idle", "listening", "thinking", "speaking")


class Registry:
    """Seats and their sessions."""

    def __init__(self, config: ServerConfig, engine: Engine, metrics: Metrics) -> None:
        self._config = config
        self._engine = engine
        self._metrics = metrics
        self._sessions: dict[str, Session] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._lives: set[asyncio.Task[None]] = set()
        self._draining = False

    @property
    def ice_servers(self) -> tuple[IceServer, ...]:
        return self._config.ice.wire_servers()

    @property
    def num_sessions(self) -> int:
        return len(self._sessions)

    async def create(self, offer: str, *, avatar: str | None, voice: str | None) -> Answer:
        try:
            session = self._admit(self._settings(avatar, voice))
            try:
                answer = await session.negotiate(offer)
            except BaseException:
                session.end("refused")
                raise
            finally:
                # From here on the session ends itself; a refused one at once.
                self._start(session)
                if session.reason:
                    await session.finished()  # when the client hears of it, the seat is free again
        except SignalingError as error:
            self._metrics.admission.labels("refused", error.code).inc()
            raise
        self._metrics.admission.labels("admitted", "").inc()
        return answer

    async def trickle(self, session_id: str, etags: Collection[str], fragment: IceFragment) -> None:
        session = self._session(session_id)
        if not {"*", session.etag}.intersection(etags):
            raise StaleETag("If-Match is not the ETag of this session's answer.")
        if session.is_other_ice_session(fragment):
            raise Unprocessable("An ICE restart is not possible. Start a new session.", code="ice_restart")
        await session.trickle(fragment)

    async def end(self, session_id: str) -> None:
        # A client that hangs up is often heard over its connection first, so a session that has ended already is no error.
        if session_id in self._ended:
            return
        session = self._session(session_id, ending=True)
        session.end("deleted")
        await session.finished()

    async def handle(self, session_id: str, event: ClientEvent) -> None:
        await self._session(session_id).handle(event)

    async def stats(self, session_id: str) -> dict[str, Any]:
        return self._session(session_id).stats()

    def avatars(self) -> dict[str, Any]:
        voices = {voice.id: voice.voice for voice in self._config.voices}
        return {
            "avatars": [{"id": a.id, "name": a.name, "scene": a.scene, "voice": voices[a.voice]} for a in self._config.avatars],
            "voices": [voice.model_dump() for voice in self._config.voices],
        }

    def models(self) -> dict[str, Any]:
        if self._engine.stats().state in ("new", "starting"):
            return {"models": []}
        info = self._engine.info
        return {
            "models": [
                {
                    "id": info.model,
                    "width": info.width_px,
                    "height": info.height_px,
                    "fps": info.fps,
                    "sample_rate_hz": info.sample_rate_hz,
                    "block_ms": round(info.block_duration_s * 1000),
                }
            ]
        }

    def not_ready(self) -> list[str]:
        reasons = []
        if self._draining:
            reasons.append("The server is shutting down.")
        stats = self._engine.stats()
        if stats.state != "ready":
            reasons.append(f"The engine is {stats.state}: {stats.message}.")
        return reasons

    def speed(self) -> dict[str, Any]:
        return speed_of(self._engine)

    @property
    def num_seats(self) -> int:
        limit = self._config.limits.max_sessions
        return pace.num_calls(self._engine.stats().rtf_p50) if limit == "auto" else limit

    def metrics(self) -> tuple[bytes, str]:
        states: Counter[str] = Counter(session.state for session in self._sessions.values())
        for state in STATES:
            self._metrics.sessions.labels(state).set(states[state])
        self._metrics.seats.labels("taken").set(len(self._sessions))
        self._metrics.seats.labels("free").set(max(0, self.num_seats - len(self._sessions)))
        stats = self._engine.stats()
        for stage, seconds in stats.stage_s.items():
            self._metrics.stage_s.labels(stage).set(seconds)
        for percentile, factor in (("50", stats.rtf_p50), ("95", stats.rtf_p95)):
            self._metrics.engine_rtf.labels(percentile).set(factor)
        return self._metrics.render()

    async def close(self) -> None:
        """Stop admission, tell the peers, end all sessions; returns when nothing is left."""
        self._draining = True
        for session in list(self._sessions.values()):
            session.end("shutdown")
        while self._lives:
            await asyncio.wait(self._lives)

    def _admit(self, settings: StreamSettings) -> Session:
        """A new session in a seat of its own. No await between the check and the seat: none is promised twice."""
        limits = self._config.limits
        retry_after_s = limits.retry_after_s
        if self._draining:
            raise Unavailable("The server is shutting down. Call again later.", code="draining", retry_after_s=retry_after_s)
        stats = self._engine.stats()
        if stats.state != "ready":
            raise Unavailable(
                f"The engine is {stats.state}: {stats.message}. Try again in {retry_after_s} s.",
                code="engine_unavailable",
                retry_after_s=retry_after_s,
            )
        if len(self._sessions) >= self.num_seats:
            seats = "The only seat is taken" if self.num_seats == 1 else f"All {self.num_seats} seats are taken"
            raise Unavailable(
                f"{seats}. Try again in {retry_after_s} s.",
                code="full",
                retry_after_s=retry_after_s,
            )
        session = Session(secrets.token_hex(16), self._config, self._engine, settings, self._metrics)
        self._sessions[session.session_id] = session
        return session

    def _start(self, session: Session) -> None:
        life = asyncio.create_task(session.run(), name=f"session {session.session_id[:8]}")
        self._lives.add(life)

        def free_seat(done: asyncio.Task[None]) -> None:
            self._lives.discard(done)
            del self._sessions[session.session_id]
            self._ended[session.session_id] = None
            if len(self._ended) > MAX_ENDED:
                self._ended.popitem(last=False)

        life.add_done_callback(free_seat)

    def _settings(self, avatar_id: str | None, voice_id: str | None) -> StreamSettings:
        avatars = {avatar.id: avatar for avatar in self._config.avatars}
        voices = {voice.id: voice.voice for voice in self._config.voices}
        avatar = avatars.get(avatar_id) if avatar_id else self._config.avatars[0]
        if avatar is None:
            raise UnknownAvatar(f"There is no avatar {avatar_id!r:.80}. Choose one of {', '.join(avatars)}.")
        voice = voices.get(voice_id, voice_id) if voice_id else voices[avatar.voice]
        if not voice.strip() or len(voice) > MAX_PROMPT_CHARS:
            raise Unprocessable(f"The voice must have 1 to {MAX_PROMPT_CHARS} characters.", code="bad_prompt")
        return StreamSettings(avatar.scene, voice, seed=secrets.randbits(31))

    def _session(self, session_id: str, *, ending: bool = False) -> Session:
        session = self._sessions.get(session_id)
        if session is None or (session.reason and not ending):
            raise UnknownSession("There is no such session, or it has ended. Start a new one.")
        return session
