"""Text -> phonemes: what is typed, sentence by sentence, as the network is to speak it.

    >>> pronounce("Hello there.")[0].phonemes
    'həlˈO ðˈɛɹ.'

A sentence goes through: folding to plain characters -> numbers and abbreviations to words -> tokens -> parts of speech ->
lexicon, right to left, because words change with what follows them -> letters for words that no lexicon knows -> stress in
compounds.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from model.errors import UnspeakableTextError
from model.text.heteronyms import retag
from model.text.lexicon import Following, lexicon, lowered, onset, with_s
from model.text.normalize import Script, drop_markup, fold, to_words
from model.text.phonemes import IDS, PUNCTUATION
from model.text.sentences import sentence_spans
from model.text.spelling import spelling_reader
from model.text.tagger import tagger

MAX_PHONEMES = 200
"""Longer sentences are cut after a clause, else between words, else anywhere."""

NO_WORD = -1


@dataclass(frozen=True)
class SpokenWord:
    """A word as typed and as spoken.

    Attributes:
        text: as typed, with its punctuation, for captions. It may hold spaces: "March 3rd" is read as one, and what is not
            spoken (an emoji, a dash) goes with its neighbour. Empty for the rest of a word that was cut because it is too long.
        phonemes: without the punctuation around it.
        spoken: in words, where they are others than those typed: "nine forty five" of "9:45"; else empty.
    """

    text: str
    phonemes: str
    spoken: str = ""


@dataclass(frozen=True)
class Sentence:
    """What is spoken in one breath, at most ``MAX_PHONEMES`` long.

    Attributes:
        words: in the order of the captions.
        phonemes: all of it, with spaces and punctuation.
        word_index: for each character of ``phonemes`` its place in ``words``, ``NO_WORD`` for spaces and punctuation.
        spoken: what is said, in words: "five dollars" where "$5" was typed.
    """

    words: tuple[SpokenWord, ...]
    phonemes: str
    word_index: tuple[int, ...]
    spoken: str = ""


def pronounce(text: str) -> list[Sentence]:
    """Everything in ``text`` that can be spoken.

    Raises:
        UnspeakableTextError: nothing in it can be spoken, or a word is written in another script (the message names it).
    """
    sentences = [s for a, b in sentence_spans(text) for s in _pronounce_sentence(text, a, b)]
    if not sentences:
        raise UnspeakableTextError("there is nothing to speak in this text: write some words in English letters")
    return sentences


# -- tokens ----------------------------------------------------------------------------------------------------------------------


@dataclass
class _Token:
    """A piece of a sentence: a word, a part of a word, or a mark.

    Attributes:
        text: what it says.
        start, end: its place in the sentence's script.
        spaced: whether a space follows.
        is_mark: whether it only makes a pause, not part of a word.
        tag: part of speech; set once all tokens are known.
    """

    text: str
    start: int
    end: int
    spaced: bool = False
    is_mark: bool = False
    tag: str = ""


_TOKEN = re.compile(
    r"""
      (?:[A-Za-z]\.)+[A-Za-z](?![A-Za-z])\.?     # U.S., a.m.
    | [A-Za-z]+(?:'[A-Za-z]+)*                  # letters, don't
    | \.{2,} | -{2,}
    | \S
    """,
    re.VERBOSE,
)
_CONTRACTION = re.compile(r"(?i)(?<=[a-z])(?:n't|'(?:s|ll|re|ve|d|m|em))$")
_CAMEL = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Za-z][a-z']*?(?<=[a-z])(?=[A-Z])|[A-Za-z][A-Za-z']*")
_CLITIC_BY_APOSTROPHE = frozenset("em cause cos til tis twas bout round s ll re ve d m".split())


def _tokens(text: str) -> list[_Token]:
    """Cuts like the treebank, so that the tagger knows the pieces: "do", "n't"; "well", "-", "known"; "(", "yes", ")"."""
    tokens: list[_Token] = []
    in_quotes = False
    for match in _TOKEN.finditer(text):
        piece, start, end = match.group(), *match.span()
        before, after = text[start - 1 : start], text[end : end + 1]
        spaced = after.isspace()
        if "." in piece and piece[0].isalpha():
            tokens.append(_Token(piece, start, end, spaced))
            if piece[-1] == "." and not re.search("[A-Za-z]", text[end : end + 8]):
                tokens.append(_Token(".", end - 1, end, spaced, is_mark=True))  # it closes the sentence, too
            continue
        if piece[0].isalpha():
            cut = _CONTRACTION.search(piece)
            ends = [cut.start(), len(piece)] if cut else [len(piece)]
            a = 0
            for b in ends:
                tokens.append(_Token(piece[a:b], start + a, start + b))
                a = b
            tokens[-1].spaced = spaced
            continue
        is_mark = True
        if piece == "'":
            opens = after.isalpha() and not before.isalnum()
            if opens and re.match("[A-Za-z]+", text[end : end + 10])[0].lower() not in _CLITIC_BY_APOSTROPHE:  # type: ignore[index]
                piece, in_quotes = "“", True
            elif opens or (before.isalpha() and not in_quotes):
                is_mark = False
            elif in_quotes:
                piece, in_quotes = "”", False
        elif piece == '"':
            closes = before and not before.isspace() and before not in "(-—"
            piece = "”" if closes else "“"
        elif piece[0] == "-":
            if len(piece) == 1 and before.isalnum() and after.isalnum():
                is_mark = False
            elif len(piece) > 1 or (before.isspace() and after.isspace()):
                piece = "—"
        tokens.append(_Token(piece, start, end, spaced, is_mark))
    names = [_TAGGER_NAMES.get(t.text, t.text) for t in tokens]
    for token, tag in zip(tokens, retag(names, tagger().tag(names)), strict=True):
        token.tag = tag
    return tokens


_TAGGER_NAMES = {"“": '"', "”": '"'}


# -- words -----------------------------------------------------------------------------------------------------------------------


def _groups(tokens: list[_Token]) -> Iterator[list[_Token]]:
    """Tokens that are one word (no space and no mark between them), each mark alone."""
    group: list[_Token] = []
    for token in tokens:
        if token.is_mark:
            if group:
                yield group
                group = []
            yield [token]
            continue
        group.append(token)
        if token.spaced:
            yield group
            group = []
    if group:
        yield group


def _split_camel_case(tokens: list[_Token]) -> list[_Token]:
    parts: list[_Token] = []
    for token in tokens:
        pieces = _CAMEL.findall(token.text) if token.text[0].isalpha() and "." not in token.text else [token.text]
        at = token.start
        for piece in pieces:
            parts.append(_Token(piece, at, at + len(piece), tag=token.tag))
            at += len(piece)
    parts[-1].spaced = tokens[-1].spaced
    return parts


def _loudest(tokens: list[_Token]) -> str:
    """The tag of the part with most letters, capitals counting twice."""
    return max(tokens, key=lambda t: sum(1 + c.isupper() for c in t.text)).tag


_PARTS = {"'ve": "əv", "'ll": "ᵊl", "'d": "əd", "'re": "əɹ", "'m": "m", "'s": "z", "'em": "əm", "n't": "ᵊnt", "Mc": "mək"}
"""Parts of words that are no words."""

_MAX_PARTS = 7
"""No entry of the lexicon has more parts than this."""


def _read_group(parts: list[_Token], following: Following) -> str:
    """Phonemes of a word that may have parts ("well-known", "iPhone's"): the longest known endings, right to left."""
    readings: list[tuple[str, str]] = []
    right = len(parts)
    widest = _MAX_PARTS if len(parts) <= 3 * _MAX_PARTS else 1
    while right:
        for left in range(max(0, right - widest), right):
            run = parts[left:right]
            text = "".join(t.text for t in run)
            reading = _read_known(text, _loudest(run), following) if text[-1].isalpha() or len(run) > 1 or "." in text else None
            if reading is None and left == right - 1:
                reading = _PARTS.get(text)
            if reading is None and left == right - 1:
                reading = _read_unknown(text) if text[0].isalpha() else ""
            elif reading is None and len(run) == 2 and run[1].text.lower() == "'s" and run[0].text.isalpha():
                stem = _read_known(run[0].text, run[0].tag, following) or _read_unknown(run[0].text)
                reading = with_s(stem) if stem else ""
            if reading is not None:
                readings.append((text, reading))
                if reading:
                    following = Following(onset(reading, following.onset), text in ("to", "To"))
                right = left
                break
    readings.reverse()
    return "".join(_balanced(readings))


@functools.lru_cache(maxsize=16384)
def _read_known(word: str, tag: str, following: Following) -> str | None:
    return lexicon().read(word, tag, following)


@functools.lru_cache(maxsize=4096)
def _read_unknown(word: str) -> str:
    letters = "".join(c for c in word.lower() if c.isalpha())
    if not any(c in "aeiouy" for c in letters):
        return lexicon().spell(letters) or ""
    return spelling_reader().read(letters)


_LONG_SOUNDS = frozenset("AIOQWYʤʧ")


def _balanced(readings: list[tuple[str, str]]) -> list[str]:
    """In a compound the lighter half of the parts gives its main stress away."""
    sounds = [reading for _, reading in readings]
    spoken = [i for i, reading in enumerate(sounds) if reading]
    if len(spoken) == 2 and len(readings[spoken[0]][0]) == 1:
        sounds[spoken[1]] = lowered(sounds[spoken[1]])
    elif len(spoken) > 1 and sum("ˈ" in sounds[i] for i in spoken) > (len(spoken) + 1) // 2:
        weights = sorted(("ˈ" in sounds[i], sum(1 + (p in _LONG_SOUNDS) for p in sounds[i]), i) for i in spoken)
        for _, _, i in weights[: len(spoken) // 2]:
            sounds[i] = lowered(sounds[i])
    return sounds


# -- a sentence ------------------------------------------------------------------------------------------------------------------


@dataclass
class _Piece:
    """Phonemes of a group of tokens, what it says, and the stretch of the typed text that it comes from."""

    phonemes: str
    text: str
    start: int
    end: int
    spaced: bool
    is_mark: bool


def _pieces(script: Script) -> list[_Piece]:
    following = Following()
    pieces: list[_Piece] = []
    for group in reversed(list(_groups(_tokens(script.text)))):
        text = "".join(t.text for t in group)
        if group[0].is_mark:
            phonemes = "".join(c for c in group[0].text if c in PUNCTUATION)
        else:
            phonemes = _read_group(_split_camel_case(group), following).replace("ɾ", "T").replace("ʔ", "t")
        if phonemes:
            following = Following(onset(phonemes, following.onset), text in ("to", "To", "TO"))
        span = slice(group[0].start, group[-1].end)
        start, end = min(script.starts[span]), max(script.ends[span])
        pieces.append(_Piece(phonemes, _as_heard(text, phonemes), start, end, group[-1].spaced, is_mark=group[0].is_mark))
    return pieces[::-1]


def _as_heard(text: str, phonemes: str) -> str:
    """A word as it is spoken: letters that are spelled stand apart ("P M")."""
    letters = text.replace(".", "")
    if len(letters) > 1 and letters.isalpha() and ("." in text or (text.isupper() and phonemes == lexicon().spell(text))):
        return " ".join(letters)
    return text


def _pronounce_sentence(typed: str, start: int, end: int) -> Iterator[Sentence]:
    """The sentence at [start, end) of ``typed``; none when nothing in it is spoken, several when it is too long."""
    script = fold(typed[start:end])
    drop_markup(script)
    to_words(script)
    pieces = _pieces(script)
    if not any(p.phonemes and not p.is_mark for p in pieces):
        return
    units = _caption_units(typed[start:end], pieces)
    phonemes, owners, sources = _joined(pieces, units)
    yield from _cut([typed[start + a : start + b] for a, b in units], pieces, phonemes, owners, sources)


def _caption_units(typed: str, pieces: list[_Piece]) -> list[tuple[int, int]]:
    """Stretches of the typed text, in order: typed words, joined where a piece covers several, silent ones with a neighbour."""
    units: list[list[int]] = [[m.start(), m.end()] for m in re.finditer(r"\S+", typed)]
    spoken = [p for p in pieces if p.phonemes and not p.is_mark]
    joined: list[list[int]] = []
    at = 0
    lead: int | None = None  # start of silent words that wait for the first spoken one
    for first, last in units:
        while at < len(spoken) and spoken[at].end <= first:
            at += 1
        is_spoken = at < len(spoken) and spoken[at].start < last
        goes_on = bool(joined) and any(p.start < joined[-1][1] and p.end > first for p in spoken[max(0, at - 1) : at + 1])
        if joined and (goes_on or not is_spoken):
            joined[-1][1] = last
        elif is_spoken:
            joined.append([first if lead is None else lead, last])
            lead = None
        elif lead is None:
            lead = first
    return [(a, b) for a, b in joined]


def _joined(pieces: list[_Piece], units: list[tuple[int, int]]) -> tuple[str, list[int], list[int]]:
    """The phonemes of a sentence, and for each the unit that it belongs to, and the piece."""
    out: list[str] = []
    owners: list[int] = []
    sources: list[int] = []
    unit = 0
    for number, piece in enumerate(pieces):
        if piece.phonemes:
            if piece.is_mark and piece.phonemes not in "(“" and out and out[-1] == " " and piece.phonemes != "—":
                out.pop()
                owners.pop()
                sources.pop()
            while not piece.is_mark and unit + 1 < len(units) and units[unit][1] <= piece.start:
                unit += 1
            for p in piece.phonemes:
                if p in IDS:
                    out.append(p)
                    owners.append(NO_WORD if piece.is_mark or p == " " else unit)
                    sources.append(number)
        if piece.spaced and out and out[-1] != " ":
            out.append(" ")
            owners.append(NO_WORD)
            sources.append(number)
    while out and out[-1] == " ":
        out.pop()
        owners.pop()
        sources.pop()
    return "".join(out), owners, sources


def _cut(texts: list[str], pieces: list[_Piece], phonemes: str, owners: list[int], sources: list[int]) -> Iterator[Sentence]:
    """Sentences of at most ``MAX_PHONEMES``, each with its own words."""
    captioned: set[int] = set()
    readings = _readings(texts, pieces, owners, sources)
    at = told = 0
    while at < len(phonemes):
        end = len(phonemes) if len(phonemes) - at <= MAX_PHONEMES else _cutting_place(phonemes, owners, at)
        a, b = at, end
        at = end
        while a < b and phonemes[a] == " ":
            a += 1
        while b > a and phonemes[b - 1] == " ":
            b -= 1
        part, owned = phonemes[a:b], owners[a:b]
        numbers = sorted({o for o in owned if o != NO_WORD})
        if not numbers:
            continue
        words = []
        for number in numbers:
            first = owned.index(number)
            last = len(owned) - owned[::-1].index(number)
            caption = ("", "") if number in captioned else (texts[number], readings[number])
            words.append(SpokenWord(caption[0], part[first:last], caption[1]))
            captioned.add(number)
        place = {number: i for i, number in enumerate(numbers)}
        spoken = "".join(p.text + " " * p.spaced for p in pieces[told : sources[b - 1] + 1])
        told = max(told, sources[b - 1] + 1)
        yield Sentence(tuple(words), part, tuple(place.get(o, NO_WORD) for o in owned), _readable(spoken))


def _readings(texts: list[str], pieces: list[_Piece], owners: list[int], sources: list[int]) -> dict[int, str]:
    """How each unit that is spoken is read, in words; empty where that is what was typed."""
    said: dict[int, dict[int, None]] = {}
    for owner, source in zip(owners, sources, strict=True):
        if owner != NO_WORD:
            said.setdefault(owner, {})[source] = None
    readings = {owner: _readable(" ".join(pieces[number].text for number in numbers)) for owner, numbers in said.items()}
    return {owner: "" if _letters(read) == _letters(texts[owner]) else read for owner, read in readings.items()}


def _letters(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())


def _readable(spoken: str) -> str:
    """Words as they are spoken, for people: marks stand close to their words."""
    return re.sub(r"\s+(?=[,.;:!?)])", "", " ".join(spoken.split()))


def _cutting_place(phonemes: str, owners: list[int], at: int) -> int:
    """Where to end a sentence that begins at ``at`` and is too long: after a clause, between words, inside a word."""
    limit = at + MAX_PHONEMES
    spaces = [i for i in range(at + 1, limit + 1) if phonemes[i] == " "]
    clauses = [i for i in spaces if phonemes[i - 1] in ",;:—.!?…" and i > at + MAX_PHONEMES // 4]
    between = [i for i in spaces if _owner_before(owners, i) != owners[i + 1]]
    return (clauses or between or spaces or [limit])[-1]


def _owner_before(owners: list[int], i: int) -> int:
    return next((o for o in reversed(owners[max(0, i - 4) : i]) if o != NO_WORD), NO_WORD)
