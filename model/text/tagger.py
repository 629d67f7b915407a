"""Parts of speech, for words whose sound depends on them ("I *read* it yesterday", "to *record* a *record*").

An averaged perceptron over Penn Treebank tags, left to right. Its weights are data (see data/README.md); this is what evaluates
them: a word with one possible tag has it, any other takes the tag whose features weigh most.
"""

from __future__ import annotations

import functools
import json
import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path

_BEFORE = ("-START2-", "-START-")
_AFTER = ("-END-", "-END2-")


def _shape(word: str) -> str:
    if word.isalpha():
        if word.islower():
            return "x"
        if word.isupper():
            return "XX" if len(word) > 1 else "X1"
        return "Xx" if word[0].isupper() and word[1:].islower() else "xX"
    if word.isdigit():
        return "d"
    return "".join("d" if c.isdigit() else "x" if c.isalpha() else c for c in word[:4])


def _folded(word: str) -> str:
    if "-" in word[1:] and word[0] != "-":
        return "!HYPHEN"
    if word[0].isdigit():
        return "!YEAR" if word.isdigit() and len(word) == 4 else "!DIGITS"
    return word.lower()


class Tagger:
    """Immutable once made.

    Args:
        known: words with a single tag.
        vocabulary: words that features name; any other is named by its shape.
        weights: feature -> {tag: weight}.
    """

    def __init__(self, known: Mapping[str, str], vocabulary: frozenset[str], weights: Mapping[str, Mapping[str, int]]) -> None:
        self._known = known
        self._vocabulary = vocabulary
        self._weights = weights

    @classmethod
    def load(cls, path: Path = Path(__file__).parent / "data" / "tagger.json.xz") -> Tagger:
        data = json.loads(lzma.decompress(path.read_bytes()))
        return cls(data["known"], frozenset(data["vocabulary"]), data["weights"])

    def tag(self, words: Sequence[str]) -> list[str]:
        """One Penn Treebank tag a word, of a sentence cut as the treebank cuts it ("do", "n't", "well", "-", "known")."""
        names = [f if (f := _folded(w)) in self._vocabulary else f"<{_shape(w)}>" for w in words]
        window = (*_BEFORE, *names, *_AFTER)
        tags: list[str] = []
        second_last, last = _BEFORE
        for i, word in enumerate(words):
            tag = self._known.get(word) or self._best(i, word, window[i : i + 5], last, second_last)
            tags.append(tag)
            second_last, last = last, tag
        return tags

    def _best(self, i: int, word: str, window: Sequence[str], last: str, second_last: str) -> str:
        w2_before, w_before, w, w_after, w2_after = window
        features = (
            "b",
            "i0" if i == 0 else "i+",
            f"s3={word[-3:]}",
            f"p1={word[0]}",
            f"w={w}",
            f"sh={_shape(word)}",
            f"t-1={last}",
            f"t-2={second_last}",
            f"t-12={last},{second_last}",
            f"w-1={w_before}",
            f"s3-1={w_before[-3:]}",
            f"w-2={w2_before}",
            f"w+1={w_after}",
            f"s3+1={w_after[-3:]}",
            f"w+2={w2_after}",
        )
        scores: dict[str, int] = {}
        for feature in features:
            for tag, weight in self._weights.get(feature, {}).items():
                scores[tag] = scores.get(tag, 0) + weight
        return max(scores, key=lambda tag: (scores[tag], tag)) if scores else "NN"


@functools.cache
def tagger() -> Tagger:
    """The shipped tagger, loaded once a process."""
    return Tagger.load()
