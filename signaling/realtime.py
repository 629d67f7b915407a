"""What clients of the OpenAI Realtime API call: WebRTC, the sideband of a call, and client secrets. Errors are as OpenAI's."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from aiohttp import WSCloseCode, WSMsgType, hdrs, web
from pydantic import BaseModel, Field, Json, ValidationError

from signaling import waiting
from signaling.auth import Auth, principal_of
from signaling.bodies import explain, read_bytes, read_form, read_text
from signaling.dialects.frames import MAX_MESSAGE_BYTES
from signaling.dialects.realtime import RealtimeDialect
from signaling.dialects.realtime_events import SessionWanted
from signaling.errors import BadRequest, SignalingError, Unavailable, Unprocessable, WrongType
from signaling.service import NewSession, Rights, SessionService
from signaling.vocabulary import EventError

PATH = "/v1/realtime"
SDP_TYPE = "application/sdp"
SUBPROTOCOL = "realtime"
MAX_SIDEBANDS = 8
"""Of one call."""
MAX_FRAME_BYTES = 1 << 20
SIGN_OF_LIFE_S = 15.0
"""A client that does not answer a ping is let go."""
PATIENCE_S = 30.0
"""One that reads nothing for so long is, too."""
BUSY_RETRY_S = 5


class _ExpiresAfter(BaseModel):
    anchor: Literal["created_at"] = "created_at"
    seconds: int = Field(default=600, ge=10, le=7200)


class _SecretWanted(BaseModel):
    expires_after: _ExpiresAfter = _ExpiresAfter()
    session: dict[str, Any] = {}


class _Call(BaseModel):
    sdp: str
    session: dict[str, Any] = {}


class _Form(BaseModel):
    sdp: str
    session: Json[dict[str, Any]] = {}


def error_of(error: SignalingError) -> dict[str, Any]:
    """What OpenAI's libraries read of an answer that is not a success."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {"error": {"message": error.detail, "type": kind, "code": error.code, "param": None}}


class RealtimeRoutes:
    """The routes and what they answer. The id of a call is that of its viewer."""

    def __init__(self, service: SessionService, auth: Auth) -> None:
        self._service = service
        self._auth = auth
        self._sidebands: Counter[str] = Counter()

    def table(self) -> list[web.RouteDef]:
        return [
            web.post(f"{PATH}/calls", self.call),
            web.delete(f"{PATH}/calls/{{id}}", self.hang_up),
            web.post(f"{PATH}/calls/{{id}}/hangup", self.hang_up),
            web.post(f"{PATH}/client_secrets", self.client_secret),
            web.get(PATH, self.attend),
        ]

    async def call(self, request: web.Request) -> web.Response:
        """A call of one's own; the body is an offer, or a form or JSON with one and a session."""
        offer, given = await _read_call(request)
        session = self._session({**self._auth.session_of(request), **given})
        avatar = session.avatar
        wanted = NewSession(
            principal_of(request).id,
            avatar=avatar.look if avatar is not None else None,
            scene=avatar.scene if avatar is not None else None,
            voice=session.voice_of(self._voices),
            instructions=session.instructions if self._has_llm else None,
            tools=session.functions if self._has_llm else None,
        )
        scopes = principal_of(request).scopes
        dialect = RealtimeDialect(avatar.mode if avatar is not None else None, self._voices)
        rights = Rights(True, "speak" in scopes, "record" in scopes)
        answer = await waiting.call(request, self._service, offer, wanted, rights, dialect)
        # Clients take the last part of the path for the id of the call.
        headers = {hdrs.LOCATION: f"{PATH}/calls/{answer.viewer_id}"}
        return web.Response(status=201, text=answer.sdp, content_type=SDP_TYPE, headers=headers)

    async def hang_up(self, request: web.Request) -> web.Response:
        await self._service.leave(request.match_info["id"])
        return web.Response()

    async def client_secret(self, request: web.Request) -> web.Response:
        """What a server hands to a browser: it may call with it, for a while."""
        try:
            wanted = _SecretWanted.model_validate_json(await read_bytes(request) or b"{}")
        except ValidationError as error:
            raise Unprocessable(explain(error), code="bad_request") from None
        described = self._session(wanted.session)
        if not self._has_llm:
            described.instructions = described.tools = None  # nobody would be told of them
        session = described.model_dump(exclude_none=True)
        value, expires_at = self._auth.make_client_secret(request, wanted.expires_after.seconds, session)
        told = {"type": "realtime", "object": "realtime.session", "id": f"sess_{secrets.token_hex(8)}", **session}
        secret = {"value": value, "expires_at": expires_at, "session": told}
        return web.json_response(secret, headers={hdrs.CACHE_CONTROL: "no-store"})

    async def attend(self, request: web.Request) -> web.WebSocketResponse:
        """The sideband: who is not in the call hears its events, and sends some."""
        call_id = request.query.get("call_id")
        if call_id is None:
            raise BadRequest(
                f"Say which call: {PATH}?call_id=..., the end of its Location. Sound and pictures are not sent over a WebSocket: "
                f"begin a call with POST {PATH}/calls."
            )
        await self._service.stats(call_id)  # a call that does not exist is an error, not a connection that closes
        socket = web.WebSocketResponse(
            heartbeat=SIGN_OF_LIFE_S, max_msg_size=2 * MAX_MESSAGE_BYTES, protocols=(SUBPROTOCOL,), compress=False
        )
        if not socket.can_prepare(request).ok:
            raise BadRequest("This is a WebSocket: connect with an upgrade, as client.realtime.connect() does.")
        if self._sidebands[call_id] >= MAX_SIDEBANDS:
            raise Unavailable(f"{MAX_SIDEBANDS} attend this call already.", code="full", retry_after_s=BUSY_RETRY_S)
        self._sidebands[call_id] += 1
        try:
            await socket.prepare(request)
            scopes = principal_of(request).scopes
            rights = Rights(is_caller=False, may_speak="speak" in scopes, may_record=False)
            await _Sideband(self._service, call_id, socket, rights, RealtimeDialect(voices=self._voices)).run()
        finally:
            self._sidebands -= Counter([call_id])
        return socket

    @property
    def _voices(self) -> list[str]:
        return [voice["id"] for voice in self._service.avatars()["voices"]]

    @property
    def _has_llm(self) -> bool:
        return bool(self._service.models().get("llm"))

    def _session(self, data: dict[str, Any]) -> SessionWanted:
        try:
            session = SessionWanted.model_validate(data)
        except ValidationError as error:
            raise Unprocessable(f"session: {explain(error)}", code="bad_request") from None
        if session.avatar is not None and session.avatar.mode == "llm" and not self._has_llm:
            raise Unprocessable("This server has no language model: session.avatar.mode can only be verbatim.", code="no_llm")
        return session


