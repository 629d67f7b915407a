"""Dates, days and years."""

from __future__ import annotations

import re

from model.text.normalize.cardinal import cardinal, ordinal, year_words
from model.text.normalize.rule import Rules
from model.text.normalize.shapes import MONTH, MONTHS, month

RULES = Rules("Dates and days")

_DAYS = {
    "Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday", "Thur": "Thursday", "Thurs": "Thursday",
    "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday",
}  # fmt: skip
_DAY = "Mon|Tues?|Wed|Thu(?:rs?)?|Fri|Sat|Sun"
_SUFFIX = "(?:st|nd|rd|th)"
_BEFORE_A_DATE = (
    r"(?i:\b(?:due|by|until|till|since|deadline:?|dated?|starting|ending|expires|(?:due|is|was) on|on|"
    r"(?:mon|tues?|wed|thu(?:rs?)?|fri|sat|sun)(?:\.|,|\.,|[a-z]*day,?)?) )"
)
_AFTER_A_DATE = re.compile(rf"{_BEFORE_A_DATE}(?:\d{{1,2}}/\d{{1,2}}(?:,? (?:or|and|and/or|to|through) |, ))+\Z")
_DASH = r"\s?[-—]\s?"


def _date(year: str, month_number: int, day: int) -> str | None:
    if not (1 <= month_number <= 12 and 1 <= day <= 31):
        return None
    return f"{MONTHS[month_number - 1]} {ordinal(day)}" + (f", {year_words(year)}" if year else "")


def _full(year: str) -> str:
    return year if len(year) != 2 else ("19" if int(year) > 50 else "20") + year


@RULES.rule(
    rf"\b({MONTH})\.?,? (?:(?=\d{{4}}\b)|'(\d\d)\b)",
    {"as of Jan 2024": "as of January twenty twenty four", "July '24": "July twenty twenty four"},
)
def month_and_year(m: re.Match[str]) -> str:
    """A month before a year is read in full."""
    return f"{month(m[1])} " + (year_words(_full(m[2])) if m[2] else "")


@RULES.rule(r"(?<!\w)'0(\d)\b(?![^']*\d')", {"the '08 crash": "the oh eight crash"})
def year_that_begins_with_a_zero(m: re.Match[str]) -> str:
    """The zero of a year in two digits is 'oh'."""
    return f"oh {cardinal(m[1])}"


@RULES.rule(r"(?<!\w)'(?=\d\ds?\b)(?![^']*\d')", {"the '80s": "the eighties"})
def apostrophe_for_a_century(m: re.Match[str]) -> str:
    """The apostrophe before two digits of a year is left out."""
    return ""


@RULES.rule(
    r"(?<![\d/-])(\d{4})-(\d{1,2})-(\d{1,2})(?:(T)(?=\d\d:)|(?![\d-]))",
    {
        "2025-9-9": "September ninth, twenty twenty five",
        "2019-10-12T14:30:00Z": "October twelfth, twenty nineteen, fourteen thirty, U T C",
    },
)
def date_with_the_year_first(m: re.Match[str]) -> str | None:
    """A date in digits is read with the month's name; with hyphens the year comes first."""
    words = _date(m[1], int(m[2]), int(m[3]))
    return words and words + (", " if m[4] else "")


@RULES.rule(
    r"(?<![\d/])(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})(?![\d/])",
    {"10/12/2019": "October twelfth, twenty nineteen", "25/12/24": "December twenty fifth, twenty twenty four"},
)
def date_with_slashes(m: re.Match[str]) -> str | None:
    """With slashes the month comes first, unless it is over twelve."""
    return _date(_full(m[3]), int(m[1]), int(m[2])) or _date(_full(m[3]), int(m[2]), int(m[1]))


@RULES.rule(
    r"(?<![\d.])(\d{1,2})[.-](\d{1,2})[.-](\d{4})(?![\d-]|\.\d)",
    {"05.06.2024": "June fifth, twenty twenty four"},
)
def date_with_dots(m: re.Match[str]) -> str | None:
    """With dots the day comes first."""
    return _date(m[3], int(m[2]), int(m[1])) or _date(m[3], int(m[1]), int(m[2]))


@RULES.rule(
    rf"\b({MONTH})\.? (\d{{1,2}}){_SUFFIX}?{_DASH}(\d{{1,2}}){_SUFFIX}?\b(?![\d:%/.]\d)(?:,? (\d{{4}})\b)?",
    {"Sept 5th–7th": "September fifth to seventh", "July 4-6, 2024": "July fourth to sixth, twenty twenty four"},
)
def days_of_a_month(m: re.Match[str]) -> str | None:
    """A dash between two days is 'to'."""
    if not (1 <= int(m[2]) < int(m[3]) <= 31):
        return None
    return f"{month(m[1])} {ordinal(m[2])} to {ordinal(m[3])}" + (f", {year_words(m[4])}" if m[4] else "")


@RULES.rule(
    rf"\b({MONTH}\.? \d{{1,2}}{_SUFFIX}?){_DASH}(?={MONTH}\b)|\b({MONTH})\.?{_DASH}({MONTH})\b",
    {"June 5 – July 7": "June fifth to July seventh", "Jan–Mar": "January to March"},
)
def dash_between_months(m: re.Match[str]) -> str:
    """So is one between two dates or months."""
    return f"{m[1]} to " if m[1] else f"{month(m[2])} to {month(m[3])}"


