"""Marks of markdown against a parser that knows all of it: the same words are left, in the same order."""

from __future__ import annotations

import re

import pytest
from markdown_it import MarkdownIt

from model.text.g2p import pronounce

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def parsed_words(text: str) -> list[str]:
    """Words of everything that is text or code in a line."""
    parts: list[str] = []
    for token in PARSER.parse(text):
        for inline in token.children or ():
            parts.append(inline.content if inline.type in ("text", "code_inline", "image", "text_special") else "")
            parts += [" "] * (inline.type in ("softbreak", "hardbreak"))
        parts.append(" ")
    return re.findall(r"[a-z']+", "".join(parts).lower().replace("é", "e"))


@pytest.mark.parametrize(
    "text",
    [
        "# Heading *one*\n\nText with **bold**, __strong__, _italic_ and ***both***.",
        "Heading\n-------\n\nBelow.\n\nOther\n=====\nMore.",
        "- apple\n- **pear**: green\n    - nested\n    - again\n\n+ plum\n* fig",
        "> quoted *words*\n> go on\n>\n> > deeper",
        "See [the docs](https://example.org/a(b)) or [this][ref], ![a cat](cat.png \"title\").\n\n[ref]: https://example.org",
        "Use `some code` and ``more `ticks` here``.\n\n```python\nnot = 'spoken'\n```\n\nDone.",
        "~~~\nnot spoken\n~~~\nspoken",
        "intra_word_underscores and quotes and snake_case stay",
        "**Stop.** Then *go on. And* on.",
        "a*b*c and un*frigging*believable",
        "| Name | Colour |\n|:-----|-------:|\n| tea | green |\n| **milk** | `white` |",
        "Rule above\n\n---\n\n***\n\nbelow",
        "Hard  \nbreak and\\\nanother",
        "Escaped \\*stars\\* and \\_more\\_",
        "~~gone~~ here",
        "Nested **bold with *italic* inside** end",
        "<div>\n\nInside *a* block\n\n</div>",
        "[link **with bold**](x) and <b>tag</b>",
        "Caf&eacute;&nbsp;ol&eacute; &quot;quoted&quot;",
        "[text with [brackets]](url)",
    ],
)  # fmt: skip
def test_the_words_that_a_parser_finds(text: str) -> None:
    said = " ".join(sentence.spoken for sentence in pronounce(text))
    assert re.findall(r"[a-z']+", said.lower()) == [word for word in parsed_words(text)]
