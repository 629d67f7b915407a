"""A server and its callers in one process, on the instant engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from avatar_rtc import resources
from avatar_rtc.app import Server
from avatar_rtc.client import Call
from avatar_rtc.config import ServerConfig, load_config
from tests.support.instant_engine import InstantEngine


def make_config(**changes: dict[str, Any]) -> ServerConfig:
    """The shipped config on a free port, with sections changed: ``limits={"max_sessions": 1}``."""
    config = load_config(resources.server_config("pocket"))
    changes = {"http": {"port": 0}, **changes}
    sections = {name: getattr(config, name).model_copy(update=update) for name, update in changes.items()}
    return config.model_copy(update=sections)


@asynccontextmanager
async def serving(
    engine: InstantEngine | None = None, *, config: ServerConfig | None = None, **changes: dict[str, Any]
) -> AsyncIterator[Server]:
    server = Server(config or make_config(**changes), engine or InstantEngine())
    await server.start()
    try:
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def calling(server: Server, query: str = "") -> AsyncIterator[Call]:
    call = Call(server.address)
    try:
        await call.connect(query)
        yield call
    finally:
        await call.close()
