"""Where HTTP is listened for."""

from __future__ import annotations

import asyncio

from aiohttp import web

from signaling.connections import Connections

LINGERING_S = 2.0
"""So long the rest of a body that was refused is read, so that its sender sees why, and so long the end waits for requests."""


class Site:
    """An application at an address.

    Args:
        connections: which of them are being answered; the application tells it.
    """

    def __init__(self, app: web.Application, connections: Connections) -> None:
        self._connections = connections
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=LINGERING_S, lingering_time=LINGERING_S, auto_decompress=False
        )
        self._watch: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> str:
        """Listen; returns the address, such as ``http://127.0.0.1:8080``.

        Args:
            port: 0 takes a free one.

        Raises:
            OSError: the port cannot be used.
        """
        await self._runner.setup()
        assert self._runner.server is not None
        self._watch = asyncio.create_task(self._connections.watch(self._runner.server))
        await web.TCPSite(self._runner, host, port).start()
        port = self._runner.addresses[0][1]
        host = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def close(self) -> None:
        """Listen no more. Idempotent."""
        if self._watch is not None:
            self._watch.cancel()
        await self._runner.cleanup()
