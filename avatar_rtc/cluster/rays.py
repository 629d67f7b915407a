"""Ray on this machine: its processes, the actor that is our node, and what it tells of the others."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before Ray is imported: nobody is told that it is used
os.environ.setdefault("RAY_AUTH_MODE", "token")  # and it hears only who has the cluster's token

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import ActorDiedError, RayError
from ray.util.metrics import Gauge
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from avatar_rtc.cluster.node import Node
from avatar_rtc.cluster.relay import NodeLostError
from avatar_rtc.cluster.table import NodeState, NodeTable
from avatar_rtc.config import ServerConfig
from avatar_rtc.errors import ServerConfigError
from avatar_rtc.logs import set_up_logs

logger = logging.getLogger(__name__)

T = TypeVar("T")

NAMESPACE = "avatar-rtc"
RESOURCE = "avatar_rtc_node"
"""What a machine has one of, and its node takes: so that more can be asked for, and a machine with a node is not idle."""
TOKEN = "RAY_AUTH_TOKEN"
PREFIX = "node "
"""Of the names of our actors."""
ENVIRONMENT = {
    # A dead machine is noticed within two seconds, in place of half a minute.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    # A node is no batch job that may be ended where memory runs short, because of others perhaps, nor one that has what time
    # others leave (15 by default).
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_worker_niceness": "0",
}
OBJECT_STORE_BYTES = 80_000_000
"""The smallest: nothing of ours goes through it."""
JOIN_S = 60.0
LEAVE_S = 10.0
NAME_TAKEN_S = 10.0
"""So long the name of a node that was killed may still be known."""
ASK_EVERY_S = 0.5
ANSWER_S = 2.0
SILENT_S = 10.0
"""Whoever runs this is told of a head that is silent for so long."""


@dataclass(frozen=True)
class Place:
    """Where Ray runs.

    Args:
        address: of a cluster that is joined, ``HOST:PORT``; ``auto``: what this machine has joined already; None begins one.
        name: of this node.
        ip: of this machine, as the others reach it; None lets Ray find out.
        port: at which others join.
    """

    address: str | None
    name: str
    ip: str | None
    port: int


def default_name() -> str:
    """This machine's, in letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", os.uname().nodename.partition(".")[0].lower())[-40:].strip("-") or "node"


@contextlib.contextmanager
def joined(place: Place) -> Iterator[subprocess.Popen[bytes] | None]:
    """Ray's processes on this machine, for as long as we live, and this process connected to them. None: they are not ours.

    Raises:
        ServerConfigError: Ray does not start, or nobody answers there.
    """
    process = None
    with contextlib.ExitStack() as stack:
        if place.address == "auto":
            _connect("auto", None, None)
        else:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="avatar-ray-", ignore_cleanup_errors=True))
            process = stack.enter_context(running(place, directory))
            if place.address is None:
                _await_port(place, process)
            _connect(place.address or f"{place.ip or '127.0.0.1'}:{place.port}", directory, process)
        stack.callback(ray.shutdown)
        yield process


def take_token(place: Place) -> str | None:
    """See that Ray has a token: who begins a cluster without one makes it. Returns it then, to be told; None where there is one.

    Raises:
        ServerConfigError: who joins has none.
    """
    has_token = any(os.environ.get(name) for name in (TOKEN, f"{TOKEN}_PATH")) or (Path.home() / ".ray" / "auth_token").exists()
    if has_token or os.environ["RAY_AUTH_MODE"] != "token":
        return None
    if place.address is not None:
        raise ServerConfigError(f"set the environment variable {TOKEN} to the cluster's token, which its first machine printed")
    os.environ[TOKEN] = token = secrets.token_hex(32)
    return token


