"""Telephone numbers, codes and identifiers: digits and letters one by one, in groups."""

from __future__ import annotations

import re

from model.text.normalize.cardinal import digits
from model.text.normalize.rule import Rules

RULES = Rules("Telephone numbers and codes", only_with="0-9")

_CALL = r"(?i:\b(?:call(?:ed|ing)?|dial(?:led|ling|ing)?|phone|ring|text|tel|telephone|fax|mobile|cell|contact|reach|hotline|helpline|whatsapp|number))\b"
_SECRET = (
    r"(?i:\b(?:(?:zip|post(?:al)?|area|access|security|verification|confirmation|country|entry|door|gate|dial(?:ling)?|discount|promo)[ -]?code|code|zip|"
    r"postcode|pin|otp|passcode|password|passkey|"
    r"(?:confirmation|order|ticket|invoice|account|case|reference|tracking|serial|booking|policy|member(?:ship)?|customer|licen[cs]e|routing|model|part)"
    r"(?: (?:number|no\.|id|#)| ?#)|ids?|ticket|extension|ext\.|port|(?:card|account|number) ending in))"
)
_LINK = r"(?i:(?: (?:number|code)|'s)?(?: (?:is|was|are|ends in|ending in|of|number|no\.))?[:#]? ?#?)"


def _grouped(number: str) -> list[str]:
    """Ten digits as 3-3-4, eleven that begin with 1 as 1-3-3-4, others in threes with a longer end."""
    if len(number) <= 5:
        return [number]
    if len(number) == 11 and number[0] == "1":
        return ["1", *_grouped(number[1:])]
    groups = [number[i : i + 3] for i in range(0, len(number) - len(number) % 3, 3)]
    rest = number[len(groups) * 3 :]
    if len(rest) == 1:
        groups[-1] += rest
    elif rest:
        groups.append(rest)
    return groups


def _group(number: str) -> str:
    """A group's digits one by one, but 'eight hundred'."""
    return "eight hundred" if number == "800" else digits(number)


def _groups(text: str) -> str:
    return ", ".join(_group(part) for part in re.findall(r"\d+", text))


def _one_by_one(code: str) -> str:
    """Digits as words, letters as capitals: 'e29b' -> 'E two nine B'."""
    return " ".join(digits(c) if c.isdigit() else c.upper() for c in code)


@RULES.rule(
    r"(?<![\w-])[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?![\w-])",
    {
        "Ticket 550e8400-e29b-41d4-a716-446655440000": (
            "Ticket five five zero E eight four zero zero, E two nine B, four one D four, A seven one six, "
            "four four six six five five four four zero zero zero zero"
        )
    },
)
def uuid(m: re.Match[str]) -> str:
    """An identifier is said sign by sign."""
    return ", ".join(_one_by_one(part) for part in m.group().split("-"))


@RULES.rule(
    r"(?<![\w:-])(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}(?![\w:-])",
    {"00:1A:2B:3C:4D:5E": "zero zero, one A, two B, three C, four D, five E"},
)
def hardware_address(m: re.Match[str]) -> str:
    """So is the address of a network card."""
    return ", ".join(map(_one_by_one, re.split("[:-]", m.group())))


@RULES.rule(
    r"(?<![\w-])(?=[0-9a-f]*\d[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{7,64}(?![\w-])|(?<![\w-])0x[0-9a-fA-F]+\b",
    {"See commit 3f2a9c1.": "See commit three F two A nine C one."},
)
def hash_of_a_commit(m: re.Match[str]) -> str | None:
    """So is a hash."""
    return None if re.fullmatch(r"\d+e\d{1,3}", m.group()) else _one_by_one(m.group())


@RULES.rule(
    r"(?<![\w-])(?=(?:[A-Z]*\d){2})(?=(?:\d*[A-Z]){2})(?:[A-Z]+\d+[A-Z]+|\d+[A-Z]+\d+)[A-Z0-9]*(?:-[A-Z0-9]{2,8})*(?![\w-])",
    {"Your code is XJ4K9Q2.": "Your code is X J four K nine Q two."},
)
def code_of_letters_and_digits(m: re.Match[str]) -> str | None:
    """So is a code in which capitals and digits take turns."""
    code = m.group()
    return ", ".join(map(_one_by_one, code.split("-"))) if len(code.replace("-", "")) >= 6 else None


