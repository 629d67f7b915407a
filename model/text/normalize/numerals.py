"""Roman numerals."""

from __future__ import annotations

import re

from model.text.lexicon import lexicon
from model.text.normalize.cardinal import cardinal, ordinal, roman
from model.text.normalize.rule import Rules

RULES = Rules("Roman numerals", only_with="IVX")

_COUNTED = (
    "Chapter|Part|Act|Scene|Section|Volume|Book|Phase|Article|World War|Mark|Type|Level|Stage|Class|Grade|Super "
    "Bowl|Apollo|Episode|Round|Rocky|"
    "Title|Appendix|Table|Figure|Vatican|Unit|Step|Category|Schedule|Annex|Tier|Division|Final "
    "Fantasy|Windows|Saturn|Halo|Diablo|Civilization|Gemini"
)
_COUNTED_ANY = "|".join(
    [*_COUNTED.split("|"), "chapter|part|act|scene|section|volume|phase|article|type|level|stage|class|grade|figure|table"]
)
_RULERS = (
    "(?:Pope|King|Queen|Emperor|Empress|Tsar|Sultan|Pharaoh|Kaiser) [A-Z][a-z]+|Pope|King|Queen|Henry|Louis|Edward|George|W "
    "illiam|Charles|James|Richard|Elizabeth|Napoleon|Pius|Benedict|John Paul|"
    "Frederick|Philip|Nicholas|Leo"
)
_NUMERAL = r"(?=[IVXLC])((?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3}))"
_END = r"(?!\w|[.-]\w|'(?!s\b))"


@RULES.rule(
    rf"\b({_COUNTED_ANY}) {_NUMERAL}{_END}",
    {"World War II": "World War two", "Act Ⅳ, scene Ⅸ.": "Act four, scene nine.", "Chapter XIV": "Chapter fourteen"},
)
def numeral_that_counts(m: re.Match[str]) -> str | None:
    """A numeral after a chapter, a war, an act and the like is a number."""
    return f"{m[1]} {cardinal(roman(m[2]))}" if m[2] else None


@RULES.rule(
    rf"\b({_RULERS}) {_NUMERAL}{_END}",
    {"Henry VIII": "Henry the eighth", "King Charles III": "King Charles the third", "Louis X": "Louis the tenth"},
)
def numeral_of_a_ruler(m: re.Match[str]) -> str | None:
    """After a ruler's name it says which one."""
    return f"{m[1]} the {ordinal(roman(m[2]))}" if m[2] else None


@RULES.rule(
    rf"\b(the )?(?=[IVX]{{2}}){_NUMERAL} (century|dynasty|Century|Dynasty|Olympiad|Olympics?|Congress|edition|anniversary|Corps|Legion)\b",
    {"in the XVIII dynasty": "in the eighteenth dynasty", "a XX century poet": "a twentieth century poet"},
)
def numeral_of_a_century(m: re.Match[str]) -> str | None:
    """So it does before a century or a dynasty."""
    return f"{m[1] or ''}{ordinal(roman(m[2]))} {m[3]}" if m[2] else None


@RULES.rule(
    rf"\b([A-Z][a-z]{{2,}}) (?=[IVX]{{2}}){_NUMERAL}{_END}",
    {
        "Thutmose II ruled Egypt.": "Thutmose the second ruled Egypt.",
        "We played Street Fighter II.": "We played Street Fighter two.",
        "Give IV fluids; MIX it, Xi said.": "Give I V fluids; MIX it, Xi said.",
    },
)
def numeral_after_a_name(m: re.Match[str]) -> str | None:
    """After any other name it says which one, and after a capitalised word which number; IV after a plain word is spelled."""
    if not m[2]:
        return None
    if not lexicon().is_word(m[1].lower()):
        return f"{m[1]} the {ordinal(roman(m[2]))}"
    return None if not m.string[: m.start()].strip(" \"'(") or m[2] in ("IV", "VI") else f"{m[1]} {cardinal(roman(m[2]))}"


@RULES.rule(rf"^(\s*)(?=[IVX]{{2}}){_NUMERAL}[.)] (?=[A-Z])", {"II. Methods": "two: Methods"})
def numeral_of_an_item(m: re.Match[str]) -> str | None:
    """Before an item it is the item's number."""
    return f"{cardinal(roman(m[2]))}: " if m[2] else None