@RULES.rule(
    rf"\b({MONTH})\.? (\d{{1,2}}){_SUFFIX}?\b(?![\d:%/.]\d)(?:,? (\d{{4}})\b)?",
    {"March 3, 2024": "March third, twenty twenty four", "Jan. 5th": "January fifth"},
)
def day_after_its_month(m: re.Match[str]) -> str | None:
    """The day of a month is an ordinal."""
    return f"{month(m[1])} {ordinal(m[2])}" + (f", {year_words(m[3])}" if m[3] else "") if 1 <= int(m[2]) <= 31 else None


@RULES.rule(
    rf"\b(the )?(\d{{1,2}}){_SUFFIX}? (?:of )?({MONTH})\b\.?(?:,? (\d{{4}})\b)?",
    {"3 March": "the third of March", "on the 5th of May 1990": "on the fifth of May, nineteen ninety"},
)
def day_before_its_month(m: re.Match[str]) -> str | None:
    """The day may stand before its month."""
    if not 1 <= int(m[2]) <= 31:
        return None
    return f"the {ordinal(m[2])} of {month(m[3])}" + (f", {year_words(m[4])}" if m[4] else "")


@RULES.rule(
    r"(?<= )(\d{1,2})/(\d{1,2})(?![\w/%]|[.,]\d| of\b)",
    {
        "Pay by 3/15 or 4/1.": "Pay by March fifteenth or April first.",
        "on 5/1, 5/8 and 6/2": "on May first, May eighth and June second",
    },
)
def further_dates_with_a_slash(m: re.Match[str]) -> str | None:
    """Where a date with a slash follows one that is known to be one, after 'or', 'and', 'to' or a comma, it is a date, too."""
    return _date("", int(m[1]), int(m[2])) if _AFTER_A_DATE.search(m.string[max(0, m.start() - 80) : m.start()]) else None


@RULES.rule(
    rf"({_BEFORE_A_DATE})(\d{{1,2}})/(\d{{1,2}})(?![\w/%]|[.,]\d)",
    {"Due 7/4. See you on 12/25.": "Due July fourth. See you on December twenty fifth."},
)
def month_and_day_with_a_slash(m: re.Match[str]) -> str | None:
    """Two numbers with a slash are a date after 'due', 'on' and the like."""
    date = _date("", int(m[2]), int(m[3]))
    return date and m[1] + date


@RULES.rule(
    rf"\b(?P<first>{_DAY})\.?(?P<dash>{_DASH}| & | and |, ?)(?P<last>{_DAY})\b(?:\.(?=\s?[a-z\d,]))?(?![a-z])",
    {"Open Mon–Fri, closed Sat & Sun.": "Open Monday to Friday, closed Saturday and Sunday."},
)
def days_of_the_week(m: re.Match[str]) -> str:
    """Days of the week in short are read in full where two stand together."""
    dash = m["dash"].strip()
    between = " to " if dash in ("-", "—") else ", " if dash == "," else " and "
    return f"{_DAYS[m['first']]}{between}{_DAYS[m['last']]}"


@RULES.rule(
    r"\b((?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day)\s?[-—]\s?(?=(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day\b)",
    {"Monday-Friday": "Monday to Friday"},
)
def dash_between_days(m: re.Match[str]) -> str:
    """A dash between days is 'to', in full or in short."""
    return f"{m[1]} to "


@RULES.rule(
    rf"\b({_DAY})\b\.?(?=,? (?:\d|at \d|{MONTH}\b)|,? ?[-—:|]|[,:]|\)|$)|\b(Mon|Tues?|Thu(?:rs?)?|Fri)\b\.?(?= ?[,;:.!?)/]| [a-z\d]|$)|(?<=\bon )({_DAY})\b(?!')|(?<=, )(Sat|Sun|Wed)(?= (?:closed|open|only|off)\b)",
    {"Mon, 20": "Monday, twenty", "on Thu at 5": "on Thursday at five", "The sun sat on the Sun.": "The sun sat on the Sun."},
)
def day_of_the_week(m: re.Match[str]) -> str | None:
    """So are they before a date, a time or a comma."""
    short = m[1] or m[2] or m[3] or m[4]
    if short in ("Wed", "Sat", "Sun") and (not m.string[m.end() :].strip() or m.string[: m.start()].rstrip().endswith("the")):
        return _DAYS[short] if not m.string[: m.start()].strip() and short != "Sun" else None
    dot = "." if m.group().endswith(".") and not m.string[m.end() :].strip() else ""
    return _DAYS[short] + dot


@RULES.rule(
    r"\b((?:1[1-9]|20)\d0)s?(?:'s|s)? ?[-—] ?'?(\d0)s\b",
    {"the 1960s–70s": "the nineteen sixties to seventies"},
)
def decades(m: re.Match[str]) -> str:
    """Decades with a dash are read with 'to'."""
    return f"{_decade(m[1])} to {_decade(m[2])}"


def _decade(number: str) -> str:
    words = year_words(number) if len(number) == 4 else cardinal(number)
    return words[:-1] + "ies" if words.endswith("y") else words + "s"


@RULES.rule(
    r"(?<![\w.,/$€£-])((?:1[1-9]|20)\d\d)/(\d\d)(?![\w/%]|[.,]\d)",
    {"the 2024/25 season": "the twenty twenty four to twenty five season"},
)
def years_with_a_slash(m: re.Match[str]) -> str | None:
    """A year and the next with a slash are read with 'to'."""
    return f"{year_words(m[1])} to {cardinal(m[2])}" if (int(m[1]) + 1) % 100 == int(m[2]) else None
