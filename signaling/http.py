"""HTTP: the verbs of WHEP and a few JSON resources over a ``SessionService``. Errors are RFC 9457 problems."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from signaling import waiting
from signaling.auth import Auth, check_scope, principal_of
from signaling.bodies import explain, read_bytes, read_text
from signaling.connections import Connections
from signaling.dialects.avatar import AvatarDialect, parse_command
from signaling.dialects.frames import MAX_MESSAGE_BYTES
from signaling.errors import (
    BadRequest,
    BodyTooLarge,
    MethodNotAllowed,
    NotFound,
    RequestTimeout,
    SignalingError,
    Unprocessable,
    WrongType,
)
from signaling.ice import parse_fragment
from signaling.nodes import Behind
from signaling.outputs import OutputBody, OutputRoutes, with_urls
from signaling.rate import RateLimit
from signaling.realtime import PATH as REALTIME_PATH
from signaling.realtime import RealtimeRoutes, error_of
from signaling.rtvi import RtviRoutes
from signaling.service import Answer, NewSession, Rights, SessionService
from signaling.sse import send_events
from signaling.vocabulary import MAX_TOOLS, EventError, Tool

logger = logging.getLogger(__name__)

SDP_TYPE = "application/sdp"
FRAGMENT_TYPE = "application/trickle-ice-sdpfrag"
MAX_BODY_BYTES = 2 * MAX_MESSAGE_BYTES
"""Above the limit of an event, so that a message that is too large gets that answer and not a broken connection."""

_EVENT_STATUS = {"invalid_json": 400, "unknown_type": 400, "invalid_event": 400, "not_text": 400, "message_too_large": 413}
_EVENT_STATUS |= {
    "queue_full": 429,
    "session_over": 404,
    "unknown_reply": 404,
    "unknown_call": 404,
    "unknown_avatar": 404,
    "not_allowed": 403,
    "internal_error": 500,
}

ALLOWED_HEADERS = "Content-Type, If-Match, Authorization, Last-Event-ID, Prefer, X-OpenAI-Agents-SDK"
"""What a page may send. The last one comes from a library that calls by the OpenAI Realtime API."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(
    service: SessionService,
    *,
    static_dir: Path | None,
    allowed_origins: Collection[str],
    connections: Connections,
    auth: Auth,
    rate_limit: RateLimit,
    behind: Behind | None = None,
) -> web.Application:
    """The web application.

    Args:
        static_dir: the page, served at ``/``; None serves none.
        allowed_origins: origins whose pages may call; ``*`` for all.
        connections: is told which of them are being answered.
        auth: says who asks, and what they may.
        rate_limit: how often they may.
        behind: front doors ask, for whoever asks them.
    """
    routes = _Routes(service, auth)
    guards = [] if behind is None else [behind.middleware()]
    guards += [auth.middleware(service.owner), rate_limit.middleware()]
    outer = (connections.middleware(), cors(allowed_origins), problems)
    app = web.Application(middlewares=[*outer, *guards], client_max_size=MAX_BODY_BYTES)
    app.add_routes(
        [
            *(web.post(path, routes.watch) for path in ("/whep/", "/whep")),
            *(web.options(path, routes.options) for path in ("/whep/", "/whep")),
            *(web.route(hdrs.METH_ANY, path, _refuse(hdrs.METH_OPTIONS, hdrs.METH_POST)) for path in ("/whep/", "/whep")),
            web.patch("/whep/{id}", routes.trickle),
            web.delete("/whep/{id}", routes.leave),
            web.options("/whep/{id}", routes.options),
            web.route(hdrs.METH_ANY, "/whep/{id}", _refuse(hdrs.METH_DELETE, hdrs.METH_OPTIONS, hdrs.METH_PATCH)),
            web.options("/{path:.*}", routes.options),
            web.post("/v1/tokens", routes.token),
            web.post("/v1/sessions", routes.create),
            web.get("/v1/sessions", routes.sessions),
            web.get("/v1/sessions/{id}", routes.stats),
            web.delete("/v1/sessions/{id}", routes.end),
            web.post("/v1/sessions/{id}/events", routes.command),
            web.get("/v1/sessions/{id}/events", routes.events),
            web.get("/v1/sessions/{id}/stats", routes.stats),
            *OutputRoutes(service).table(),
            *RealtimeRoutes(service, auth).table(),
            *RtviRoutes(service).table(),
            web.get("/v1/avatars", routes.avatars),
            web.get("/v1/models", routes.models),
            web.get("/v1/capacity", routes.capacity),
            web.post("/v1/drain", routes.drain),
            web.get("/livez", routes.livez),
            web.get("/readyz", routes.readyz),
            web.get("/metrics", routes.metrics),
        ]
    )
    app.router.add_get("/{path:.*}", _files(static_dir))
    return app


