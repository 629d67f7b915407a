"""Written English -> words: numbers, dates, money, units, abbreviations, addresses, symbols, markdown.

Every rule rewrites a part of a ``Script``, which remembers for each character the stretch of the typed text that it stands for.
So captions can show "$5" while "five dollars" is spoken.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field

from model.errors import UnspeakableTextError

# -- text that remembers where it comes from -------------------------------------------------------------------------------------


@dataclass
class Script:
    """Text under rewriting.

    Attributes:
        text: what it says now.
        starts, ends: for each character, the stretch [start, end) of the typed text that it stands for.

    Rewriting mutates all three.
    """

    text: str
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def rewrite(self, pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str | None]) -> None:
        """Replaces each match by what ``replace`` says; None leaves it. Replaced characters stand for the whole match."""
        pieces: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        done = 0
        for match in pattern.finditer(self.text):
            a, b = match.span()
            new = replace(match) if a < b else None
            if new is None or new == match.group():
                continue
            # What stays the same at either end keeps its own place: in "Mr. Smith" only "Mr." is rewritten.
            while a < b and new and self.text[a] == new[0] and (self.text[a].isspace() or not new[0].isalnum()):
                a, new = a + 1, new[1:]
            while a < b and new and self.text[b - 1] == new[-1] and (new[-1].isspace() or not new[-1].isalnum()):
                b, new = b - 1, new[:-1]
            pieces += (self.text[done:a], new)
            starts += self.starts[done:a]
            ends += self.ends[done:a]
            if new:
                first, last = (self.starts[a], self.ends[b - 1]) if a < b else (self.starts[a - 1], self.ends[a - 1])
                starts += [first] * len(new)
                ends += [last] * len(new)
            done = b
        if pieces:
            self.text = "".join(pieces) + self.text[done:]
            self.starts = starts + self.starts[done:]
            self.ends = ends + self.ends[done:]


# -- characters ------------------------------------------------------------------------------------------------------------------

_SAME = {
    **dict.fromkeys("‘’‚‛ʼʻ´′＇", "'"),
    **dict.fromkeys("“”„‟«»″＂", '"'),
    **dict.fromkeys("‐‑‒−﹣－", "-"),
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
_GREEK = dict(
    zip(
        "αβγδεζηθικλμνξοπρσςτυφχψω",
        (
            "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu "
            "nu xi omicron pi rho sigma sigma tau upsilon phi chi psi omega"
        ).split(),
        strict=True,
    )
)
_SPOKEN_SYMBOLS = {
    "&": "and", "+": "plus", "=": "equals", "%": "percent", "@": "at", "<": "less than", ">": "greater than", "°": "degrees",
    "±": "plus or minus", "×": "times", "÷": "divided by", "©": "copyright", "§": "section", "¶": "paragraph", "→": "to",
    "⇒": "implies", "≈": "about", "≠": "is not equal to", "≤": "at most", "≥": "at least", "√": "the square root of",
    "∞": "infinity", "~": "about", "^": "to the power of", "²": "squared", "³": "cubed", "½": "one half", "¼": "one quarter",
    "¾": "three quarters", "⅓": "one third", "⅔": "two thirds", "$": "dollars", "€": "euros", "£": "pounds", "¥": "yen",
    "¢": "cents", "₹": "rupees", "₩": "won", "µ": "micro", "#": "hash", "₿": "bitcoin",
}  # fmt: skip
_KEPT = frozenset("'\"-—.,;:!?()/ \n_*[]{}|\\") | set(_SPOKEN_SYMBOLS)
_LETTER_NAME = re.compile(r"LATIN (SMALL|CAPITAL) LETTER ([A-Z])(?: |$)")


def fold(typed: str) -> Script:
    """Typed text in the characters that the rules know: a to z, digits, punctuation and symbols that have a name.

    Accents are dropped (café), fancy letters and digits are made plain, emoji and control characters go.

    Raises:
        UnspeakableTextError: a word is written in another script.
    """
    script = Script("")
    out: list[str] = []
    for i, c in enumerate(typed):
        plain = c if c.isascii() and (c.isalnum() or c in _KEPT) else _folded(c)
        if plain is None:
            _refuse(typed, i)
        else:
            out.append(plain)
            script.starts += [i] * len(plain)
            script.ends += [i + 1] * len(plain)
    script.text = "".join(out)
    return script


def _folded(c: str) -> str | None:
    """What a character is read as; None for a letter of another script."""
    if c in _SAME:
        return _SAME[c]
    if c in _SPOKEN_SYMBOLS:
        return c
    if c.isspace():
        return "\n" if c in "\n\r\x0b\x0c\x85\u2028\u2029" else " "
    if c in _LATIN_LETTERS:
        return _LATIN_LETTERS[c]
    plain = "".join(d for d in unicodedata.normalize("NFKD", c) if not unicodedata.combining(d))
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
        return f" {name} " if (name := _GREEK.get(plain.lower())) else None
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


# -- numbers ---------------------------------------------------------------------------------------------------------------------

_ONES = (
    "zero one two three four five six seven eight nine ten "
    "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = (
    "- thousand million billion trillion quadrillion quintillion sextillion septillion octillion nonillion decillion".split()
)
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}


def digits(number: str) -> str:
    """Digit by digit: '007' -> 'zero zero seven'."""
    return " ".join(_ONES[int(d)] for d in number)


def cardinal(number: int | str) -> str:
    """'two hundred five'. Beyond 36 digits it is read digit by digit."""
    text = str(number).lstrip("0") or "0"
    if len(text) > 3 * len(_SCALES):
        return digits(text)
    n = int(text)
    if n < 20:
        return _ONES[n]
    if n < 100:
        return _TENS[n // 10] + (f" {_ONES[n % 10]}" if n % 10 else "")
    if n < 1000:
        return f"{_ONES[n // 100]} hundred" + (f" {cardinal(n % 100)}" if n % 100 else "")
    words: list[str] = []
    for scale in range((len(text) - 1) // 3, -1, -1):
        group = n // 1000**scale % 1000
        if group:
            words.append(cardinal(group) + (f" {_SCALES[scale]}" if scale else ""))
    return " ".join(words)


def ordinal(number: int | str) -> str:
    head, space, last = cardinal(number).rpartition(" ")
    return head + space + (_ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th"))


def year(number: int) -> str:
    """'nineteen eighty four', 'two thousand five', 'nineteen oh five'."""
    century, rest = divmod(number, 100)
    if century % 10 == 0 and rest < 10:
        return cardinal(number)
    return f"{cardinal(century)} {'hundred' if rest == 0 else f'oh {_ONES[rest]}' if rest < 10 else cardinal(rest)}"


def amount(number: str) -> str:
    """A written number: '-1,234.50' -> 'minus one thousand two hundred thirty four point five zero'."""
    sign, number = ("minus ", number[1:]) if number.startswith("-") else ("", number)
    whole, _, decimals = number.replace(",", "").partition(".")
    return sign + (cardinal(whole) if whole else "zero") + (f" point {digits(decimals)}" if decimals else "")


def roman(numeral: str) -> int:
    values = [{"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}[c] for c in numeral]
    return sum(-v if v < after else v for v, after in zip(values, (*values[1:], 0), strict=True))


# -- tables ----------------------------------------------------------------------------------------------------------------------

_MONTHS = "January February March April May June July August September October November December".split()
_MONTH_BY_PREFIX = {m[:3].lower(): m for m in _MONTHS}
_TITLES = {
    "Mr": "Mister", "Mrs": "Mrs", "Ms": "Miz", "Dr": "Doctor", "Prof": "Professor", "St": "Saint", "Mt": "Mount",
    "Ft": "Fort", "Gen": "General", "Gov": "Governor", "Sen": "Senator", "Rep": "Representative", "Capt": "Captain",
    "Lt": "Lieutenant", "Col": "Colonel", "Sgt": "Sergeant", "Rev": "Reverend", "Hon": "Honorable", "Pres": "President",
    "Maj": "Major", "Fr": "Father",
}  # fmt: skip
_ABBREVIATIONS = {
    "Jr.": "Junior", "Sr.": "Senior", "St.": "Street", "Ave.": "Avenue", "Blvd.": "Boulevard", "Rd.": "Road",
    "Hwy.": "Highway", "Apt.": "Apartment", "Ltd.": "Limited", "Inc.": "Incorporated", "Corp.": "Corporation",
    "Co.": "Company", "Bros.": "Brothers", "Dept.": "Department", "Univ.": "University", "approx.": "approximately",
    "est.": "established", "vs.": "versus", "vs": "versus", "vol.": "volume", "Vol.": "Volume", "fig.": "figure",
    "Fig.": "Figure", "etc.": "et cetera", "etc": "et cetera", "e.g.": "for example", "i.e.": "that is", "eg.": "for example",
    "ie.": "that is", "cf.": "compare", "et al.": "et al", "w/": "with", "w/o": "without", "a.k.a.": "also known as",
    "aka": "also known as", "Mr.": "Mister", "Mrs.": "Mrs", "Ms.": "Miz", "Dr.": "Doctor", "Prof.": "Professor",
    "p.s.": "P.S", "P.S.": "P.S", "Ph.D.": "P.H.D", "PhD": "P.H.D", "Esq.": "Esquire", "No.": "number", "no.": "number",
    "pp.": "pages", "Jan.": "January", "Feb.": "February", "Mar.": "March", "Apr.": "April", "Jun.": "June", "Jul.": "July",
    "Aug.": "August", "Sep.": "September", "Sept.": "September", "Oct.": "October", "Nov.": "November", "Dec.": "December",
    "Mon.": "Monday", "Tue.": "Tuesday", "Tues.": "Tuesday", "Wed.": "Wednesday", "Thu.": "Thursday", "Thurs.": "Thursday",
    "Fri.": "Friday", "Sat.": "Saturday",
}  # fmt: skip
_ONLY_BEFORE_DIGITS = frozenset({"No.", "no.", "pp.", "Mar.", "fig.", "Fig.", "vol.", "Vol."})
_MAY_END_A_SENTENCE = frozenset(
    {"Jr.", "Sr.", "St.", "Ave.", "Blvd.", "Rd.", "Ltd.", "Inc.", "Corp.", "Co.", "etc.", "et al.", "Ph.D.", "Esq."}
)
_UNITS = {
    "km": "kilometer", "m": "meter", "cm": "centimeter", "mm": "millimeter", "nm": "nanometer", "µm": "micrometer",
    "mi": "mile", "yd": "yard", "ft": "foot", "in": "inch", "kg": "kilogram", "g": "gram", "mg": "milligram",
    "µg": "microgram", "lb": "pound", "lbs": "pound", "oz": "ounce", "l": "liter", "L": "liter", "ml": "milliliter",
    "mL": "milliliter", "Hz": "hertz", "kHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz", "kB": "kilobyte",
    "KB": "kilobyte", "MB": "megabyte", "GB": "gigabyte", "TB": "terabyte", "hr": "hour", "hrs": "hour", "h": "hour",
    "min": "minute", "mins": "minute", "s": "second", "sec": "second", "secs": "second", "ms": "millisecond",
    "µs": "microsecond", "V": "volt", "W": "watt", "kW": "kilowatt", "MW": "megawatt", "kWh": "kilowatt hour", "A": "amp",
    "mAh": "milliamp hour", "km/h": "kilometer per hour", "kph": "kilometer per hour", "m/s": "meter per second",
    "mph": "mile per hour", "Mbps": "megabit per second", "Mb/s": "megabit per second", "Gbps": "gigabit per second",
    "kb/s": "kilobit per second", "fps": "frame per second", "dB": "decibel", "px": "pixel", "sq ft": "square foot",
    "m²": "square meter", "km²": "square kilometer", "m³": "cubic meter", "cc": "cubic centimeter", "cal": "calorie",
    "kcal": "kilocalorie", "°C": "degree Celsius", "°F": "degree Fahrenheit", "°": "degree",
}  # fmt: skip
_IRREGULAR_PLURALS = {
    "foot": "feet",
    "inch": "inches",
    "hertz": "hertz",
    "kilohertz": "kilohertz",
    "megahertz": "megahertz",
    "gigahertz": "gigahertz",
}
_MONEY = {
    "$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "pence"), "¥": ("yen", ""), "₹": ("rupee", "paisa"),
    "₩": ("won", ""), "USD": ("dollar", "cent"), "EUR": ("euro", "cent"), "GBP": ("pound", "pence"), "JPY": ("yen", ""),
    "CHF": ("franc", "centime"), "US$": ("dollar", "cent"), "₿": ("bitcoin", ""),
}  # fmt: skip
_MAGNITUDES = {"k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion", "t": "trillion"}
_FRACTIONS = {
    2: "half",
    3: "third",
    4: "quarter",
    5: "fifth",
    6: "sixth",
    7: "seventh",
    8: "eighth",
    9: "ninth",
    10: "tenth",
    16: "sixteenth",
}
_ROMAN_CARDINAL = (
    "Chapter|chapter|Part|part|Act|Scene|Section|section|Volume|Book|Phase|Article|World War|Mark|Type|Level|Stage|Class|Grade|"
    "Super Bowl|Apollo|Episode|Round|Rocky"
)
_ROMAN_ORDINAL = (
    "Pope|King|Queen|Henry|Louis|Edward|George|William|Charles|James|Richard|Elizabeth|Napoleon|Pius|Benedict|John Paul|"
    "Frederick|Philip|Nicholas|Leo"
)


def _any(words: object) -> str:
    return "|".join(re.escape(w) for w in sorted(words, key=len, reverse=True))  # type: ignore[call-overload]


def _plural(unit: str) -> str:
    head, per, rest = unit.partition(" per ")
    if not per:
        head, degree, rest = unit.partition(" ") if unit.startswith("degree ") else (unit, "", "")
        per = degree
    stem, space, last = head.rpartition(" ")
    return f"{stem}{space}{_IRREGULAR_PLURALS.get(last, last + 's')}{per}{rest}"


def _counted(number: str, unit: str) -> str:
    return f"{amount(number)} {unit if number.lstrip('-') in ('1', '1.0') else _plural(unit)}"


# -- rules -----------------------------------------------------------------------------------------------------------------------

_NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
_MONTH = rf"(?:{_any([*_MONTHS, *(m[:3] for m in _MONTHS), 'Sept'])})"
_BEFORE = r"(?<![\w.,/])"
_MAGNITUDE = r"(?:\s?(?P<scale>hundred|thousand|million|billion|trillion|(?:k|K|m|M|mn|b|B|bn|t|T)\b))?"


def _month(name: str) -> str:
    return _MONTH_BY_PREFIX[name[:3].lower()]


def _year_words(text: str) -> str:
    return year(int(text)) if len(text) == 4 and text[0] != "0" else cardinal(text)


def _time(m: re.Match[str]) -> str | None:
    hour, minute, second = int(m["h"]), int(m["m"] or 0), m["s"]
    if hour > 24 or minute > 59 or (second and int(second) > 59) or not (m["m"] or m["half"]):
        return None
    words = cardinal(hour)
    if minute:
        words += f" oh {_ONES[minute]}" if minute < 10 else f" {cardinal(minute)}"
    elif not m["half"] and not second:
        words += " o'clock" if 0 < hour <= 12 else " hundred"
    if second:
        words += f" and {cardinal(second)} second" + ("" if int(second) == 1 else "s")
    if m["half"]:
        words += f" {m['half'].upper()}.M" + "." * m.group().endswith(".")
    return words


def _date(year_text: str, month: int, day: int) -> str | None:
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    return f"{_MONTHS[month - 1]} {ordinal(day)}" + (f", {_year_words(year_text)}" if year_text else "")


def _slashed_date(m: re.Match[str]) -> str | None:
    first, second, year_text = int(m[1]), int(m[2]), m[3]
    if len(year_text) == 2:
        year_text = ("19" if int(year_text) > 50 else "20") + year_text
    return _date(year_text, first, second) or _date(year_text, second, first)


def _day_of_month(m: re.Match[str]) -> str | None:
    return f"{_month(m[1])} {ordinal(m[2])}" + (f", {_year_words(m[3])}" if m[3] else "") if 1 <= int(m[2]) <= 31 else None


def _day_before_month(m: re.Match[str]) -> str | None:
    if not 1 <= int(m[2]) <= 31:
        return None
    return f"the {ordinal(m[2])} of {_month(m[3])}" + (f", {_year_words(m[4])}" if m[4] else "")


def _money(m: re.Match[str]) -> str:
    unit, small = _MONEY[m["sign"].upper() if m["sign"].isalpha() else m["sign"]]
    number, scale = m["number"].replace(",", ""), m["scale"]
    minus = "minus " if m["minus"] else ""
    plural = unit if unit in ("yen", "won") else unit + "s"
    if scale:
        return f"{minus}{amount(number)} {_MAGNITUDES.get(scale.lower(), scale)} {plural}"
    whole, _, decimals = number.partition(".")
    if len(decimals) == 2 and small:
        cents = int(decimals)
        parts = [f"{cardinal(whole)} {unit if int(whole) == 1 else plural}"] if int(whole) or not cents else []
        if cents:
            parts.append(f"{cardinal(cents)} {small if cents == 1 or small in ('pence', 'paisa') else small + 's'}")
        return minus + " and ".join(parts)
    return f"{minus}{amount(number)} {unit if number == '1' else plural}"


def _unit(m: re.Match[str]) -> str | None:
    number, gap, unit = m["number"], m["gap"], m["unit"]
    # Units that are also words or endings: "5 in the garden", "the 1990s", "section 5 A".
    if (unit == "s" and not gap) or (unit in ("A", "L", "l") and gap):
        return None
    if unit == "in" and m.string[m.end() : m.end() + 1] not in (".", ",", ")", ""):
        return None
    return _counted(number, _UNITS[unit])


def _fraction(m: re.Match[str]) -> str | None:
    whole, top, bottom = m[1], int(m[2]), int(m[3])
    name = _FRACTIONS.get(bottom)
    if name is None or not 0 < top < bottom:
        return None
    words = f"{cardinal(top)} {name if top == 1 else 'halves' if bottom == 2 else name + 's'}"
    return f"{cardinal(whole)} and {'a' if top == 1 else ''}{words.removeprefix('one')}" if whole else words


def _number_with_suffix(m: re.Match[str]) -> str | None:
    number, suffix = m[1].replace(",", ""), m[2]
    if suffix in ("st", "nd", "rd", "th"):
        return ordinal(number)
    if len(number) == 4 and suffix in ("s", "'s"):
        words = _year_words(number)
    elif suffix in ("s", "'s"):
        words = cardinal(number)
    else:
        return None
    return words[:-1] + "ies" if words.endswith("y") else words + ("es" if words.endswith("x") else "s")


def _plain_number(m: re.Match[str]) -> str:
    """Set off from letters that touch it: 'B2B' -> 'B two B'."""
    before, after = m.string[m.start() - 1 : m.start()], m.string[m.end() : m.end() + 1]
    return " " * before.isalpha() + _number_words(m.group()) + " " * after.isalpha()


def _number_words(number: str) -> str:
    bare = number.lstrip("-")
    if bare.count(".") > 1:
        return " point ".join(cardinal(part) for part in bare.split("."))
    if bare.isdigit():
        if len(bare) > 1 and bare[0] == "0":
            return digits(bare)
        if len(bare) == 4 and bare == number and (1100 <= int(bare) <= 2099) and not bare.endswith("000"):
            return year(int(bare))
        if len(bare) > 15:
            return digits(bare)
    return amount(number)


def _range(m: re.Match[str]) -> str:
    return f"{m[1]} to {m[2]}"


def _web_address(m: re.Match[str]) -> str:
    address = re.sub(r"^(?:https?|ftp)://", "", m.group()).rstrip("/")
    words = []
    for piece in re.findall(r"[A-Za-z]+|\d+|[^A-Za-z\d]", address):
        name = {".": "dot", "/": "slash", "-": "dash", "_": "underscore", ":": "colon", "?": "question mark", "~": "tilde"}.get(
            piece, piece
        )
        spelled = name.lower() in ("www", "uk", "io", "ai", "tv", "de", "edu")
        words.append(".".join(name.upper()) if spelled else _SPOKEN_SYMBOLS.get(name, name))
    return " ".join(words)


def _tag(m: re.Match[str]) -> str:
    return ("hashtag " if m[1] == "#" else "at ") + m[2].replace("_", " ")


def _abbreviation(m: re.Match[str]) -> str | None:
    short = m.group()
    after = m.string[m.end() : m.end() + 4].lstrip()
    if short in _ONLY_BEFORE_DIGITS and not after[:1].isdigit():
        return None
    closes = short in _MAY_END_A_SENTENCE and (not after or after[0] in "\"')")
    return _ABBREVIATIONS[short] + ("." if closes else "")


_ROMAN = r"(?=[IVXLC])((?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3}))"
_SPELL_SYMBOL = re.compile("[" + re.escape("".join(_SPOKEN_SYMBOLS)) + "]")

# What looks like writing but is not spoken.
_MARKUP: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str | None]], ...] = (
    (re.compile(r"!?\[([^\[\]\n]{1,500})\]\([^()\s]{0,500}\)"), lambda m: m[1]),
    (re.compile(r"(?m)^[ \t]*(?:#{1,6}|[*+>-])[ \t]+"), lambda m: " " * len(m.group())),
    (re.compile(r"(?<!\S)(?:[<>]?[:;]-?[)(DPp]|<3+)(?!\w)"), lambda m: " "),
    (re.compile(r"\*{1,3}|~~|_{2,3}|(?<!\w)_|_(?!\w)"), lambda m: ""),
)

_ADDRESSES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str | None]], ...] = (
    (re.compile(r"(?<!\w)[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+"), _web_address),
    (re.compile(r"(?i)\b(?:https?|ftp)://[^\s\"<>]*[\w/]|\bwww\.[^\s\"<>]*[\w/]"), _web_address),
    (
        re.compile(
            r"(?i)(?<![\w.])(?:[a-z][\w-]{0,62}\.)+(?:com|org|net|edu|gov|io|ai|dev|app|uk|de|info|tv|me)(?![\w-])(?:/[\w./-]*\w)?"
        ),
        _web_address,
    ),
    (re.compile(r"(?<![\w&])([#@])([A-Za-z]\w*)"), _tag),
)

_NUMERIC: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str | None]], ...] = (
    (
        re.compile(
            r"(?<![\d:.,])(?P<h>\d{1,2})(?::(?P<m>\d{2}))?(?::(?P<s>\d{2}))?(?:\s?(?P<half>[AaPp])\.?[Mm]\b\.?)?(?![\d:])"
        ),
        _time,
    ),
    (re.compile(r"(?<!\w)'(?=\d\ds?\b)"), lambda m: ""),
    (re.compile(r"(?<![\d/-])(\d{4})-(\d{2})-(\d{2})(?![\d-])"), lambda m: _date(m[1], int(m[2]), int(m[3]))),
    (re.compile(r"(?<![\d/])(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})(?![\d/])"), _slashed_date),
    (re.compile(rf"\b({_MONTH})\.? (\d{{1,2}})(?:st|nd|rd|th)?\b(?![\d:%/.]\d)(?:,? (\d{{4}})\b)?"), _day_of_month),
    (re.compile(rf"\b(the )?(\d{{1,2}})(?:st|nd|rd|th)? (?:of )?({_MONTH})\b\.?(?:,? (\d{{4}})\b)?"), _day_before_month),
    (
        re.compile(rf"(?P<minus>-)?(?<!\w)(?P<sign>US\$|[$€£¥₹₩₿]|USD|EUR|GBP|JPY|CHF)\s?(?P<number>{_NUMBER}){_MAGNITUDE}"),
        _money,
    ),
    (
        re.compile(rf"{_BEFORE}(?P<minus>-)?(?P<number>{_NUMBER}){_MAGNITUDE}\s?(?P<sign>[$€£¥₹₩₿]|USD|EUR|GBP|JPY|CHF)(?!\w)"),
        _money,
    ),
    (re.compile(rf"{_BEFORE}(?P<number>-?{_NUMBER})\s?¢"), lambda m: _counted(m["number"], "cent")),
    (re.compile(rf"{_BEFORE}(?P<number>-?{_NUMBER})(?P<gap>\s?)(?P<unit>{_any(_UNITS)})(?![\w/])(?:\.(?=[,;)]))?"), _unit),
    (re.compile(rf"{_BEFORE}(-?{_NUMBER})\s?%"), lambda m: f"{amount(m[1])} percent"),
    (
        re.compile(r"(?<![\w.-])(?:\+?1[ -])?(?:\(\d{3}\) ?|\d{3}[-. ])?\d{3}-\d{4}(?![\w-])"),
        lambda m: ", ".join(digits(part) for part in re.findall(r"\d+", m.group())),
    ),
    (re.compile(r"\+\d[\d ()-]{6,18}\d"), lambda m: "plus " + ", ".join(digits(part) for part in re.findall(r"\d+", m.group()))),
    (re.compile(r"(?<![\w./])(?:(\d+) )?(\d{1,2})/(\d{1,2})(?![\w./])"), _fraction),
    (re.compile(r"(?<![\w./])24/7\b"), lambda m: "twenty four seven"),
    (re.compile(rf"(?<![\w.,-])({_NUMBER})\s?[-—]\s?(?=({_NUMBER})(?![\w-]))"), lambda m: f"{m[1]} to "),
    (re.compile(r"#(?=\d)"), lambda m: "number "),
    (re.compile(rf"{_BEFORE}({_NUMBER})\s?[x×]\s?(?=\d)"), lambda m: f"{m[1]} by "),
    (re.compile(rf"{_BEFORE}(\d+(?:,\d{{3}})*)(st|nd|rd|th|'?s)\b"), _number_with_suffix),
    (re.compile(rf"{_BEFORE}({_NUMBER})(k|(?<=\d\d)K|M|bn|mn)\b"), lambda m: f"{amount(m[1])} {_MAGNITUDES[m[2].lower()]}"),
    (re.compile(r"(?:(?<![\w)])-)?\d+(?:,\d{3})+(?:\.\d+)?|(?:(?<![\w)])-)?\d+(?:\.\d+)*|(?<!\w)\.\d+"), _plain_number),
)

_WORDS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str | None]], ...] = (
    (
        re.compile(rf"\b({_ROMAN_CARDINAL}) {_ROMAN}(?!\w|[.-]\w|'(?!s\b))"),
        lambda m: f"{m[1]} {cardinal(roman(m[2]))}" if m[2] else None,
    ),
    (
        re.compile(rf"\b({_ROMAN_ORDINAL}) {_ROMAN}(?!\w|[.-]\w|'(?!s\b))"),
        lambda m: f"{m[1]} the {ordinal(roman(m[2]))}" if m[2] else None,
    ),
    (re.compile(r"(?<!\S)'[nN]'(?!\S)"), lambda m: "and"),
    (re.compile(r"\b([A-Z])\. (?=[A-Z])"), lambda m: m[1] + " "),
    (re.compile(r"\b([CF])#(?!\w)"), lambda m: m[1] + " sharp"),
    (re.compile(rf"\b({_any(_TITLES)})\.? (?=[A-Z])"), lambda m: _TITLES[m[1]] + " "),
    (re.compile(rf"(?<![\w.])(?:{_any(_ABBREVIATIONS)})(?![\w])"), _abbreviation),
)

_SYMBOLS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str | None]], ...] = (
    (re.compile(r"<[-=]+>?|[-=]+>"), lambda m: " to "),
    (_SPELL_SYMBOL, lambda m: f" {_SPOKEN_SYMBOLS[m.group()]} "),
    (re.compile(r"[|]"), lambda m: ", "),
    (re.compile(r"(?<=\w)/(?=\w)"), lambda m: " "),
    (re.compile(r"[/_\\\[\]{}]"), lambda m: " "),
)


def to_words(script: Script) -> None:
    """Rewrites a folded sentence so that it holds letters, apostrophes, hyphens, spaces and punctuation only."""
    if any(c.isdigit() or c in "@/#." for c in script.text):
        for pattern, replace in _ADDRESSES:
            script.rewrite(pattern, replace)
    for pattern, replace in _WORDS:
        script.rewrite(pattern, replace)
    if any(c.isdigit() for c in script.text):
        for pattern, replace in _NUMERIC:
            script.rewrite(pattern, replace)
    for pattern, replace in _SYMBOLS:
        script.rewrite(pattern, replace)


def drop_markup(script: Script) -> None:
    """Takes away markdown's marks and keeps its words."""
    for pattern, replace in _MARKUP:
        script.rewrite(pattern, replace)
