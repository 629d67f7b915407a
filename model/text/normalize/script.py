"""Text that remembers where it comes from."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field


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

    @classmethod
    def of(cls, typed: str) -> Script:
        """The text as it is typed."""
        return cls(typed, list(range(len(typed))), list(range(1, len(typed) + 1)))

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
