"""Abbreviations, by where they stand."""

from __future__ import annotations

import re

from model.text.normalize.rule import Rules
from model.text.normalize.shapes import any_of

RULES = Rules("Abbreviations")

TITLES = {
    "Mr": "Mister", "Mrs": "Mrs", "Ms": "Miz", "Dr": "Doctor", "Prof": "Professor", "St": "Saint", "Mt": "Mount",
    "Ft": "Fort", "Gen": "General", "Gov": "Governor", "Sen": "Senator", "Rep": "Representative", "Capt": "Captain",
    "Lt": "Lieutenant", "Col": "Colonel", "Sgt": "Sergeant", "Rev": "Reverend", "Hon": "Honorable", "Pres": "President",
    "Maj": "Major", "Fr": "Father",
}  # fmt: skip
_WITH_A_DOT = {
    "Supt": "Superintendent",
    "Cmdr": "Commander",
    "Adm": "Admiral",
    "Atty": "Attorney",
    "Cpl": "Corporal",
    "Pvt": "Private",
}
_STREETS = {
    "St": "Street", "Dr": "Drive", "Ave": "Avenue", "Rd": "Road", "Blvd": "Boulevard", "Ln": "Lane", "Ct": "Court",
    "Pl": "Place", "Sq": "Square",
    "Hwy": "Highway", "Pkwy": "Parkway", "Ter": "Terrace",
}  # fmt: skip
ABBREVIATIONS = {
    "Jr.": "Junior", "Sr.": "Senior", "St.": "Street", "Ave.": "Avenue", "Blvd.": "Boulevard", "Rd.": "Road",
    "Hwy.": "Highway", "Apt.": "Apartment", "apt.": "apartment", "Ltd.": "Limited", "Inc.": "Incorporated", "Corp.": "Corporation",
    "Co.": "Company", "Bros.": "Brothers", "Dept.": "Department", "dept.": "department", "Univ.": "University",
    "approx.": "approximately", "est.": "established", "Est.": "established",
    "vs.": "versus", "vs": "versus", "etc.": "et cetera", "etc": "et cetera", "e.g.": "for example", "E.g.": "For example",
    "i.e.": "that is", "I.e.": "That is", "eg.": "for example",
    "ie.": "that is", "cf.": "compare", "et al.": "et al", "w/": "with", "w/o": "without", "a.k.a.": "also known as",
    "aka": "also known as", "Mr.": "Mister", "Mrs.": "Mrs", "Ms.": "Miz", "Dr.": "Doctor", "Prof.": "Professor",
    "p.s.": "P.S", "P.S.": "P.S", "Ph.D.": "P.H.D", "PhD": "P.H.D", "Esq.": "Esquire",
    "Jan.": "January", "Feb.": "February", "Mar.": "March", "Apr.": "April", "Jun.": "June", "Jul.": "July",
    "Aug.": "August", "Sep.": "September", "Sept.": "September", "Oct.": "October", "Nov.": "November", "Dec.": "December",
    "Mon.": "Monday", "Tue.": "Tuesday", "Tues.": "Tuesday", "Wed.": "Wednesday", "Thu.": "Thursday", "Thurs.": "Thursday",
    "Fri.": "Friday", "Sat.": "Saturday", "govt.": "government", "Govt.": "Government", "appt.": "appointment",
    "avg.": "average", "max.": "maximum",
    "min.": "minimum", "misc.": "miscellaneous", "incl.": "including", "excl.": "excluding", "resp.": "respectively",
    "temp.": "temperature",
    "Assn.": "Association", "Intl.": "International", "intl.": "international", "Mt.": "Mount", "viz.": "namely", "tel.": "telephone",
    "Tel.": "Telephone", "asst.": "assistant", "Asst.": "Assistant", "mgr.": "manager", "qty.": "quantity", "attn.": "attention",
    "Attn.": "Attention",
    "WWI": "World War one", "WWII": "World War two", "CO2": "C.O two", "attn:": "attention:", "Messrs.": "Messieurs",
    "w/out": "without", "c/o": "care of", "n/a": "N.A", "N/A": "N.A", "b/c": "because", "tbd": "T.B.D", "asap": "A.S.A.P",
    "btw": "by the way", "imo": "in my opinion", "idk": "I don't know", "FYI": "F.Y.I",
}  # fmt: skip
BEFORE_NUMBERS = {
    "No.": "number", "no.": "number", "Nos.": "numbers", "nos.": "numbers", "p.": "page", "pp.": "pages", "pg.": "page", "vol.": "volume",
    "Vol.": "Volume", "vols.": "volumes", "fig.": "figure", "Fig.": "Figure", "figs.": "figures", "ext.": "extension",
    "Ext.": "Extension",
    "x.": "extension", "b.": "born", "d.": "died", "c.": "circa", "ca.": "circa", "r.": "reigned", "fl.": "flourished",
    "ch.": "chapter", "Ch.": "Chapter",
    "chap.": "chapter", "sec.": "section", "Sec.": "Section", "art.": "article", "Art.": "Article", "eq.": "equation", "Eq.": "Equation",
    "ver.": "version", "v.": "version", "rev.": "revision", "ed.": "edition", "St.": "Saint", "par.": "paragraph",
    "para.": "paragraph", "paras.": "paragraphs", "tbl.": "table", "pt.": "part",
    "Pt.": "Part", "bldg.": "building", "Bldg.": "Building", "Rm.": "Room", "rm.": "room", "Ste.": "Suite", "ste.": "suite",
    "Apt.": "Apartment",
    "apt.": "apartment", "Mar.": "March", "seq.": "sequence", "Sep.": "September",
}  # fmt: skip
_MAY_END_A_SENTENCE = frozenset(
    [
        "et al.",
        *"Jr. Sr. St. Ave. Blvd. Rd. Ltd. Inc. Corp. Co. etc. Ph.D. Esq. Bros. Dept. dept. Assn. Univ. govt. max. min. avg. tbd asap".split(),
    ]
)
_ONLY_BEFORE_DIGITS = frozenset(("Mar.",))


