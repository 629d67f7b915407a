"""Marks of markdown, HTML and SSML, which make a text look or sound otherwise and are not spoken."""

from __future__ import annotations

import re

from model.text.normalize.cardinal import cardinal
from model.text.normalize.rule import Rules
from model.text.normalize.shapes import any_of

RULES = Rules("Lists, headings, links and tags")

_HTML = (
    "a abbr article aside b big blockquote body br button center cite code dd del details div dl dt em font footer form h1 "
    "h2 h3 h4 h5 h6 "
    "head header hr html i img input ins kbd label li main mark nav ol option p pre q s samp section small span strike strong sub "
    "summary sup table tbody td tfoot th thead title tr tt u ul var video audio wbr"
).split()
_SSML = "amazon audio emphasis lang lexicon mark mstts p paragraph phoneme prosody s say-as sentence speak sub voice w answer output response".split()
_ATTRIBUTES = r"""(?:\s+[\w:.-]+\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>=]+))*"""
_HEARD_ONLY = "applause|chuckles?|clears throat|coughs?|cries|crosstalk|gasps?|giggles?|inaudible|laughs?|laughing|laughter|music|pauses?|sighs?|silence|smiles?|sobs?|whispers?|winks?"


@RULES.rule(r"<!--.*?-->", {"Good <!-- todo --> morning.": "Good morning."})
def comment(m: re.Match[str]) -> str:
    """Comments are left out."""
    return ""


@RULES.rule(
    rf"<break\b{_ATTRIBUTES}\s*/?>(?:\s*</break>)?",
    {'Please wait<break time="500ms"/> one moment.': "Please wait, one moment."},
)
def break_tag(m: re.Match[str]) -> str | None:
    """A break of SSML is a short pause."""
    return ", " if m.string[m.end() :].strip() and m.string[: m.start()].strip() else " "


@RULES.rule(
    rf"</?(?:[\w-]+:)?(?:{any_of({*_HTML, *_SSML})}){_ATTRIBUTES}\s*/?>",
    {
        "It is <b>great</b>.": "It is great.",
        "<speak><prosody rate='slow'>Slowly.</prosody></speak>": "Slowly.",
        "3 < 5 and x > y": "three less than five and x greater than y",
    },
)
def tag(m: re.Match[str]) -> str:
    """Tags of HTML and SSML are left out, and what they enclose is read."""
    return ""


@RULES.rule(r"(?<![\w<])<([A-Za-z][a-z]+(?:[ _-][a-z]+){0,3})>(?!>)", {"Dear <first name>, hello.": "Dear first name, hello."})
def placeholder(m: re.Match[str]) -> str:
    """A placeholder between angle brackets is read without them."""
    return m[1]


@RULES.rule(
    r"!?\[((?:[^\[\]\n]|\[[^\[\]\n]*\]){1,500})\]\((?:[^()\n]|\([^()\n]*\)){0,500}\)",
    {"Read [the docs](https://example.org/a) now.": "Read the docs now.", "![a cat](cat.png)": "a cat"},
)
def link(m: re.Match[str]) -> str:
    """A link or a picture is read as its text."""
    return m[1]


@RULES.rule(r"\[([^\[\]\n]{2,500})\]\[[^\[\]\n]{0,60}\]", {"Read [the docs][1] now.": "Read the docs now."})
def reference_link(m: re.Match[str]) -> str:
    """So is one whose address stands elsewhere."""
    return m[1]


@RULES.rule(
    r"(?m)^[ \t]*\[(?!\^)[^\[\]\n]{1,60}\]:[ \t]+<?(?:https?://|www\.|/|#)\S+[^\n]*|^[ \t]*\[\^[^\[\]\n]{1,60}\]:[ \t]*",
    {"Read [it][1].\n\n[1]: https://example.org": "Read it.", "[^1]: A note.": "A note."},
)
def address_of_a_link(m: re.Match[str]) -> str:
    """The line with that address is left out."""
    return ""


@RULES.rule(
    r"(?m)^[ \t>]*(?:[-*+][ \t]+)?\[[ xX]\][ \t]+",
    {"- [x] Buy milk": "Buy milk", "- [ ] Call Ann": "Call Ann"},
)
def check_box(m: re.Match[str]) -> str:
    """The box of a task is left out."""
    return " "


@RULES.rule(
    r"(?<=[\w.,;:!?%)\"'*])(?:(?:,? ?)\[(?:\^\w{1,20}|[1-9]\d{0,2}(?: ?[,—-] ?\d{1,3})*)\])+(?!\()",
    {"As shown [1], [2, 3], it works.": "As shown, it works.", "It grew.[^note] Fast.": "It grew. Fast."},
)
def citation(m: re.Match[str]) -> str:
    """Numbers of sources and footnotes are left out."""
    return ""


