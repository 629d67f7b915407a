"""Times of the day."""

from __future__ import annotations

import re

from model.text.normalize.cardinal import cardinal
from model.text.normalize.rule import Rules

RULES = Rules("Times and ratios", only_with="0-9")

_ONES = "zero one two three four five six seven eight nine".split()
_HALF = r"[AaPp]\.?[Mm]\b\.?"


def _minutes(minute: int) -> str:
    return "" if minute == 0 else f" oh {_ONES[minute]}" if minute < 10 else f" {cardinal(minute)}"


@RULES.rule(
    rf"(?<![\d:.,])(\d{{1,2}})(?::(\d\d))?\s?({_HALF})?\s?[-—]\s?(?=\d{{1,2}}(?:[:.]\d\d)?(?:\s?{_HALF}|(?<=:\d\d)(?![\d:])))",
    {
        "Open 9am–5pm or 2:00–3:30 pm": "Open nine A M to five P M or two to three thirty P M",
        "8-10 am": "eight to ten A M",
    },
)
def times_with_a_dash(m: re.Match[str]) -> str | None:
    """A dash between times is 'to'."""
    if int(m[1]) > 24 or int(m[2] or 0) > 59:
        return None
    half = f" {m[3][0].upper()}.M" if m[3] else ""
    return f"{cardinal(m[1])}{_minutes(int(m[2] or 0))}{half} to "


@RULES.rule(
    r"(?<![\w.,])(\d{1,3})\s?h(?:rs?)?\.?,?\s?(\d{1,2})\s?m(?:ins?)?\b(?:\s?(\d{1,2})\s?s(?:ecs?)?\b)?|"
    r"(?<![\w.,])()(\d{1,3})\s?m(?:ins?)?\s(\d{1,2})\s?s(?:ecs?)?\b",
    {"1h 30m or 2h15m": "one hour thirty minutes or two hours fifteen minutes", "5m 10s": "five minutes ten seconds"},
)
def duration(m: re.Match[str]) -> str:
    """In a duration h, m and s are hours, minutes and seconds."""
    parts = ((m[1] or "", "hour"), (m[2] or m[5], "minute"), (m[3] or m[6] or "", "second"))
    return " ".join(f"{cardinal(number)} {unit}{'' if int(number) == 1 else 's'}" for number, unit in parts if number)


@RULES.rule(r"\b(noon|midnight)\s?[-—]\s?(?=\d)|(?<=[MmApP\d])\s?[-—]\s?(?=(?:noon|midnight)\b)", {"noon–2pm": "noon to two P M"})
def noon_with_a_dash(m: re.Match[str]) -> str:
    """So is one beside noon and midnight."""
    return f"{m[1] or ''} to "


@RULES.rule(
    rf"(?<![\d:.,])(?P<h>\d{{1,2}})[.](?P<m>[0-5]\d)\s?(?P<half>{_HALF})",
    {"at 7.30pm": "at seven thirty P M"},
)
def time_with_a_dot(m: re.Match[str]) -> str | None:
    """A time may be written with a dot where 'am' or 'pm' follows."""
    dot = "." * m.group().endswith(".")
    return f"{cardinal(m['h'])}{_minutes(int(m['m']))} {m['half'][0].upper()}.M{dot}" if 0 < int(m["h"]) <= 12 else None


@RULES.rule(
    r"(?i:\b(ratio|scale|odds|aspect|mixed|mix|proportion|diluted?)\b([^.!?\d]{0,20}))(\d{1,5}):(\d{1,5})(?:(:)(\d{1,5}))?(?![\d:])",
    {"Ratio 16:9, odds 3:1": "Ratio sixteen to nine, odds three to one", "a scale of 1:50": "a scale of one to fifty"},
)
def ratio(m: re.Match[str]) -> str:
    """Two numbers with a colon are a ratio after a word that says so, or where they are no time."""
    return f"{m[1]}{m[2]}{cardinal(m[3])} to {cardinal(m[4])}" + (f" to {cardinal(m[6])}" if m[6] else "")


@RULES.rule(
    rf"(?<![\d:.,])(?P<h>\d{{1,2}})(?::(?P<m>\d{{2}}))?(?::(?P<s>\d{{2}}))?(?:\s?(?P<half>{_HALF}))?(?P<zone>(?<=\d)Z\b)?(?![\d:])",
    {
        "9:30 am": "nine thirty A M",
        "at 5:00 and 5:00:30": "at five o'clock and five o'clock and thirty seconds",
        "14:00": "fourteen hundred",
    },
)
def time(m: re.Match[str]) -> str | None:
    """Times are read as hours and minutes."""
    hour, minute, second = int(m["h"]), int(m["m"] or 0), m["s"]
    if hour > 24 or minute > 59 or (second and int(second) > 59) or not (m["m"] or m["half"]):
        return None
    second = None if second and m["zone"] and int(second) == 0 else second
    words = cardinal(hour) + _minutes(minute)
    if not minute and not m["half"]:
        words += " o'clock" if 0 < hour <= 12 else " hundred"
    if second:
        words += f" and {cardinal(second)} second" + ("" if int(second) == 1 else "s")
    if m["half"]:
        words += f" {m['half'][0].upper()}.M" + "." * m.group().endswith(".")
    return words + (", U.T.C" if m["zone"] else "")


@RULES.rule(r"(?<![\w:.,])(\d{1,4}):(\d{1,4})(?![\w:])", {"a 3:1 lead": "a three to one lead"})
def two_numbers_with_a_colon(m: re.Match[str]) -> str:
    """What is no time is a ratio."""
    return f"{cardinal(m[1])} to {cardinal(m[2])}"
