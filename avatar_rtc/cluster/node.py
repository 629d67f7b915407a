"""A node: engine, media and seats, in a process of its own. Ray makes an actor of it (``rays.py``); it knows nothing of Ray."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable

from avatar_rtc.app import Server, make_engine
from avatar_rtc.cluster.table import NodeState
from avatar_rtc.config import ServerConfig
from avatar_rtc.engine.api import Engine
from avatar_rtc.sessions.moving import Memory, NodeRegistry
from signaling.nodes import Behind

logger = logging.getLogger(__name__)


class Node:
    """A server that stands behind front doors. It starts with the first question, so also when it is started again.

    Args:
        name: to which a few digits are added that are others at each start.
        host: the address at which front doors find it.
        engine: of the config, not started.
    """

    def __init__(
        self, config: ServerConfig, name: str, host: str, engine: Callable[[ServerConfig], Engine] = make_engine
    ) -> None:
        self._behind = Behind(f"{name}-{secrets.token_hex(3)}", host, secrets.token_hex(16))
        self._config = config
        self._make_engine = engine
        self._server: Server | None = None
        self._starting: asyncio.Task[Server] | None = None

    async def ready(self) -> float:
        """Wait until it serves; returns the engine's real-time factor, of its warm-up. Raises as ``Server.start``."""
        return (await asyncio.shield(self._start())).rtf

    async def state(self) -> NodeState:
        """How it is now. A process in which the server did not start ends: it is no use, and Ray starts another one."""
        starting, behind = self._start(), self._behind
        if not starting.done():
            return NodeState(behind.node, "", behind.key)
        if (error := starting.exception()) is not None:
            logger.error("the node does not start: %s", error)
            os._exit(1)
        server = starting.result()
        told = server.registry.capacity()
        return NodeState(
            behind.node,
            server.address,
            behind.key,
            **{name: told[name] for name in ("seats", "free", "waiting", "rtf_p95", "draining")},
        )

    async def drain(self) -> None:
        """Take no more calls, and return when the last one has ended, or has to, or is elsewhere."""
        registry = (await self._start()).registry
        registry.drain()
        await registry.emptied()

    async def let_go(self, num_seats: int) -> None:
        """Let sessions go elsewhere; see ``NodeRegistry``, also for the four that follow."""
        self._registry.let_go(num_seats)

    async def release(self, session_id: str) -> Memory | None:
        return self._registry.release(session_id)

    async def keep(self, session_id: str) -> None:
        self._registry.keep(session_id)

    async def moved(self, session_id: str, node: str) -> None:
        self._registry.moved(session_id, node)

    async def take(self, memory: Memory) -> bool:
        return self._registry.take(memory)

    async def close(self) -> None:
        """Say goodbye to the callers, and end."""
        if self._server is not None:
            await self._server.close()

    @property
    def _registry(self) -> NodeRegistry:
        assert self._server is not None
        registry = self._server.registry
        assert isinstance(registry, NodeRegistry)
        return registry

    def _start(self) -> asyncio.Task[Server]:
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._serve())
        return self._starting

    async def _serve(self) -> Server:
        self._server = server = Server(self._config, self._make_engine(self._config), self._behind)
        await server.start()
        return server
