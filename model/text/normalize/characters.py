"""Any character -> one that the rules know, or none."""

from __future__ import annotations

import html
import re
import unicodedata

from model.errors import UnspeakableTextError
from model.text.normalize.script import Script

_SAME = {
    **dict.fromkeys("‘’‚‛ʼʻ´′＇", "'"),
    **dict.fromkeys("“”„‟«»″＂", '"'),
    **dict.fromkeys("‐‑‒﹣－", "-"),
    **dict.fromkeys("–―", "—"),
    "—": "—",
    "…": "...",
    "`": "",
    "¿": "",
    "¡": "",
}
_LATIN_LETTERS = {
    "ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "þ": "th", "Þ": "Th", "ð": "th", "Ð": "Th", "ŋ": "ng",
    "Ŋ": "Ng", "ı": "i", "ə": "e", "Ə": "E", "ſ": "s", "ĸ": "k",
}  # fmt: skip
GREEK = dict(
    zip(
        "αβγδεζηθικλμνξοπρσςτυφχψω",
        (
            "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu "
            "nu xi omicron pi rho sigma sigma tau upsilon phi chi psi omega"
        ).split(),
        strict=True,
    )
)
SPOKEN_SYMBOLS = {
    "&": "and", "+": "plus", "=": "equals", "%": "percent", "@": "at", "<": "less than", ">": "greater than", "°": "degrees",
    "±": "plus or minus", "×": "times", "÷": "divided by", "©": "copyright", "§": "section", "¶": "paragraph", "→": "to",
    "⇒": "implies", "≈": "about", "≠": "is not equal to", "≤": "at most", "≥": "at least", "√": "the square root of",
    "∞": "infinity", "~": "about", "^": "to the power of", "²": "squared", "³": "cubed", "−": "minus", "$": "dollars",
    "€": "euros", "£": "pounds", "¥": "yen",
    "¢": "cents", "₹": "rupees", "₩": "won", "µ": "micro", "#": "hash", "₿": "bitcoin",
}  # fmt: skip
_KEPT = frozenset("'\"-—.,;:!?()/ \n_*[]{}|\\") | set(SPOKEN_SYMBOLS)
_LETTER_NAME = re.compile(r"LATIN (SMALL|CAPITAL) LETTER ([A-Z])(?: |$)")


_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_THOUSANDS_SPACE = re.compile(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))")
_SHRUG = re.compile(r"¯?[\\_]*\(ツ\)[_/]*¯?")
_DASH_FOR_MINUS = re.compile(r"(?<![\w)\]%°])(?<![\w)\]%°] )–(?=\d)|(?<=\bto )–(?=\d)")
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_POWER = re.compile(rf"(?<=[\dA-Za-z)])(?<![A-Za-z]{{2}})([⁻⁺]?)([{_SUPERSCRIPTS}]+)")
_SOURCE_MARK = re.compile(r"【[^【】\n]{0,80}】")
"""How some assistants cite what they have found."""


def fold(typed: str) -> Script:
    """Typed text in the characters that the rules know: a to z, digits, punctuation and symbols that have a name.

    Entities of HTML are what they stand for, accents are dropped (café), fancy letters and digits are made plain, fractions of one
    character are written out, emoji and control characters go.

    Raises:
        UnspeakableTextError: a word is written in another script.
    """
    raw = Script.of(typed)
    raw.rewrite(_ENTITY, lambda m: html.unescape(m.group()))
    raw.rewrite(_THOUSANDS_SPACE, lambda m: ",")
    raw.rewrite(_SOURCE_MARK, lambda m: "")
    raw.rewrite(_SHRUG, lambda m: "")
    raw.rewrite(_DASH_FOR_MINUS, lambda m: "-")
    raw.rewrite(_POWER, _power)
    refuse_greek_words(raw.text)
    script = Script("")
    out: list[str] = []
    for i, c in enumerate(raw.text):
        plain = c if c.isascii() and (c.isalnum() or c in _KEPT) else _folded(c)
        if plain is None:
            _refuse(raw.text, i)
        elif plain:
            if plain in _WRITTEN_FRACTIONS and out and out[-1].isdigit():
                plain = " " + plain
            out.append(plain)
            script.starts += [raw.starts[i]] * len(plain)
            script.ends += [raw.ends[i]] * len(plain)
    script.text = "".join(out)
    return script


def _power(m: re.Match[str]) -> str | None:
    if m.group() in ("²", "³"):
        return None
    return f" to the power of {'minus ' * (m[1] == '⁻')}{''.join(str(_SUPERSCRIPTS.index(c)) for c in m[2])}"


_WRITTEN_FRACTIONS = frozenset(f"{top}/{bottom}" for bottom in range(2, 11) for top in range(1, bottom))


def _folded(c: str) -> str | None:
    """What a character is read as; None for a letter of another script."""
    if c in _SAME:
        return _SAME[c]
    if c in SPOKEN_SYMBOLS:
        return c
    if c.isspace():
        return "\n" if c in "\n\r\x0b\x0c\x85\u2028\u2029" else " "
    if c in _LATIN_LETTERS:
        return _LATIN_LETTERS[c]
    plain = "".join(d for d in unicodedata.normalize("NFKD", c) if not unicodedata.combining(d))
    plain = plain.replace("⁄", "/")
    if plain and plain.isascii():
        return "".join(d if d.isalnum() or d in _KEPT else " " for d in plain)
    kind = unicodedata.category(c)
    if kind == "Nd":
        return str(unicodedata.digit(c))
    if kind[0] == "L":
        if latin := _LETTER_NAME.match(unicodedata.name(c, "")):
            return latin[2].lower() if latin[1] == "SMALL" else latin[2]
        if kind == "Lm":
            return ""
        return f" {name} " if (name := GREEK.get(plain.lower())) else None
    return "" if kind in ("Mn", "Me", "Cf", "Sk") else " "


def _refuse(typed: str, at: int) -> None:
    word = next(m.group() for m in re.finditer(r"\S+", typed) if m.end() > at)
    script = unicodedata.name(typed[at], "UNKNOWN").split()[0].capitalize()
    script = {"Cjk": "Chinese", "Hiragana": "Japanese", "Katakana": "Japanese", "Hangul": "Korean"}.get(script, script)
    shown = word if len(word) <= 40 else word[:40] + "..."
    raise UnspeakableTextError(f"{shown!r} is written in {script} letters, which cannot be spoken: write it in English letters")


_GREEK_WORD = re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]{2,}")


def refuse_greek_words(typed: str) -> None:
    """A lone Greek letter is a symbol with a name (π); a word of them is another script."""
    if match := _GREEK_WORD.search(typed):
        _refuse(typed, match.start())
