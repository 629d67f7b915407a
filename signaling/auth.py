"""Who may: API keys, short-lived tokens made of them, and the scope that each route needs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
import zlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jwt
from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from signaling.errors import BadRequest, Forbidden, NotFound, Unauthorized, UnknownSession, Unprocessable

Scope = Literal["call", "speak", "watch", "record", "admin"]
SCOPES: frozenset[Scope] = frozenset(get_args(Scope))

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
ISSUER = "avatar-rtc"
MAX_TTL_S = 86_400
DEFAULT_TTL_S = 600

ROUTES: Mapping[tuple[str, str], frozenset[Scope] | None] = {
    ("POST", "/whep"): frozenset({"call"}),  # with ?role=watch: watch
    # The address is the viewer's secret. Some players send nothing else, and a token may have expired during the call.
    ("PATCH", "/whep/{id}"): None,
    ("DELETE", "/whep/{id}"): None,
    ("POST", "/v1/realtime/calls"): frozenset({"call"}),
    ("POST", "/v1/realtime/calls/{id}/hangup"): None,
    ("DELETE", "/v1/realtime/calls/{id}"): None,
    ("POST", "/v1/realtime/client_secrets"): frozenset({"call"}),
    ("GET", "/v1/realtime"): frozenset({"watch"}),  # and speak, for commands
    ("POST", "/start"): frozenset({"call"}),
    ("POST", "/api/offer"): frozenset({"call"}),
    ("PATCH", "/api/offer"): None,  # the body names the viewer, which is its secret
    ("POST", "/sessions/{start}/api/offer"): frozenset({"call"}),
    ("PATCH", "/sessions/{start}/api/offer"): None,
    ("POST", "/v1/tokens"): frozenset(),
    ("POST", "/v1/sessions"): frozenset({"call"}),
    ("GET", "/v1/sessions"): frozenset({"watch"}),  # tells of those that whoever asks may touch
    ("GET", "/v1/sessions/{id}"): frozenset({"watch"}),
    ("DELETE", "/v1/sessions/{id}"): frozenset({"call"}),
    ("POST", "/v1/sessions/{id}/events"): frozenset({"speak"}),
    ("GET", "/v1/sessions/{id}/events"): frozenset({"watch"}),
    ("GET", "/v1/sessions/{id}/stats"): frozenset({"watch"}),
    ("POST", "/v1/sessions/{id}/outputs"): frozenset({"record"}),
    ("GET", "/v1/sessions/{id}/outputs/{output}"): frozenset({"record"}),
    ("DELETE", "/v1/sessions/{id}/outputs/{output}"): frozenset({"record"}),
    ("GET", "/v1/sessions/{id}/recordings/{file}"): frozenset({"record"}),
    ("GET", "/v1/capacity"): frozenset({"call"}),
    ("POST", "/v1/drain"): frozenset({"admin"}),
}
"""What a principal needs for a route, by method and path; None: to know the address. For one that is not here, ``admin``.

Where a route names a session, it must be one that the principal may touch (``Principal.may_touch``), too."""

SESSION_TOKEN_SCOPES: frozenset[Scope] = frozenset({"call", "speak", "watch"})
"""What the token may, at most, that comes with a new session, and a client secret."""
CLIENT_SECRET_PREFIX = "ek_"
"""OpenAI's libraries want it of what a browser calls with."""
MAX_CLIENT_SECRET_CHARS = 7000
"""It has to fit into a header; some 8,000 characters of instructions do."""
WEBSOCKET_KEY_PROTOCOL = "openai-insecure-api-key."
"""A browser opens a WebSocket without headers of its own; there the bearer follows this, among the subprotocols."""

OPEN = frozenset({"/{path}", "/v1/avatars", "/v1/models"})
"""What may be read by whoever it is: the page and its choices."""


