"""Signs between numbers: ranges, scores, subtraction."""

from __future__ import annotations

import re

from model.text.normalize.cardinal import cardinal
from model.text.normalize.measures import UNIT
from model.text.normalize.rule import Rules
from model.text.normalize.shapes import NUMBER

RULES = Rules("Ranges, scores and subtraction", only_with="0-9−")

_GAME = (
    r"(?i:\b(?:won|win|wins|winning|lost|lose|loses|losing|beat|beats|beating|lead|leads|led|leading|trail|trails|trailed|trailing|tied|tie|drew|draw|"
    r"score|scored|final|defeated|defeat|victory|ahead|goal|match|game)\b)"
)


def _value(number: str) -> float:
    return float(number.replace(",", ""))


@RULES.rule(r"(?<=[\w)])\s?−\s?(?=[\w(])|−", {"7−3=4": "seven minus three equals four", "−5 °C": "minus five degrees Celsius"})
def minus_sign(m: re.Match[str]) -> str:
    """A sign of subtraction between two things is 'minus'."""
    return (
        " minus "
        if (m.string[: m.start()].strip() and m.string[m.start() - 1 : m.start()] not in "( ") or len(m.group()) > 1
        else "-"
    )


@RULES.rule(
    rf"(?<![\w.,/-])({NUMBER})(\s?)-\2({NUMBER})(?=(\s?=)?)(?![\w-]|[.,/]\d)",
    {"5 - 3 = 2": "five minus three equals two", "10 - 20": "ten to twenty"},
)
def subtraction(m: re.Match[str]) -> str | None:
    """So is a hyphen before an equals sign, or between blanks where the second number is the smaller one."""
    if m[4] is not None or (m[2] and _value(m[1]) > _value(m[3])):
        return f"{m[1]} minus {m[3]}"
    return None


@RULES.rule(r"(?<=[\d)])\s/\s(?=[\d(])", {"10 / 2 = 5": "ten divided by two equals five"})
def division(m: re.Match[str]) -> str:
    """A slash between blanks and numbers divides."""
    return " divided by "


@RULES.rule(
    r"(?<![\w.,/$€£-])(\d{1,3})[-—](\d{1,3})(?![\w%°-]|[.,/]\d| ?(?:days|weeks|months|years|hours|minutes|people|times|percent))",
    {
        "They won 3-0.": "They won three zero.",
        "a 21-14 victory": "a twenty one fourteen victory",
        "5-7 days": "five to seven days",
    },
)
def score(m: re.Match[str]) -> str | None:
    """The numbers of a score follow each other; it is one if a word of games is near, or the second number is 0."""
    near = m.string[max(0, m.start() - 40) : m.end() + 20]
    if int(m[2]) != 0 and not (re.search(_GAME, near) and int(m[1]) >= int(m[2])):
        return None
    return f"{cardinal(m[1])} {cardinal(m[2])}"


@RULES.rule(
    rf"(?<![\w.,-])(-?{NUMBER})(?P<unit>\s?(?:{UNIT}|%|°))?\s?[-—]\s?(?={NUMBER}(?P<after>\s?(?:{UNIT}|%|°))?(?:th|st|nd|rd|s|x|k|K|M|bn?)?(?![\w-]|/\d))",
    {
        "10–12 °C": "ten to twelve degrees Celsius",
        "10–20 kg, 20-30% and 5%–7%": "ten to twenty kilograms, twenty to thirty percent and five to seven percent",
        "pages 5—7, 1939–1945": "pages five to seven, nineteen thirty nine to nineteen forty five",
    },
)
def dash_between_numbers(m: re.Match[str]) -> str | None:
    """A dash between numbers is 'to'; a unit that both have is said once."""
    unit, after = (m["unit"] or "").strip(), (m["after"] or "").strip()
    return f"{m[1]}{'' if unit == after else m['unit'] or ''} to "
