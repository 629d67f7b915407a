"""Recordings of a voice: which phoneme sounds when, from words that were heard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.data.speech import Corpus, DurationTeacher, Utterance
from model.errors import TrainingError
from model.training.recordings import LATE_S, UNIT_S, Heard, read_table, utterance

TEXT = "Room 28 is free."


@pytest.fixture(scope="module")
def teacher() -> DurationTeacher:
    return DurationTeacher()


def spoken(teacher: DurationTeacher, *heard: Heard, text: str = TEXT) -> Utterance:
    """Of two seconds that sound from 0.5 to 1.5."""
    sound = np.zeros(32_000, np.float32)
    sound[8_000:24_000] = np.sin(np.arange(16_000))
    return utterance("theo", text, sound, np.zeros(48_000, np.int16), lambda _: heard, teacher)


def test_phonemes_begin_and_end_with_their_words(teacher: DurationTeacher) -> None:
    words = Heard(" Room", 0.2, 0.7), Heard(" 28", 0.7, 1.1), Heard(" is", 1.1, 1.2), Heard(" free.", 1.2, 1.9)
    found = spoken(teacher, *words)
    assert int(found.durations.sum()) * UNIT_S == pytest.approx(2.0)
    assert len(found.durations) == len(found.phonemes) + 2
    begins = np.cumsum(found.durations)[:-1] * UNIT_S - LATE_S
    spaces = [i for i, symbol in enumerate(found.phonemes) if symbol == " "]
    # The sentence sounds from 0.5 on, whenever its first word is said to begin; the rest is as heard.
    assert begins[0] == pytest.approx(0.5, abs=UNIT_S)
    assert begins[spaces[0]] == pytest.approx(0.7, abs=UNIT_S)
    assert [begins[i] for i in spaces[-2:]] == pytest.approx([1.1, 1.2], abs=UNIT_S)
    assert found.durations[-1] * UNIT_S == pytest.approx(0.5 - LATE_S, abs=UNIT_S)


def test_what_cannot_be_used_says_why(teacher: DurationTeacher, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="what is heard is 'a boat'"):
        spoken(teacher, Heard("A boat", 0.5, 1.5))
    with pytest.raises(TrainingError, match="2 sentences"):
        spoken(teacher, text="One. Two.")
    with pytest.raises(TrainingError, match="nothing is said"):
        utterance("theo", TEXT, np.zeros(16_000, np.float32), np.zeros(24_000, np.int16), lambda _: [], teacher)
    (tmp_path / "lines.csv").write_text("name,text\na.wav,Hello.\n")
    with pytest.raises(TrainingError, match="columns file and text"):
        read_table(tmp_path / "lines.csv")


def test_a_corpus_comes_back_as_it_was_written_but_for_the_codec(tmp_path: Path) -> None:
    def one(voice: str, hz: float, units: int) -> Utterance:
        samples = (8000 * np.sin(2 * np.pi * hz / 24_000 * np.arange(units * 600))).astype(np.int16)
        return Utterance(voice, "Ah.", "ɑ", np.array([1, units - 2, 1], np.int16), samples)

    written = [one("theo", 200, 40), one("maya", 400, 61)]
    Corpus.write(tmp_path / "part", written)
    read = list(Corpus.read(tmp_path / "part.jsonl"))
    assert [u.voice for u in read] == ["theo", "maya"]
    for found, expected in zip(read, written, strict=True):
        assert len(found.samples) == len(expected.samples)
        assert np.corrcoef(found.samples, expected.samples)[0, 1] > 0.98
