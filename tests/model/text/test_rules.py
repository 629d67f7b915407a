"""Rules of normalisation: their examples are run, and say which rule they are of."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.text.g2p import pronounce
from model.text.normalize import MARKUP, WORDS, Rule
from model.text.page import page

RULES = [rule for rules in (*MARKUP, *WORDS) for rule in rules]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_says_what_its_examples_show(rule: Rule) -> None:
    assert rule.examples, f"{rule.name!r} has no example"
    assert rule.policy.endswith("."), f"{rule.name!r} does not say what it does"
    said = {written: " ".join(sentence.spoken for sentence in pronounce(written)) for written in rule.examples}
    assert said == dict(rule.examples)


def test_names_of_rules_are_unique() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_the_page_is_made_of_the_rules() -> None:
    assert (Path(__file__).parents[3] / "docs" / "text.md").read_text(encoding="utf-8") == page(), (
        "run: python -m model.text.page > docs/text.md"
    )
