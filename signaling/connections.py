"""HTTP connections on which nothing comes are closed: whoever begins a request and never ends it takes a file descriptor."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

REQUEST_TIMEOUT_S = 15.0
"""For the whole head of a request, and between two of them. Bodies have a limit of their own."""
LOOK_EVERY_S = 1.0


class Connections:
    """Which connections are being answered, and since when the others are silent."""

    def __init__(self, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._silent_since_s: dict[web.RequestHandler, float] = {}

    def middleware(self) -> Middleware:
        """To be the outermost of the application."""

        @web.middleware
        async def note(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            self._silent_since_s[request.protocol] = math.inf
            try:
                return await handler(request)
            finally:
                self._silent_since_s[request.protocol] = time.monotonic()

        return note

    async def watch(self, server: web.Server) -> None:
        """Close what is silent for too long, for ever."""
        while True:
            now_s = time.monotonic()
            self._silent_since_s = {c: self._silent_since_s.get(c, now_s) for c in server.connections}
            for connection, since_s in self._silent_since_s.items():
                if now_s - since_s > self._timeout_s:
                    connection.force_close()
            await asyncio.sleep(min(LOOK_EVERY_S, self._timeout_s))
