"""Money."""

from __future__ import annotations

import re

from model.text.normalize.cardinal import amount, cardinal
from model.text.normalize.rule import Rules
from model.text.normalize.shapes import MAGNITUDES, NUMBER, START, any_of

RULES = Rules("Money", only_with="0-9")

_UNITS = {
    "$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "pence"), "¥": ("yen", ""), "₹": ("rupee", "paisa"),
    "₩": ("won", ""), "USD": ("dollar", "cent"), "EUR": ("euro", "cent"), "GBP": ("pound", "pence"), "JPY": ("yen", ""),
    "CHF": ("franc", "centime"), "US$": ("dollar", "cent"), "₿": ("bitcoin", ""), "C$": ("Canadian dollar", "cent"),
    "CA$": ("Canadian dollar", "cent"),
    "CAD": ("Canadian dollar", "cent"), "A$": ("Australian dollar", "cent"), "AU$": ("Australian dollar", "cent"),
    "AUD": ("Australian dollar", "cent"),
    "NZ$": ("New Zealand dollar", "cent"), "HK$": ("Hong Kong dollar", "cent"), "S$": ("Singapore dollar", "cent"),
    "R$": ("real", "centavo"),
    "RS.": ("rupee", "paisa"), "RS": ("rupee", "paisa"), "INR": ("rupee", "paisa"), "CNY": ("yuan", ""), "RMB": ("yuan", ""),
    "SEK": ("Swedish krona", ""), "NOK": ("Norwegian krone", ""), "DKK": ("Danish krone", ""), "PLN": ("zloty", ""),
    "BTC": ("bitcoin", ""),
}  # fmt: skip
_PLURALS = {
    "yen": "yen", "won": "won", "yuan": "yuan", "pence": "pence", "paisa": "paisa", "real": "reais", "Swedish krona": "Swedish kronor",
    "Norwegian krone": "Norwegian kroner", "Danish krone": "Danish kroner",
}  # fmt: skip
_LETTERS = any_of(name for name in _UNITS if name.isalpha() and name != "RS")
_SIGN = rf"(?:(?:US|CA|AU|NZ|HK|[CASR])?\$|[€£¥₹₩₿]|{_LETTERS}|Rs\.?)"
_AFTER = rf"(?:[$€£¥₹₩₿]|{_LETTERS})"
_SCALE = r"(?:\s?(?P<scale{0}>hundred|thousand|million|billion|trillion|(?:k|K|m|M|mn|b|B|bn|t|T|tn)\b))?"
_PERIODS = {
    "month": "month", "mo": "month", "year": "year", "yr": "year", "week": "week", "wk": "week", "day": "day", "hour": "hour",
    "hr": "hour", "h": "hour",
    "night": "night", "user": "user", "person": "person", "seat": "seat", "kg": "kilogram", "lb": "pound", "oz": "ounce",
    "l": "liter", "L": "liter",
    "gal": "gallon", "kWh": "kilowatt hour", "mi": "mile", "km": "kilometer", "sq ft": "square foot", "unit": "unit",
    "item": "item", "pp": "person",
}  # fmt: skip


def _plural(unit: str) -> str:
    return _PLURALS.get(unit, unit + "s")


def _unit(sign: str) -> tuple[str, str]:
    return _UNITS[sign.upper() if sign.isalpha() or sign.endswith(".") else sign]


def _magnitude(scale: str | None) -> str:
    return " " + MAGNITUDES.get(scale.lower(), scale) if scale else ""


def _money(sign: str, number: str, scale: str | None, between: str = " and ") -> str:
    unit, small = _unit(sign)
    number = number.replace(",", "")
    if scale:
        return f"{amount(number)}{_magnitude(scale)} {_plural(unit)}"
    whole, _, decimals = number.partition(".")
    if len(decimals) != 2 or not small:
        return f"{amount(number)} {unit if number == '1' else _plural(unit)}"
    cents = int(decimals)
    whole = whole or "0"
    parts = [f"{cardinal(whole)} {unit if int(whole) == 1 else _plural(unit)}"] if int(whole) or not cents else []
    if cents and (between == " and " or not parts):
        parts.append(f"{cardinal(cents)} {small if cents == 1 else _plural(small)}")
    elif cents:
        parts.append(cardinal(cents))
    return between.join(parts)


