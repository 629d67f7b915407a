"""Two calls at once, different looks and different lines: does each hear its own lines and nothing of the other's, and unbroken?

Both are recorded by the headless client, which works on the same cores. A recogniser writes down each recording; its
words are compared with the lines of its own call, and with those of the other one. On a machine that makes less than two seconds
of media a second, underruns must show: pictures are held in silence, and the two tracks still end together.

    python -m benchmarks.two_calls --judge-python /path/to/python

The judge needs the extra ``[evaluate]``, which may lie in another environment.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import av

from avatar_rtc import resources
from avatar_rtc.config import load_config
from avatar_rtc.resources import server_config
from avatar_rtc.say import Summary, say
from benchmarks import machine, measurements
from benchmarks.speech import SENTENCES, judge
from model.evaluation import lips
from model.evaluation.film import read_film
from model.evaluation.speech import misheard, words
from model.text.prompt import Prompt
from testkit.browser import run_server

ROWS = (
    ("wer_own", "word error rate, own lines", ".1%"),
    ("wer_other", "... against the other's", ".1%"),
    ("text_to_voice_ms_max", "text to voice, longest, ms", ".0f"),
    ("underruns", "underruns", "d"),
    ("freezes", "freezes", "d"),
    ("packets_lost", "packets lost", "d"),
    ("video_beyond_audio_ms", "video longer than audio, ms", ".0f"),
    ("lips_lag_ms", "lips behind own voice, ms", "d"),
    ("lips_own", "mouth and own voice, corr.", ".2f"),
    ("lips_other", "mouth and other voice, corr.", ".2f"),
)


async def call_together(url: str, avatars: list[str], scripts: list[list[str]], paths: list[Path]) -> list[Summary]:
    """One call a script, all at the same time."""
    calls = (say(url, lines, path, avatar=avatar) for avatar, lines, path in zip(avatars, scripts, paths, strict=True))
    return await asyncio.gather(*calls)


def word_error_rate(said: str, heard: str) -> float:
    return sum(misheard(words(said), words(heard))) / len(words(said))


def seconds(path: Path, kind: str) -> float:
    """Of one track of a film."""
    with av.open(str(path)) as film:
        stream = next(stream for stream in film.streams if stream.type == kind)
        assert stream.duration is not None
        assert stream.time_base is not None
        return float(stream.duration * stream.time_base)


def compare(scripts: list[list[str]], calls: list[Summary], paths: list[Path], heard: list[str]) -> list[dict[str, Any]]:
    """A row for each of the two calls."""
    recordings = [lips.measure(read_film(path, Prompt(None, (), None))) for path in paths]
    rows = []
    for own, other in ((0, 1), (1, 0)):
        call, face = calls[own], lips.compare([recordings[own]], recordings)
        rows.append(
            {
                "heard": heard[own],
                "wer_own": word_error_rate(" ".join(scripts[own]), heard[own]),
                "wer_other": word_error_rate(" ".join(scripts[other]), heard[own]),
                "text_to_voice_ms_max": max(line.text_to_first_voiced_audio_ms or 0 for line in call.lines),
                "underruns": call.underruns,
                "freezes": call.freezes,
                "packets_lost": call.packets_lost,
                "video_beyond_audio_ms": 1000 * (seconds(paths[own], "video") - seconds(paths[own], "audio")),
                "lips_lag_ms": face["best_lag_ms"],
                "lips_own": face["correlation"],
                "lips_other": face["shuffled"],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--judge-python", type=Path, default=Path(sys.executable), help="Python that has the judges (default: this one)"
    )
    parser.add_argument("--lines", type=int, default=4, help="said in each call (default: 4)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the recordings there")
    parser.add_argument("--out", type=Path, metavar="FILE", help="put the figures into this file of measurements")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    sentences = SENTENCES.read_text().splitlines()
    scripts = [sentences[: options.lines], sentences[options.lines : 2 * options.lines]]
    avatars = [avatar.id for avatar in load_config(server_config("pocket")).avatars[:2]]
    with tempfile.TemporaryDirectory() as scratch:
        directory = options.keep or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        paths = [directory / f"{index}-{avatar}.mp4" for index, avatar in enumerate(avatars)]
        with run_server("pocket", limits={"max_sessions": 2}) as server:
            calls = asyncio.run(call_together(server.url, avatars, scripts, paths))
        said = Path(scratch) / "said.txt"
        said.write_text("".join(" ".join(lines) + "\n" for lines in scripts))
        judged = judge(options.judge_python, said, directory)
        rows = compare(scripts, calls, paths, [line["heard"] for line in judged["lines"]])
    described = machine.describe(resources.num_cores())
    if options.out:
        measurements.keep(options.out, "two_calls", {"machine": described, **{"calls": dict(zip(avatars, rows, strict=True))}})
    if options.json:
        print(json.dumps(dict(zip(avatars, rows, strict=True))))
        return
    print(machine.headline(described))
    for avatar, lines, row in zip(avatars, scripts, rows, strict=True):
        print(f"{avatar} was to say  {' '.join(lines)}\n{'':{len(avatar)}} was heard as  {row['heard']}")
    print(f"{'':30}" + "".join(f"{avatar:>10}" for avatar in avatars))
    for name, label, form in ROWS:
        print(f"{label:30}" + "".join(f"{row[name]:>10{form}}" for row in rows))


if __name__ == "__main__":
    main()
