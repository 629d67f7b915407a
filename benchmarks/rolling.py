"""A rolling restart of three machines of a cluster under calls that go on: which call is lost, and is every word heard?

Ray's head is apart, and the machines are processes of this one, on the fake engine. One after the other is told to end (SIGTERM),
ends when its calls have moved, and is started again. Each caller says a line, pauses, and says the next one; when its connection
is lost it comes back through the front door of any machine that is not about to end, and says what was not accepted once more.

    python -m benchmarks.rolling --calls 30
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from avatar_rtc import resources
from avatar_rtc.client import Call, come_back
from avatar_rtc.errors import CallError
from benchmarks import machine, measurements
from benchmarks.figures import percentile
from testkit.browser import RunningServer
from testkit.hearing import WORDS
from testkit.machines import STOP_S, free_port, run_head, run_machine

NAMES = ("x", "y", "z")
DRAIN_S = 40.0
PAUSE_S = (0.5, 2.0)
LINE_WORDS = (2, 5)
PATIENCE_S = 20.0
RETRY_S = 0.2
LOST_S = 5.0


@dataclass
class Account:
    """What was seen. ``away_s``: how long callers were without a connection, each time."""

    words_sent: int = 0
    words_heard: int = 0
    begun_anew: int = 0
    broken: list[str] = field(default_factory=list)
    away_s: list[float] = field(default_factory=list)


class Machines:
    """The cluster. ``urls`` are those of front doors that are not about to end."""

    def __init__(self, num_seats: int) -> None:
        self._limits = {"max_sessions": num_seats, "drain_s": DRAIN_S}
        self._port = free_port()
        self._head = contextlib.ExitStack()
        self._head.enter_context(run_head(self._port))
        self._stacks: dict[str, contextlib.ExitStack] = {}
        self.running: dict[str, RunningServer] = {}
        self.urls: dict[str, str] = {}
        for name in NAMES:
            self.start(name)

    def start(self, name: str) -> None:
        self._stacks[name] = contextlib.ExitStack()
        self.running[name] = self._stacks[name].enter_context(run_machine(name, self._port, limits=self._limits))
        self.urls[name] = self.running[name].url

    def end(self, name: str) -> float:
        """Tell a machine to end, and wait until it has. Returns how long that took."""
        began_s = time.monotonic()
        del self.urls[name]
        process = self.running.pop(name).process
        process.send_signal(signal.SIGTERM)
        code = process.wait(DRAIN_S + STOP_S)
        assert code == 0, f"{name} ended with {code}"
        self._stacks.pop(name).close()
        return time.monotonic() - began_s

    def close(self) -> None:
        for stack in self._stacks.values():
            stack.close()
        self._head.close()


async def one_caller(machines: Machines, account: Account, over: asyncio.Event, chance: random.Random) -> None:
    call = Call(chance.choice(list(machines.urls.values())), decodes=False)
    try:
        await call.connect()
        while not over.is_set():
            words = chance.sample(WORDS.split(), chance.randint(*LINE_WORDS))
            account.words_sent += len(words)
            heard = await _said(call, " ".join(words), machines, account, chance)
            account.words_heard += len(heard.split())
            await asyncio.sleep(chance.uniform(*PAUSE_S))
    except CallError as error:
        account.broken.append(str(error))
    finally:
        await call.close()


async def _said(call: Call, text: str, machines: Machines, account: Account, chance: random.Random) -> str:
    """What was heard of a line."""
    while True:
        try:
            return (await call.speak(text)).heard_text
        except CallError:
            with contextlib.suppress(CallError):  # the channel may be closed a moment before the connection is
                await call.wait_for(lambda: False, LOST_S, "it goes on")
            if not call.lost:
                raise
        lost_s = time.monotonic()
        while True:
            call.url = chance.choice(list(machines.urls.values())) + "/"
            try:
                is_same = await come_back(call)
                account.begun_anew += not is_same
                break
            except CallError:
                if time.monotonic() > lost_s + PATIENCE_S:
                    raise
                await asyncio.sleep(RETRY_S)
        account.away_s.append(time.monotonic() - lost_s)


async def _await_nodes(machines: Machines) -> None:
    url = next(iter(machines.urls.values()))
    async with asyncio.timeout(60), aiohttp.ClientSession(url) as http:
        while True:
            async with http.get("/v1/capacity") as response:
                told = await response.json(content_type=None)
            if sum(not node["draining"] for node in told.get("nodes", [])) == len(NAMES):
                return
            await asyncio.sleep(0.2)


async def measure(machines: Machines, num_calls: int, seed: int) -> dict[str, Any]:
    account, over, chance = Account(), asyncio.Event(), random.Random(seed)
    await _await_nodes(machines)
    began_s, own_s = time.monotonic(), time.process_time()
    callers = []
    for _ in range(num_calls):
        callers.append(asyncio.create_task(one_caller(machines, account, over, chance)))
        await asyncio.sleep(0.2)
    ends_s = {}
    for name in NAMES:
        ends_s[name] = round(await asyncio.to_thread(machines.end, name), 1)
        print(f"{name} has ended after {ends_s[name]} s; {account}"[:400], file=sys.stderr, flush=True)
        await asyncio.to_thread(machines.start, name)
        await _await_nodes(machines)
    over.set()
    await asyncio.gather(*callers)
    return {
        "calls": num_calls,
        "words_sent": account.words_sent,
        "words_heard": account.words_heard,
        "moved": len(account.away_s) - account.begun_anew,
        "begun_anew": account.begun_anew,
        "broken": account.broken,
        "away_s": {f"p{p}": round(percentile(account.away_s, p / 100), 2) for p in (50, 95, 100)} if account.away_s else {},
        "machine_ended_after_s": ends_s,
        "callers_cores": round((time.process_time() - own_s) / (time.monotonic() - began_s), 2),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="FILE", help="put the figures into this file of measurements")
    options = parser.parse_args()
    described = machine.describe(resources.num_cores())
    machines = Machines(options.calls)
    try:
        result = asyncio.run(measure(machines, options.calls, options.seed))
    finally:
        machines.close()
    if options.out:
        measurements.keep(options.out, "rolling", {"machine": described, **result})
    print(machine.headline(described))
    print(json.dumps(result, indent=1))
    print("the bars: no call broken, none begun anew, words heard = words sent")


if __name__ == "__main__":
    main()
