"""pocket on the CPUs of this machine: ms a pass and a stage on each runtime, the real-time factor, and how many calls it holds.

    python -m benchmarks.rtf --out FILE.json             # everything, three to five minutes on two cores
    python -m benchmarks.rtf --only calls --seconds 10   # a quick look
    python -m benchmarks.rtf --config FILE --random      # of a network that is not trained yet, with random weights

First one stream on each runtime makes block after block as fast as it goes, over a full history, half of the time speaking.
Runtimes take turns of a few blocks, so that a busy moment of the machine hits all alike: trust the ratios of one run more than
milliseconds of two. Eager torch in float32 is where it began, and the oracle: "error" is how far a denoise pass over the same
inputs is from it (relative L2). Everything is counted: planning, text, passes, both decoders; "rtf" is seconds of that and of
encoding the pictures, one after the other, a second of media.

Then calls: a fresh engine with one call, two, three, ... in real time, half of the time speaking, their pictures and sound
encoded beside it on the same cores, until a call runs dry or pictures are left out. Encryption, sockets and receivers are not
counted.

Each table names the processor and says how fast it multiplies matrices in float32: a real-time factor times that speed is about
the same on another machine.

Let nothing else run: the bars hold for two cores of their own. Without onnx and onnxruntime (pip install '.[train]') their rows
are left out. int8 with OpenVINO would need its quantisation package, nncf, and is not measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from avatar_rtc import resources
from avatar_rtc.engine.api import ModelLoader, OnProgress
from avatar_rtc.engine.process_engine import ProcessEngine
from avatar_rtc.models import MAX_THREADS, load_checkpoint
from benchmarks import calls, machine, measurements
from model.errors import ModelError
from model.stream import Model

T = TypeVar("T")

BAR = 0.6
BASELINE, SHIPPED = "torch float32", "OpenVINO as shipped"
COLUMNS = {
    "denoise": "denoise",
    "remember": "remember",
    "text": "text",
    "decode_video": "pictures",
    "decode_audio": "sound",
    "block": "block",
    "encode": "encode",
}


def measure_runtimes(checkpoint: Path, num_blocks: int, num_threads: int, codec: str) -> dict[str, Any]:
    """In a process of its own, as torch is in the service: here, only encoders run."""
    from benchmarks import runtimes

    return runtimes.measure(checkpoint, num_blocks, num_threads, codec)


def write_untrained(config: Path, directory: Path) -> str:
    """Likewise. Returns what is wrong with the config, if anything."""
    from benchmarks import untrained

    try:
        untrained.write_checkpoint(config, directory)
    except ModelError as error:
        return str(error)
    return ""


def load_baseline(checkpoint: Path, num_threads: int, on_progress: OnProgress) -> Model:
    """A network in eager torch, as an engine loads it."""
    from benchmarks import runtimes

    return runtimes.load_baseline(checkpoint, num_threads, on_progress)


async def hold_calls(load: ModelLoader, num_calls: int, seconds: float, codec: str) -> dict[str, Any]:
    """So many calls with a fresh engine."""
    engine = ProcessEngine(load)
    await engine.start()
    try:
        return await calls.talk(engine, num_calls, seconds, codec)
    finally:
        await engine.close()


def is_unbroken(row: dict[str, Any]) -> bool:
    """Whether all calls of a row went without a gap in sound or pictures."""
    return not row["underruns"] and not row["dropped_frames"]


def find_most_calls(loaders: dict[str, ModelLoader], seconds: float, codec: str) -> dict[str, list[dict[str, Any]]]:
    """Of each engine one row a number of calls, from one to the first that is too many. Engines take turns."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in loaders}
    num_calls = 0
    while going_on := [name for name, own in rows.items() if all(is_unbroken(row) for row in own)]:
        num_calls += 1
        for name in going_on:
            print(f"{name}: calls at once: {num_calls}, for {seconds:g} s", file=sys.stderr, flush=True)
            rows[name].append(asyncio.run(hold_calls(loaders[name], num_calls, seconds, codec)))
    return rows