def _end(m: re.Match[str], text: str) -> str:
    """The abbreviation's words, and its dot where that also closes the sentence."""
    after = m.string[m.end() :].lstrip()
    return text + ("." if not after or after[0] in "\"')" else "")


@RULES.rule(r"(?<!\S)'[nN]'(?!\S)", {"rock 'n' roll": "rock and roll"})
def n_for_and(m: re.Match[str]) -> str:
    """'n' between words is 'and'."""
    return "and"


@RULES.rule(r"\b([CFDGA])#(?![\w#])", {"in F# minor": "in F sharp minor"})
def sharp(m: re.Match[str]) -> str:
    """A note's or a language's # is 'sharp'."""
    return m[1] + " sharp"


@RULES.rule(
    rf"((?:\b\d+(?:st|nd|rd|th)|\b[A-Z][a-z]+) (?:[A-Z][a-z]+ )?)({any_of(_STREETS)})\b(\.?)(?= ?[,;:!?)]|\.?\s*$|\.?[\"')]| [a-z]| \d| [A-Z]{{2}}\b|"
    rf" (?:In|The|It|We|He|She|They|You|I)\b|\. (?:[A-Z]))",
    {
        "He lives at 12 Elm Dr., near St. John's on 5th St. in Reno.": "He lives at twelve Elm Drive, near Saint John's on fifth Street in Reno.",
        "Main St.": "Main Street.",
        "Ask Dr. Lee on Oak Dr.": "Ask Doctor Lee on Oak Drive.",
    },
)
def street(m: re.Match[str]) -> str | None:
    """St. and Dr. after a name or number, and before no other name, are Street and Drive; Ave., Rd. and the like as well."""
    after = m.string[m.end() :]
    named = m[1].strip()
    on_it = re.search(r"\b(?:on|off|to|at|near|down|along|from|of) \Z", m.string[: m.start()]) and not after.strip(" .\"')")
    if m[2] == "Dr" and not on_it and not re.search(r"\d", m.string[: m.start(2)]):
        return None
    if after[:1] == " " and after[1:2].isupper() and m[2] in TITLES and not named[0].isdigit():
        return None
    if m[2] in ("St", "Dr", "Ct", "Pl", "Sq", "Ter") and not m[3] and not re.search(r"\d", m.string[: m.start(2)]):
        return None
    if m[2] in TITLES and m.start() == 0 and " " not in named and not named[0].isdigit() and after.lstrip(". ")[:1].isalpha():
        return None
    return m[1] + _end(m, _STREETS[m[2]])


@RULES.rule(
    rf"\b(?:({any_of(TITLES)})\.?|({any_of(_WITH_A_DOT)})\.) (?=[A-Z])",
    {
        "Dr. Smith": "Doctor Smith",
        "St. Louis": "Saint Louis",
        "Mr Brown": "Mister Brown",
        "Lt. Gov. Ann Lee": "Lieutenant Governor Ann Lee",
    },
)
def title(m: re.Match[str]) -> str:
    """Before a name they are titles."""
    return (TITLES.get(m[1]) or _WITH_A_DOT[m[2]]) + " "


@RULES.rule(
    r"(?<=\d )([NSEW])\.? (?=[A-Z\d][\w.]* [A-Z\d]|\d+(?:st|nd|rd|th)\b)",
    {"at 55 W. 5th St., Reno": "at fifty five West fifth Street, Reno"},
)
def direction(m: re.Match[str]) -> str:
    """In an address N, S, E and W are directions."""
    return {"N": "North", "S": "South", "E": "East", "W": "West"}[m[1]] + " "


@RULES.rule(
    r"\b([A-Z])\. (?=[A-Z](?:\.|[a-z]))",
    {"J. K. Rowling": "J K Rowling", "Take vitamin C.": "Take vitamin C."},
)
def initial(m: re.Match[str]) -> str:
    """An initial is a letter, and its dot no end."""
    return m[1] + " "


@RULES.rule(
    rf"(?<![\w.])({any_of(BEFORE_NUMBERS)}) ?(?=\d|#\d|[IVX]{{2,}}\b|[VX]\b)",
    {
        "See vol. 2, fig. 3, ext. 22, b. 1970.": "See volume two, figure three, extension twenty two, born nineteen seventy.",
        "No. 5 is on p. 12.": "number five is on page twelve.",
    },
)
def abbreviation_before_a_number(m: re.Match[str]) -> str | None:
    """Some are abbreviations only before a number."""
    if m[1] == "St." or (m[1] in ("x.", "d.", "r.", "v.") and not re.match(r"\d", m.string[m.end() :])):
        return None
    return BEFORE_NUMBERS[m[1]] + " "


@RULES.rule(
    rf"(?<![\w.])(?<!slash )(?:{any_of(ABBREVIATIONS)})(?![\w])",
    {
        "Ann Lee Jr., e.g., of Acme Inc., etc.": "Ann Lee Junior, for example, of Acme Incorporated, et cetera.",
        "approx. 5 cups w/o milk": "approximately five cups without milk",
    },
)
def abbreviation(m: re.Match[str]) -> str | None:
    """Others are read anywhere; the dot stays where it also ends the sentence."""
    short = m.group()
    if short in _ONLY_BEFORE_DIGITS or (short == "min." and re.search(r"\d\s?\Z", m.string[: m.start()])):
        return None
    return _end(m, ABBREVIATIONS[short]) if short in _MAY_END_A_SENTENCE else ABBREVIATIONS[short]
