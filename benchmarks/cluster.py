"""Calls on one, two and three machines of a cluster: how long joins and first voices take, and how far pictures are from sound.

The machines are processes of this one, on the fake engine, and the callers are here, too: all share its cores, so the figures say
what a cluster adds, and not what three machines carry. The callers' own share stands in the last column.

    python -m benchmarks.cluster --machines 3 --calls 1 2 4
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from avatar_rtc import resources
from avatar_rtc.load import load
from benchmarks import machine, measurements
from testkit.machines import free_port, run_machine

RAMP_S = 2.0
JOIN_TIMEOUT_S = 60.0


def measure(num_machines: int, calls: list[int]) -> list[dict[str, Any]]:
    rows = []
    for count in range(1, num_machines + 1):
        with contextlib.ExitStack() as stack:
            ray_port, limits = free_port(), {"max_sessions": max(calls)}
            first = stack.enter_context(run_machine("m0", ray_port, begins=True, limits=limits))
            for number in range(1, count):
                stack.enter_context(run_machine(f"m{number}", ray_port, limits=limits))
            _await_seats(first.url, count * max(calls))
            for num_calls in calls:
                report = asyncio.run(load(first.url, count * num_calls, ramp_s=RAMP_S))
                told = report.as_dict()
                kept = {name: told[name] for name in ("statuses", "percentiles", "own", "warnings")}
                rows.append({"machines": count, "calls": count * num_calls, **kept})
                print(f"{count} machines, {count * num_calls} calls: {kept['statuses']}", file=sys.stderr, flush=True)
    return rows


def _await_seats(url: str, num_seats: int) -> None:
    end_s = time.monotonic() + JOIN_TIMEOUT_S
    while time.monotonic() < end_s:
        with urlopen(f"{url}/v1/capacity") as response:
            if json.load(response)["free"] == num_seats:
                return
        time.sleep(0.2)
    raise RuntimeError(f"there are not {num_seats} free seats after {JOIN_TIMEOUT_S:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=3, help="one, and so on up to so many (default: 3)")
    parser.add_argument("--calls", type=int, nargs="+", default=[1, 2, 4], help="on each machine at once (default: 1 2 4)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="put the figures into this file of measurements")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    described = machine.describe(resources.num_cores())
    rows = measure(options.machines, options.calls)
    if options.out:
        measurements.keep(options.out, "cluster", {"machine": described, "rows": rows})
    print(json.dumps(rows) if options.json else f"{machine.headline(described)}\n{measurements.calls_table(rows)}")


if __name__ == "__main__":
    main()