def runtimes_table(rows: dict[str, Any], shipped: str) -> str:
    lines = [
        f"{'ms, p50 (p95)':32}" + "".join(f"{label:>14}" for label in COLUMNS.values()) + "   speed   rtf p50 (p95)    error"
    ]
    for name, row in rows.items():
        label = f"{name} *" if name == shipped else name
        if "missing" in row:
            lines.append(f"{label:32} left out: {row['missing']}")
            continue
        ms = row["ms"]  # a network without a clean pass has none to measure
        cells = (f"{ms[part]['p50']:.1f} ({ms[part]['p95']:.1f})" if part in ms else "-" for part in COLUMNS)
        factor = f"{row['rtf']['p50']:.2f} ({row['rtf']['p95']:.2f})"
        error = f"{100 * row['relative_l2']['denoise']:.2f} %"
        lines.append(f"{label:32}" + "".join(f"{cell:>14}" for cell in cells) + f"{row['speed']:7.2f}x{factor:>16}{error:>9}")
    return "\n".join(lines)


def calls_table(rows: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        f"{'calls at once':32}{'late chunks':>14}{'underruns':>11}{'rtf p50 (p95): engine':>24}{'encoder':>14}{'together':>14}"
    ]
    for name, own in rows.items():
        held = sum(is_unbroken(row) for row in own)
        lines.append(f"{name}: holds {held}")
        for row in own:
            engine, encoder, both = (
                f"{row[key]['p50']:.2f} ({row[key]['p95']:.2f})" for key in ("rtf_engine", "rtf_encoder", "rtf_together")
            )
            late = f"{100 * row['late_share']:.1f} %"
            bar = f"   (bar: {BAR})" if row["calls"] == 1 else ""
            lines.append(f"  {row['calls']:<30}{late:>14}{row['underruns']:>11}{engine:>24}{encoder:>14}{both:>14}{bar}")
    return "\n".join(lines)


@contextlib.contextmanager
def measured_checkpoint(config: Path | None) -> Iterator[Path]:
    """The shipped checkpoint, or one of random weights, which is gone afterwards with all that was converted from it."""
    if config is None:
        yield resources.checkpoint_dir("pocket")
        return
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = scratch
        if error := in_child(write_untrained, config, Path(scratch) / "checkpoint"):
            sys.exit(error)
        yield Path(scratch) / "checkpoint"


def in_child(function: Callable[..., T], *arguments: Any) -> T:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=40, help="at least so many a runtime are measured (default: 40)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each call (default: 30)")
    parser.add_argument("--codec", choices=("VP8", "H264"), default="VP8", help="what pictures are encoded to (default: VP8)")
    parser.add_argument("--only", choices=("runtimes", "calls"), help="only one of the two tables")
    parser.add_argument("--config", type=Path, metavar="FILE", help="another network than the shipped one; needs --random")
    parser.add_argument("--random", action="store_true", help="with random weights, which cost as much as trained ones")
    parser.add_argument("--out", type=Path, metavar="FILE", help="put the figures into this file of measurements")
    options = parser.parse_args()
    if options.random != (options.config is not None):
        parser.error("--config FILE and --random go together: a config has no weights, and the shipped network is trained")
    # For the processes that are started below: as the engine's own does it, and no GPU.
    os.environ.update({"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "CUDA_VISIBLE_DEVICES": ""})
    num_threads = min(resources.num_cores(), MAX_THREADS)
    result: dict[str, Any] = {"machine": machine.describe(num_threads), "codec": options.codec}
    about = (
        f"{machine.headline(result['machine'])}; network {options.config or 'as shipped'}; pictures encoded to {options.codec}"
    )
    with measured_checkpoint(options.config) as checkpoint:
        if options.only != "calls":
            print(about, flush=True)
            result["runtimes"] = in_child(measure_runtimes, checkpoint, options.blocks, num_threads, options.codec)
            print(runtimes_table(result["runtimes"], SHIPPED), "\n* what is served", sep="", flush=True)
        if options.only != "runtimes":
            print(about, flush=True)
            loaders: dict[str, ModelLoader] = {SHIPPED: functools.partial(load_checkpoint, checkpoint)}
            if not options.random:
                loaders = {BASELINE: functools.partial(load_baseline, checkpoint, num_threads), **loaders}
            result["calls"] = find_most_calls(loaders, options.seconds, options.codec)
            print(calls_table(result["calls"]))
    if options.out:
        measurements.keep(options.out, "rtf", result)


if __name__ == "__main__":
    main()
