"""What networks like the shipped one cost on this machine, before anybody trains one: random weights cost as much.

    python -m benchmarks.networks --out measurements/pocket-avx2.json    # nine networks, a minute and a half each
    python -m benchmarks.networks --only "64 tokens"                     # those whose name holds this

Each is the shipped config with something else in some places (``NETWORKS``), converted for this processor and loaded into a
fresh engine, which holds one call in real time while the call's pictures and sound are encoded beside it: ``benchmarks.rtf
--config FILE --random --only calls`` does the same for a file. Let nothing else run.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import functools
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from avatar_rtc import resources
from avatar_rtc.models import MAX_THREADS, load_checkpoint
from benchmarks import machine, measurements, rtf

Changes = dict[str, dict[str, Any]]

NARROW: Changes = {
    "dit": {
        "video": {"dim": 192, "ffn_dim": 576, "num_heads": 3},
        "audio": {"dim": 192, "ffn_dim": 576, "num_heads": 3},
    }
}
MORE: Changes = {"geometry": {"patch_cells": 2}, "dit": {"grid": [8, 8]}}
FEWEST: Changes = {"geometry": {"patch_cells": 4}, "dit": {"grid": [4, 4]}}
TWO_PASSES: Changes = {"sampling": {"timesteps": [1.0, 0.25], "clean_pass": False}}
ONE_PASS: Changes = {"sampling": {"timesteps": [1.0], "clean_pass": False}}
CLEAN_PASS: Changes = {"sampling": {"clean_pass": True}}

NETWORKS: dict[str, tuple[Changes, ...]] = {
    "128 tokens, 2 passes and a clean one": (MORE, TWO_PASSES, CLEAN_PASS),
    "128 tokens, towers 192 wide, 2 passes and a clean one": (MORE, NARROW, TWO_PASSES, CLEAN_PASS),
    "64 tokens, 2 passes and a clean one": (TWO_PASSES, CLEAN_PASS),
    "64 tokens, towers 192 wide, 2 passes and a clean one": (NARROW, TWO_PASSES, CLEAN_PASS),
    "64 tokens, 2 passes": (TWO_PASSES,),
    "64 tokens, 1 pass and a clean one": (ONE_PASS, CLEAN_PASS),
    "64 tokens, 1 pass": (ONE_PASS,),
    "32 tokens, 2 passes and a clean one": (FEWEST, TWO_PASSES, CLEAN_PASS),
    "32 tokens, 1 pass": (FEWEST, ONE_PASS),
}
"""Video tokens a block of 320 ms, and how often the network runs for it. Each says by itself what it is, whatever is shipped."""


def changed(config: dict[str, Any], changes: tuple[Changes, ...]) -> dict[str, Any]:
    """A config with other values in some places."""

    def merge(into: dict[str, Any], values: dict[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                merge(into.setdefault(key, {}), value)
            else:
                into[key] = value

    config = copy.deepcopy(config)
    for change in changes:
        merge(config, change)
    return config


def measure(config: dict[str, Any], seconds: float, codec: str) -> dict[str, Any]:
    """One call with a network of this config, see :func:`benchmarks.calls.talk`."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(config, file)
        file.flush()
        with rtf.measured_checkpoint(Path(file.name)) as checkpoint:
            return asyncio.run(rtf.hold_calls(functools.partial(load_checkpoint, checkpoint), 1, seconds, codec))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each call (default: 15)")
    parser.add_argument("--codec", choices=("VP8", "H264"), default="VP8", help="what pictures are encoded to (default: VP8)")
    parser.add_argument("--only", default="", metavar="WORDS", help="networks whose name holds this")
    parser.add_argument("--out", type=Path, metavar="FILE", help="put the figures into this file of measurements")
    options = parser.parse_args()
    names = [name for name in NETWORKS if options.only in name]
    if not names:
        parser.error(f"no network is called so; there are: {'; '.join(NETWORKS)}")
    os.environ.update({"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "CUDA_VISIBLE_DEVICES": ""})
    described = machine.describe(min(resources.num_cores(), MAX_THREADS))
    print(machine.headline(described), flush=True)
    shipped = yaml.safe_load((resources.checkpoint_dir("pocket") / "config.yaml").read_text(encoding="utf-8"))
    rows: dict[str, Any] = {}
    for number, name in enumerate(names, 1):
        print(f"{number} of {len(names)}: converting and measuring {name}", file=sys.stderr, flush=True)
        rows[name] = row = measure(changed(shipped, NETWORKS[name]), options.seconds, options.codec)
        together = row["rtf_together"]
        print(f"{name:56} {together['p50']:.2f} ({together['p95']:.2f})  underruns {row['underruns']}", flush=True)
    if options.out:
        measurements.keep(options.out, "networks", {"machine": described, "codec": options.codec, "networks": rows})


if __name__ == "__main__":
    main()