@RULES.rule(
    r"(?<![\w.-])\d{4}[ -]\d{4}[ -]\d{4}[ -]\d{4}(?![\w-])",
    {"4111 1111 1111 1111": "four one one one, one one one one, one one one one, one one one one"},
)
def card_number(m: re.Match[str]) -> str:
    """Four groups of four digits are the number of a card."""
    return _groups(m.group())


@RULES.rule(
    r"(?<![\w.-])(?:\+?1[-. ])?\(?[2-9]\d\d\)?[-. ]([A-Z]{3,8}|[A-Z]{2,4}-[A-Z]{3,6})(?![\w-])",
    {"1-800-FLOWERS": "one, eight hundred, flowers"},
)
def telephone_word(m: re.Match[str]) -> str:
    """A word in a telephone number is a word."""
    return f"{_groups(m.group())}, {m[1].lower().replace('-', ' ')}"


@RULES.rule(
    r"(?<![\w.-])(?:\+?1[-. ] ?)?(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-. ]\d{4}(?![\w-]|\.\d)|(?<![\w.-])\d{3}-\d{4}(?![\w-]|\.\d)",
    {
        "Call 800.555.0123.": "Call eight hundred, five five five, zero one two three.",
        "(555) 123-4567": "five five five, one two three, four five six seven",
        "555-1234": "five five five, one two three four",
    },
)
def american_telephone_number(m: re.Match[str]) -> str:
    """Telephone numbers are said digit by digit, with a short pause between groups; 800 is 'eight hundred'."""
    return _groups(m.group())


@RULES.rule(
    r"\+\d[\d ().-]{5,18}\d(?!\w)",
    {"+44 20 7946 0958": "plus four four, two zero, seven nine four six, zero nine five eight"},
)
def international_telephone_number(m: re.Match[str]) -> str | None:
    """A plus before one is said."""
    if sum(c.isdigit() for c in m.group()) < 7:
        return None
    parts = re.findall(r"\d+", m.group())
    return "plus " + ", ".join(digits(group) for part in parts for group in (_grouped(part) if len(part) > 5 else [part]))


@RULES.rule(
    r"(?<![\w.,/:-])(?:\(0\d{1,4}\)|0\d{1,4})(?:[ -]\d{2,4}){1,4}(?![\w/:-]|[.,]\d)|(?<![\w.,/:-])0\d{2,4} \d{6}(?!\w)|"
    r"(?<![\w.,/:-])1[38]00 \d{3} \d{3}(?!\w)",
    {
        "Dial 1300 555 019 or 020 7946 0958.": (
            "Dial one three zero zero, five five five, zero one nine or zero two zero, seven nine four six, zero nine five eight."
        ),
        "06 12 34 56 78": "zero six, one two, three four, five six, seven eight",
    },
)
def telephone_number_with_a_leading_zero(m: re.Match[str]) -> str | None:
    """So are those of other countries, in the groups as they are typed."""
    return _groups(m.group()) if sum(c.isdigit() for c in m.group()) >= 8 else None


@RULES.rule(
    rf"({_CALL}(?: (?!\d)[\w']+){{0,3}}[:.]? )(\d{{7,12}}|\d{{3,5}}(?: \d{{3,4}}){{1,3}}|\d{{1,3}}(?: \d{{2,4}}){{2,4}})(?!\w|[.,/:-]\d| ?(?:%|people|times|dollars|copies))",
    {"My number is 5550143726.": "My number is five five five, zero one four, three seven two six."},
)
def telephone_number_that_somebody_is_to_call(m: re.Match[str]) -> str | None:
    """Seven digits and more after 'call' or 'number' are a telephone number."""
    parts = m[2].split()
    if sum(map(len, parts)) < 7:
        return None
    return m[1] + ", ".join(_group(g) for part in parts for g in (_grouped(part) if len(parts) == 1 else [part]))