def _die_with_parent() -> None:
    """Ray's processes end with us, however we end."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


@contextlib.contextmanager
def running(place: Place, directory: str) -> Iterator[subprocess.Popen[bytes]]:
    """Ray's processes, whose files lie in a directory."""
    where = [f"--address={place.address}"] if place.address else ["--head", f"--port={place.port}", "--dashboard-host=127.0.0.1"]
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *where),
        *(f"--node-name={place.name}", f"--temp-dir={directory}", f"--object-store-memory={OBJECT_STORE_BYTES}"),
        f'--resources={{"{RESOURCE}": 1}}',
        *([f"--node-ip-address={place.ip}"] if place.ip else []),
    ]
    # In a session of its own: Ctrl-C is for us, who first say goodbye to our callers.
    with (Path(directory) / "ray.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env={**ENVIRONMENT, **os.environ},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
    try:
        yield process
    finally:
        process.terminate()
        deadline_s = time.monotonic() + LEAVE_S
        while process.poll() is None and time.monotonic() < deadline_s:
            if not _is_there(place):
                logger.warning("the cluster's head at %s does not answer: this machine leaves without it", place.address)
                break
            time.sleep(0.1)
        process.kill()
        process.wait()


def _is_there(place: Place) -> bool:
    """Whether the head can be reached; without it Ray's processes do not find an end."""
    if place.address is None:
        return True
    host, _, port = place.address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1.0):
        return True
    return False


def _await_port(place: Place, process: subprocess.Popen[bytes]) -> None:
    """Ray, asked too early, takes long to ask again."""
    deadline_s = time.monotonic() + JOIN_S
    while process.poll() is None and time.monotonic() < deadline_s:
        with contextlib.suppress(OSError), socket.create_connection((place.ip or "127.0.0.1", place.port), 1.0):
            return
        time.sleep(0.05)


def _connect(address: str, directory: str | None, process: subprocess.Popen[bytes] | None) -> None:
    """As a driver, to the Ray of ``directory`` on this machine, where there may be several."""
    deadline_s = time.monotonic() + JOIN_S
    while True:
        try:
            ray.init(address=address, namespace=NAMESPACE, _temp_dir=directory, logging_level=logging.WARNING)
            return
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            ended = process is not None and process.poll() is not None
            if ended or time.monotonic() > deadline_s:
                log = "" if directory is None else (Path(directory) / "ray.log").read_text(errors="replace")
                lines = [line for line in [*log.splitlines(), str(error)] if line.strip()]
                raise ServerConfigError(
                    f"there is no Ray at {address}: {lines[-1].strip()}. Begin a cluster with 'avatar-rtc cluster up' on one "
                    "machine, and join it from others with what it prints; all need the same versions of Ray and Python"
                ) from None
            time.sleep(0.3)


def join_address(place: Place) -> str:
    """Where other machines join."""
    return str(ray.get_runtime_context().gcs_address) if place.address is None else place.address


class NodeActor(Node):
    """A node in a process that Ray has started."""

    def __init__(self, config: ServerConfig, name: str, host: str) -> None:
        set_up_logs()
        # Ray gives a process one thread; ours reckon by themselves how many the machine has for them.
        os.environ.pop("OMP_NUM_THREADS", None)
        super().__init__(config, name, host)


def begin_node(config: ServerConfig, name: str) -> Any:
    """The actor that is this machine's node. It is started again whenever its process ends, and ends with this process.

    Raises:
        ServerConfigError: this machine cannot have it.
    """
    here = ray.get_runtime_context().get_node_id()
    resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    gpus = num_gpus(config)
    if RESOURCE not in resources:
        raise ServerConfigError(f"""start Ray on this machine with --resources='{{"{RESOURCE}": 1}}'""")
    if gpus > resources.get("GPU", 0):
        raise ServerConfigError(f"the config wants {gpus} GPUs, and Ray has {resources.get('GPU', 0):g} on this machine")
    actor = ray.remote(NodeActor).options(
        name=PREFIX + name,
        num_cpus=0,
        num_gpus=gpus,
        resources={RESOURCE: 1},
        max_restarts=-1,
        max_concurrency=1000,
        scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
    )
    deadline_s = time.monotonic() + NAME_TAKEN_S
    while True:
        try:
            return actor.remote(config, name, ray.util.get_node_ip_address())
        except ValueError:
            if time.monotonic() > deadline_s:
                raise ServerConfigError(f"the cluster has a node {name} already: choose another name with --name") from None
            time.sleep(0.3)


def num_gpus(config: ServerConfig) -> int:
    """So many the engine computes on."""
    published = config.engine.hallo_live if config.engine.model == "hallo-live" else None
    return 0 if published is None else sum(device.startswith("cuda") for device in published.devices)


