"""One long call on pocket: lines one after the other, recorded by a client on the same machine.

Counts underruns and freezes, compares how long the recording's two tracks last, and watches the memory of server and engine.

    python -m benchmarks.endurance --minutes 10
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np

from avatar_rtc import resources
from avatar_rtc.client import Call
from avatar_rtc.recording import Recorder
from avatar_rtc.say import FREEZE_S
from benchmarks import machine, measurements
from benchmarks.figures import percentile
from benchmarks.speech import SENTENCES
from testkit.browser import run_server


def memory_mb(pid: int) -> list[int]:
    """Resident memory of a process and of its children."""
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    pages = [int(Path(f"/proc/{process}/statm").read_text().split()[1]) for process in (pid, *children)]
    return [number * os.sysconf("SC_PAGE_SIZE") // 2**20 for number in pages]


def num_descriptors(pid: int) -> int:
    """Files and sockets that a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def call_for(url: str, pid: int, path: Path, seconds: float) -> dict[str, Any]:
    lines = itertools.cycle(SENTENCES.read_text().splitlines())
    call = Call(url)
    call.recorder = Recorder(path)
    started_s = time.monotonic()
    voiced_ms: list[float] = []
    memory: list[list[int]] = []
    try:
        await call.connect("")
        while (passed_s := time.monotonic() - started_s) < seconds:
            line = await call.speak(next(lines))
            if line.text_to_first_voiced_audio_ms is not None:
                voiced_ms.append(line.text_to_first_voiced_audio_ms)
            if passed_s >= 60 * len(memory):
                memory.append(memory_mb(pid))
                print(f"{passed_s:5.0f} s  {len(voiced_ms)} lines  memory {memory[-1]} MB", file=sys.stderr, flush=True)
        stats = await call.stats()
        lost = await call.packets_lost()
    finally:
        await call.close()
    gaps_s = np.diff(call.video.arrived_s)
    with av.open(str(path)) as film:
        streams = (film.streams.video[0], film.streams.audio[0])
        video_s, audio_s = (float(stream.duration * stream.time_base) for stream in streams)  # type: ignore[operator]
    return {
        "lines": len(voiced_ms),
        "text_to_first_voice_ms": {"p50": round(percentile(voiced_ms, 0.5)), "p95": round(percentile(voiced_ms, 0.95))},
        "underruns": int(stats.get("underruns", 0)),
        "freezes": int((gaps_s > FREEZE_S).sum()),
        "packets_lost": lost,
        "video_s": round(video_s, 3),
        "audio_s": round(audio_s, 3),
        "memory_mb": {"first": memory[0], "last": memory[-1], "most": np.max(memory, axis=0).tolist()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, metavar="FILE", help="put the figures into this file of measurements")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, run_server("pocket") as server:
        result = asyncio.run(call_for(server.url, server.process.pid, Path(scratch) / "call.mp4", options.minutes * 60))
    described = machine.describe(resources.num_cores())
    if options.out:
        measurements.keep(options.out, "endurance", {"machine": described, **result})
    if options.json:
        print(json.dumps(result))
        return
    print(machine.headline(described))
    for name, value in result.items():
        print(f"{name:24} {value}")
    print("the bar: no underrun, tracks that differ by less than 0.04 s, flat memory")


if __name__ == "__main__":
    main()
