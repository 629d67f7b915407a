"""Measures: numbers with units, fractions, percent."""

from __future__ import annotations

import re

from model.text.normalize.cardinal import amount, cardinal, counted, plural
from model.text.normalize.rule import Rules
from model.text.normalize.shapes import NUMBER, START, any_of

RULES = Rules("Measures and fractions", only_with="0-9")

UNITS = {
    "km": "kilometer", "m": "meter", "cm": "centimeter", "mm": "millimeter", "nm": "nanometer", "µm": "micrometer", "μm": "micrometer",
    "mi": "mile", "yd": "yard", "yds": "yard", "ft": "foot", "in": "inch", "kg": "kilogram", "kgs": "kilogram", "g": "gram",
    "mg": "milligram",
    "µg": "microgram", "mcg": "microgram", "lb": "pound", "lbs": "pound", "oz": "ounce", "fl oz": "fluid ounce", "l": "liter",
    "L": "liter",
    "ml": "milliliter", "mL": "milliliter", "cl": "centiliter", "dl": "deciliter", "tsp": "teaspoon", "tsps": "teaspoon",
    "tbsp": "tablespoon",
    "tbsps": "tablespoon", "Tbsp": "tablespoon", "tbs": "tablespoon", "qt": "quart", "qts": "quart", "pt": "pint", "pts": "pint",
    "gal": "gallon",
    "Hz": "hertz", "kHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz", "kB": "kilobyte", "KB": "kilobyte", "MB": "megabyte",
    "GB": "gigabyte", "TB": "terabyte", "PB": "petabyte", "KiB": "kibibyte", "MiB": "mebibyte", "GiB": "gibibyte",
    "hr": "hour", "hrs": "hour", "h": "hour", "min": "minute", "mins": "minute", "s": "second", "sec": "second",
    "secs": "second", "ms": "millisecond",
    "µs": "microsecond", "ns": "nanosecond", "yr": "year", "yrs": "year", "wk": "week", "wks": "week", "mos": "month",
    "V": "volt", "mV": "millivolt", "W": "watt", "mW": "milliwatt", "kW": "kilowatt", "MW": "megawatt", "GW": "gigawatt",
    "Wh": "watt hour",
    "kWh": "kilowatt hour", "MWh": "megawatt hour", "GWh": "gigawatt hour", "A": "amp", "mA": "milliamp", "mAh": "milliamp hour",
    "km/h": "kilometer per hour", "kph": "kilometer per hour", "kmh": "kilometer per hour", "m/s": "meter per second",
    "ft/s": "foot per second",
    "mph": "mile per hour", "mpg": "mile per gallon", "Mbps": "megabit per second", "Mb/s": "megabit per second",
    "Gbps": "gigabit per second",
    "kbps": "kilobit per second", "kb/s": "kilobit per second", "MB/s": "megabyte per second", "GB/s": "gigabyte per second",
    "fps": "frame per second", "rpm": "revolution per minute", "bpm": "beat per minute", "wpm": "word per minute",
    "dB": "decibel", "px": "pixel",
    "MP": "megapixel", "dpi": "dot per inch", "ppm": "part per million", "psi": "pound per square inch", "hPa": "hectopascal",
    "kPa": "kilopascal",
    "Pa": "pascal", "kJ": "kilojoule", "J": "joule", "N": "newton", "hp": "horsepower", "ha": "hectare",
    "sq ft": "square foot", "sq m": "square meter", "sq mi": "square mile", "sq km": "square kilometer", "sqft": "square foot",
    "m²": "square meter", "m2": "square meter", "km2": "square kilometer", "cm2": "square centimeter", "ft2": "square foot",
    "m3": "cubic meter",
    "km²": "square kilometer", "cm²": "square centimeter", "mm²": "square millimeter", "ft²": "square foot",
    "mi²": "square mile", "m³": "cubic meter",
    "cm³": "cubic centimeter", "ft³": "cubic foot", "kg/m³": "kilogram per cubic meter", "g/cm³": "gram per cubic centimeter",
    "mg/dL": "milligram per deciliter",
    "m/s²": "meter per second squared", "cc": "cubic centimeter", "cal": "calorie", "kcal": "kilocalorie",
    "°C": "degree Celsius", "°F": "degree Fahrenheit",
    "° C": "degree Celsius", "° F": "degree Fahrenheit", "º": "degree", "°": "degree",
}  # fmt: skip
UNIT = any_of(UNITS)
_WORD_UNITS = (
    "cup pinch inch foot mile hour minute pound ounce gallon quart pint teaspoon tablespoon acre meter kilometer gram liter "
    "yard inches feet miles hours "
    "pounds ounces cups teaspoons tablespoons tsp tbsp Tbsp tsps tbsps in ft mi lb lbs oz gal qt pt yd kg km m l L ml hr hrs g cm mm"
).split()
_TAKES_ITS_UNIT = frozenset(("cup", "teaspoon", "tablespoon", "mile", "pound", "gallon", "pint", "quart", "ounce"))
"""'one quarter cup', but 'one eighth of an inch'."""
_FRACTIONS = {
    2: "half", 3: "third", 4: "quarter", 5: "fifth", 6: "sixth", 7: "seventh", 8: "eighth", 9: "ninth", 10: "tenth", 12: "twelfth", 16: "sixteenth",
    32: "thirty second", 64: "sixty fourth", 100: "hundredth", 1000: "thousandth",
}  # fmt: skip
_LENGTH = r" ?(?:tall|long|wide|deep|high|thick|by|x|×)\b"
_QUANTITY = rf"{START}(?P<number>-?{NUMBER})"