@RULES.rule(
    rf"(?i) ?(?:\[(?:{_HEARD_ONLY})\]|\((?:{_HEARD_ONLY})\)|(?<!\w)\*(?:{_HEARD_ONLY})\*(?!\w))",
    {"It works [laughs].": "It works.", "*sighs* Fine.": "Fine."},
)
def stage_direction(m: re.Match[str]) -> str:
    """What somebody does rather than says is left out, where it is one of a few words in brackets or stars."""
    return " " if m.start() == 0 else ""


@RULES.rule(r"(?<=\w-)\n[ \t]*(?=[a-z])", {"So-\ncalled": "So-called"})
def hyphen_at_the_end_of_a_line(m: re.Match[str]) -> str:
    """A word that goes on in the next line is one word."""
    return ""


@RULES.rule(
    r"(?m)^[ \t>]{0,20}(?:\|?[ \t]{0,20}:?-{2,}:?[ \t]{0,20}(?:\|[ \t]{0,20}:?-*:?[ \t]{0,20})*|([-*_=~])(?:[ \t]?\1){2,})[ \t]{0,20}$",
    {"Done.\n---\nNext.": "Done. Next."},
)
def line_of_dashes(m: re.Match[str]) -> str:
    """Lines of dashes, stars or equals signs are left out."""
    return ""


@RULES.rule(
    r"(?m)^[ \t>]*(?:\|[^|\n]*)+\|[ \t]*$",
    {"| Day | Temp |": "Day, Temp", "| Mon | 20 |": "Monday, twenty", "| a | | b |": "a, b"},
)
def table_row(m: re.Match[str]) -> str:
    """A row of a table is read cell by cell; the line of dashes below its head is not."""
    cells = [cell.strip() for cell in m.group().strip(" \t>").strip("|").split("|")]
    return ", ".join(cell for cell in cells if re.search(r"\w", cell))


@RULES.rule(
    r"(?m)(?:^|(?<=[.!?] )(?=#))[ \t]{0,20}(?:>[ \t]?)*[ \t]{0,20}(?:#{1,6}|[*+•‣◦·-]|>)(?:[ \t]+|$)",
    {"# Weekend plan": "Weekend plan", "- 3 eggs": "three eggs", "* 2 cups": "two cups", "> Stay hungry.": "Stay hungry."},
)
def mark_of_a_line(m: re.Match[str]) -> str:
    """Marks of headings, bullets and quotations are left out; each is a sentence of its own."""
    return " " * len(m.group())


@RULES.rule(r"(?<=\S)[ \t]{1,8}#{1,6}[ \t]{0,8}$", {"## Plan ##": "Plan"})
def end_of_a_heading(m: re.Match[str]) -> str:
    """So are those that close a heading."""
    return ""


@RULES.rule(
    r"^(\s*(?:[*_]{1,3})?)(\d{1,3})[.)](?:[*_]{1,3})?[ \t]+(?=\S*\w)",
    {"1. Wash the rice.": "one: Wash the rice.", "2) Boil water.": "two: Boil water.", "**3.** Wait.": "three: Wait."},
)
def numbered_item(m: re.Match[str]) -> str:
    """The number of an item is said before it, in the same sentence."""
    return f"{cardinal(m[2])}: "


@RULES.rule(r"^(\s*)([A-Za-z])\)[ \t]+", {"b) The second one.": "B: The second one."})
def lettered_item(m: re.Match[str]) -> str:
    """So is its letter."""
    return f"{m[2].upper()}: "


@RULES.rule(
    r"(?<!\S)(?:[<>]?[:;]-?[)(DPp/|]|<3+|[xX]D|\^_?\^|:'\()(?![\w])",
    {"Nice :-) really": "Nice really", "I <3 you": "I you"},
)
def smiley(m: re.Match[str]) -> str:
    """Smileys and emoji are left out."""
    return " "


@RULES.rule(
    r"\\([\\`*_{}\[\]<>#+.!|~-])",
    {r"5 \* 3": "five times three", r"snake\_case": "snake case"},
)
def escape(m: re.Match[str]) -> str:
    """A backslash before a mark of markdown only keeps it from being one."""
    return m[1]


@RULES.rule(r"(?<!\S)\*(?=\d)", {"Press *67.": "Press star sixty seven."})
def star_key(m: re.Match[str]) -> str:
    """A star before a number is a key of a telephone."""
    return "star "


@RULES.rule(
    r"(?<=[\d)])\*(?=[\d(])|(?<=[\w)]) \* (?=[\w(])",
    {"5*3": "five times three", "a * b": "a times b"},
)
def star(m: re.Match[str]) -> str:
    """A star between numbers or between blanks is a product."""
    return " times "


@RULES.rule(
    r"\*{1,3}|~~|==(?=\w)|(?<=\w)==(?=\W|$)|_{2,3}(?!\w*__)|(?<!\w)__(?=\w)|(?<=\w)__(?!\w)|(?<!\w)_|_(?!\w)",
    {"**bold**, _italic_ and ~~gone~~": "bold, italic and gone", "You *shouldn't* panic.": "You shouldn't panic."},
)
def emphasis(m: re.Match[str]) -> str:
    """Marks of emphasis are left out."""
    return ""
