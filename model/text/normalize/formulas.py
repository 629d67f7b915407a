r"""Formulas as LaTeX and markdown write them, between dollar signs or \( and \)."""

from __future__ import annotations

import re

from model.text.normalize.characters import GREEK
from model.text.normalize.rule import Rules

RULES = Rules("Formulas", only_with=r"$\\^")

_COMMANDS = {
    "times": "times", "cdot": "times", "div": "divided by", "pm": "plus or minus", "mp": "minus or plus", "leq": "at most",
    "le": "at most",
    "geq": "at least", "ge": "at least", "neq": "is not equal to", "ne": "is not equal to", "approx": "about", "sim": "about",
    "infty": "infinity",
    "to": "to", "rightarrow": "to", "Rightarrow": "implies", "implies": "implies", "sum": "the sum of", "prod": "the product of",
    "int": "the integral of", "lim": "the limit of", "log": "log", "ln": "L.N", "sin": "sine", "cos": "cosine", "tan": "tangent",
    "in": "in", "cup": "union", "cap": "intersection", "subset": "is a subset of", "forall": "for all", "exists": "there is",
    "partial": "partial",
    "nabla": "nabla", "equiv": "is equivalent to", "propto": "is proportional to", "ldots": "and so on", "dots": "and so on",
    "cdots": "and so on",
    "circ": "degrees", "degree": "degrees", "%": "percent", "degrees": "degrees", "lt": "less than", "gt": "greater than",
    "perp": "is perpendicular to",
    "angle": "angle", "therefore": "therefore", "hbar": "H bar", "ell": "L", "varepsilon": "epsilon", "varphi": "phi",
    **{name: name for name in GREEK.values()},
}  # fmt: skip
_SIGNS = {
    "+": "plus",
    "-": "minus",
    "−": "minus",
    "=": "equals",
    "<": "less than",
    ">": "greater than",
    "*": "times",
    "/": "over",
    "!": "factorial",
    "|": "",
}
_POWERS = {"2": "squared", "3": "cubed"}
_TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|\d+(?:[.,]\d+)*|[A-Za-z]+|\S")


def _argument(tokens: list[str]) -> list[str]:
    """Takes a group in braces, or one token."""
    if not tokens:
        return []
    first = tokens.pop(0)
    if first != "{":
        return [first]
    taken: list[str] = []
    depth = 1
    while tokens:
        token = tokens.pop(0)
        depth += (token == "{") - (token == "}")
        if depth == 0:
            break
        taken.append(token)
    return taken


def _spoken(tokens: list[str]) -> str:
    words: list[str] = []
    tokens = list(tokens)
    while tokens:
        token = tokens.pop(0)
        if token in ("\\frac", "\\dfrac", "\\tfrac"):
            words += [_spoken(_argument(tokens)), "over", _spoken(_argument(tokens))]
        elif token == "\\sqrt":
            words += ["the square root of", _spoken(_argument(tokens))]
        elif token in (
            "\\text",
            "\\mathrm",
            "\\operatorname",
            "\\textbf",
            "\\mathbf",
            "\\mathbb",
            "\\mathcal",
            "\\vec",
            "\\hat",
            "\\bar",
            "\\overline",
            "\\boxed",
        ):
            words.append(_spoken(_argument(tokens)))
        elif token == "^":
            power = _spoken(_argument(tokens))
            raised = {"two": "squared", "three": "cubed"} | _POWERS
            words.append(raised.get(power) or (power if power == "degrees" else f"to the power of {power}"))
        elif token == "_":
            words += ["sub", _spoken(_argument(tokens))]
        elif token in _SIGNS:
            negative = token in "-−" and (not words or words[-1] in _SIGNS.values())
            words.append("minus" if negative else _SIGNS[token])
        elif token[0] == "\\":
            words.append(
                _COMMANDS.get(
                    token[1:], "" if token in ("\\left", "\\right", "\\quad", "\\displaystyle") or len(token) == 2 else token[1:]
                )
            )
        elif token.isalpha() and len(token) > 1 and (token.isupper() or len(token) == 2):
            words.append(" ".join(token))
        elif token not in "{}&":
            words.append(token)
    return re.sub(r"(?<=\() | (?=[),.;:])", "", " ".join(word for word in words if word))


def _formula(content: str) -> str:
    return _spoken(_TOKEN.findall(content))


@RULES.rule(
    r"\$\$([^$]{1,500})\$\$|\\\((.{1,500}?)\\\)|(?s:\\\[(.{1,500}?)\\\])",
    {
        r"So \( a+b \) is $$12$$.": "So a plus b is twelve.",
        r"\[ E = mc^2 \]": "E equals m c squared",
        r"\(\frac{1}{2} \times \pi\)": "one over two times pi",
    },
)
def formula(m: re.Match[str]) -> str:
    """Formulas are said sign by sign."""
    return _formula(m[1] or m[2] or m[3])


@RULES.rule(
    r"(?<![\w$\\])\$(?=[^\s$])([^$\n]{0,200}[^\s$\\])\$(?![\w$])",
    {
        "The area is $x^2$.": "The area is x squared.",
        r"$\sqrt{b}$ and $a_1$": "the square root of b and a sub one",
        "It costs $5 and $6.": "It costs five dollars and six dollars.",
    },
)
def formula_between_single_signs(m: re.Match[str]) -> str | None:
    """So are those between single dollar signs, where these are not money."""
    content = m[1]
    if content[0].isdigit() and not re.search(r"[\\^_=+*<>{}]", content) and not content.isdigit():
        return None
    if " " in content and not re.search(r"[\\^_=+*<>{}/-]", content):
        return None
    return _formula(content)


@RULES.rule(r"(?<=[\w)])\^\(?([23])\)?(?![\w.])", {"x^2 + y^3": "x squared plus y cubed"})
def power(m: re.Match[str]) -> str:
    """Squares and cubes have their names outside of formulas, too."""
    return f" {_POWERS[m[1]]}"
