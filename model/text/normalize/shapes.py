"""Shapes that rules of several kinds look for."""

from __future__ import annotations

import re
from collections.abc import Iterable

NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
START = r"(?<![\w.,/])"
"""Where a number may begin: not inside a word, another number or a path."""

MONTHS = "January February March April May June July August September October November December".split()
MONTH_BY_PREFIX = {month[:3].lower(): month for month in MONTHS}
MAGNITUDES = {
    "k": "thousand",
    "m": "million",
    "mn": "million",
    "b": "billion",
    "bn": "billion",
    "t": "trillion",
    "tn": "trillion",
}


def any_of(words: Iterable[str]) -> str:
    """A pattern that matches any of the words, the longest first."""
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


MONTH = rf"(?:{any_of([*MONTHS, *(month[:3] for month in MONTHS), 'Sept'])})"


def month(name: str) -> str:
    """'Sept' -> 'September'."""
    return MONTH_BY_PREFIX[name[:3].lower()]
