"""Whether each word is heard: word error rates of a recogniser, of long lines, short ones and lines with numbers apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from model.evaluation.film import Array, Film
from model.evaluation.judge import Figure, Finding
from model.evaluation.speech import load_recogniser, misheard, words

LONG_WORDS = 9
"""A line of so many words is long."""
NUMBERS = frozenset(
    "zero two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million".split()
)
KINDS = ("long", "short", "numbers")


def kind_of(line: Sequence[str]) -> str:
    """Of :data:`KINDS`, which a line in words is."""
    if any(word in NUMBERS for word in line):
        return "numbers"
    return "long" if len(line) >= LONG_WORDS else "short"


class Words:
    """Implements :class:`model.evaluation.judge.Judge`.

    Args:
        transcribe: what a recogniser hears, of float32 samples at 16 kHz.
    """

    figures = (
        Figure("wer", "word error rate", ".1%"),
        Figure("wer_long", "  long lines", ".1%"),
        Figure("wer_short", "  short lines", ".1%"),
        Figure("wer_numbers", "  lines with numbers", ".1%"),
    )

    def __init__(self, transcribe: Callable[[Array], str]) -> None:
        self._transcribe = transcribe

    def one(self, film: Film) -> Finding | None:
        if not film.prompt.lines:
            return None
        heard = self._transcribe(film.samples)
        lines = [words(line) for line in film.prompt.lines]
        errors = misheard([word for line in lines for word in line], words(heard))
        counted: list[tuple[str, int, int]] = []
        for line in lines:
            counted.append((kind_of(line), sum(errors[: len(line)]), len(line)))
            errors = errors[len(line) :]
        return Finding({"heard": heard, "words": sum(n for _, _, n in counted), "errors": sum(e for _, e, _ in counted)}, counted)

    def all(self, found: Sequence[Finding]) -> Mapping[str, float]:
        counted: list[tuple[str, int, int]] = [line for finding in found for line in finding.kept]
        figures = {"wer": _rate(counted)}
        for kind in KINDS:
            if some := [line for line in counted if line[0] == kind]:
                figures[f"wer_{kind}"] = _rate(some)
        return figures


def _rate(counted: Sequence[tuple[Any, int, int]]) -> float:
    return sum(errors for _, errors, _ in counted) / max(1, sum(num for _, _, num in counted))


def load() -> Words:
    return Words(load_recogniser())
