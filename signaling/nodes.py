"""Servers that are nodes of a cluster: their ids name them, and only front doors may ask them anything."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Middleware

from signaling.errors import Forbidden

KEY_HEADER = "Avatar-Rtc-Door"
CALLER_HEADER = "X-Forwarded-For"
NODE_PATTERN = r"[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?"
_ID = re.compile(rf"({NODE_PATTERN})\.[0-9a-f]{{32}}")


def new_id(node: str = "") -> str:
    """128 random bits, after the name of the node, where there is one: whoever is told the id can be led to it."""
    token = secrets.token_hex(16)
    return f"{node}.{token}" if node else token


def node_of(text: str) -> str | None:
    """The node whose id this is; None where it is no id of a node."""
    match = _ID.fullmatch(text)
    return match and match[1]


@dataclass(frozen=True)
class Behind:
    """What a server is told that stands behind front doors.

    Attributes:
        node: its name.
        host: the address of this machine at which the doors find it; it takes any free port there.
        key: what they say, so that nobody else is heard.
    """

    node: str
    host: str
    key: str

    def middleware(self) -> Middleware:
        """Takes requests of front doors for what they are: those of their callers.

        Raises:
            signaling.errors.Forbidden: it is nobody's.
        """

        @web.middleware
        async def admit(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            if not hmac.compare_digest(request.headers.get(KEY_HEADER, "").encode(errors="surrogateescape"), self.key.encode()):
                raise Forbidden("This is a node of a cluster. Ask one of its front doors.", code="not_a_door")
            return await handler(request.clone(remote=request.headers.get(CALLER_HEADER, "")))

        return admit
