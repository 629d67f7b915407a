"""Numbers in words: 'two hundred five', 'second', 'nineteen oh five'."""

from __future__ import annotations

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
    """'XIV' -> 14."""
    values = [{"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}[c] for c in numeral]
    return sum(-v if v < after else v for v, after in zip(values, (*values[1:], 0), strict=True))


def year_words(text: str) -> str:
    """A year as written: '1984' -> 'nineteen eighty four', '988' -> 'nine hundred eighty eight'."""
    return year(int(text)) if len(text) == 4 and text[0] != "0" else cardinal(text)


def plural(unit: str) -> str:
    """'kilometer per hour' -> 'kilometers per hour', 'degree Celsius' -> 'degrees Celsius'."""
    head, per, rest = unit.partition(" per ")
    if not per:
        head, degree, rest = unit.partition(" ") if unit.startswith("degree ") else (unit, "", "")
        per = degree
    stem, space, last = head.rpartition(" ")
    return f"{stem}{space}{_IRREGULAR_PLURALS.get(last, last + 's')}{per}{rest}"


def counted(number: str, unit: str) -> str:
    """'5', 'kilometer' -> 'five kilometers'."""
    return f"{amount(number)} {unit if number.lstrip('-') in ('1', '1.0') else plural(unit)}"


_IRREGULAR_PLURALS = {
    "foot": "feet", "inch": "inches", "hertz": "hertz", "kilohertz": "kilohertz", "megahertz": "megahertz", "gigahertz": "gigahertz",
    "baht": "baht", "horsepower": "horsepower", "century": "centuries",
}  # fmt: skip
