"""Three machines of a cluster, callers that come and go at random, and every minute a machine that is killed: what is lost?

The machines are processes of this one, on the fake engine. In turns the second machine, the third one, and the node of the
first are killed (SIGKILL); the machines are started again after a few seconds, the node is by Ray. The first machine's front door
is the address that all callers know, as a balancer's would be that leads away from dead doors. It is counted

- how often a node had more sessions than seats (asked all the time),
- how many calls had an answer from a node that did not know them,
- how many calls broke off whose node was not killed,
- how long those whose node was killed were without a call.

    python -m benchmarks.lost_nodes --minutes 10 --joins 300
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import math
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from avatar_rtc import resources
from avatar_rtc.client import Call, come_back
from avatar_rtc.errors import CallError
from benchmarks import machine, measurements
from benchmarks.figures import percentile
from signaling.nodes import node_of
from testkit.browser import RunningServer
from testkit.machines import free_port, node_process, run_machine

SEATS = 7
"""Of each machine: two of them have one for everybody, so that who is lost finds one."""
CALL_S = (4.0, 28.0)
REST_S = 3.0
"""So long a machine is away."""
LOOK_EVERY_S = 0.5
RETRY_S = 0.2
BAR_S = 6.0


@dataclass
class Account:
    """What was seen."""

    outcomes: Counter[str] = field(default_factory=Counter)
    back_s: list[float] = field(default_factory=list)
    worst: dict[str, int] = field(default_factory=dict)
    killed: dict[str, float] = field(default_factory=dict)
    """When each machine was killed last."""
    touched: list[str] = field(default_factory=list)

    def was_killed(self, name: str) -> bool:
        """A moment ago."""
        return time.monotonic() - self.killed.get(name, -math.inf) < 2 * BAR_S


class Machines:
    """The cluster."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._port = free_port()
        self._stacks: dict[str, contextlib.ExitStack] = {}
        self.first = self._stack.enter_context(run_machine("a", self._port, begins=True, limits={"max_sessions": SEATS}))
        self.running: dict[str, RunningServer] = {"a": self.first}
        for name in ("b", "c"):
            self.start(name)

    def start(self, name: str) -> None:
        self._stacks[name] = contextlib.ExitStack()
        context = run_machine(name, self._port, limits={"max_sessions": SEATS})
        self.running[name] = self._stacks[name].enter_context(context)

    def kill(self, name: str) -> None:
        if name == "a":
            os.kill(node_process(self.first), signal.SIGKILL)
            return
        self.running.pop(name).kill()
        self._stacks.pop(name).close()

    def close(self) -> None:
        for stack in self._stacks.values():
            stack.close()
        self._stack.close()


def home_of(call: Call) -> str:
    return str(node_of(call.session_id)).rpartition("-")[0]


async def one_caller(url: str, account: Account, chance: random.Random) -> None:
    """Joins, stays for a while, comes back where it was lost, and leaves."""
    call = Call(url, decodes=False)
    end_s = time.monotonic() + chance.uniform(*CALL_S)
    try:
        await call.connect()
        account.outcomes["joined"] += 1
        while (left_s := end_s - time.monotonic()) > 0:
            if not await call.stats() and not call.lost and not account.was_killed(home_of(call)):
                account.outcomes["unknown to its node"] += 1
            if not await _is_lost(call, left_s):
                break
            lost_at, home = time.monotonic(), home_of(call)
            if not account.was_killed(home):
                account.touched.append(f"{home}: {call.lost}")
            await _come_back(call, account, account.killed.get(home, lost_at))
        account.outcomes["left"] += 1
    except CallError as error:
        account.outcomes[f"refused: {error.code}"] += 1
    finally:
        await call.close()


async def _is_lost(call: Call, within_s: float) -> bool:
    with contextlib.suppress(CallError):
        await call.wait_for(lambda: False, within_s, "it goes on")
    return bool(call.lost)


async def _come_back(call: Call, account: Account, killed_s: float) -> None:
    while time.monotonic() < killed_s + 5 * BAR_S:
        try:
            await come_back(call)
        except CallError as error:
            account.outcomes[f"tried again: {error.code}"] += 1
            await asyncio.sleep(RETRY_S)
            continue
        account.back_s.append(time.monotonic() - killed_s)
        return
    account.outcomes["never came back"] += 1


async def _look(url: str, account: Account) -> None:
    """How many sessions each node has, all the time."""
    async with aiohttp.ClientSession(url) as http:
        while True:
            with contextlib.suppress(aiohttp.ClientError, KeyError):
                async with http.get("/v1/sessions") as response:
                    told = await response.json(content_type=None)
                for node, count in Counter(str(node_of(session["id"])) for session in told["sessions"]).items():
                    account.worst[node] = max(account.worst.get(node, 0), count)
            await asyncio.sleep(LOOK_EVERY_S)


async def _kill_now_and_then(machines: Machines, account: Account, every_s: float) -> None:
    for name in itertools.cycle("bac"):
        await asyncio.sleep(every_s - REST_S)
        account.killed[name] = time.monotonic()
        account.outcomes[f"killed {name}"] += 1
        await asyncio.to_thread(machines.kill, name)
        await asyncio.sleep(REST_S)
        if name != "a":
            await asyncio.to_thread(machines.start, name)


async def measure(machines: Machines, minutes: float, num_joins: int, every_s: float, seed: int) -> dict[str, Any]:
    account, chance, url = Account(), random.Random(seed), machines.first.url
    beside = [asyncio.create_task(_look(url, account)), asyncio.create_task(_kill_now_and_then(machines, account, every_s))]
    began_s, own_s, callers = time.monotonic(), time.process_time(), []
    for number in range(num_joins):
        await asyncio.sleep(max(0.0, began_s + 60 * minutes * number / num_joins - time.monotonic()))
        callers.append(asyncio.create_task(one_caller(url, account, chance)))
        if number % 20 == 19:
            print(f"{time.monotonic() - began_s:4.0f} s: {dict(account.outcomes)}", file=sys.stderr, flush=True)
        for task in beside:
            if task.done():
                task.result()
    await asyncio.gather(*callers)
    for task in beside:
        task.cancel()
    return {
        "seats": SEATS,
        "most_sessions_of_a_node": max(account.worst.values()),
        "touched": account.touched,
        "back_s": {
            "count": len(account.back_s),
            "p50": round(percentile(account.back_s, 0.5), 2) if account.back_s else None,
            "max": round(max(account.back_s), 2) if account.back_s else None,
        },
        "outcomes": dict(account.outcomes),
        "callers_cores": round((time.process_time() - own_s) / (time.monotonic() - began_s), 2),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--joins", type=int, default=300, help="evenly over these minutes (default: 300)")
    parser.add_argument("--every", type=float, default=60.0, metavar="S", help="one is killed so often (default: 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="FILE", help="put the figures into this file of measurements")
    options = parser.parse_args()
    described = machine.describe(resources.num_cores())
    machines = Machines()
    try:
        result = asyncio.run(measure(machines, options.minutes, options.joins, options.every, options.seed))
    finally:
        machines.close()
    if options.out:
        measurements.keep(options.out, "lost_nodes", {"machine": described, **result})
    print(machine.headline(described))
    print(json.dumps(result, indent=1))
    print(f"the bars: never more sessions than seats; none touched, none unknown; everybody back within {BAR_S:g} s")


if __name__ == "__main__":
    main()
