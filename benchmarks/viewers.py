"""One stream on pocket with one viewer, and then with five: whether it runs dry, and what each further viewer costs.

Viewers are processes of their own that receive, answer reports, and do not decode. The server's main thread is its event loop,
which packetises, encrypts and sends to each viewer; its other threads encode, once for all.

    python -m benchmarks.viewers
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp

from avatar_rtc import resources
from benchmarks import machine, measurements
from benchmarks.dialogue import LINES
from testkit.browser import RunningServer, run_server
from testkit.light_viewer import LightViewer

SETTLE_S = 8.0
WATCHED_S = 45.0
SPEAK_EVERY_S = 5.0
NUM_VIEWERS = 5
TICKS_S = os.sysconf("SC_CLK_TCK")


def be_viewer(pipe: Connection, whep_url: str) -> None:
    """A process that watches, and says how many pictures came whenever it is asked."""
    asyncio.run(_watch(pipe, whep_url))


async def _watch(pipe: Connection, whep_url: str) -> None:
    viewer = LightViewer()
    await viewer.connect(whep_url)
    while await asyncio.to_thread(pipe.recv):
        pipe.send(viewer.num_pictures)
    await viewer.close()


class Viewer:
    def __init__(self, whep_url: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["avatar_rtc.client"])
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=be_viewer, args=(theirs, whep_url), daemon=True)
        self._process.start()
        theirs.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def num_pictures(self) -> int:
        self._pipe.send(True)
        return int(self._pipe.recv())

    def close(self) -> None:
        self._pipe.send(False)
        self._process.join(5)


def cpu_s(path: str) -> float:
    """Processor time so far of a process or a thread, by its directory in /proc."""
    fields = Path(path, "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_S


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def window(http: aiohttp.ClientSession, stats_url: str, server: RunningServer, viewers: list[Viewer]) -> dict[str, Any]:
    """What happens in ``WATCHED_S``; shares of a core."""
    pid = server.process.pid

    async def look() -> dict[str, Any]:
        async with http.get(stats_url) as response:
            told = await response.json()
        total_s, loop_s = cpu_s(f"/proc/{pid}"), cpu_s(f"/proc/{pid}/task/{pid}")
        return {
            "at_s": time.monotonic(),
            "event_loop": loop_s,
            "encoders": total_s - loop_s,
            "engine": sum(cpu_s(f"/proc/{child}") for child in children(pid)),
            "viewers": sum(cpu_s(f"/proc/{viewer.pid}") for viewer in viewers),
            "pictures": [viewer.num_pictures() for viewer in viewers],
            **{name: told[name] for name in ("underruns", "held_frames", "dropped_frames", "frames")},
        }

    before = await look()
    await asyncio.sleep(WATCHED_S)
    after = await look()
    took_s = after["at_s"] - before["at_s"]
    return {
        "viewers": len(viewers),
        "cores": {
            name: round((after[name] - before[name]) / took_s, 4) for name in ("event_loop", "encoders", "engine", "viewers")
        },
        "pictures_a_second": [
            round((now - then) / took_s, 1) for now, then in zip(after["pictures"], before["pictures"], strict=True)
        ],
        **{name: after[name] - before[name] for name in ("underruns", "held_frames", "dropped_frames", "frames")},
    }


async def measure(server: RunningServer) -> dict[str, Any]:
    async with aiohttp.ClientSession(server.url) as http:
        async with http.post("/v1/sessions", json={"idle_s": 60}) as response:
            made = await response.json()
        watch_url = f"{server.url}{made['whep_url']}&role=watch"
        viewers: list[Viewer] = []

        async def talk() -> None:
            for line in itertools.cycle(LINES):
                async with http.post(made["events_url"], data=line) as response:
                    assert response.status == 202
                await asyncio.sleep(SPEAK_EVERY_S)

        talking = asyncio.create_task(talk())
        rows = []
        try:
            for number in (1, NUM_VIEWERS):
                while len(viewers) < number:
                    viewers.append(await asyncio.to_thread(Viewer, watch_url))
                await asyncio.sleep(SETTLE_S)
                rows.append(await window(http, f"{made['url']}/stats", server, viewers))
                print(rows[-1], file=sys.stderr, flush=True)
        finally:
            talking.cancel()
            for viewer in viewers:
                await asyncio.to_thread(viewer.close)
            async with http.delete(made["url"]):
                pass
    one, five = (row["cores"] for row in rows)
    served = [cores["event_loop"] + cores["encoders"] for cores in (one, five)]
    further = (served[1] - served[0]) / (NUM_VIEWERS - 1)
    return {
        "watched_s": WATCHED_S,
        "one": rows[0],
        "five": rows[1],
        "further_viewer_cores": round(further, 4),
        "of_the_encoders": round(further / one["encoders"], 3),
        "of_the_first_viewer": round(further / served[0], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("pocket", "fake"), default="pocket")
    parser.add_argument("--out", type=Path, metavar="FILE", help="put the figures into this file of measurements")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    described = machine.describe(resources.num_cores())
    with run_server(options.engine) as server:
        result = asyncio.run(measure(server))
        result["tracebacks"] = server.log().count("Traceback")
    if options.out:
        measurements.keep(options.out, "viewers", {"machine": described, **result})
    if options.json:
        print(json.dumps(result))
        return
    print(machine.headline(described))
    for name, value in result.items():
        print(f"{name:24} {value}")
    print("the bar: no underrun with five that one does not have; a further viewer costs at most 0.2 of the encoders")


if __name__ == "__main__":
    main()
