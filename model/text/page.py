"""docs/text.md, made of the rules themselves: ``python -m model.text.page > docs/text.md``."""

from __future__ import annotations

from model.text.heteronyms import READINGS
from model.text.normalize import MARKUP, WORDS

_HEAD = """\
# How text is read

Whatever is typed, or comes from a language model, is read as an American would read it aloud. This page is made of the rules
and of examples that the tests run (`python -m model.text.page > docs/text.md`), so it says what the program does. To see how
a text of your own is read:

    avatar-rtc pronounce "Dr. Lee lives at 12 Elm Dr."
    avatar-rtc pronounce --piece "It is 3" --piece ".5 km."

## Sentences

A sentence is said in one breath, with a pause after it. It ends

- after `.`, `!`, `?` or `…`, unless that belongs to an abbreviation, an initial, a number, an address, a formula or code in
  a line, or a small letter follows;
- at a line break: each item of a list, each heading, each row of a table is a sentence. Only where a line of 40 characters
  and more, or one that ends in a comma or a hyphen, goes on with a small letter, the text was wrapped by an editor, and is
  one sentence;
- at `<br>`, and at the end of a paragraph or an item of HTML.

Text that comes in pieces is cut by the same rules, wherever a piece ends, and a sentence is spoken as soon as it is sure to
have ended. What follows may say that it has not: `3.` may become `3.15`. So the end of what has come waits for the next piece,
but not for long: where none comes for 0.3 s, a sentence that has ended is spoken. Only what may well go on waits for the next
piece, or for the end of the reply: a stop right after a digit, after the number of an item, an abbreviation (`Dr.`, `a.m.`,
`Inc.`), an initial, or a measure (`6 ft.`), a line break after 40 characters and more, and whatever stands in a link, a
formula or a piece of code that is open still. A small letter that comes too late (`example.` and then `com`) is spoken, after a
pause that should not be there.

## What is not spoken

- what stands in `<think>`, `<thinking>`, `<reasoning>`, `<tool_call>`, `<function_call>`, `<script>`, `<style>` and the
  like, and comments;
- blocks of code between lines of three and more backticks or tildes. A short piece of code in a line is read;
- marks of markdown, tags of HTML and SSML, addresses behind links, numbers of sources, smileys and emoji.

The first two are left out of captions and of `heard_text`, too. All else is shown in captions as it was typed.

Markdown is not handed to a general parser: captions have to know from which characters a word comes, and a parser wants a
whole block, which a stream does not have when its first sentence is to be spoken. Tests compare the words with those that
`markdown-it-py` finds.

Letters of other scripts are refused with a message that names the word.
"""


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for rules in (*MARKUP, *WORDS):
        parts.append(f"## {rules.title}\n\n| written | said | rule |\n|---|---|---|")
        for rule in rules:
            policy = rule.policy
            for written, said in rule.examples.items():
                parts.append(f"| {_code(written)} | {said} | {policy} |")
                policy = ""
        parts.append("")
    parts.append(
        "## Words that sound in two ways\n\nParts of speech are told by a tagger (`I read it`, `a record`, `to record`). "
        "Beyond it:\n\n| rule | example | sounds |\n|---|---|---|"
    )
    for reading in READINGS:
        policy = reading.policy
        for written, phonemes in reading.examples.items():
            parts.append(f"| {policy} | {written} | `{phonemes}` |")
            policy = ""
    return "\n".join(parts) + "\n"


def _code(written: str) -> str:
    """As code in a cell; a line break is shown as ⏎."""
    shown = written.replace("\n", "⏎").replace("|", "\\|")
    return f"`` {shown} ``" if "`" in shown else f"`{shown}`"


if __name__ == "__main__":
    print(page(), end="")
