"""A thousand calls one after another on the fake engine, and what they leave behind: nothing.

Of four calls one hangs up, one is killed (SIGKILL of its process while it sees pictures), one never connects, and one is refused.
After every twenty, when the last of them is over, it is counted what the server holds.

    python -m benchmarks.many_calls --calls 1000
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import multiprocessing
import os
import socket
import sys
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
from aiortc import RTCConfiguration, RTCPeerConnection

from avatar_rtc import resources
from avatar_rtc.app import Server, make_engine
from avatar_rtc.client import Call
from avatar_rtc.config import ServerConfig, load_config
from benchmarks import machine, measurements
from benchmarks.endurance import memory_mb, num_descriptors

EVERY = 20
KINDS = ("hangs up", "killed", "never connects", "refused")
NUM_PORTS = 64
NUM_PICTURES = 5
REFUSED: tuple[tuple[str, str, bytes, int], ...] = (
    ("whep", "application/sdp", b"v=0\r\nno more of it", 400),
    ("whep", "text/plain", b"v=0", 415),
    ("whep?avatar=nobody", "application/sdp", b"v=0", 404),
    ("whep", "application/sdp", b"\xff\xfe", 400),
    ("whep", "application/sdp", b"x" * (1 << 20), 413),
)


def be_caller(pipe: Connection, url: str) -> None:
    """A process that calls: it is told how, and says when that is done; one that is to be killed says when it may be."""
    refusals = itertools.cycle(REFUSED)
    while (kind := pipe.recv()) is not None:
        asyncio.run(_call(kind, url, next(refusals) if kind == "refused" else None, pipe))


async def _call(kind: str, url: str, refusal: tuple[str, str, bytes, int] | None, pipe: Connection) -> None:
    if kind in ("hangs up", "killed"):
        call = Call(url)
        await call.connect()
        await call.wait_for(lambda: len(call.video.pts) >= NUM_PICTURES, 10.0, "no pictures")
        if kind == "killed":
            pipe.send("connected")
            await asyncio.sleep(60)
        await call.close()
        pipe.send("connected")
        return
    async with aiohttp.ClientSession() as http:
        if refusal is None:
            peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
            for media in ("video", "audio"):
                peer.addTransceiver(media, direction="recvonly")
            peer.createDataChannel("events")
            await peer.setLocalDescription(await peer.createOffer())
            refusal = ("whep", "application/sdp", peer.localDescription.sdp.encode(), 201)
            await peer.close()
        path, content_type, body, status = refusal
        async with http.post(f"{url}/{path}", data=body, headers={"Content-Type": content_type}) as response:
            pipe.send(str(response.status) if response.status == status else f"{response.status} in place of {status}")


class Callers:
    """One process for all calls that are not killed, and one for each of the others."""

    def __init__(self, url: str) -> None:
        self._url = url
        # Forked from a process that has imported what takes long.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["avatar_rtc.client"])
        self._process, self._pipe = self._start()

    def call(self, kind: str) -> str:
        """Blocks until it is done. Returns what came of it."""
        if kind != "killed":
            self._pipe.send(kind)
            return str(self._pipe.recv())
        process, pipe = self._start()
        pipe.send(kind)
        outcome = str(pipe.recv())
        process.kill()
        process.join()
        process.close()
        pipe.close()
        return outcome

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join()

    def _start(self) -> tuple[Any, Connection]:
        pipe, theirs = self._context.Pipe()
        process = self._context.Process(target=be_caller, args=(theirs, self._url), daemon=True)
        process.start()
        theirs.close()
        return process, pipe


def make_config() -> ServerConfig:
    """The shipped one on free ports, with seats for all that are not over yet, and less patience."""
    config = load_config(resources.server_config("pocket"))
    changes: dict[str, dict[str, Any]] = {
        "http": {"port": 0},
        "engine": {"model": "fake"},
        "limits": {"max_sessions": EVERY, "grace_s": 0.5, "join_timeout_s": 2.0, "requests_per_minute": None},
        "ice": {"udp_ports": free_ports()},
    }
    return config.model_copy(update={name: getattr(config, name).model_copy(update=update) for name, update in changes.items()})


def free_ports() -> tuple[int, int]:
    """The first and the last of a row of ports for UDP that nobody has."""
    for first in range(42_000, 60_000, NUM_PORTS):
        if num_taken((first, first + NUM_PORTS - 1)) == 0:
            return first, first + NUM_PORTS - 1
    raise OSError("no row of free ports")


def num_taken(ports: tuple[int, int]) -> int:
    taken = 0
    for port in range(ports[0], ports[1] + 1):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                taken += 1
    return taken


async def measure(num_calls: int) -> dict[str, Any]:
    config = make_config()
    server = Server(config, make_engine(config))
    await server.start()
    assert config.ice.udp_ports is not None
    callers = await asyncio.to_thread(Callers, server.address)
    outcomes: Counter[str] = Counter()
    samples: list[dict[str, Any]] = []
    began_s = time.monotonic()
    try:
        for number in range(1, num_calls + 1):
            kind = KINDS[number % len(KINDS)]
            outcomes[f"{kind}: {await asyncio.to_thread(callers.call, kind)}"] += 1
            if number % EVERY == 0:
                samples.append({"calls": number, **await _held(server, config.ice.udp_ports)})
                print(f"{time.monotonic() - began_s:5.0f} s  {samples[-1]}", file=sys.stderr, flush=True)
    finally:
        await asyncio.to_thread(callers.close)
        await server.close()
    return {"outcomes": dict(outcomes), "first": samples[0], "last": samples[-1], "samples": samples}


async def _held(server: Server, ports: tuple[int, int]) -> dict[str, Any]:
    """What the server has when all sessions are over."""
    async with asyncio.timeout(60):
        while server.registry.num_sessions:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.1)
    await asyncio.sleep(resources.GIVE_BACK_AFTER_S + 0.5)
    pid = os.getpid()
    own_mb, *_ = memory_mb(pid)
    return {
        "descriptors": num_descriptors(pid),
        "tasks": len(asyncio.all_tasks()),
        "ports": num_taken(ports),
        "memory_mb": own_mb,
        "objects": len(gc.get_objects()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--out", type=Path, metavar="FILE", help="put the figures into this file of measurements")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    described = machine.describe(resources.num_cores())
    result = asyncio.run(measure(options.calls))
    if options.out:
        measurements.keep(options.out, "many_calls", {"machine": described, **result})
    if options.json:
        print(json.dumps(result))
        return
    print(machine.headline(described))
    for outcome, number in sorted(result["outcomes"].items()):
        print(f"{outcome:32} {number:5d}")
    for name in result["first"]:
        print(f"{name:32} {result['first'][name]:8d} {result['last'][name]:8d}")
    print("the bar: after the last call descriptors, tasks, ports and memory are as after the first twenty")


if __name__ == "__main__":
    main()