class RayNodes:
    """Keeps a table of what all nodes say of themselves, and asks for more of them where callers wait.

    Args:
        name: of this machine's node; of all front doors one asks for nodes, that of the first name.
    """

    def __init__(self, table: NodeTable, name: str) -> None:
        self._table = table
        self._name = name
        self._following: dict[str, asyncio.Task[None]] = {}
        self._actors: dict[str, Any] = {}  # by the names of their nodes
        self._num_asked_for = 0
        # What Ray does not await. Where its head is gone it may never answer, which is to keep nothing from ending.
        self._asking = asyncio.new_event_loop()
        threading.Thread(target=self._asking.run_forever, name="ray", daemon=True).start()
        self._seats = Gauge("avatar_rtc_seats", "Seats by state, and callers that wait for one.", tag_keys=("node", "state"))

    async def watch(self) -> None:
        """For ever."""
        try:
            while True:
                with contextlib.suppress(RayError):
                    for name in await self._names():
                        if name.startswith(PREFIX) and name not in self._following:
                            self._follow(name)
                    await self._ask(self._ask_for_nodes)
                await asyncio.sleep(ASK_EVERY_S)
        finally:
            for task in self._following.values():
                task.cancel()

    async def _ask(self, question: Callable[..., T], *arguments: Any) -> T:
        async def ask() -> T:
            return question(*arguments)

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ask(), self._asking))

    async def _names(self) -> list[str]:
        """Of all actors."""
        asking = asyncio.ensure_future(self._ask(ray.util.list_named_actors))
        done, _ = await asyncio.wait((asking,), timeout=SILENT_S)
        if not done:
            logger.warning("Ray's head does not answer. Calls go on; if it stays away for a minute, this machine's node ends")
        names: list[str] = await asking
        return names

    async def tell(self, node: str, method: str, *arguments: Any) -> Any:
        """Have a node carry out a method.

        Raises:
            NodeLostError: it does not answer.
        """
        if (actor := self._actors.get(node)) is None:
            raise NodeLostError(node)
        try:
            async with asyncio.timeout(ANSWER_S):
                return await getattr(actor, method).remote(*arguments)
        except (RayError, TimeoutError) as error:
            raise NodeLostError(f"{node}: {error}") from None

    def _follow(self, name: str) -> None:
        task = self._following[name] = asyncio.create_task(self._listen(name))
        task.add_done_callback(lambda _: self._following.pop(name, None))

    async def _listen(self, name: str) -> None:
        """Until the actor is no more."""
        try:
            actor = await self._ask(ray.get_actor, name)
        except ValueError:
            return  # meanwhile it has ended
        node = ""
        try:
            while True:
                try:
                    async with asyncio.timeout(ANSWER_S):
                        state: NodeState = await actor.state.remote()
                    if state.node != node:
                        self._forget(node)  # it was started again, with nothing of before
                        node = state.node
                        self._actors[node] = actor
                    self._table.heard(state)
                    if name == PREFIX + self._name:
                        self._show(state)
                except TimeoutError:
                    pass  # slow, or on a machine that is gone: Ray will say
                except ActorDiedError:
                    return
                except RayError as error:
                    logger.warning("%s does not answer: %s", name, str(error).partition("\n")[0])
                    self._table.gone(node)
                await asyncio.sleep(ASK_EVERY_S)
        finally:
            self._forget(node)

    def _forget(self, node: str) -> None:
        self._table.gone(node)
        self._actors.pop(node, None)

    def _show(self, state: NodeState) -> None:
        """What our metrics say of this machine's seats, among Ray's."""
        for kind, count in (("taken", state.seats - state.free), ("free", state.free), ("waiting", state.waiting)):
            self._seats.set(count, {"node": state.node, "state": kind})

    def _ask_for_nodes(self) -> None:
        """An autoscaler, where there is one, starts machines that have what nodes take."""
        fresh = self._table.fresh
        if not fresh or fresh[0].node.rpartition("-")[0] != self._name:
            return
        if (wanted := self._table.num_wanted()) != self._num_asked_for:
            self._num_asked_for = wanted
            request_resources(bundles=[{RESOURCE: 1}] * wanted)
