"""What a front door adds to a join: offers at a steady rate, to nodes directly and through a door, in turns.

The nodes of this benchmark answer every offer at once with an answer of usual size, so that what is measured is the door: its
process, its two connections and its decision. Nodes, door and callers are processes of one machine. Media have no part in
it: they never come to a door.

    python -m benchmarks.front_door --rate 50 --seconds 30
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import resource
import secrets
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiortc import RTCConfiguration, RTCPeerConnection

from avatar_rtc import resources
from avatar_rtc.cluster.door import Door
from avatar_rtc.cluster.table import NodeState, NodeTable
from avatar_rtc.site import Site
from benchmarks import machine, measurements
from benchmarks.figures import percentile
from signaling.connections import Connections
from signaling.nodes import new_id

NUM_NODES = 3
SEATS = 1_000_000
TELL_EVERY_S = 0.5
BAR_MS = 15.0


async def _be_node(pipe: Connection) -> None:
    name = f"n{secrets.token_hex(2)}"
    answer = "a=candidate:1 1 udp 2130706431 10.0.0.5 50000 typ host\r\n" * 40

    async def join(request: web.Request) -> web.Response:
        await request.read()
        headers = {"Location": f"whep/{new_id(name)}", "ETag": '"1"'}
        return web.Response(status=201, text=answer, content_type="application/sdp", headers=headers)

    app, connections = web.Application(), Connections()
    app.router.add_post("/whep", join)
    site = Site(app, connections)
    pipe.send(NodeState(name, await site.start("127.0.0.1", 0), "key", SEATS, SEATS))
    await asyncio.to_thread(pipe.recv)
    await site.close()


async def _be_door(pipe: Connection, nodes: list[NodeState]) -> None:
    table, connections = NodeTable(), Connections()

    async def tell() -> None:
        while True:
            for node in nodes:
                table.heard(node)
            await asyncio.sleep(TELL_EVERY_S)

    telling = asyncio.create_task(tell())

    async def move(*_: object) -> None:
        raise NotImplementedError  # nothing is drained

    site = Site(Door(table, ["*"], connections, move).app, connections)
    pipe.send(await site.start("127.0.0.1", 0))
    await asyncio.to_thread(pipe.recv)
    used = resource.getrusage(resource.RUSAGE_SELF)
    pipe.send(used.ru_utime + used.ru_stime)
    telling.cancel()
    await site.close()


def _run(pipe: Connection, nodes: list[NodeState] | None) -> None:
    asyncio.run(_be_node(pipe) if nodes is None else _be_door(pipe, nodes))


class Process:
    """One process, and what it says first."""

    def __init__(self, nodes: list[NodeState] | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs, nodes), daemon=True)
        self._process.start()
        self.said: Any = self.pipe.recv()

    def end(self) -> None:
        self.pipe.send("end")

    def join(self) -> None:
        self._process.join(10)


async def _offer() -> str:
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    for kind in ("video", "audio"):
        peer.addTransceiver(kind, direction="recvonly")
    peer.createDataChannel("events")
    await peer.setLocalDescription(await peer.createOffer())
    sdp = peer.localDescription.sdp
    await peer.close()
    return sdp


async def _joins(address: str, offer: str, rate: float, seconds: float) -> list[float]:
    """How long each took, ms. Each begins in its time, whatever became of those before."""
    async with aiohttp.ClientSession(address) as http:

        async def join() -> float:
            began_s = time.perf_counter()
            async with http.post("/whep", data=offer, headers={"Content-Type": "application/sdp"}) as response:
                await response.read()
                assert response.status == 201, response.status
            return 1000 * (time.perf_counter() - began_s)

        began_s = time.perf_counter()
        tasks = []
        for number in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, began_s + number / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(join()))
        return list(await asyncio.gather(*tasks))


async def measure(rate: float, seconds: float, turns: int) -> dict[str, Any]:
    nodes = [Process() for _ in range(NUM_NODES)]
    door = Process([node.said for node in nodes])
    offer = await _offer()
    taken_ms: dict[str, list[float]] = {"direct": [], "door": []}
    for _ in range(turns):
        for way, address in (("direct", nodes[0].said.address), ("door", door.said)):
            taken_ms[way] += await _joins(address, offer, rate, seconds / turns)
    door.end()
    cpu_s = door.pipe.recv()
    for node in nodes:
        node.end()
    for process in (door, *nodes):
        process.join()
    told = {way: {f"p{p}": round(percentile(ms, p / 100), 2) for p in (50, 95, 99)} for way, ms in taken_ms.items()}
    own = {p: round(told["door"][p] - told["direct"][p], 2) for p in ("p50", "p95", "p99")}
    return {
        "rate": rate,
        "joins": len(taken_ms["door"]),
        **{f"{way}_ms": figures for way, figures in told.items()},
        "own_ms": own,
        "door_cpu_ms_a_join": round(1000 * cpu_s / len(taken_ms["door"]), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=50.0, help="joins a second (default: 50)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each way (default: 30)")
    parser.add_argument("--turns", type=int, default=3, help="so often each way has its turn (default: 3)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="put the figures into this file of measurements")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    described = machine.describe(resources.num_cores())
    result = asyncio.run(measure(options.rate, options.seconds, options.turns))
    if options.out:
        measurements.keep(options.out, "front_door", {"machine": described, **result})
    if options.json:
        print(json.dumps(result))
        return
    print(machine.headline(described))
    print(f"{result['joins']} joins each way, {result['rate']:g} a second{'p50':>20}{'p95':>8}{'p99':>8}")
    for name, what in (("direct_ms", "to a node directly, ms"), ("door_ms", "through a door, ms"), ("own_ms", "difference, ms")):
        print(f"{what:40}" + "".join(f"{value:8.2f}" for value in result[name].values()))
    print(f"{'processor time of the door, its start included, ms a join':60}{result['door_cpu_ms_a_join']:.2f}")
    print(f"the bar: the difference stays below {BAR_MS:g} ms")


if __name__ == "__main__":
    main()
