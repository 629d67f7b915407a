"""Numbers that are nothing else."""

from __future__ import annotations

import re

from model.text.normalize.cardinal import amount, cardinal, digits, ordinal, year, year_words
from model.text.normalize.rule import Rules
from model.text.normalize.shapes import MAGNITUDES, NUMBER, START

RULES = Rules("Numbers", only_with="0-9")


@RULES.rule(r"#(?=\d)", {"#1": "number one"})
def number_sign(m: re.Match[str]) -> str:
    """# before a number is 'number'."""
    return "number "


@RULES.rule(
    rf"{START}({NUMBER})\s?[x×]\s?(?=\d)", {"5 x 3": "five by three", "1920x1080": "nineteen twenty by one thousand eighty"}
)
def times_between_numbers(m: re.Match[str]) -> str:
    """x between numbers is 'by', before an equals sign 'times'."""
    return f"{m[1]} {'times' if re.match(r'[^=]{1,12}=', m.string[m.end() :]) else 'by'} "


@RULES.rule(rf"{START}(?<![-+=*/^] )({NUMBER})[xX×](?!\w|\s?[-+=*/^<>])", {"3x faster": "three times faster"})
def times_after_a_number(m: re.Match[str]) -> str:
    """x after a number is 'times'."""
    return f"{amount(m[1])} times"


@RULES.rule(rf"{START}(-?{NUMBER})[eE]([-+]?\d{{1,3}})(?!\w|\.\d)", {"1.5e-3": "one point five times ten to the minus three"})
def power_of_ten(m: re.Match[str]) -> str:
    """e between numbers is a power of ten."""
    return f"{amount(m[1])} times ten to the {amount(m[2].lstrip('+'))}"


@RULES.rule(
    rf"{START}(\d+(?:,\d{{3}})*)(st|nd|rd|th|'?s)\b",
    {"1st, 22nd and 100th": "first, twenty second and one hundredth", "the 1990s": "the nineteen nineties"},
)
def number_with_an_ending(m: re.Match[str]) -> str:
    """Ordinals and plurals are read as such."""
    number, ending = m[1].replace(",", ""), m[2]
    if ending in ("st", "nd", "rd", "th"):
        return ordinal(number)
    words = year_words(number) if len(number) == 4 else cardinal(number)
    return words[:-1] + "ies" if words.endswith("y") else words + ("es" if words.endswith("x") else "s")


@RULES.rule(rf"{START}({NUMBER})(k|(?<=\d\d)K|M|bn|mn)\b", {"10k": "ten thousand", "5M users": "five million users"})
def number_with_a_magnitude(m: re.Match[str]) -> str:
    """k, M and bn are thousand, million and billion."""
    return f"{amount(m[1])} {MAGNITUDES[m[2].lower()]}"


@RULES.rule(
    r"(?<![\w.,])\d{1,3}(?:\.\d{3}){2,}(?![\w]|[.,]\d)|(?<![\w.,'])\d{1,3}(?:'\d{3})+(?!\w|[.']\d)",
    {"1.234.567": "one million two hundred thirty four thousand five hundred sixty seven"},
)
def dots_between_thousands(m: re.Match[str]) -> str:
    """Two dots and more, or apostrophes, before three digits each stand between thousands."""
    return cardinal(re.sub(r"\D", "", m.group()))


@RULES.rule(
    r"(?<![\d.,])\d{1,2}(?: \d{3}){2,}(?![\d])",
    {"1 000 000": "one million"},
)
def blanks_between_thousands(m: re.Match[str]) -> str:
    """So do blanks where there are two and more."""
    return cardinal(m.group().replace(" ", ""))


@RULES.rule(r"(?<![\d.,])(\d+),(\d{4,})(?![\d,])", {"3,14159": "three point one four one five nine"})
def comma_before_many_digits(m: re.Match[str]) -> str:
    """A comma before four digits and more is a decimal comma."""
    return f"{cardinal(m[1])} point {digits(m[2])}"


@RULES.rule(r"(?<![\w.,])(\d+)\.(?=[xX]\b)", {"Node.js 18.x": "Node dot J S eighteen point x"})
def any_version(m: re.Match[str]) -> str:
    """x stands for any number after a dot."""
    return f"{cardinal(m[1])} point "


@RULES.rule(
    r"(?:(?<![\w)])-)?\d+(?:,\d{3})+(?!\d)(?:\.\d+)?|(?:(?<![\w)])-)?\d+(?:\.\d+)*|(?<!\w)\.\d+",
    {
        "1,234": "one thousand two hundred thirty four",
        "in 1905 and 2005": "in nineteen oh five and two thousand five",
        "-3.14": "minus three point one four",
        "007": "zero zero seven",
        "version 2.0.1": "version two point zero point one",
        "B2B": "B two B",
    },
)
def number(m: re.Match[str]) -> str:
    """1100 to 2099 are years, a leading zero means digits, decimals are said one by one; what touches letters is set off from them."""
    before, after = m.string[m.start() - 1 : m.start()], m.string[m.end() : m.end() + 1]
    return " " * before.isalpha() + _words(m.group()) + " " * after.isalpha()


def _words(number: str) -> str:
    bare = number.lstrip("-")
    if bare.count(".") > 1:
        return " point ".join(cardinal(part) for part in bare.split("."))
    if bare.isdigit():
        if len(bare) > 1 and bare[0] == "0":
            return digits(bare)
        if len(bare) == 4 and bare == number and 1100 <= int(bare) <= 2099 and not bare.endswith("000"):
            return year(int(bare))
        if len(bare) > 15:
            return digits(bare)
    return amount(number)
