"""How fast pocket will be on this machine, without running it: by the speed of a matrix product, within a second.

The figures are those of the shipped network. Where it or its runtime changed, measure them anew with
``python -m benchmarks.rtf``: the real-time factor of one call, times the float32 speed that the same run prints.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from avatar_rtc import processor, resources
from avatar_rtc.models import MAX_THREADS

GFLOP_A_SECOND_OF_SPEECH = {"float32": 46.0, "bfloat16": 54.0}
"""Real-time factor times GFLOP/s of float32 products, by what the network computes in.

float32, pictures in 8 bits, two cores of an Intel Xeon with AVX-512 and AMX hidden (2026-12-01): 0.40 at 116 GFLOP/s. With two
passes it was 55, the middle one of three runs. bfloat16: 65 then, by as much less as float32; it has not been measured.
"""
BFLOAT16 = ("AVX512-BF16", "AMX-BF16")
BUSY = 0.5
"""Above this load a core the machine does something else meanwhile."""


@dataclass(frozen=True)
class Prediction:
    """What was measured, and what follows.

    Attributes:
        rtf: predicted real-time factor of one call.
        basis: what it was predicted from, for people.
        helps: what would make it faster, for people; the first is the easiest.
    """

    rtf: float
    basis: str
    helps: tuple[str, ...]


def predict() -> Prediction:
    """Measure this machine and predict."""
    num_cores = resources.num_cores()
    num_threads = min(num_cores, MAX_THREADS)
    gflops = processor.float32_gflops(num_threads)
    sets, limits = processor.instruction_sets(), processor.limits()
    in_bfloat16 = not limits and any(name in sets for name in BFLOAT16)
    rtf = GFLOP_A_SECOND_OF_SPEECH["bfloat16" if in_bfloat16 else "float32"] / gflops
    threads = "1 thread" if num_threads == 1 else f"{num_threads} threads"
    basis = f"{gflops:.0f} GFLOP/s on {threads}, {'bfloat16' if in_bfloat16 else 'no bfloat16'}"
    helps = []
    if limits:
        helps.append(f"unset {', '.join(limits)}, which keeps the processor from what it can")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > BUSY * num_cores:
        helps.append(f"end what else runs here (load {load:.1f} on {num_cores} cores), and look again")
    if num_threads < MAX_THREADS:
        helps.append(f"more cores: pocket uses up to {MAX_THREADS}")
    if not any(name in sets for name in BFLOAT16):
        helps.append(f"a processor with bfloat16 ({' or '.join(BFLOAT16)})")
    return Prediction(rtf, basis, tuple(helps))
