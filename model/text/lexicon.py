"""Known words: the lexicon, its heteronyms and inflections, words that change with their neighbours, letters spelled out.

The word list and the conventions are misaki's (see data/README.md): the voices were made from phonemes written this way, so that
agreeing with it is what makes a reading sound right.
"""

from __future__ import annotations

import bisect
import enum
import functools
import lzma
import re
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

DATA_DIR = Path(__file__).parent / "data"

Restress = Callable[[str], str]


# -- stress ----------------------------------------------------------------------------------------------------------------------

# The reduced vowels ɐ and ᵊ take no stress, and 'a' before a word does not count as a vowel for 'the' and 'to'.
_FULL_VOWELS = frozenset("AIOWYaiuæɑɔəɛɜɪʊʌᵻ")
_CONSONANTS = frozenset("bdfhjklmnpstvwzðŋɡɹɾʃʒʤʧθ")
_PAUSES = frozenset(";:,.!?—…")


def _with_mark(phonemes: str, mark: str) -> str:
    for i, p in enumerate(phonemes):
        if p in _FULL_VOWELS:
            return phonemes[:i] + mark + phonemes[i:]
    return phonemes


def _is_stressed(phonemes: str) -> bool:
    return "ˈ" in phonemes or "ˌ" in phonemes


def as_is(phonemes: str) -> str:
    return phonemes


def lowered(phonemes: str) -> str:
    """Main stress becomes side stress."""
    return phonemes.replace("ˌ", "").replace("ˈ", "ˌ") if "ˈ" in phonemes else phonemes


def at_least_secondary(phonemes: str) -> str:
    """A word without stress gets a side stress, as a capital letter asks for."""
    return phonemes if _is_stressed(phonemes) else _with_mark(phonemes, "ˌ")


def at_least_primary(phonemes: str) -> str:
    """A word without main stress gets one, as CAPITALS ask for."""
    if "ˈ" in phonemes:
        return phonemes
    return phonemes.replace("ˌ", "ˈ") if "ˌ" in phonemes else _with_mark(phonemes, "ˈ")


# -- context ---------------------------------------------------------------------------------------------------------------------


class Onset(enum.Enum):
    """How that which follows a word begins."""

    VOWEL = "vowel"
    CONSONANT = "consonant"
    PAUSE = "pause"


def onset(phonemes: str, otherwise: Onset) -> Onset:
    """How ``phonemes`` begin; ``otherwise`` when they hold no sound that says."""
    for p in phonemes:
        if p in _FULL_VOWELS:
            return Onset.VOWEL
        if p in _CONSONANTS:
            return Onset.CONSONANT
        if p in _PAUSES:
            return Onset.PAUSE
    return otherwise


@dataclass(frozen=True)
class Following:
    """What comes after a word."""

    onset: Onset = Onset.PAUSE
    is_to: bool = False


# -- inflections -----------------------------------------------------------------------------------------------------------------

_FLAPPING = frozenset("AIOWYiuæɑəɛɪɹʊʌ")
"""After these sounds a t before a vowel is flapped: *waited*, *waiting*."""


def with_s(stem: str) -> str:
    """Plural, possessive or third person of a pronounced stem."""
    if stem[-1] in "ptkfθ":
        return stem + "s"
    return stem + ("ᵻz" if stem[-1] in "szʃʒʧʤ" else "z")


def with_ed(stem: str) -> str:
    if stem[-1] in "pkfθʃsʧ":
        return stem + "t"
    if stem[-1] == "d":
        return stem + "ᵻd"
    if stem[-1] != "t":
        return stem + "d"
    if len(stem) < 2:
        return stem + "ɪd"
    return stem[:-1] + "ɾᵻd" if stem[-2] in _FLAPPING else stem + "ᵻd"


def with_ing(stem: str) -> str:
    if len(stem) > 1 and stem[-1] == "t" and stem[-2] in _FLAPPING:
        return stem[:-1] + "ɾɪŋ"
    return stem + "ɪŋ"


_DOUBLED_ING = re.compile(r"([bcdgklmnprstvxz])\1ing$|cking$")


def _stems_of_s(word: str) -> Iterator[str]:
    if len(word) > 2 and word.endswith("s"):
        if not word.endswith("ss"):
            yield word[:-1]
        if word.endswith("'s") or (len(word) > 4 and word.endswith("es") and not word.endswith("ies")):
            yield word[:-2]
        if len(word) > 4 and word.endswith("ies"):
            yield word[:-3] + "y"


def _stems_of_ed(word: str) -> Iterator[str]:
    if len(word) > 3 and word.endswith("d"):
        if not word.endswith("dd"):
            yield word[:-1]
        if len(word) > 4 and word.endswith("ed") and not word.endswith("eed"):
            yield word[:-2]


