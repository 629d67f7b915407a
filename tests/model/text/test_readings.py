"""What is typed against what is said, and what of it captions show: readings.txt."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from model.text.g2p import pronounce
from model.text.sentences import TextStream


def _readings() -> list[tuple[str, str]]:
    lines = Path(__file__).with_name("readings.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line and not line.startswith(";;")]
    assert all(line.startswith("    ") == bool(number % 2) for number, line in enumerate(lines))
    return [(written.replace("\\n", "\n"), spoken.strip()) for written, spoken in zip(lines[::2], lines[1::2], strict=True)]


READINGS = _readings()


@pytest.mark.parametrize(("written", "spoken"), READINGS, ids=[written for written, _ in READINGS])
def test_reading(written: str, spoken: str) -> None:
    sentences = pronounce(written)
    assert " | ".join(sentence.spoken for sentence in sentences) == spoken
    assert not re.search(r"[\d$€£%&@#*<>=+^~\\|{}\[\]]", spoken.replace(" | ", "")), "something is left that is no word"
    stream = TextStream()
    pieces = [*(line for c in written for line in stream.feed(c)), *stream.finish()]
    assert [said.spoken for piece in pieces for said in pronounce(piece)] == [said.spoken for said in sentences]
    # Captions are all that was typed, but for what is no speech.
    captions = "".join("".join(word.text.split()) for sentence in sentences for word in sentence.words)
    typed = re.sub(r"(?s)<think>.*?</think>|```.*?```|\s", "", written)
    assert captions == typed