class _Sideband:
    """One client that attends a call by a WebSocket."""

    def __init__(
        self, service: SessionService, call_id: str, socket: web.WebSocketResponse, rights: Rights, dialect: RealtimeDialect
    ) -> None:
        self._service = service
        self._call_id = call_id
        self._socket = socket
        self._rights = rights
        self._dialect = dialect

    async def run(self) -> None:
        """Until the client leaves, or the session is over."""
        telling = asyncio.create_task(self._tell())
        try:
            async for message in self._socket:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    await self._obey(message.data)
        except SignalingError:
            pass  # the session has ended meanwhile
        finally:
            telling.cancel()
            await asyncio.wait((telling,))
        await self._socket.close()

    async def _obey(self, frame: str | bytes) -> None:
        try:
            message = self._dialect.read(frame)
            await self._send(message.answers)
            for command in message.commands:
                if not self._rights.may_speak:
                    raise EventError("not_allowed", "This connection came without the scope speak.", command.event_id)
                await self._service.handle(self._call_id, command)
        except EventError as error:
            await self._send(self._dialect.write(error.as_event(), None, MAX_FRAME_BYTES))

    async def _tell(self) -> None:
        try:
            async with contextlib.aclosing(self._service.attend(self._call_id, self._rights)) as events:
                async for event, seq in events:
                    await self._send(self._dialect.write(event, seq, MAX_FRAME_BYTES))
        except SignalingError:
            pass  # the session has ended meanwhile
        finally:
            await self._socket.close(code=WSCloseCode.GOING_AWAY)

    async def _send(self, frames: Sequence[str]) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                for frame in frames:
                    await self._socket.send_str(frame)
        except (ConnectionResetError, TimeoutError):
            await self._socket.close()


async def _read_call(request: web.Request) -> tuple[str, dict[str, Any]]:
    """The offer, and what is said of the session."""
    wanted: _Call | _Form
    try:
        match request.content_type:
            case "application/sdp":
                return await read_text(request), {}
            case "application/json":
                wanted = _Call.model_validate_json(await read_bytes(request))
            case "multipart/form-data":
                wanted = _Form.model_validate(await read_form(request))
            case other:
                raise WrongType(
                    f"The body must be an offer of type {SDP_TYPE}, or a form or JSON with sdp and session, not {other}."
                )
    except ValidationError as error:
        raise Unprocessable(explain(error), code="bad_request") from None
    return wanted.sdp, wanted.session
