"""The machine that figures were measured on. Every table says it, and every file of figures holds it under "machine"."""

from __future__ import annotations

import os
from typing import Any

from avatar_rtc import processor, resources

_LOAD = round(os.getloadavg()[0], 1)
"""Of the last minute before the benchmark began: how much else ran."""


def describe(num_threads: int) -> dict[str, Any]:
    """Processor, instruction sets, cores, load, and the speed of float32 products on so many threads; takes a second."""
    return {
        "processor": processor.name(),
        "instruction_sets": processor.instruction_sets(),
        "limits": processor.limits(),
        "cores": resources.num_cores(),
        "threads": num_threads,
        "load": _LOAD,
        "float32_gflops": round(processor.float32_gflops(num_threads), 1),
    }


def headline(machine: dict[str, Any]) -> str:
    """One line of what :func:`describe` found, for the top of a table."""
    sets = ", ".join(machine["instruction_sets"]) or "instruction sets unknown"
    limited = f" (limited by {', '.join(machine['limits'])})" if machine["limits"] else ""
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    speed = f"{machine['float32_gflops']:.0f} GFLOP/s in float32 on {threads}" if machine["float32_gflops"] else "speed unknown"
    busy = f"; load {machine['load']:.1f}" if "load" in machine else ""
    return f"{machine['processor']}, {machine['cores']} cores; {sets}{limited}; {speed}{busy}"