def _stems_of_ing(word: str) -> Iterator[str]:
    if len(word) > 4 and word.endswith("ing"):
        if len(word) > 5:
            yield word[:-3]
        yield word[:-3] + "e"
        if len(word) > 5 and _DOUBLED_ING.search(word):
            yield word[:-4]


_INFLECTIONS: tuple[tuple[Callable[[str], Iterator[str]], Restress], ...] = (
    (_stems_of_s, with_s),
    (_stems_of_ed, with_ed),
    (_stems_of_ing, with_ing),
)

# -- the lexicon -----------------------------------------------------------------------------------------------------------------

_DEFAULT = "DEFAULT"
_BEFORE_PAUSE = "None"
_COARSE_TAGS = {"VB": "VERB", "NN": "NOUN", "RB": "ADV", "AD": "ADV", "JJ": "ADJ"}
_DOTTED = re.compile(r"(?:[A-Za-z]{1,2}\.)+[A-Za-z]{1,2}\.?")


def coarse_tag(tag: str) -> str:
    return _COARSE_TAGS.get(tag[:2], tag)


class _Listed(Mapping[str, str]):
    """Words with their readings as lines of a file, sorted, each found where it lies: a dictionary takes ten times the memory.

    Args:
        lines: ``word TAB reading`` in UTF-8, sorted.
    """

    def __init__(self, lines: bytes) -> None:
        self._lines = lines
        ends = np.flatnonzero(np.frombuffer(lines, np.uint8) == ord("\n"))
        self._starts = np.concatenate(([0], ends + 1)).astype(np.int32)

    def __getitem__(self, word: str) -> str:
        begin = f"{word}\t".encode()
        number = bisect.bisect_left(self._starts, begin, key=lambda start: self._lines[start : start + len(begin)])
        line = self._line(number) if number < len(self) else b""
        if not line.startswith(begin):
            raise KeyError(word)
        return line[len(begin) :].decode()

    def __iter__(self) -> Iterator[str]:
        return (self._line(number).partition(b"\t")[0].decode() for number in range(len(self)))

    def __len__(self) -> int:
        return len(self._starts)

    def _line(self, number: int) -> bytes:
        start = int(self._starts[number])
        end = self._lines.find(b"\n", start)
        return self._lines[start : end if end >= 0 else None]


