"""What this machine computes with: its processor, the instruction sets that matter to a network, and how fast it multiplies.

Real-time factors travel between machines by the last: what takes 1.2 s a second at 107 GFLOP/s takes 0.6 s at 214.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from avatar_rtc import resources

# Flags of /proc/cpuinfo, best last, and what people call them. bfloat16 in AVX-512 or AMX is what makes pocket fast on x86.
INSTRUCTION_SETS = {
    "avx2": "AVX2",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX512-VNNI",
    "avx512_bf16": "AVX512-BF16",
    "avx512_fp16": "AVX512-FP16",
    "amx_int8": "AMX-INT8",
    "amx_bf16": "AMX-BF16",
    "asimd": "NEON",
    "sve": "SVE",
    "i8mm": "I8MM",
    "bf16": "BF16",
}
# What keeps a library from using what the processor has.
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")

_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# Large enough to be bound by arithmetic, small enough that a run has tens of them; the median shrugs off neighbours.
_PRODUCT = """
import time
import numpy as np
size = 768
a = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
out = np.empty_like(a)
np.matmul(a, a, out=out)
speeds, end_s = [], time.perf_counter() + {seconds}
while time.perf_counter() < end_s or not speeds:
    begin_s = time.perf_counter()
    np.matmul(a, a, out=out)
    speeds.append(2e-9 * size**3 / (time.perf_counter() - begin_s))
print(np.median(speeds))
"""


@cache
def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is none."""
    path = Path("/proc/cpuinfo")
    text = path.read_text().partition("\n\n")[0] if path.exists() else ""
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def name() -> str:
    """Such as "AMD EPYC (family 25, model 1)": clouds often hide the product, never the generation."""
    info = _cpuinfo()
    if "model name" not in info:
        return platform.processor() or platform.machine() or "unknown processor"
    if "cpu family" not in info:
        return info["model name"]
    return f"{info['model name']} (family {info['cpu family']}, model {info['model']})"


def instruction_sets() -> list[str]:
    """Those of :data:`INSTRUCTION_SETS` that it has; none where the system does not say."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features", "")).split())
    return [label for flag, label in INSTRUCTION_SETS.items() if flag in flags]


def limits() -> list[str]:
    """Environment variables that keep libraries from using them, as ``NAME=value``."""
    return [f"{variable}={os.environ[variable]}" for variable in LIMITS if variable in os.environ]


def float32_gflops(num_threads: int, seconds: float = 0.5) -> float:
    """GFLOP/s of matrix products in float32 on so many threads, in the median; takes a second.

    By numpy's BLAS in a process of its own, which has its own number of threads and no torch.
    """
    environment = os.environ | dict.fromkeys(_THREADS, str(num_threads))
    command = [sys.executable, "-c", _PRODUCT.format(seconds=seconds)]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def describe(num_threads: int) -> dict[str, Any]:
    """Processor, instruction sets, cores, and the speed of float32 products on so many threads; takes a second."""
    return {
        "processor": name(),
        "instruction_sets": instruction_sets(),
        "limits": limits(),
        "cores": resources.num_cores(),
        "threads": num_threads,
        "float32_gflops": round(float32_gflops(num_threads), 1),
    }


def headline(machine: dict[str, Any]) -> str:
    """One line of what :func:`describe` found, for the top of a table."""
    sets = ", ".join(machine["instruction_sets"]) or "instruction sets unknown"
    limited = f" (limited by {', '.join(machine['limits'])})" if machine["limits"] else ""
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    gflops = machine.get("float32_gflops")
    speed = f"{gflops:.0f} GFLOP/s in float32 on {threads}" if gflops else "speed unknown"
    busy = f"; load {machine['load']:.1f}" if "load" in machine else ""
    return f"{machine['processor']}, {machine['cores']} cores; {sets}{limited}; {speed}{busy}"
