"""Whether the mouth follows the voice in calls, by :mod:`model.evaluation.lips`.

python -m benchmarks.lips
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from avatar_rtc import resources
from avatar_rtc.config import load_config
from avatar_rtc.resources import server_config
from avatar_rtc.say import say
from benchmarks import machine, measurements
from benchmarks.speech import SENTENCES
from model.evaluation.film import read_film
from model.evaluation.lips import compare, measure
from model.text.prompt import Prompt
from testkit.browser import run_server

LAG_BAR_MS = 80
UNKNOWN = Prompt(None, (), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=3, help="said by each look (default: 3)")
    parser.add_argument("--recordings", type=Path, metavar="DIR", help="measure ID.mp4 files that lie there instead of calling")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the recordings there")
    parser.add_argument("--out", type=Path, metavar="FILE", help="put the figures into this file of measurements")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = options.recordings or options.keep or Path(scratch)
        if options.recordings is None:
            directory.mkdir(parents=True, exist_ok=True)
            sentences = SENTENCES.read_text().splitlines()
            with run_server("pocket") as server:
                for index, avatar in enumerate(load_config(server_config("pocket")).avatars):
                    chosen = [sentences[(index * options.lines + line) % len(sentences)] for line in range(options.lines)]
                    asyncio.run(say(server.url, chosen, directory / f"{avatar.id}.mp4", avatar=avatar.id))
                    print(f"recorded {avatar.name}", file=sys.stderr)
        recordings = {path.stem: measure(read_film(path, UNKNOWN)) for path in sorted(directory.glob("*.mp4"))}
    everything = list(recordings.values())
    looks = {name: compare([recording], everything) for name, recording in recordings.items()}
    result = {"all": compare(everything, everything), "looks": looks}
    described = machine.describe(resources.num_cores())
    if options.out:
        measurements.keep(options.out, "lips", {"machine": described, **result})
    if options.json:
        print(json.dumps(result))
        return
    print(machine.headline(described))
    print(f"{'':10} {'best lag':>9} {'correlation':>12} {'shuffled':>9} {'open, speaking':>15} {'open, silent':>13}")
    for name, row in [*looks.items(), ("all", result["all"])]:
        print(
            f"{name:10} {row['best_lag_ms']:6} ms {row['correlation']:12.2f} {row['shuffled']:9.2f} "
            f"{row['open_speaking']:15.0%} {row['open_silent']:13.0%}"
        )
    print(f"the bar: a best lag within {LAG_BAR_MS} ms, a clearly lower correlation when shuffled, closed in silence")


if __name__ == "__main__":
    main()