def _singular(word: str) -> str:
    return UNITS.get(word) or {"feet": "foot", "inches": "inch"}.get(word) or word.removesuffix("s")


def _fraction_words(top: int, bottom: int) -> str:
    name = _FRACTIONS[bottom]
    return f"{cardinal(top)} {name if top == 1 else 'halves' if bottom == 2 else name + 's'}"


def _is_fraction(top: int, bottom: int) -> bool:
    return bottom in _FRACTIONS and 0 < top < bottom


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeio" or noun.startswith("hour") else "a"


def _in_quotes(before: str) -> bool:
    return len(re.findall(r'(?:^|[\s(])"(?=\S)', before)) > len(re.findall(r'(?<=[^\s(\d])"', before))


@RULES.rule(
    rf"{START}(?:(\d+)[ -])?(\d{{1,2}})/(\d{{1,4}})[ -]?({any_of(_WORD_UNITS)})\b(?!/)(\.?)",
    {
        "1/2 tsp salt": "half a teaspoon salt",
        "1/4 cup milk, 3/4 cup flour": "one quarter cup milk, three quarters of a cup flour",
        "1½ cups, 2¾ miles, ⅛ inch": "one and a half cups, two and three quarters miles, one eighth of an inch",
    },
)
def fraction_of_a_unit(m: re.Match[str]) -> str | None:
    """A fraction goes with its unit: 'half a cup', 'one eighth of an inch', 'one and a half cups'."""
    top, bottom, unit = int(m[2]), int(m[3]), _singular(m[4])
    if not _is_fraction(top, bottom):
        return None
    dot = m[5] if not m.string[m.end() :].strip() or m[4] not in UNITS else ""
    if m[1]:
        part = f"a {_FRACTIONS[bottom]}" if top == 1 else _fraction_words(top, bottom)
        return f"{cardinal(m[1])} and {part} {plural(unit)}{dot}"
    if bottom == 2:
        return f"half {_article(unit)} {unit}{dot}"
    if top == 1 and unit in _TAKES_ITS_UNIT:
        return f"{_fraction_words(top, bottom)} {unit}{dot}"
    return f"{_fraction_words(top, bottom)} of {_article(unit)} {unit}{dot}"


@RULES.rule(
    r"(?i:\b(?:rated|rating|rate|score[sd]?|scoring|gave|give|got|pain|an?|solid)\b[^.!?]{0,20}?)(?<![\w.,/])(\d{1,3}(?:\.\d)?)/(\d{1,3})(?![\w/]|[.,]\d)(?! (?:of|cup))|"
    r"(?<![\w.,/])(\d{1,3}(?:\.\d)?)/(10|100|5)(?= (?:stars?|points?|rating)\b)|(?<![\w.,/])(\d\.\d|(\d{1,3})(?=/\6))/(\d{1,3})(?![\w/]|[.,]\d)",
    {"Rated 7/10, and 4.5/5 stars.": "Rated seven out of ten, and four point five out of five stars."},
)
def rating(m: re.Match[str]) -> str | None:
    """Two numbers with a slash are 'out of' after a word of rating, and before stars."""
    top, bottom = (m[1], m[2]) if m[1] else (m[3], m[4]) if m[3] else (m[5], m[7])
    if bottom in ("2", "3", "4", "8", "16") or (top == bottom and top in ("50", "20")) or float(top) > float(bottom):
        return None
    head = m.group()[: m.start(1) - m.start()] if m[1] else ""
    return f"{head}{amount(top)} out of {cardinal(bottom)}"


