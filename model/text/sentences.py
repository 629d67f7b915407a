"""Where sentences begin and end, in text that is whole or comes piece by piece.

A sentence is a stretch of the typed text that is read by itself. Line breaks end one, and so do full stops that belong to no
abbreviation, initial, number, address or formula. What is no speech (what a language model thinks, calls of tools, blocks of
code) belongs to none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from model.text.normalize import Script, drop_markup
from model.text.normalize.abbreviations import BEFORE_NUMBERS, TITLES
from model.text.normalize.characters import SPOKEN_SYMBOLS
from model.text.normalize.measures import UNITS

_SILENT = (
    "think|thinking|thought|reasoning|reflection|scratchpad|tool_call|tool_calls|tool_response|tool_result|tool_use|function_call|invoke|"
    "script|style"
)
"""Elements that are dropped with all that they hold."""
_OPENS_SILENCE = re.compile(rf"<({_SILENT})(?:\s[^<>]*)?>|<!--", re.IGNORECASE)
_FENCE = re.compile(r"(?m)^[ \t>]*(`{3,}|~{3,})[^`\n]*(?:\n|\Z)")
_BREAK = re.compile(r"<(?:br|hr|/p|/li|/h[1-6]|/div|/tr|/ul|/ol|/title|/blockquote)(?:\s[^<>]*)?/?>", re.IGNORECASE)
_WHOLE = re.compile(
    r"""
      !?\[(?:[^\[\]\n]|\[[^\[\]\n]*\]){0,500}\]\((?:[^()\n]|\([^()\n]*\)){0,500}\)   # a link
    | (?<!`)`[^`\n]{1,300}`(?!`)                                     # code in a line
    | \$\$[^$]{1,500}\$\$ | \\\(.{1,500}?\\\) | (?s:\\\[.{1,500}?\\\])   # formulas
    | <[A-Za-z/][^<>\n]{0,300}>                                      # a tag
    | (?:https?|ftp)://[^\s<>")]+                                    # an address
    """,
    re.VERBOSE,
)
"""Inside of these no sentence ends."""
_OPEN = re.compile(
    r"""
      !?\[(?:[^\[\]\n]|\[[^\[\]\n]*\]){0,500}(?:\](?:\((?:[^()\n]|\([^()\n]*\)){0,500})?)?\Z
    | `{1,2}\Z | (?<!`)`[^`\n]{1,300}\Z
    | \$\$?\Z | \$\$[^$]{1,500}\$?\Z | \\\Z | \\\((?:(?!\\\)).){1,500}\Z | (?s:\\\[(?:(?!\\\]).){1,500})\Z
    | <(?:[A-Za-z/!][^<>\n]{0,300})?\Z
    | (?:https?|ftp)://[^\s<>")]*\Z
    """,
    re.VERBOSE,
)
"""The same, cut off by the end of what has come."""
_LINE_STARTS = "\n\r\x0b\x0c\x85\u2028\u2029>"
_CLOSERS = "\"'”’»)\\]*_~`"
_END = re.compile(rf"[.!?…]+[{_CLOSERS}]*(?=\s|\Z)|(?<=[a-z]{{2}})[.!?]+(?=[A-Z][a-z'])")
_EVENT = re.compile(r"[\n\r\x0b\x0c\x85\u2028\u2029]|[<\[!`$\\h]|~~~|[.!?…]+")
_LINE_BREAK = re.compile(r"\s*[\n\r\x0b\x0c\x85\u2028\u2029]\s*")
_OPENERS = re.compile(r"[\s\"'“‘«(\[*_~`]*")
_LIST_ITEM = re.compile(r"[ \t>]*(?:[-*+•‣◦·>#|]|\d{1,3}[.)]\s|[A-Za-z]\)\s)")
_NUMBER_OF_ITEM = re.compile(r"[ \t>]*(?:[*_]{1,3})?(?:\d{1,3}|[IVX]{2,6}|[A-Z])[.]\Z")
_MARKS = re.compile(r"[<\[(*_|#~=-]")

_NEVER_LAST = frozenset(TITLES) - {"St", "Dr"} | frozenset(
    "Messrs vs e.g i.e a.k.a w.r.t eg ie cf pp approx Rs Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec viz incl excl "
    "Supt Cmdr Adm Atty Cpl Pvt Vol vol vols fig Fig figs chap Ch Eq tbl bldg Bldg Ste".split()
)
_SOMETIMES_LAST = frozenset("Mon Tue Tues Wed Thu Thur Thurs Fri est Est al St Ave Rd Blvd Dr Co Corp Inc Ltd".split())
"""They end a sentence only before a word that begins one."""
_DAY_NAMES = "Mon|Tue|Wed|Thu|Fri|Sat|Sun|Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec|E[SD]T|P[SD]T|C[SD]T|GMT|UTC"
_BEFORE_A_NUMBER = frozenset(short[:-1] for short in BEFORE_NUMBERS)
_LETTERED = frozenset(
    "vitamin vitamins plan hepatitis grade grades type group option part section row gate team class point step "
    "answer appendix exhibit room seat level unit figure table version size an a got the letter influenza terminal "
    "platform side item choice zone area drive block category series model key chord".split()
)
"""A capital after one of these is no initial."""
_STARTERS = frozenset(
    "the a an this that these those there then thanks thank it its we i you he she they my our your his her their "
    "but and or so if when while what who why how where which in on at for from to as by with no not yes please now "
    "let do does did is are was were can could will would should may might after before because since although next "
    "first finally also however well ok okay here have has had all both each every some any one two let's don't "
    "it's that's i'm i'll we're you're".split()
)
"""A capitalised word of these begins a sentence rather than being a name."""


def speaks(text: str) -> bool:
    """Whether there is anything to say in it."""
    if _MARKS.search(text):
        script = Script.of(text)
        drop_markup(script)
        text = script.text
    return any(c.isalnum() or c in SPOKEN_SYMBOLS for c in text)


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """The sentences of a whole text, as stretches of it; one in which nothing is said goes with its neighbour."""
    return _joined(text, _Scanner(text, final=True).spans())


def _joined(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    last_speaks = False
    for start, end in spans:
        said = speaks(text[start:end])
        touches = bool(joined) and joined[-1][1] == start
        if touches and not (said and last_speaks):
            joined[-1] = (joined[-1][0], end)
        elif said or not joined:
            joined.append((start, end))
            last_speaks = False
        last_speaks = last_speaks or said
    return joined


@dataclass
class TextStream:
    """Text that comes in pieces. What it gives, joined, reads as the whole text does; a piece may end anywhere.

    A sentence is given as soon as what has come says that it ends.
    """

    _text: str = field(default="", init=False)
    _silence: str | None = field(default=None, init=False)
    _begins_line: bool = field(default=True, init=False)
    _said: bool = field(default=False, init=False)

    @property
    def pending(self) -> str:
        """What has come and was not given."""
        return self._text

    def feed(self, piece: str) -> list[str]:
        """Takes a piece. Returns the sentences that have ended, each to be read by itself."""
        self._text += piece
        return self._take(final=False)

    def pause(self) -> list[str]:
        """Nothing has come for a while. Returns sentences that end, by all that has come; what plainly may go on waits still."""
        return self._take(final=False, pauses=True)

    def finish(self) -> list[str]:
        """Nothing follows, for now at least. Returns the rest."""
        return self._take(final=True)

    def _take(self, *, final: bool, pauses: bool = False) -> list[str]:
        scanner = _Scanner(self._text, final=final, pauses=pauses, silence=self._silence, begins_line=self._begins_line)
        spans = scanner.spans()
        self._silence = None if final else scanner.silence
        given: list[str] = []
        begin = last = None
        for start, end in spans:
            begin = start if begin is None or last != start else begin
            last = end
            if speaks(self._text[start:end]):
                given.append(self._text[begin:end].strip())
                begin = None
            elif self._text[start:end].isascii():
                begin = None
        # An emoji waits for words to go with; what cannot be said is given only where there was nothing else.
        done = begin if begin is not None and last == scanner.done else scanner.done
        if final and spans and not given and not self._said and self._text.strip():
            given = [self._text.strip()]
        self._said = self._said or bool(given)
        done = len(self._text) if final else done
        if done:
            self._begins_line = self._text[done - 1] in _LINE_STARTS
        self._text = self._text[done:]
        return given


class _Scanner:
    """Reads a text once, from the left.

    Args:
        final: nothing follows the text.
        pauses: it may be a while until something does.
        silence: what ends the silence in which the text begins, if it does.
        begins_line: whether it begins a line.
    """

    def __init__(
        self, text: str, *, final: bool, pauses: bool = False, silence: str | None = None, begins_line: bool = True
    ) -> None:
        self._text, self._final, self._pauses, self._begins_line = text, final, pauses, begins_line
        self.silence = silence
        self.done = 0
        """Up to here it is decided."""

    def spans(self) -> list[tuple[int, int]]:
        """Sentences that have ended, with the white space around them."""
        text, found = self._text, []
        start = at = 0
        if self.silence is not None:
            start = at = self._skip_silence(0)
            if self.silence is not None:
                return []
        while True:
            event = _EVENT.search(text, at)
            if event is None:
                break
            at = event.start()
            if silence := self._silence_at(at):
                opened, close = silence
                if start < at:
                    found.append((start, at))
                self.silence = close
                start = at = self._skip_silence(opened)
                if self.silence is not None:
                    return found
                continue
            if text[at] in "<[!`$\\h~":
                if breaks := _BREAK.match(text, at):
                    at = breaks.end()
                    found.append((start, at))
                    start = self.done = at
                    continue
                if whole := _WHOLE.match(text, at):
                    at = whole.end()
                    continue
                if not self._final and _OPEN.match(text, at):
                    return found
                if text[at] != "!":
                    at += 1
                    continue
            end = self._end_at(start, at)
            if end is None:
                return found
            if end < 0:
                at = -end
                continue
            found.append((start, end))
            start = at = self.done = end
        if self._final:
            if start < len(text):
                found.append((start, len(text)))
            self.done = len(text)
        return found

    def _silence_at(self, at: int) -> tuple[int, str] | None:
        """Where silence has opened that begins here, and what closes it."""
        if opens := _OPENS_SILENCE.match(self._text, at):
            return opens.end(), f"</{opens[1]}>" if opens[1] else "-->"
        line = self._text.rfind("\n", 0, at) + 1
        fence = _FENCE.match(self._text, line)
        if fence and line <= at <= fence.start(1) and self._is_line(line) and (fence.group().endswith("\n") or self._final):
            return fence.end(), fence[1]
        return None

    def _skip_silence(self, at: int) -> int:
        """Where silence ends that reaches from ``at`` on; sets ``silence`` to None if it does."""
        assert self.silence is not None
        close = self.silence
        is_fence = close[0] in "`~"
        pattern = rf"(?m)^[ \t>]*{close[0]}{{{len(close)},}}[ \t]*(?:\n|\Z)" if is_fence else re.escape(close)
        for ended in re.compile(pattern, re.IGNORECASE).finditer(self._text, at):
            if is_fence and not (ended.group().endswith("\n") or self._final):
                break
            self.silence = None
            self.done = ended.end()
            return ended.end()
        # A part of what closes it may have come.
        keep = self._text.rfind("\n", at) + 1 if is_fence else max(at, len(self._text) - len(close) + 1)
        self.done = len(self._text) if self._final else max(at, keep)
        if self._final:
            self.silence = None
        return self.done

    def _end_at(self, start: int, at: int) -> int | None:
        """Where the sentence ends that may end here; minus where to go on if it does not; None if that is yet to come."""
        text = self._text
        if text[at] in ".!?…":
            run = re.compile(r"[.!?…]+").match(text, at)
            assert run is not None
            found = _END.match(text, at)
            tail = re.compile(rf"[.!?…]+[{_CLOSERS}]*\Z").match(text, at)
            if tail and not self._final and not self._pauses:
                return None
            if found is None:
                return -run.end()
            closes = self._closes(start, at, found)
            if closes is None:
                return None
            if not closes:
                return -found.end()
            # A line break after it belongs to it.
            space = re.compile(r"\s*").match(text, found.end())
            assert space is not None
            return space.end()
        return self._line_end(start, at)

    def _line_end(self, start: int, at: int) -> int | None:
        text = self._text
        space = re.compile(r"\s*").match(text, at)
        assert space is not None
        may_go_on = text.count("\n", at, space.end()) <= 1 and (
            at - start >= 40 or text[:at].rstrip()[-1:] == "," or re.search(r"\w-\Z", text[max(0, at - 3) : at])
        )
        if space.end() == len(text) and not self._final and (may_go_on or not self._pauses):
            return None
        rest = text[space.end() : space.end() + 5]
        is_soft = may_go_on and rest[:1].islower()
        if is_soft and len(rest) < 4 and not self._final:
            return None
        if is_soft and not _LIST_ITEM.match(rest) and speaks(text[start:at]):
            return -space.end()
        return space.end()

    def _closes(self, start: int, at: int, found: re.Match[str]) -> bool | None:
        """Whether a sentence ends here: not after a title, an initial or the number of an item, nor before a small letter."""
        text, end = self._text, found.end()
        openers = _OPENERS.match(text, end)
        assert openers is not None
        at_line_end = "\n" in openers.group()
        if at_line_end:
            return True
        if openers.end() == len(text):
            return True if self._final or (self._pauses and not self._may_go_on(start, at)) else None
        if text[openers.end()].islower() or text[openers.end()] in "=+":
            return False
        if text[at] != "." or text[at : at + 2] == ".." or found.group().rstrip(_CLOSERS.replace("\\", "")) != ".":
            return True
        if self._numbers_item(start, at):
            return False
        before, word = self._words_before(start, at)
        first = text[openers.end()]
        if word in _NEVER_LAST or (word in _BEFORE_A_NUMBER and (first.isdigit() or first == "#")):
            return False
        is_hour = word in ("a.m", "p.m")
        is_short = word in _SOMETIMES_LAST or is_hour
        if first == "&" or (
            first.isdigit()
            and (word in _SOMETIMES_LAST or word in UNITS or word in "NSEW" or re.fullmatch(r"(?:[A-Z]\.)+[A-Z]", word))
        ):
            return False
        is_initials = re.fullmatch(r"(?:[A-Z]\.)+[A-Z]", word) is not None
        is_letter = len(word) == 1 and word.isupper() and word != "I"
        if not is_letter and not is_initials and not is_short:
            return True
        if not first.isupper():
            return True
        if is_letter and len(before) > 1 and before[-2].lower().strip("(\"'*_") in _LETTERED:
            return True
        if word == "Dr" and not any(c.isdigit() for c in "".join(before[-3:])):
            return False  # a doctor; "12 Elm Dr." is an address
        following = re.compile(r"[\w'’]+").match(text, openers.end())
        assert following is not None
        if following.end() == len(text) and not self._final:
            return None
        if is_hour:
            return re.match(_DAY_NAMES, following.group()) is None
        return len(following.group()) > 1 and following.group().lower() in _STARTERS

    def _may_go_on(self, start: int, at: int) -> bool:
        """Whether the stop at the end of the text may well end no sentence, as what follows would say: after a number, that of an
        item, an abbreviation, an initial or a measure."""
        text = self._text
        if text[at] != "." or text[at : at + 2] == "..":
            return False
        before, word = self._words_before(start, at)
        if self._numbers_item(start, at) or (word[-1:].isdigit() and not text[-1].isspace()):
            return True
        if word in _NEVER_LAST or word in _SOMETIMES_LAST or (word in _BEFORE_A_NUMBER and word.lower() != "no"):
            return True
        if word in UNITS and len(before) > 1 and before[-2][-1:].isdigit():
            return True  # "6 ft." and then "2 in."
        return word != "I" and re.fullmatch(r"[A-Z]|(?:[A-Za-z]\.)+[A-Za-z]", word) is not None

    def _words_before(self, start: int, at: int) -> tuple[list[str], str]:
        """The last words before a stop, and the very last without marks in front. No abbreviation is longer than what is
        looked at, which keeps long texts linear."""
        before = re.split(r"\s", self._text[max(start, at - 40) : at])
        return before, before[-1].lstrip("(\"'“‘[*_")

    def _numbers_item(self, start: int, at: int) -> bool:
        """Whether a stop belongs to the number of an item, which begins a line."""
        line = max(start, self._text.rfind("\n", max(start, at - 40), at) + 1)
        return self._is_line(line) and _NUMBER_OF_ITEM.match(self._text[line : at + 1]) is not None

    def _is_line(self, at: int) -> bool:
        """Whether a line begins here: after a line break, a tag, or nothing."""
        return self._text[at - 1] in _LINE_STARTS if at else self._begins_line
