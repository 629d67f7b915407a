"""Written English -> words: numbers, dates, money, units, abbreviations, addresses, symbols, markdown.

Every rule rewrites a part of a ``Script``, which remembers for each character the stretch of the typed text that it stands for.
So captions can show "$5" while "five dollars" is spoken. Rules are named, and have examples (``Rule``); docs/text.md is made of these.
"""

from __future__ import annotations

from model.text.normalize import (
    abbreviations,
    addresses,
    capitals,
    codes,
    dates,
    formulas,
    markup,
    measures,
    money,
    numbers,
    numerals,
    ranges,
    symbols,
    times,
)
from model.text.normalize.characters import fold
from model.text.normalize.rule import Rule, Rules
from model.text.normalize.script import Script

MARKUP: tuple[Rules, ...] = (formulas.RULES, markup.RULES)
"""Of what only looks like writing; formulas first, whose signs would be taken for marks."""
WORDS: tuple[Rules, ...] = tuple(
    kind.RULES
    for kind in (
        addresses, codes, capitals, numerals, dates, abbreviations, times, money, ranges, measures, numbers, symbols,
    )
)  # fmt: skip
"""All others, in the order in which they are tried: what is special before what is general."""

__all__ = ["MARKUP", "WORDS", "Rule", "Rules", "Script", "drop_markup", "fold", "to_words"]


def to_words(script: Script) -> None:
    """Rewrites a folded sentence so that it holds letters, apostrophes, hyphens, spaces and punctuation only."""
    for rules in WORDS:
        rules.apply(script)


def drop_markup(script: Script) -> None:
    """Takes away marks of markdown and tags from a sentence, folded or not, and keeps its words."""
    for rules in MARKUP:
        rules.apply(script)