@RULES.rule(
    r"(?<![\w./])(?:(\d+) )?(\d{1,2})/(\d{1,4})(?:(?:th|rd|nd)s?)?(?![\w./]\w|[\w/\"])",
    {
        "1/2 or 3/4": "one half or three quarters",
        "2 1/2 loaves": "two and a half loaves",
        "7/10": "seven out of ten",
        "9/11": "nine eleven",
    },
)
def fraction(m: re.Match[str]) -> str | None:
    """Fractions up to sixteenths have their names; of tens it is 'out of'."""
    whole, top, bottom = m[1], int(m[2]), int(m[3])
    if not _is_fraction(top, bottom):
        return None
    after = m.string[m.end() :]
    if bottom in (10, 100) and not whole and not re.match(r" (?:of|inch|mile|second)", after):
        return f"{cardinal(top)} out of {cardinal(bottom)}"
    words = _fraction_words(top, bottom)
    if not whole and bottom == 2 and re.match(r" an? ", after):
        return "half"
    return f"{cardinal(whole)} and {'a' if top == 1 else ''}{words.removeprefix('one')}" if whole else words


@RULES.rule(
    r"(?i:\b(BP|blood pressure)\b)([^.!?\d]{0,14})(\d{2,3})/(\d{2,3})\b",
    {"His BP was 120/80.": "His B P was one hundred twenty over eighty."},
)
def blood_pressure(m: re.Match[str]) -> str:
    """A blood pressure is one number over the other."""
    return f"{m[1]}{m[2]}{cardinal(m[3])} over {cardinal(m[4])}"


@RULES.rule(r"(?<![\w./])24/7\b", {"24/7": "twenty four seven"})
def around_the_clock(m: re.Match[str]) -> str:
    """24/7 is said as it is written."""
    return "twenty four seven"


@RULES.rule(
    r"""(?<![\w.,'"])(\d{1,2})'[ -]?(\d{1,2}(?:\.\d+)?)(?:"|''|(?=[\s.,;:!?)]|$))""",
    {"He is 5'10\" (or 5’10”).": "He is five foot ten (or five foot ten).", "She is 6'2.": "She is six foot two."},
)
def feet_and_inches(m: re.Match[str]) -> str | None:
    """Feet and inches are written with an apostrophe and a quotation mark."""
    return f"{cardinal(m[1])} foot {amount(m[2])}" if float(m[2]) < 12 else None


@RULES.rule(
    r"""(?<![\w.,'/])(?:(\d{1,3}(?:\.\d+)?)(?: (\d{1,2})/(\d{1,2}))?|(\d{1,2})/(\d{1,2}))(?:"|'')(?!\w)(\s?[x×]\s?(?=\d))?""",
    {
        'A 15" screen is 15" wide.': "A fifteen inch screen is fifteen inches wide.",
        'He said "I was 15" twice.': "He said “I was fifteen” twice.",
    },
)
def inches(m: re.Match[str]) -> str | None:
    """A quotation mark after a number is inches, unless it closes a quotation."""
    if _in_quotes(m.string[max(0, m.start() - 300) : m.start()]):
        return None
    after = m.string[m.end() :]
    by = " by " if m[6] else ""
    if m[4]:
        return f"{_fraction_words(int(m[4]), int(m[5]))} of an inch{by}" if _is_fraction(int(m[4]), int(m[5])) else None
    is_plural = (m[1] != "1" or m[2]) and (by or not re.match(r"\s?[A-Za-z]", after) or re.match(_LENGTH, after))
    part = (
        f" and {_fraction_words(int(m[2]), int(m[3])).replace('one ', 'a ')}"
        if m[2] and _is_fraction(int(m[2]), int(m[3]))
        else ""
    )
    return f"{amount(m[1])}{part} {'inches' if is_plural else 'inch'}{by}"


@RULES.rule(
    r"(?<![\w.,'])(\d{1,3})'(?!\w)",
    {"an 8' board": "an eight foot board", "The pool is 6' deep.": "The pool is six feet deep."},
)
def feet(m: re.Match[str]) -> str | None:
    """An apostrophe after a number is feet, unless it closes a quotation."""
    if re.search(r"(?:^|\s)'(?!\s)[^']*$", m.string[max(0, m.start() - 300) : m.start()]):
        return None
    after = m.string[m.end() :]
    is_plural = m[1] != "1" and (not re.match(r"\s?[A-Za-z]", after) or re.match(_LENGTH, after))
    return f"{cardinal(m[1])} {'feet' if is_plural else 'foot'}"


@RULES.rule(
    rf"(?<![\d,.])(\d{{1,3}}(?:\.\d{{3}})+|\d+),(\d{{1,2}})(?=\s?(?:{UNIT}|%)(?!\w))",
    {"22,1 °C": "twenty two point one degrees Celsius", "3,5 kg": "three point five kilograms"},
)
def decimal_comma(m: re.Match[str]) -> str:
    """A comma before one or two digits and a unit is a decimal comma."""
    return f"{m[1].replace('.', '')}.{m[2]}"


