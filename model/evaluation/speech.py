"""Judges of speech that nobody here wrote: words by whisper-base, naturalness by DistilMOS. Their weights lie inside packages.

    python -m model.evaluation.speech --said sentences.txt --heard recordings/    # recordings/00.wav is line 0, and so on

Needs the extra ``[evaluate]``; never used at run time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.errors import UnspeakableTextError
from model.evaluation.film import read_sound
from model.text.normalize import fold, to_words
from model.whisper import load_whisper


def load_recogniser() -> Callable[[np.ndarray], str]:
    """What whisper-base hears of float32 samples at 16 kHz."""
    model = load_whisper("float32", num_threads=2)

    def transcribe(samples: np.ndarray) -> str:
        segments, _ = model.transcribe(samples, language="en", beam_size=5, condition_on_previous_text=False)
        return " ".join(s.text.strip() for s in segments)

    return transcribe


def load_mos() -> Callable[[np.ndarray], float]:
    """DistilMOS; takes float32 at 16 kHz, answers 1 to 5."""
    import types

    import torch

    # distillmos imports torchaudio for reading files, which we do ourselves; torchaudio has no build beside a CPU build of torch.
    sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))
    import distillmos

    model = distillmos.ConvTransformerSQAModel()
    model.eval()

    def score(samples: np.ndarray) -> float:
        with torch.no_grad():
            return float(model(torch.from_numpy(samples).unsqueeze(0)))

    return score


def words(text: str) -> list[str]:
    """Lower-case words without punctuation, numerals in words: a recogniser may write either."""
    try:
        script = fold(text)
    except UnspeakableTextError:
        return re.findall(r"\w+", text.lower())
    to_words(script)
    found: list[str] = re.findall(r"[a-z]+", script.text.lower().replace("'", ""))
    # "one hundred and five" is also said of 105.
    return [word for i, word in enumerate(found) if word != "and" or found[i - 1 : i] not in (["hundred"], ["thousand"])]


def misheard(said: Sequence[str], heard: Sequence[str]) -> list[int]:
    """Errors at each word that was said: 1 if it is missing or another, plus what was heard after it and not said.

    What was heard before the first word counts there. Their sum is the edit distance.
    """
    costs = np.zeros((len(said) + 1, len(heard) + 1), int)
    costs[:, 0], costs[0] = range(len(said) + 1), range(len(heard) + 1)
    for i, x in enumerate(said, 1):
        for j, y in enumerate(heard, 1):
            costs[i, j] = min(costs[i - 1, j] + 1, costs[i, j - 1] + 1, costs[i - 1, j - 1] + (x != y))
    errors = [0] * max(len(said), 1)
    i, j = len(said), len(heard)
    while i or j:
        if i and j and costs[i, j] == costs[i - 1, j - 1] + (said[i - 1] != heard[j - 1]):
            i, j = i - 1, j - 1
            errors[i] += said[i] != heard[j]
        elif i and costs[i, j] == costs[i - 1, j] + 1:
            i -= 1
            errors[i] += 1
        else:
            j -= 1
            errors[max(i - 1, 0)] += 1
    return errors


def judge(said: Sequence[str], heard: Sequence[np.ndarray], *, with_mos: bool = True) -> dict[str, Any]:
    """Word error rate over all lines, mean opinion score, and each line's own.

    Args:
        heard: float32 at 16 kHz, a line each.
    """
    transcribe, score = load_recogniser(), load_mos() if with_mos else None
    lines: list[dict[str, Any]] = []
    errors = total = 0
    for text, samples in zip(said, heard, strict=True):
        transcript = transcribe(samples)
        wrong = sum(misheard(words(text), words(transcript)))
        errors, total = errors + wrong, total + len(words(text))
        lines.append({"said": text, "heard": transcript, "errors": wrong, "mos": round(score(samples), 2) if score else None})
    scores = [line["mos"] for line in lines if line["mos"] is not None]
    return {"wer": errors / total, "mos": float(np.mean(scores)) if scores else None, "lines": lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--said", type=Path, required=True, help="text file, a line a recording")
    parser.add_argument("--heard", type=Path, required=True, help="directory of audio or video files, in order of their names")
    args = parser.parse_args()
    files = sorted(p for p in args.heard.iterdir() if p.suffix in {".wav", ".mp4", ".ogg", ".flac"})
    said = [line for line in args.said.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(files) != len(said):
        parser.error(f"{len(said)} lines but {len(files)} recordings")
    # A judge that talks to itself must not get into the result.
    with contextlib.redirect_stdout(sys.stderr):
        result = judge(said, [read_sound(f) for f in files])
    print(json.dumps(result, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