class _Routes:
    def __init__(self, service: SessionService, auth: Auth) -> None:
        self._service = service
        self._auth = auth

    async def watch(self, request: web.Request) -> web.Response:
        """WHEP: a call of one's own, or, with ``session``, one more viewer of a session."""
        if request.content_type != SDP_TYPE:
            raise WrongType(f"The body must be an SDP offer of type {SDP_TYPE}, not {request.content_type}.")
        query = request.query
        role, after = query.get("role", "speak"), _number(query.get("after"), "after")
        if role not in ("speak", "watch"):
            raise Unprocessable(f"The role is speak or watch, not {role!r:.80}.", code="bad_request")
        offer = await read_text(request)
        is_caller, principal = role == "speak", principal_of(request)
        rights = Rights(is_caller, is_caller and "speak" in principal.scopes, is_caller and "record" in principal.scopes)
        if (session_id := query.get("session")) is not None:
            answer = await self._service.join(session_id, offer, rights, AvatarDialect(), after=after)
        else:
            wanted = NewSession(principal.id, avatar=query.get("avatar"), voice=query.get("voice"))
            answer = await waiting.call(request, self._service, offer, wanted, rights, AvatarDialect())
        return self._with_ice_servers(_answered(request, answer))

    async def options(self, request: web.Request) -> web.Response:
        # Browsers gather before the answer is there, so they ask for STUN and TURN ahead of the offer.
        response = web.Response(headers={"Accept-Post": SDP_TYPE})
        # A relay's credentials are for those who may call.
        return self._with_ice_servers(response) if principal_of(request).scopes & {"call", "watch"} else response

    def _with_ice_servers(self, response: web.Response) -> web.Response:
        for server in self._service.ice_servers:
            for link in server.link_headers():
                response.headers.add(hdrs.LINK, link)
        return response

    async def trickle(self, request: web.Request) -> web.Response:
        if request.content_type != FRAGMENT_TYPE:
            raise WrongType(f"The body must be of type {FRAGMENT_TYPE}, not {request.content_type}.")
        # Whoever sends none, or any, means the one ICE session that there is; whether the fragment does, too, its ufrag says.
        # Weak ones are compared like strong ones: a proxy that compresses makes them weak.
        etags = [etag.strip().removeprefix("W/").strip('"') for etag in request.headers.get(hdrs.IF_MATCH, "*").split(",")]
        await self._service.trickle(request.match_info["id"], etags, parse_fragment(await read_text(request)))
        return web.Response(status=204)

    async def leave(self, request: web.Request) -> web.Response:
        await self._service.leave(request.match_info["id"])
        return web.Response()

    async def token(self, request: web.Request) -> web.Response:
        token = self._auth.make_token(request, await read_bytes(request))
        return web.json_response(token, status=201, headers={hdrs.CACHE_CONTROL: "no-store"})

    async def create(self, request: web.Request) -> web.Response:
        try:
            wanted = _NewSession.model_validate_json(await read_bytes(request) or b"{}")
        except ValidationError as error:
            raise Unprocessable(explain(error, _NewSession), code="bad_request") from None
        if wanted.outputs:
            check_scope(request, "record")
        outputs = tuple(output.wanted() for output in wanted.outputs)
        session = await self._service.create(
            NewSession(principal_of(request).id, **wanted.model_dump(exclude={"outputs"}), outputs=outputs)
        )
        place = f"/v1/sessions/{session['id']}"
        urls = {"whep_url": f"/whep?session={session['id']}", "events_url": f"{place}/events", "url": place}
        token = self._auth.token_of_session(request, session["id"])
        headers = {hdrs.LOCATION: place, hdrs.CACHE_CONTROL: "no-store"}
        return web.json_response({**_told(session), **urls, **token}, status=201, headers=headers)

    async def sessions(self, request: web.Request) -> web.Response:
        may_touch, owner = principal_of(request).may_touch, self._service.owner
        sessions = [_told(session) for session in self._service.sessions() if may_touch(owner(session["id"]))]
        return web.json_response({"sessions": sessions})

    async def end(self, request: web.Request) -> web.Response:
        await self._service.end(request.match_info["id"])
        return web.Response(status=204)

    async def command(self, request: web.Request) -> web.Response:
        await self._service.handle(request.match_info["id"], parse_command(await read_bytes(request)))
        return web.json_response({"accepted": True}, status=202)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: what a data channel would be told, for whoever has none."""
        after = _number(request.headers.get("Last-Event-ID", request.query.get("after")), "after")
        session_id = request.match_info["id"]
        await self._service.stats(session_id)  # a session that does not exist is a problem, not an empty stream
        return await send_events(request, self._service.events(session_id, after))

    async def stats(self, request: web.Request) -> web.Response:
        return web.json_response(_told(await self._service.stats(request.match_info["id"])))

    async def avatars(self, request: web.Request) -> web.Response:
        return web.json_response(self._service.avatars())

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response(self._service.models())

    async def capacity(self, request: web.Request) -> web.Response:
        return web.json_response(self._service.capacity(), headers={hdrs.CACHE_CONTROL: "no-store"})

    async def drain(self, request: web.Request) -> web.Response:
        return web.json_response(self._service.drain(), status=202)

    async def livez(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        reasons = self._service.not_ready()
        if not reasons:
            return web.json_response({"ready": True, **self._service.speed()})
        problem = {"type": "about:blank", "title": "Not ready", "status": 503, "code": "not_ready", "detail": " ".join(reasons)}
        return _problem_response({**problem, "reasons": reasons}, 503)

    async def metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._service.metrics()
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})


class _NewSession(BaseModel):
    """The body of ``POST /v1/sessions``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    avatar: str | None = None
    scene: str | None = Field(default=None, min_length=1)
    voice: str | None = Field(default=None, min_length=1)
    name: str | None = Field(default=None, min_length=1, max_length=128)
    idle_s: float | None = Field(default=None, gt=0, le=86_400)
    outputs: list[OutputBody] = Field(default=[], max_length=8)
    instructions: str | None = None
    tools: list[Tool] | None = Field(default=None, max_length=MAX_TOOLS)