@dataclass(frozen=True)
class Principal:
    """Who asks.

    Attributes:
        id: that of an API key; of a token, that of its key, a slash, and a name. What it makes is its own by this id.
        reach: whose sessions it may touch: those of this principal, and of the tokens that it made; None for everybody's.
        session: the one session that it may touch; None for all within its reach.
    """

    id: str
    scopes: frozenset[Scope]
    reach: str | None
    session: str | None = None

    def may_touch(self, owner: str | None) -> bool:
        """Whether the sessions of ``owner``, the id of a principal, are within its reach; None: nobody knows whose it is."""
        return self.reach is None or (owner is not None and f"{owner}/".startswith(f"{self.reach}/"))


ANYONE = Principal("anyone", SCOPES, reach=None)
"""Everybody, where nobody is asked."""
NOBODY = Principal("nobody", frozenset(), reach="")
"""Who did not say, where nobody has to."""

_PRINCIPAL = web.RequestKey("principal", Principal)


def principal_of(request: web.Request) -> Principal:
    """Who asks; known once the middleware has seen the request."""
    return request[_PRINCIPAL]


def check_scope(request: web.Request, scope: Scope) -> None:
    """For what only some requests of a route need.

    Raises:
        signaling.errors.Forbidden: whoever asks lacks it.
    """
    principal = principal_of(request)
    _check_scopes({scope}, principal.scopes, f"{principal.id!r}")


@dataclass(frozen=True)
class ApiKey:
    """A long-lived secret of a program, of which only the hash is kept.

    Attributes:
        sha256: of the key, in hex. A key has 256 random bits, so a plain hash cannot be reversed by guessing.
    """

    id: str
    sha256: str
    scopes: frozenset[Scope]


def new_api_key(key_id: str, scopes: Collection[Scope]) -> tuple[str, ApiKey]:
    """A random key, and what is kept of it."""
    key = f"avk_{secrets.token_urlsafe(32)}"
    return key, ApiKey(key_id, _sha256(key), frozenset(scopes))


class _TokenRequest(BaseModel):
    """The body of ``POST /v1/tokens``."""

    model_config = ConfigDict(extra="forbid")

    scopes: frozenset[Scope] = Field(min_length=1)
    ttl_s: int = Field(default=DEFAULT_TTL_S, ge=1, le=MAX_TTL_S)
    session: str | None = Field(default=None, min_length=1, max_length=128)
    name: str | None = Field(default=None, pattern=ID_PATTERN)