@RULES.rule(
    r"(?i:\b(call(?:ed|ing)?|dial(?:led|ling|ing)?|ring|phone|text) )(\d{3})((?:,? (?:or|and) |, )\d{3})?(?!\w|[.,/:-]\d| \w+s\b)",
    {"In an emergency call 911 or 112.": "In an emergency call nine one one or one one two."},
)
def emergency_number(m: re.Match[str]) -> str:
    """Three digits that somebody calls are said one by one."""
    more = m[3] or ""
    return f"{m[1]} {digits(m[2])}{more[:-3]}{digits(more[-3:])}"


@RULES.rule(
    r"(?i:\b(text|sms)\b([^.!?\d]{1,30})\bto )(\d{5,6})(?!\w|[.,]\d)",
    {"Text HELP to 741741.": "Text HELP to seven four one, seven four one."},
)
def number_that_takes_a_text(m: re.Match[str]) -> str:
    """So are the five or six digits that a text is sent to."""
    return f"{m[1]}{m[2]}to {', '.join(digits(g) for g in _grouped(m[3]))}"


@RULES.rule(r"(?<![\w.,$€£/:-])911(?![\w/:-]|[.,]\d)", {"She rang 911 twice.": "She rang nine one one twice."})
def nine_one_one(m: re.Match[str]) -> str:
    """So is 911 anywhere."""
    return "nine one one"


@RULES.rule(
    rf"({_SECRET}{_LINK} ?)(\d{{4,}}(?:-\d{{4}})?|\d{{3}}[ -]\d{{3}})(?![\w]|[.,/:-]\d)",
    {
        "Your code is 4711, ZIP 90210.": "Your code is four seven one one, ZIP nine zero two one zero.",
        "Order #123456 shipped.": "Order number one two three, four five six shipped.",
    },
)
def digits_of_a_code(m: re.Match[str]) -> str:
    """The digits of codes, ZIPs, PINs and numbers of orders are said one by one."""
    before = m[1].replace("no.", "number").replace("#", "number " if m[1][-1:] == "#" else "")
    return before + ", ".join(digits(g) for part in re.findall(r"\d+", m[2]) for g in _grouped(part))


@RULES.rule(
    r"(?:(?<=\b[A-Z]{2} )|(?<=\bD\.C\. ))\d{5}(?:-\d{4})?(?![\w-]|[.,]\d)",
    {"Reno, NV 89501": "Reno, N V eight nine five zero one"},
)
def postal_code_of_a_state(m: re.Match[str]) -> str:
    """So are those of a ZIP after its state."""
    return _groups(m.group())


@RULES.rule(
    r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)",
    {"192.168.0.1": "one nine two dot one six eight dot zero dot one"},
)
def address_of_a_machine(m: re.Match[str]) -> str:
    """The digits of an IP address are said one by one."""
    return " dot ".join(map(digits, m.group().split(".")))


@RULES.rule(
    r"(?<![\w.-])(?:\d{3}-\d{2}-\d{4}|\d{1,5}(?:-\d{1,7}){3,})(?![\w-])",
    {"ISBN 978-3-16-148410-0": "I S B N nine seven eight, three, one six, one four eight four one zero, zero"},
)
def number_with_hyphens(m: re.Match[str]) -> str:
    """Three hyphens and more in a number make it a code."""
    return _groups(m.group())


@RULES.rule(
    r"(?<![\w.,$€£¥+-])[1-9]\d{9,}(?<!000)(?![\w%€£¥]|[.,/:-]\d)",
    {"Tracking 9400111899223100": "Tracking nine four zero, zero one one, one eight nine, nine two two, three one zero zero"},
)
def long_number(m: re.Match[str]) -> str:
    """Ten digits and more without commas are a code, unless they are round."""
    return ", ".join(digits(g) for g in _grouped(m.group()))
