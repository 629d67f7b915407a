"""Signs that are left: operators, and symbols with a name."""

from __future__ import annotations

import re

from model.text.normalize.characters import SPOKEN_SYMBOLS
from model.text.normalize.rule import Rules

RULES = Rules("Signs")

_OPERATORS = {
    "!=": "is not equal to", "!==": "is not equal to", "==": "equals", "===": "equals", "<=": "is at most", ">=": "is at least",
    "&&": "and", "||": "or",
    "++": "plus plus", "+=": "plus equals", "-=": "minus equals", ":=": "becomes", "**": "to the power of", "//": "", "::": "",
    "...": "...",
}  # fmt: skip


@RULES.rule(r"<[-=]+>|<-+|[-=]+>|<==+", {"A -> B": "A to B", "x => y": "x to y"})
def arrow(m: re.Match[str]) -> str:
    """Arrows are 'to'."""
    return " to "


@RULES.rule(
    r"[!=]==?|[<>]=|&&|\|\||\+\+|[+:-]=|::",
    {"if (a != b && c >= d) x++": "if (a is not equal to b and c is at least d) x plus plus"},
)
def operator(m: re.Match[str]) -> str:
    """Operators of programs are named."""
    return f" {_OPERATORS[m.group()]} "


@RULES.rule(r"(?<=[\w)])!(?=\s?[=+*/])", {"5! = 120": "five factorial equals one hundred twenty"})
def factorial(m: re.Match[str]) -> str:
    """One before a sign of arithmetic is 'factorial'."""
    return " factorial "


@RULES.rule(r"(?<=[\s(])!(?=\w)", {"a and !b": "a and not b"})
def negation(m: re.Match[str]) -> str:
    """An exclamation mark before a word is 'not'."""
    return "not "


@RULES.rule("[" + re.escape("".join(SPOKEN_SYMBOLS)) + "]", {"R&D": "R and D", "2+2=4": "two plus two equals four"})
def symbol(m: re.Match[str]) -> str:
    """Symbols have names."""
    return f" {SPOKEN_SYMBOLS[m.group()]} "


@RULES.rule(r"[|]", {"tea | milk": "tea, milk"})
def bar(m: re.Match[str]) -> str:
    """A bar is a short pause."""
    return ", "


@RULES.rule(r"(?<=\w)/(?=\w)|[/_\\\[\]{}]", {"and/or [sic]": "and or sic"})
def silent_sign(m: re.Match[str]) -> str:
    """Slashes, brackets and braces are not said."""
    return " "