def _told(session: dict[str, Any]) -> dict[str, Any]:
    """The counters of a session as they are told."""
    return {**session, "outputs": [with_urls(session["id"], output) for output in session.get("outputs", [])]}


def _answered(request: web.Request, answer: Answer) -> web.Response:
    response = web.Response(status=201, text=answer.sdp, content_type=SDP_TYPE)
    # Relative to the request, so that it holds behind a proxy that serves us under a path of its own.
    response.headers[hdrs.LOCATION] = answer.viewer_id if request.path.endswith("/") else f"whep/{answer.viewer_id}"
    response.headers[hdrs.ETAG] = f'"{answer.etag}"'
    return response


def _number(text: str | None, what: str) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise BadRequest(f"{what} is the number of an event, not {text!r:.80}.")
    return int(text)


def _refuse(*methods: str) -> Handler:
    """Whatever else is asked of a resource; GET and HEAD, too, are reserved at those of WHEP (RFC 9725, section 4.2)."""

    async def refuse(request: web.Request) -> web.StreamResponse:
        raise web.HTTPMethodNotAllowed(request.method, methods)

    return refuse


def _files(static_dir: Path | None) -> Handler:
    """The page and what belongs to it. What there is is known beforehand: no path of a request ever reaches the file system."""
    files = {} if static_dir is None else {p.relative_to(static_dir).as_posix(): p for p in static_dir.rglob("*") if p.is_file()}

    async def file(request: web.Request) -> web.StreamResponse:
        path = files.get(request.match_info["path"] or "index.html")
        if path is None:
            raise NotFound(f"There is nothing at {request.path:.200}.")
        return web.FileResponse(path, headers={hdrs.CACHE_CONTROL: "no-cache"})

    return file


def _problem_response(problem: dict[str, object], status: int) -> web.Response:
    return web.Response(status=status, text=json.dumps(problem), content_type="application/problem+json")


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error as a problem. This is the one place of the wire that catches everything."""
    try:
        return await handler(request)
    except SignalingError as raised:
        error = raised
    except EventError as raised:
        error = Unprocessable(raised.message, code=raised.code)
        error.status = _EVENT_STATUS.get(raised.code, 422)
    except web.HTTPMethodNotAllowed as raised:
        methods = ", ".join(sorted(raised.allowed_methods))
        error = MethodNotAllowed(f"{request.method} is not possible here. Use {methods}.", headers={hdrs.ALLOW: methods})
    except web.HTTPRequestEntityTooLarge:
        error = BodyTooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes. Send less.")
    except web.HTTPException:
        raise
    except Exception:
        logger.exception("%s %s failed", request.method, request.path)
        error = SignalingError("The server failed. Its log says why.")
    if request.path.startswith(REALTIME_PATH):
        response = web.json_response(error_of(error), status=error.status)
    else:
        response = _problem_response(error.to_json(), error.status)
    response.headers.update(error.headers)
    if isinstance(error, RequestTimeout):
        response.force_close()
    return response


def cors(allowed_origins: Collection[str]) -> Middleware:
    """Lets pages of these origins call; ``*`` those of all."""

    @web.middleware
    async def allow(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and ("*" in allowed_origins or origin in allowed_origins):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = "*" if "*" in allowed_origins else origin
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = "GET, POST, PATCH, DELETE, OPTIONS"
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = ALLOWED_HEADERS
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = "Location, ETag, Link, Retry-After"
            response.headers[hdrs.VARY] = "Origin"
        return response

    return allow
