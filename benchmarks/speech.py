"""How well pocket speaks in a call: a recogniser's word error rate and DistilMOS, on sentences that training never saw.

Each of ``sentences.txt`` is said in a call of its own, recorded by the headless client, in the voices in turn; then
``model.evaluation.speech`` judges the recordings. It needs the extra ``[evaluate]``, which may lie in another environment.

    python -m benchmarks.speech --judge-python /path/to/python
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from avatar_rtc import resources
from avatar_rtc.config import load_config
from avatar_rtc.resources import server_config
from avatar_rtc.say import Summary, say
from benchmarks import machine, measurements
from testkit.browser import run_server

ROOT = Path(__file__).parent.parent
SENTENCES = Path(__file__).with_name("sentences.txt")
WER_BAR = 0.10
MOS_BAR = 3.0


def record(url: str, sentences: list[str], directory: Path) -> list[Summary]:
    """One call and one file, ``00.mp4`` and so on, for each sentence; avatars in turn, which takes the voices in turn."""
    avatars = load_config(server_config("pocket")).avatars
    calls = []
    for index, sentence in enumerate(sentences):
        avatar = avatars[index % len(avatars)].id
        calls.append(asyncio.run(say(url, [sentence], directory / f"{index:02}.mp4", avatar=avatar)))
        print(f"{index + 1:2} of {len(sentences)}: {avatar}: {sentence}", file=sys.stderr)
    return calls


def judge(python: Path, sentences: Path, directory: Path) -> dict[str, Any]:
    """Have ``model.evaluation.speech`` of another environment judge the recordings.

    Raises:
        SystemExit: it could not; what it said has been shown.
    """
    command = [str(python), "-m", "model.evaluation.speech", "--said", str(sentences), "--heard", str(directory)]
    judged = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if judged.returncode:
        raise SystemExit(f"the judges did not run: give --judge-python an environment with 'avatar-rtc[evaluate]', not {python}")
    result: dict[str, Any] = json.loads(judged.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--judge-python", type=Path, default=Path(sys.executable), help="Python that has the judges (default: this one)"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the recordings there")
    parser.add_argument("--out", type=Path, metavar="FILE", help="put the figures into this file of measurements")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    sentences = SENTENCES.read_text().splitlines()
    with tempfile.TemporaryDirectory() as scratch:
        directory = options.keep or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        with run_server("pocket") as server:
            calls = record(server.url, sentences, directory)
        result = judge(options.judge_python, SENTENCES, directory)
    result["underruns"] = sum(call.underruns for call in calls)
    result["text_to_voice_ms_p50"] = statistics.median(call.lines[0].text_to_first_voiced_audio_ms or 0 for call in calls)
    described = machine.describe(resources.num_cores())
    if options.out:
        measurements.keep(options.out, "speech", {"machine": described, **result})
    if options.json:
        print(json.dumps(result))
        return
    print(machine.headline(described))
    for line in result["lines"]:
        print(
            f"{line['errors']:2} wrong, {line['mos']:4.2f}   {line['said']}"
            + (f"\n{'':17}{line['heard']}" if line["errors"] else "")
        )
    print(f"{'word error rate':28} {result['wer']:6.1%}   (bar: {WER_BAR:.0%})")
    print(f"{'DistilMOS':28} {result['mos']:6.2f}   (bar: {MOS_BAR})")
    print(f"{'underruns':28} {result['underruns']:6}")
    print(f"{'text to voice, p50':28} {result['text_to_voice_ms_p50']:6.0f} ms")


if __name__ == "__main__":
    main()