class Auth:
    """Tells who asks by their ``Authorization: Bearer``, and refuses what they may not.

    Args:
        keys: those that are known; None asks nobody, and everybody may do everything.
        secret: signs tokens; those of another secret are refused. Without one there is one for as long as this lives.
        open_paths: further routes that need nobody.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        keys: Collection[ApiKey] | None = None,
        *,
        secret: str = "",
        open_paths: Collection[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._secret = secret or secrets.token_hex(32)
        self._open = OPEN.union(open_paths)
        self._clock = clock

    def middleware(self, owner_of: Callable[[str], str | None]) -> Middleware:
        """Puts the principal on each request.

        Args:
            owner_of: the id of the principal whose a session is; None where nobody knows.

        Raises:
            signaling.errors.Unauthorized: who asks is not known.
            signaling.errors.Forbidden: they may not.
            signaling.errors.UnknownSession: the session is somebody else's.
        """

        @web.middleware
        async def authenticate(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            request[_PRINCIPAL] = ANYONE if self._keys is None else self._admit(request, self._keys, owner_of)
            return await handler(request)

        return authenticate

    def make_token(self, request: web.Request, body: bytes) -> dict[str, object]:
        """A signed token (JWT, HS256) with scopes of the API key that asks.

        Raises:
            signaling.errors.NotFound: there are no keys.
            signaling.errors.BadRequest, signaling.errors.Unprocessable: the body is no request for a token.
            signaling.errors.Forbidden: a token asks, or a key that has not all of these scopes.
        """
        if self._keys is None:
            raise NotFound("This server asks nobody for a token, so it makes none. Call without one.")
        key = _find(self._keys, _bearer(request))
        if key is None:
            raise Forbidden("A token makes no tokens. Ask with an API key.", code="api_key_needed")
        try:
            wanted = _TokenRequest.model_validate_json(body)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            if not where:
                raise BadRequest('The body must be a JSON object such as {"scopes": ["call"], "ttl_s": 600}.') from None
            raise Unprocessable(f"{where:.80}: {problem['msg']}", code="invalid_token_request") from None
        _check_scopes(wanted.scopes, key.scopes, f"The API key {key.id!r}")
        token, expires_at = self._sign(key.id, wanted)
        return {"token": token, "expires_at": expires_at}

    def token_of_session(self, request: web.Request, session_id: str) -> dict[str, object]:
        """What a program that has made a session hands to a browser: a token for it alone. Nothing where a token has asked, whose
        own session it is, or where nobody is asked."""
        principal = principal_of(request)
        scopes = SESSION_TOKEN_SCOPES & principal.scopes
        if self._keys is None or "/" in principal.id or not scopes:
            return {}
        token, expires_at = self._sign(principal.id, _TokenRequest(scopes=scopes, session=session_id))
        return {"token": token, "token_expires_at": expires_at}

    def make_client_secret(self, request: web.Request, ttl_s: int, session: dict[str, Any]) -> tuple[str, int]:
        """A token for a browser, in the form that OpenAI's libraries want, and until when it is one. Also where nobody is asked.

        Args:
            session: what is wanted of the session that it starts; see ``session_of``.

        Raises:
            signaling.errors.Forbidden: a token asks.
            signaling.errors.Unprocessable: too much is wanted.
        """
        principal = principal_of(request)
        if "/" in principal.id:
            raise Forbidden("A token makes no tokens. Ask with an API key.", code="api_key_needed")
        wanted = _TokenRequest(scopes=SESSION_TOKEN_SCOPES & principal.scopes, ttl_s=ttl_s)
        token, expires_at = self._sign(principal.id, wanted, realtime=_packed(session))
        if len(token) > MAX_CLIENT_SECRET_CHARS:
            raise Unprocessable("The session is described at too great length. Describe it in the call.", code="bad_request")
        return CLIENT_SECRET_PREFIX + token, expires_at

    def session_of(self, request: web.Request) -> dict[str, Any]:
        """What the client secret that asks says of the session that it starts; empty for whoever else asks."""
        bearer = _bearer(request)
        if not bearer.startswith(CLIENT_SECRET_PREFIX.encode()):
            return {}
        try:
            packed = self._decode(bearer).get("realtime")
        except jwt.InvalidTokenError:
            return {}  # where nobody is asked, anything will do
        session: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed))) if packed else {}
        return session

    def _sign(self, key_id: str, wanted: _TokenRequest, **further: object) -> tuple[str, int]:
        """The token, and until when it is one."""
        now_s = int(self._clock())
        claims: dict[str, object] = {
            "iss": ISSUER,
            # Without a name each token is somebody of its own, so that none can end another's session.
            "sub": f"{key_id}/{wanted.name or secrets.token_hex(8)}",
            "scope": " ".join(sorted(wanted.scopes)),
            "iat": now_s,
            "exp": now_s + wanted.ttl_s,
            **further,
        }
        if wanted.session is not None:
            claims["session"] = wanted.session
        return jwt.encode(claims, self._secret, algorithm="HS256"), now_s + wanted.ttl_s

    def _admit(self, request: web.Request, keys: Collection[ApiKey], owner_of: Callable[[str], str | None]) -> Principal:
        route = request.match_info.route
        method = hdrs.METH_GET if request.method == hdrs.METH_HEAD else request.method
        path = "" if route.resource is None else route.resource.canonical.rstrip("/")
        needed = ROUTES.get((method, path), frozenset({"admin"}))
        # Nothing is there, or not by this method; or it is a preflight, which cannot say who asks; or it is open.
        nothing = route.resource is None or route.method == hdrs.METH_ANY
        is_open = method == hdrs.METH_OPTIONS or (method == hdrs.METH_GET and path in self._open)
        if needed is None or nothing or is_open:
            try:
                return self._identify(request, keys)
            except Unauthorized:
                return NOBODY
        principal = self._identify(request, keys)
        if (method, path) == (hdrs.METH_POST, "/whep") and request.query.get("role") == "watch":
            needed = frozenset({"watch"})
        _check_scopes(needed, principal.scopes, f"{principal.id!r}")
        named = request.match_info.get("id", request.query.get("session", request.query.get("call_id")))
        if principal.session not in (None, named):
            raise Forbidden(f"This token is for session {principal.session} alone.", code="other_session")
        if named is not None and not principal.may_touch(owner_of(named)):
            raise UnknownSession
        return principal

    def _identify(self, request: web.Request, keys: Collection[ApiKey]) -> Principal:
        bearer = _bearer(request)
        if not bearer:
            raise Unauthorized("Say who asks: send an API key or a token as 'Authorization: Bearer ...'.")
        key = _find(keys, bearer)
        if key is not None:
            return Principal(key.id, key.scopes, _reach(key.id, key.scopes))
        try:
            claims = self._decode(bearer)
        except jwt.ExpiredSignatureError:
            raise Unauthorized("The token has expired. Ask for a new one.", code="token_expired") from None
        except jwt.InvalidTokenError:
            raise Unauthorized("This is no API key of this server, and no token that it signed.", code="invalid_token") from None
        # Whoever's key was taken away, or some of its scopes, has them in no token either.
        maker = next((key for key in keys if key.id == claims["sub"].partition("/")[0]), None)
        if maker is None:
            raise Unauthorized("The API key that made this token is not known any more.", code="invalid_token")
        scopes, session = maker.scopes.intersection(claims["scope"].split()), claims.get("session")
        # Of the one session that it is for, a token reaches what its maker does.
        reach = _reach(claims["sub"], scopes) if session is None else _reach(maker.id, maker.scopes)
        return Principal(claims["sub"], scopes, reach, session)

    def _decode(self, bearer: bytes) -> dict[str, Any]:
        """The claims of a token of ours. Raises ``jwt.InvalidTokenError``."""
        token = bearer.removeprefix(CLIENT_SECRET_PREFIX.encode())
        return jwt.decode(token, self._secret, algorithms=["HS256"], issuer=ISSUER, options={"require": ["exp", "sub", "scope"]})


def _reach(principal_id: str, scopes: Collection[Scope]) -> str | None:
    return None if "admin" in scopes else principal_id


def _packed(session: dict[str, Any]) -> str:
    return base64.b64encode(zlib.compress(json.dumps(session).encode(), 9)).decode()


def _bearer(request: web.Request) -> bytes:
    scheme, _, value = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() != "bearer":
        protocols = map(str.strip, request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(","))
        value = next((p.removeprefix(WEBSOCKET_KEY_PROTOCOL) for p in protocols if p.startswith(WEBSOCKET_KEY_PROTOCOL)), "")
    return value.strip().encode(errors="surrogateescape")


def _find(keys: Collection[ApiKey], bearer: bytes) -> ApiKey | None:
    """The key that this is. Compares all of them in constant time, so that how long it takes tells nothing."""
    digest = _sha256(bearer)
    found = [key for key in keys if hmac.compare_digest(key.sha256, digest)]
    return found[0] if found else None


def _check_scopes(needed: Collection[Scope], given: Collection[Scope], who: str) -> None:
    missing = sorted(set(needed) - set(given))
    if missing:
        raise Forbidden(
            f"{who} lacks the scope {', '.join(missing)}.",
            headers={hdrs.WWW_AUTHENTICATE: f'Bearer error="insufficient_scope", scope="{" ".join(missing)}"'},
        )


def _sha256(key: str | bytes) -> str:
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).hexdigest()