@RULES.rule(
    r"(?<![\w.,/$€£-])(?<!room )(?<!seat )(?<!gate )(?<!row )(?<!unit )(?<!flat )(?<!suite )(?<!class )(?<!apartment )(?<!section )(?<!Room )(?<!Gate )"
    r"(?<!Seat )(?<!Apt )(-?\d{2,3})(C|F)\b(?!\w|[-.]\w)|(?<![\w.,/$€£-])(-?\d{1,3})(?: degrees| deg\.?)(?: ?)(C|F)\b|(?<=\b(?:to|at|is|of) )(-?\d{2,3}) (C|F)\b",
    {
        "bake at 190C or 375 degrees F": "bake at one hundred ninety degrees Celsius or three hundred seventy five degrees Fahrenheit"
    },
)
def temperature(m: re.Match[str]) -> str:
    """A C or F right after two or three digits are degrees."""
    letter = m[2] or m[4] or m[6]
    return counted(m[1] or m[3] or m[5], f"degree {'Celsius' if letter == 'C' else 'Fahrenheit'}")


@RULES.rule(
    rf"(?<![\w.,/-])(?P<number>{NUMBER})-(?P<unit>{UNIT})(?![\w/-])(?=\.? [a-z])",
    {"a 5-km run": "a five kilometer run", "a 10-min walk": "a ten minute walk"},
)
def unit_after_a_hyphen(m: re.Match[str]) -> str | None:
    """A unit after a hyphen is singular."""
    return None if m["unit"] in ("in", "A", "s") else f"{amount(m['number'])} {UNITS[m['unit']]}"


_BEFORE_NOUNS = frozenset("V W kW MW mA mAh A GB TB MB MP Hz kHz MHz GHz mm km px kWh oz gal L hp".split())
_NO_NOUNS = "and|are|was|were|but|for|from|the|than|per|with|when|while|then|long|wide|deep|high|tall|thick|away|off|into|less|more|faster|each|every|now|today"


@RULES.rule(
    r"(?<![\d,.])(\d[\d,.]*\s?[A-Za-z%]+\.?)/(?=(?:day|week|wk|month|mo|year|yr|hour|hr|night|person|user|minute|min|second|sec|serving)\b)",
    {"24 hrs/day": "twenty four hours per day", "7 days/week": "seven days per week"},
)
def per(m: re.Match[str]) -> str | None:
    """A slash before a period is 'per'."""
    return None if m[1].endswith(("km", "m", "mi", "ft")) else f"{m[1]} per "


@RULES.rule(rf"{START}({NUMBER}\s?(?:{UNIT}))\s?[x×]\s?(?=\d)", {"5 ft x 7 ft": "five feet by seven feet"})
def times_between_measures(m: re.Match[str]) -> str:
    """x between measures is 'by'."""
    return f"{m[1]} by "


@RULES.rule(
    rf"{_QUANTITY}(?P<gap>\s?)(?P<unit>{UNIT})(?![\w/²³^])(?P<dot>\.(?=[,;)]| [a-z\d(]))?",
    {
        "5km or 1 km": "five kilometers or one kilometer",
        "It is 3 m long and 2 in deep.": "It is three meters long and two inches deep.",
        "5 in the garden": "five in the garden",
        "2 tbsp oil, 6 ft. tall": "two tablespoons oil, six feet tall",
        "a 12V battery, a 90° angle": "a twelve volt battery, a ninety degree angle",
    },
)
def unit(m: re.Match[str]) -> str | None:
    """A unit is read in full after a number, in the plural unless that is 1."""
    number, gap, name = m["number"], m["gap"], m["unit"]
    after = m.string[m.end() :]
    # Units that are also words or endings: "5 in the garden", "the 1990s", "section 5 A".
    if (
        (name == "s" and not gap and "." not in number)
        or (name in ("A", "N", "J", "L", "l") and gap)
        or (name in ("pt", "pts", "A") and after[:1] == ".")
    ):
        return None
    if name in ("A", "J", "N", "V", "W") and re.match(r"\.? [\dA-Z]", after):
        return None
    is_adjective = re.match(rf" (?!(?:{_NO_NOUNS})\b)[a-z]{{3,}}", after)
    if (name in _BEFORE_NOUNS and not gap and is_adjective) or (
        name == "°" and re.match(r" (?:angle|turn|bend|rotation|arc|view)", after)
    ):
        return f"{amount(number)} {UNITS[name]}"
    if name == "in" and m["dot"] and re.match(rf" (?!(?:{_NO_NOUNS})\b)[a-z]{{3,}}", after):
        return f"{amount(number)} inch"
    if name == "in" and not (
        m["dot"] or after[:1] in (".", ",", ")", "") or re.match(_LENGTH, after) or re.match(r" (?:in )?diameter\b", after)
    ):
        return None
    return counted(number, UNITS[name])


@RULES.rule(rf"{_QUANTITY}\s?%", {"50%": "fifty percent"})
def percent(m: re.Match[str]) -> str:
    """The sign of percent is said."""
    return f"{amount(m['number'])} percent"
