"""Stage 0: make everything that pocket learns from, on this machine, from packages that install by name.

    python -m model.training.prepare --data /dev/shm/pocket --clips 2000 --sentences 4000 --corpus corpus

speaks sentences with hibari, adds the Kokoro corpora (made beforehand, see model.data.speech), composes clips and renders them.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import pickle
import time
from pathlib import Path

import numpy as np

from model.data.clips import make_clips
from model.data.sentences import WORDNET_DIR, training_sentences
from model.data.speech import Corpus, HibariTeacher, Utterance

_teacher: HibariTeacher | None = None
_front_end: object = None


def _start() -> None:
    global _teacher, _front_end
    from hibari import Hibari

    _teacher, _front_end = HibariTeacher(), Hibari()


def _speak(job: tuple[str, float]) -> list[Utterance]:
    sentence, speed = job
    assert _teacher is not None
    return [_teacher.speak(sentence, phonemes, speed=speed) for phonemes in _front_end.phonemize(sentence)]  # type: ignore[attr-defined]


def speak_all(sentences: list[str], workers: int, seed: int) -> list[Utterance]:
    """Speak sentences with hibari at slightly different speeds; in order, whatever the number of workers."""
    speeds = np.random.default_rng(seed).uniform(0.92, 1.06, len(sentences))
    with multiprocessing.get_context("spawn").Pool(workers, _start) as pool:
        spoken = pool.imap(_speak, zip(sentences, speeds.tolist(), strict=True), chunksize=32)
        return [u for several in spoken for u in several if len(u.phonemes) > 1]


LEVEL_DB = -25.0


def levelled(utterances: list[Utterance]) -> list[Utterance]:
    """Every voice at ``LEVEL_DB`` below full scale on average: the teachers' differ by 7 dB, and callers would notice."""
    power: dict[str, list[float]] = {}
    for u in utterances:
        power.setdefault(u.voice, []).append(float(np.square(u.samples.astype(np.float32) / 32768).mean()))
    gain = {voice: 10 ** (LEVEL_DB / 20) / float(np.mean(values)) ** 0.5 for voice, values in power.items()}
    return [
        dataclasses.replace(u, samples=(u.samples * gain[u.voice]).round().clip(-32768, 32767).astype(np.int16))
        for u in utterances
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--first-clips", type=int, default=240)
    parser.add_argument("--sentences", type=int, default=4000, help="spoken by hibari; Kokoro's come from the corpora")
    parser.add_argument("--corpus", type=Path, default=Path("corpus"), help="directory of *.opus and *.jsonl parts")
    parser.add_argument("--wordnet", type=Path, default=WORDNET_DIR)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    started_s = time.monotonic()
    utterances = speak_all(training_sentences(args.sentences, args.seed, directory=args.wordnet), args.workers, args.seed)
    parts = sorted(args.corpus.glob("*.jsonl"))
    with multiprocessing.get_context("spawn").Pool(min(args.workers, max(1, len(parts)))) as pool:
        for part in pool.imap(_read, parts):
            utterances += part
    utterances = levelled(utterances)
    args.data.mkdir(parents=True, exist_ok=True)
    voices = sorted({u.voice for u in utterances})
    hours = {v: round(sum(len(u.samples) for u in utterances if u.voice == v) / 24_000 / 3600, 2) for v in voices}
    temporary = args.data / "utterances.tmp"
    temporary.write_bytes(pickle.dumps(utterances))
    os.replace(temporary, args.data / "utterances.pkl")
    print(f"{len(utterances)} utterances, hours: {hours}, {time.monotonic() - started_s:.0f} s", flush=True)
    # A few clips first, for the video VAE, which can learn while the others are drawn.
    for name, count, seed in (("first", args.first_clips, args.seed + 1), ("clips", args.clips, args.seed)):
        make_clips(args.data / name, utterances, count, seed, workers=args.workers)
        (args.data / name / "done").touch()
        print(f"{name}: {count} clips, {time.monotonic() - started_s:.0f} s", flush=True)


def _read(path: Path) -> list[Utterance]:
    return list(Corpus.read(path))


if __name__ == "__main__":
    main()