class Lexicon:
    """American English.

    Args:
        entries: word -> what the files of :meth:`load` say of it: phonemes, or for each part of speech that decides its own
            ("default noun=other"); empty ones mean "spell it". A ``~`` before them marks a word found by rule, which a name in
            capitals does not look at.
    """

    def __init__(self, entries: Mapping[str, str]) -> None:
        self._entries = entries

    @classmethod
    def load(cls, directory: Path = DATA_DIR) -> Lexicon:
        """``lexicon.tsv.xz``, and over it ``names.tsv``: names and new words that it lacks."""
        listed = _Listed(lzma.decompress((directory / "lexicon.tsv.xz").read_bytes()))
        names = (directory / "names.tsv").read_text(encoding="utf-8").splitlines()
        return cls(ChainMap(dict(line.split("\t") for line in names), cast(MutableMapping[str, str], listed)))

    def readings(self) -> Iterator[tuple[str, str]]:
        """Each word once, with its usual phonemes: first those that are sure."""
        for is_sure in (True, False):
            for word, entry in self._entries.items():
                if (entry[:1] != "~") == is_sure:
                    yield word, entry.partition(" ")[0] if "=" in entry else entry.removeprefix("~")

    def _sure(self, word: str) -> str | None:
        """The entry of a word that was not found by rule."""
        entry = self._entries.get(word)
        return None if entry is None or entry[:1] == "~" else entry

    def _unsure(self, word: str) -> str | None:
        entry = self._entries.get(word)
        return entry[1:] if entry is not None and entry[:1] == "~" else None

    def __contains__(self, word: str) -> bool:
        return _find(self._sure, word) is not None or _find(self._unsure, word) is not None

    def lists(self, word: str) -> bool:
        """Whether the word is listed exactly as it is written."""
        return word in self._entries

    def has_verb(self, word: str) -> bool:
        """Whether it sounds otherwise as a verb."""
        entry = _find(self._sure, word)
        return entry is not None and "VERB=" in entry

    def is_word(self, word: str) -> bool:
        """Whether a word in small letters, or what it is made of, is listed as it is written: "meetings", but not "japan"."""
        return self.lists(word) or any(self.lists(stem) for stems, _ in _INFLECTIONS for stem in stems(word))

    def read(self, word: str, tag: str, following: Following) -> str | None:
        """Phonemes of a word as written in a sentence, or None when it is unknown.

        Args:
            word: letters, with inner apostrophes, hyphens or dots ("don't", "tie-dye", "U.S.").
            tag: its part of speech (Penn Treebank).
            following: what is said after it.
        """
        return self._function_word(word, tag, following) or self._content_word(word, tag, following)

    def spell(self, word: str) -> str | None:
        """The names of a word's letters, the main stress on the last."""
        names = [self._sure(c.upper()) for c in word if c.isalpha()]
        if not names or None in names:
            return None
        head, mark, last = lowered("".join(map(str, names))).rpartition("ˌ")
        return head + "ˈ" + last if mark else last

    def _function_word(self, word: str, tag: str, following: Following) -> str | None:
        """Small words whose sound depends on their neighbours."""
        if _DOTTED.fullmatch(word):
            return self.spell(word)
        lower = word.lower()
        shouted = len(word) > 1 and word.isupper()
        at_pause = following.onset is Onset.PAUSE
        match lower:
            case "a":
                return "ɐ" if tag == "DT" else "ˈA"
            case "am":
                if tag.startswith("NN"):
                    return self.spell(word)
                return self._entry("am", tag, following) if at_pause or word != "am" else "ɐm"
            case "an":
                return self.spell(word) if shouted and tag.startswith("NN") else "ɐn"
            case "i" if word == "I" and tag == "PRP":
                return "ˌI"
            case "by" if coarse_tag(tag) == "ADV":
                return "bˈI"
            case "to" if not shouted or tag in ("TO", "IN"):
                if at_pause:
                    return self._entry("to", tag, following)
                return "tʊ" if following.onset is Onset.VOWEL else "tə"
            case "in" if not shouted or tag != "NNP":
                return "ˈɪn" if at_pause or tag != "IN" else "ɪn"
            case "the" if not shouted or tag == "DT":
                return "ði" if following.onset is Onset.VOWEL else "ðə"
            case "used":
                return self._entry("used", "VBD" if tag in ("VBD", "JJ") and following.is_to else _DEFAULT, following)
        return None

    def _content_word(self, word: str, tag: str, following: Following) -> str | None:
        restress = as_is if word == word.lower() else at_least_primary if word == word.upper() else at_least_secondary
        if self._reads_as_lower_case(word, tag):
            word = word.lower()
        candidates = [word]
        if word.endswith("s'"):
            candidates.append(word[:-2] + "'s")
        if word.endswith("'"):
            candidates.append(word[:-1])
        for candidate in candidates:
            if self._knows(candidate):
                return self._look_up(candidate, tag, restress, following)
        for stems, inflect in _INFLECTIONS:
            for stem in filter(self._knows, stems(word)):
                if inflect is with_ing and restress is as_is:
                    restress = at_least_secondary
                reading = self._look_up(stem, tag, restress, following)
                return inflect(reading) if reading else None
        return None

    def _reads_as_lower_case(self, word: str, tag: str) -> bool:
        if len(word) < 2 or word.islower() or not word.replace("'", "").isalpha() or (tag == "NNP" and len(word) <= 7):
            return False
        if word in self or not (word.isupper() or word[1:].islower()):
            return False
        lower = word.lower()
        return lower in self or any(self._knows(stem) for stems, _ in _INFLECTIONS for stem in stems(lower))

    def _knows(self, word: str) -> bool:
        if word in self:
            return True
        return word.isascii() and word.isalpha() and (len(word) == 1 or word[1:].isupper())

    def _look_up(self, word: str, tag: str, restress: Restress, following: Following) -> str | None:
        is_name_in_capitals = False
        if word == word.upper() and _find(self._sure, word) is None:
            word, is_name_in_capitals = word.lower(), tag == "NNP"
        reading = self._entry(word, tag, following)
        if not reading and not is_name_in_capitals:
            reading = _find(self._unsure, word)
        if not reading or (is_name_in_capitals and "ˈ" not in reading):
            return self.spell(word)
        return restress(reading)

    def _entry(self, word: str, tag: str, following: Following) -> str | None:
        entry = _find(self._sure, word)
        if entry is None or "=" not in entry:
            return entry
        default, *others = entry.split(" ")
        readings = dict(other.split("=", 1) for other in others)
        if following.onset is Onset.PAUSE and _BEFORE_PAUSE in readings:
            return readings[_BEFORE_PAUSE]
        return readings.get(tag, readings.get(coarse_tag(tag), default))


def _find(entry_of: Callable[[str], str | None], word: str) -> str | None:
    """The entry of a word; *word* and *Word* share one unless both are listed."""
    found = entry_of(word)
    if found is None and len(word) > 1:
        lower = word.lower()
        if word == lower:
            return entry_of(word.capitalize())
        if word == lower.capitalize():
            return entry_of(lower)
    return found


@functools.cache
def lexicon() -> Lexicon:
    """The shipped lexicon, loaded once a process."""
    return Lexicon.load()
