"""Sentences that somebody shouts."""

from __future__ import annotations

import re

from model.text.lexicon import lexicon
from model.text.normalize.rule import Rules

RULES = Rules("Capitals")

_SMALL_WORDS = frozenset(
    "a am an and are as at be but by can do for from get go has have he her him his if in is it its me my no not of off on "
    "or our out she so "
    "that the their them then there they this to up us was we were what when who why will with yes you your all now here "
    "how please".split()
)
_NEVER_WORDS = frozenset("ai ip tv pc dj cd dvd usa uk eu un id hr pr ok".split())


def is_word(word: str) -> bool:
    """Whether what is written in capitals would be a word without them."""
    lower = word.lower()
    return lower not in _NEVER_WORDS and (
        lower in _SMALL_WORDS or (len(lower) > 2 and not lexicon().lists(word) and lexicon().is_word(lower))
    )


@RULES.rule(
    r"(?<![\w.@/])[A-Z][A-Z']*(?:[^\w\n.!?]{1,3}[A-Z][A-Z']*)+(?![\w@/]|[-.]\w)",
    {
        "THE MEETING IS AT NOON.": "the meeting is at noon.",
        "CALL US NOW, IT IS FREE.": "call us now, it is free.",
        "Who is in the US? NASA, FBI and AI.": "Who is in the U S? NASA, F B I and AI.",
    },
)
def shouting(m: re.Match[str]) -> str | None:
    """Three and more words in capitals that would be words without them, or a sentence of them, are read as words."""
    words = re.findall(r"[A-Z][A-Z']*", m.group())
    known = [word for word in words if word == "I" or is_word(word)]
    alone = not re.search(r"[a-z]", m.string)
    shouted = [w for w in known if (len(w) > 1 and w.lower() in _SMALL_WORDS) or len(w) > 3]
    if len(known) * 2 < len(words) or len(words) < (2 if alone else 3) or not shouted:
        return None
    return re.sub(
        r"[A-Z][A-Z']*", lambda w: w.group().lower() if w.group() in known and w.group() != "I" else w.group(), m.group()
    )
