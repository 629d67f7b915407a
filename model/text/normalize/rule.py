"""A rule: one way of writing, and what is said for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from model.text.normalize.script import Script

Say = Callable[[re.Match[str]], str | None]
"""What is said for a match; None leaves it as it is."""


@dataclass(frozen=True)
class Rule:
    """See the module's text.

    Attributes:
        name: unique among all rules.
        policy: one sentence for readers of docs/text.md.
        pattern: what it looks for in a sentence.
        say: what is said for it.
        examples: whole sentences as written, and as all rules together read them.
    """

    name: str
    policy: str
    pattern: re.Pattern[str]
    say: Say
    examples: Mapping[str, str]

    def apply(self, script: Script) -> None:
        script.rewrite(self.pattern, self.say)


class Rules:
    """The rules of one kind, in the order in which they are tried.

    Args:
        title: the kind, as a heading.
        only_with: characters of which a sentence must hold one for any of them to apply; None: they always may.
    """

    def __init__(self, title: str, only_with: str | None = None) -> None:
        self.title = title
        self._only_with = None if only_with is None else re.compile(f"[{only_with}]")
        self._rules: list[Rule] = []

    def rule(self, pattern: str, examples: Mapping[str, str]) -> Callable[[Say], Say]:
        """Makes a rule of a function: its name is the rule's, its docstring the policy."""

        def add(say: Say) -> Say:
            policy = " ".join((say.__doc__ or "").split())
            self._rules.append(Rule(say.__name__.strip("_").replace("_", " "), policy, re.compile(pattern), say, examples))
            return say

        return add

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules)

    def apply(self, script: Script) -> None:
        """Rewrites a sentence by each of them."""
        if self._only_with is None or self._only_with.search(script.text):
            for rule in self._rules:
                rule.apply(script)
