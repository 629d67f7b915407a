"""The only place where the parts of the server are wired together."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable

from avatar_rtc import systemd
from avatar_rtc.config import ServerConfig
from avatar_rtc.ears.ears import Ears
from avatar_rtc.engine.api import Engine
from avatar_rtc.engine.process_engine import ProcessEngine
from avatar_rtc.keys import make_auth
from avatar_rtc.metrics import Metrics
from avatar_rtc.mind.source import ReplySource
from avatar_rtc.models import model_loader
from avatar_rtc.sessions.moving import NodeRegistry
from avatar_rtc.sessions.registry import Registry
from avatar_rtc.shutdown import Shutdown
from avatar_rtc.site import Site
from signaling.connections import Connections
from signaling.http import make_app
from signaling.nodes import Behind
from signaling.rate import RateLimit

logger = logging.getLogger(__name__)

CLOSING_S = 15.0
"""For what comes after the last call: HTTP and the engine end."""


def make_engine(config: ServerConfig) -> Engine:
    """The engine that a config names, not started."""
    return ProcessEngine(model_loader(config.engine))


def make_source(config: ServerConfig) -> ReplySource | None:
    """The source of replies that a config names; None without one.

    Raises:
        avatar_rtc.errors.ServerConfigError: it cannot be asked.
        ModuleNotFoundError: its client library is not installed.
    """
    if config.llm is None:
        return None
    from avatar_rtc.mind.chat import ChatCompletions  # the library takes a while to load

    return ChatCompletions(config.llm)


class Server:
    """Engine, registry and HTTP.

    Args:
        behind: it is a node of a cluster.

    Attributes:
        address: such as ``http://127.0.0.1:8080``; known once ``start`` listens.

    Raises:
        avatar_rtc.errors.ServerConfigError: who may call is not said, or cannot be read; or who answers or hears cannot be asked.
        ModuleNotFoundError: what ``llm`` or ``listen`` of the config needs is not installed.
    """

    def __init__(self, config: ServerConfig, engine: Engine, behind: Behind | None = None) -> None:
        self.address = ""
        self._at = (config.http.host, config.http.port) if behind is None else (behind.host, 0)
        self._source = make_source(config)
        self._ears = None if config.listen is None else Ears(config.listen)
        parts = config, engine, Metrics(), self._source, self._ears
        self.registry = Registry(*parts) if behind is None else NodeRegistry(*parts, node=behind.node)
        config.ice.wire_servers()  # a secret that is missing is noticed now
        self._config = config
        self._engine = engine
        http = config.http
        connections = Connections()
        app = make_app(
            self.registry,
            static_dir=http.static_dir,
            allowed_origins=http.allowed_origins,
            connections=connections,
            auth=make_auth(config),
            rate_limit=RateLimit(config.limits.requests_per_minute),
            behind=behind,
        )
        self._site = Site(app, connections)

    async def start(self) -> None:
        """Listen, then start the engine: a port that is taken is noticed before minutes of loading.

        Raises:
            OSError: the port cannot be used.
            avatar_rtc.engine.api.EngineFailure, model.errors.ModelError: the engine does not start.
        """
        try:
            self.address = await self._site.start(*self._at)
            await self._engine.start()
        except BaseException:
            await self.close()
            raise
        gc.freeze()  # what is here stays, so looking for garbage after each call passes over it

    @property
    def rtf(self) -> float:
        """Of the engine; after ``start`` that of its warm-up."""
        return self._engine.stats().rtf_p50

    async def drain(self, hurry: asyncio.Event) -> None:
        """Take no more calls, and wait until those that run have ended, or have to, or until ``hurry``."""
        self.registry.drain()
        limit_s = self._config.limits.drain_s
        words = f"shutting down: no new calls, and the {self.registry.num_sessions} that run go on for {limit_s:g} s at most"
        logger.info("%s; a second SIGTERM ends them", words)
        systemd.notify("STOPPING=1", f"STATUS={words}", f"EXTEND_TIMEOUT_USEC={round(1e6 * (limit_s + CLOSING_S))}")
        waiting = [asyncio.ensure_future(event) for event in (self.registry.emptied(), hurry.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()

    async def close(self) -> None:
        """Sessions first, then HTTP, then the engine. Idempotent."""
        await self.registry.close()
        await self._site.close()
        await self._engine.close()
        if self._source is not None:
            await self._source.close()
        if self._ears is not None:
            await self._ears.close()
        gc.unfreeze()


async def serve(config: ServerConfig, on_ready: Callable[[str, float], None]) -> None:
    """Serve until SIGINT, or until SIGTERM and the end of the calls that run, within ``limits.drain_s``; a second signal does not
    wait for them. In the end say good-bye to the peers.

    Args:
        on_ready: told the address, and the engine's real-time factor, when calls can be taken.
    """
    shutdown = Shutdown()
    server = Server(config, make_engine(config))
    try:
        await server.start()
        shutdown.has_started = True
        systemd.notify("READY=1")
        on_ready(server.address, server.rtf)
        await shutdown.leave.wait()
        if not shutdown.hurry.is_set():
            await server.drain(shutdown.hurry)
    except asyncio.CancelledError:
        if not shutdown.hurry.is_set():
            raise
    finally:
        systemd.notify("STOPPING=1")
        await server.close()
