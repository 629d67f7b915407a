"""Stage 0b: a corpus of recordings, so that pocket learns a voice of yours.

    python -m model.training.recordings --voice ines --table lines.csv --recordings takes/ --out corpus

``lines.csv`` has the columns ``file`` and ``text``: one sentence a file of ``takes/``, of any format and rate. Which phoneme
sounds when is found in two steps: a recogniser (whisper-base, extra ``[evaluate]``) says when each word begins and ends; within a
word phonemes last as long beside each other as when hibari says it. A recording in which the recogniser hears other words is left
out, and told.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from model.data.speech import DURATION_UNIT_SAMPLES, HIBARI_VOICE, SAMPLE_RATE_HZ, VOICES, Corpus, DurationTeacher, Utterance
from model.errors import PromptError, TrainingError
from model.evaluation.film import SAMPLE_RATE_HZ as HEARD_HZ
from model.evaluation.film import Array, read_sound
from model.evaluation.speech import misheard, words
from model.text.g2p import NO_WORD, Sentence, pronounce
from model.whisper import load_whisper

UNIT_S = DURATION_UNIT_SAMPLES / SAMPLE_RATE_HZ
LATE_S = 0.1
"""The teachers' borders between phonemes come so much later than the recogniser's between words, in speech of theirs."""
MAX_MISHEARD = 0.2
"""Of a recording's words."""
QUIET_DB, HOP_S = -40.0, 0.005
"""Below this, under a recording's loudest, nothing is said."""


@dataclass(frozen=True)
class Heard:
    """A word as it was heard."""

    text: str
    start_s: float
    end_s: float


Listen = Callable[[Array], Sequence[Heard]]
"""What is heard in float32 samples at 16 kHz."""