@RULES.rule(
    rf"(?P<sign>{_SIGN})(?P<a>\s?{NUMBER}){_SCALE.format('_a')}\s?(?:[-—]|to)\s?(?P<other>{_SIGN})?\s?(?P<b>{NUMBER}){_SCALE.format('_b')}(?![\w-]|\.\d)",
    {
        "$10–$20": "ten to twenty dollars",
        "$3-4": "three to four dollars",
        "$1.5M-$2M": "one point five to two million dollars",
        "$500K-$1M": "five hundred thousand to one million dollars",
    },
)
def two_amounts(m: re.Match[str]) -> str | None:
    """Of two amounts with a dash the currency is said once, and so is the magnitude where both have it or only the second."""
    if m["other"] and _unit(m["other"]) != _unit(m["sign"]):
        return None
    first, second = m["a"].strip(), m["b"]
    same_scale = m["scale_a"] is None or m["scale_a"] == m["scale_b"]
    if m["other"] and m["scale_a"] is None and m["scale_b"]:
        same_scale = False
    if "." in first and not m["scale_b"] and len(first.partition(".")[2]) == 2:
        return f"{_money(m['sign'], first, None)} to {_money(m['sign'], second, None)}"
    return f"{amount(first)}{'' if same_scale else _magnitude(m['scale_a'])} to {_money(m['sign'], second, m['scale_b'] or '') or ''}"


@RULES.rule(
    rf"{START}(?P<a>{NUMBER})\s?[-—]\s?(?P<b>{NUMBER}){_SCALE.format('')}\s?(?P<sign>{_AFTER})(?!\w)",
    {"10–20 €": "ten to twenty euros", "5-7 USD": "five to seven dollars"},
)
def two_amounts_before_their_sign(m: re.Match[str]) -> str:
    """So it is where the sign stands after them."""
    return f"{amount(m['a'])} to {_money(m['sign'], m['b'], m['scale'])}"


@RULES.rule(
    rf"(?P<minus>[-−])?(?<!\w)(?:(?P<sign>{_SIGN})\s?)?(?P<whole>\d{{1,3}}(?:\.\d{{3}})+|\d+),(?P<cents>\d\d)(?!\d)(?:\s?(?P<after>{_AFTER})(?!\w))?",
    {"€5,50": "five euros fifty", "1.234,56 €": "one thousand two hundred thirty four euros fifty six"},
)
def amount_with_a_decimal_comma(m: re.Match[str]) -> str | None:
    """A decimal comma is understood beside a currency; the cents are said without their name."""
    sign = m["sign"] or m["after"]
    if not sign:
        return None
    return ("minus " if m["minus"] else "") + _money(sign, f"{m['whole'].replace('.', '')}.{m['cents']}", None, between=" ")


def _period(m: re.Match[str]) -> str:
    period = m["period"]
    if not period:
        return ""
    unit = _PERIODS[period]
    return f" {'an' if unit in ('hour', 'ounce', 'item') else 'a'} {unit}"


@RULES.rule(
    rf"(?P<minus>[-−])?(?<!\w)(?P<sign>{_SIGN})\s?(?P<minus2>[-−])?(?P<number>{NUMBER}|\.\d\d){_SCALE.format('')}(?:/(?P<period>{any_of(_PERIODS)})\b)?",
    {
        "$5.99": "five dollars and ninety nine cents",
        "$0.50": "fifty cents",
        "-£1": "minus one pound",
        "$3.2 billion": "three point two billion dollars",
        "$5/month": "five dollars a month",
        "C$20 or Rs. 500": "twenty Canadian dollars or five hundred rupees",
    },
)
def amount_after_its_sign(m: re.Match[str]) -> str:
    """The currency is said after the number; a period after a slash is 'a month'."""
    return ("minus " if m["minus"] or m["minus2"] else "") + _money(m["sign"], m["number"], m["scale"]) + _period(m)


@RULES.rule(
    rf"{START}(?P<minus>[-−])?(?P<number>{NUMBER}){_SCALE.format('')}\s?(?P<sign>{_AFTER})(?!\w)(?:/(?P<period>{any_of(_PERIODS)})\b)?",
    {"20 USD": "twenty dollars", "5€/kg": "five euros a kilogram"},
)
def amount_before_its_sign(m: re.Match[str]) -> str:
    """It may also be written after the number."""
    return ("minus " if m["minus"] else "") + _money(m["sign"], m["number"], m["scale"]) + _period(m)


@RULES.rule(rf"{START}(?P<number>-?{NUMBER})\s?¢", {"5¢": "five cents"})
def cents(m: re.Match[str]) -> str:
    """Cents may stand alone."""
    return f"{amount(m['number'])} cent" + ("" if m["number"] == "1" else "s")
