"""``avatar-rtc cluster up``: a node and a front door on this machine, in a cluster of one or more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
from collections.abc import Callable, Coroutine
from typing import Any

from ray.exceptions import RayActorError, RayError, RayTaskError

from avatar_rtc import systemd
from avatar_rtc.app import CLOSING_S
from avatar_rtc.cluster.door import Door
from avatar_rtc.cluster.rays import TOKEN, Place, RayNodes, begin_node, join_address, joined, take_token
from avatar_rtc.cluster.table import NodeTable
from avatar_rtc.config import ServerConfig
from avatar_rtc.engine.api import EngineFailure
from avatar_rtc.errors import ClusterError, ServerConfigError
from avatar_rtc.keys import make_auth
from avatar_rtc.shutdown import Shutdown
from avatar_rtc.site import Site
from signaling.connections import Connections

logger = logging.getLogger(__name__)

LET_GO_EVERY_S = 0.3
LOOK_EVERY_S = 0.2

OnReady = Callable[[str, float, str], None]
"""Told the address, the engine's real-time factor, and the command by which other machines join."""


def up(config: ServerConfig, place: Place, on_ready: OnReady) -> None:
    """Serve until SIGINT, or until SIGTERM and the end of the calls of this node, as ``avatar_rtc.app.serve`` does.

    Raises:
        ServerConfigError: the config cannot be used, or Ray not be joined.
        OSError: the port cannot be used.
        avatar_rtc.engine.api.EngineFailure, model.errors.ModelError: the engine does not start.
        ClusterError: Ray has ended on this machine, and so the node.
    """
    make_auth(config)  # who may call is said, and can be read
    auth = config.auth
    if auth is not None and auth.keys_file is not None and auth.secret_env is None and auth.secret_file is None:
        raise ServerConfigError(
            "auth: a token of one node must be good at all: write secret_env or secret_file, with the same secret on all machines"
        )
    token = take_token(place)
    with joined(place) as process:
        words = "" if token is None else f"{TOKEN}={token} "
        join = f"{words}avatar-rtc cluster up --address {join_address(place)}"
        asyncio.run(_serve(config, place, process, lambda address, rtf: on_ready(address, rtf, join)))


async def _serve(
    config: ServerConfig, place: Place, process: subprocess.Popen[bytes] | None, on_ready: Callable[[str, float], None]
) -> None:
    shutdown = Shutdown()
    table, connections = NodeTable(), Connections()
    nodes = RayNodes(table, place.name)
    door = Door(table, config.http.allowed_origins, connections, nodes.tell)
    site = Site(door.app, connections)
    watch: asyncio.Task[None] | None = None
    node: Any = None
    try:
        address = await site.start(config.http.host, config.http.port)
        node = begin_node(config, place.name)
        rtf = await _answer(node.ready.remote())
        watch = asyncio.create_task(nodes.watch())
        table.heard(await _answer(node.state.remote()))
        shutdown.has_started = True
        systemd.notify("READY=1")
        on_ready(address, rtf)
        if await _first(shutdown.leave.wait(), _ended(process)) == 1:
            node = None
            raise ClusterError(_why_ended(place))
        if not shutdown.hurry.is_set():
            door.is_leaving = True
            await _drain(node, config.limits.drain_s, shutdown.hurry, lambda: table.num_free_beside(place.name))
    except asyncio.CancelledError:
        if not shutdown.hurry.is_set():
            raise
    finally:
        systemd.notify("STOPPING=1")
        if node is not None:
            with contextlib.suppress(RayError, TimeoutError):
                async with asyncio.timeout(CLOSING_S):
                    await node.close.remote()
        await site.close()
        if watch is not None:
            watch.cancel()


async def _drain(node: Any, limit_s: float, hurry: asyncio.Event, num_free_elsewhere: Callable[[], int]) -> None:
    """Empty our node: calls go to seats elsewhere, where there are some."""

    async def let_go() -> None:
        while True:
            await _answer(node.let_go.remote(num_free_elsewhere()))
            await asyncio.sleep(LET_GO_EVERY_S)

    words = f"shutting down: this node takes no new calls, and those that it has go on for {limit_s:g} s at most"
    logger.info("%s; a second SIGTERM ends them", words)
    systemd.notify("STOPPING=1", f"STATUS={words}", f"EXTEND_TIMEOUT_USEC={round(1e6 * (limit_s + CLOSING_S))}")
    await _first(_answer(node.drain.remote()), hurry.wait(), let_go())


async def _first(*lives: Coroutine[Any, Any, Any]) -> int:
    """Wait until one of them is over, and cancel the others. Returns which."""
    tasks = [asyncio.ensure_future(life) for life in lives]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(number for number, task in enumerate(tasks) if task.done())
    finally:
        for task in tasks:
            task.cancel()


async def _ended(process: subprocess.Popen[bytes] | None) -> None:
    """Wait until Ray's processes on this machine have ended; of those that are not ours nobody tells."""
    while process is None or process.poll() is None:  # noqa: ASYNC110 - it ends for itself
        await asyncio.sleep(LOOK_EVERY_S)


def _why_ended(place: Place) -> str:
    if place.address is None:
        return "Ray has ended on this machine, and with it the cluster. Start this machine again, and then the others"
    return (
        f"Ray has ended on this machine, and with it the node and its calls: the cluster's head at {place.address} is gone, or "
        "could not be reached. When it is there, start this machine again"
    )


async def _answer(reference: Any) -> Any:
    """What our node answers. What it raises is raised as it was there, without Ray around it."""
    try:
        return await reference
    except RayTaskError as error:
        raise error.cause or error from None
    except RayActorError as error:
        raise EngineFailure(f"the node's process ended: {str(error).partition(chr(10))[0]}") from None