def utterance(voice: str, text: str, sound_16k: Array, samples: Array, listen: Listen, teacher: DurationTeacher) -> Utterance:
    """A recording with its phonemes and their durations.

    Args:
        sound_16k: float32 [N], what the recogniser takes; ``samples``: int16 [M] at 24 kHz, the same.

    Raises:
        TrainingError: it is not one sentence, or other words are heard; UnspeakableTextError: it cannot be spoken.
    """
    sentences = pronounce(text)
    if len(sentences) != 1:
        raise TrainingError(f"{len(sentences)} sentences: record each in a file of its own")
    (sentence,) = sentences
    samples = samples[: len(samples) // DURATION_UNIT_SAMPLES * DURATION_UNIT_SAMPLES]
    spans = _spans(sentence, listen(sound_16k), *_sounding(sound_16k))
    typical = teacher(HIBARI_VOICE, sentence.phonemes)[1:-1].astype(float)
    borders = [border_s + LATE_S for border_s in _borders(sentence, spans, typical)]
    units = np.round(np.array([0.0, *borders, len(samples) / SAMPLE_RATE_HZ]) / UNIT_S)
    units = np.maximum.accumulate(np.clip(units, 0, len(samples) // DURATION_UNIT_SAMPLES))
    return Utterance(voice, text, sentence.phonemes, np.diff(units).astype(np.int16), samples)


def _sounding(sound: Array) -> tuple[float, float]:
    """When the first sound begins and the last one ends."""
    hop = round(HOP_S * HEARD_HZ)
    hops = sound[: len(sound) // hop * hop].reshape(-1, hop)
    level = np.sqrt(np.square(hops).mean(axis=1))
    loud = np.flatnonzero(level > level.max() * 10 ** (QUIET_DB / 20)) if len(level) else np.zeros(0, int)
    if not len(loud) or level.max() == 0:
        raise TrainingError("nothing is said in it")
    return float(loud[0] * HOP_S), float((loud[-1] + 1) * HOP_S)


def _spans(sentence: Sentence, heard: Sequence[Heard], start_s: float, end_s: float) -> list[tuple[float, float]]:
    """Start and end of each word of a sentence. The sentence begins and ends with its sound: a recogniser is vague there.

    Raises:
        TrainingError: other words are heard.
    """
    owners = [i for i, word in enumerate(sentence.words) for _ in words(word.text)]
    said = [part for word in sentence.words for part in words(word.text)]
    times: list[tuple[float, float]] = []
    found: list[str] = []
    for one in heard:
        parts = words(one.text)
        found += parts
        edges = np.linspace(one.start_s, one.end_s, len(parts) + 1).tolist()
        times += pairwise(edges)
    if len(said) != len(found) or sum(misheard(said, found)) > MAX_MISHEARD * len(said):
        raise TrainingError(f"what is heard is {' '.join(found)!r}")
    spans: list[tuple[float, float]] = []
    for i in range(len(sentence.words)):
        own = [time for owner, time in zip(owners, times, strict=True) if owner == i]
        after_s = spans[-1][1] if spans else start_s
        spans.append((own[0][0], own[-1][1]) if own else (after_s, after_s))
    spans[0] = (start_s, max(start_s, spans[0][1]))
    spans[-1] = (min(spans[-1][0], end_s), end_s)
    return spans


def _borders(sentence: Sentence, spans: Sequence[tuple[float, float]], typical: Array) -> list[float]:
    """Where each phoneme begins, and where the last one ends, in seconds."""
    index = np.asarray(sentence.word_index)
    begins = np.zeros(len(index) + 1)
    at_s = spans[0][0]
    i = 0
    while i < len(index):
        stop = i + 1
        while stop < len(index) and index[stop] == index[i]:
            stop += 1
        # What is no word lasts until the next one begins.
        to_next = spans[index[stop]][0] if stop < len(index) else spans[-1][1]
        end_s = max(at_s, to_next if index[i] == NO_WORD else spans[index[i]][1])
        shares = np.cumsum(typical[i:stop]) / max(typical[i:stop].sum(), 1e-9)
        begins[i : stop + 1] = at_s, *(at_s + shares * (end_s - at_s))
        at_s, i = end_s, stop
    return begins.tolist()


def load_listener() -> Listen:
    """whisper-base, which knows when it heard a word."""
    model = load_whisper("float32", num_threads=2)

    def listen(samples: Array) -> Sequence[Heard]:
        segments, _ = model.transcribe(
            samples, language="en", beam_size=5, condition_on_previous_text=False, word_timestamps=True
        )
        return [Heard(word.word, word.start, word.end) for segment in segments for word in segment.words]

    return listen


def read_table(path: Path) -> list[tuple[str, str]]:
    """Files and what is said in them.

    Raises:
        TrainingError: it is no such table.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"file", "text"} <= rows[0].keys():
        raise TrainingError(f"{path} must be a CSV file with the columns file and text, and a line a recording")
    return [(row["file"], row["text"]) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voice", required=True, help="whose: a name of model.data.speech.VOICES")
    parser.add_argument("--table", type=Path, required=True, help="CSV with the columns file and text")
    parser.add_argument("--recordings", type=Path, required=True, help="where the files are")
    parser.add_argument("--out", type=Path, default=Path("corpus"), help="directory of corpora (default: corpus)")
    options = parser.parse_args()
    if options.voice not in VOICES:
        parser.error(
            f"there is no voice {options.voice!r}: write it into VOICES of model/data/speech.py; there are {', '.join(VOICES)}"
        )
    listen, teacher = load_listener(), DurationTeacher()
    taken: list[Utterance] = []
    rows = read_table(options.table)
    for name, text in rows:
        path = options.recordings / name
        try:
            samples = (read_sound(path, SAMPLE_RATE_HZ).clip(-1, 1) * 32767).astype(np.int16)
            taken.append(utterance(options.voice, text, read_sound(path), samples, listen, teacher))
        except (TrainingError, PromptError, OSError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    if not taken:
        raise SystemExit("no recording could be used: nothing was written")
    options.out.mkdir(parents=True, exist_ok=True)
    Corpus.write(options.out / options.voice, taken)
    minutes = sum(len(one.samples) for one in taken) / SAMPLE_RATE_HZ / 60
    print(f"{options.out / options.voice}.opus: {len(taken)} of {len(rows)} recordings, {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
