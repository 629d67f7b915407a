"""The prompt grammar: ``scene <S>line<E> ... <AUDCAP>voice, ambience<ENDAUDCAP>``; text without tags is one line."""

from __future__ import annotations

import re
from dataclasses import dataclass

from model.errors import PromptError

MAX_PROMPT_CHARS = 4000

_TAG = re.compile(r"<(S|E|AUDCAP|ENDAUDCAP)>")
_EMPTY_LINES = re.compile(r"\n{3,}")
_CLOSES = {"S": "E", "AUDCAP": "ENDAUDCAP"}
_EXAMPLE = "Write: scene <S>what is said<E> <AUDCAP>voice<ENDAUDCAP>, or plain text without tags."


@dataclass(frozen=True)
class Prompt:
    """A parsed prompt. ``scene`` and ``voice`` are None where the prompt leaves them as they are.

    Attributes:
        scene: everything outside the tags, joined.
        lines: what is said, in order; at least one, none empty.
        voice: the words between ``<AUDCAP>`` and ``<ENDAUDCAP>``.
    """

    scene: str | None
    lines: tuple[str, ...]
    voice: str | None


def _folded(text: str) -> str:
    """Single blanks between words, single line breaks or empty lines between lines."""
    return _EMPTY_LINES.sub("\n\n", "\n".join(" ".join(line.split()) for line in text.splitlines())).strip()


def parse_prompt(text: str) -> Prompt:
    """Parse a prompt; blanks are folded, and lines to say keep their line breaks.

    Raises:
        PromptError: it is empty or too long, a tag is not closed, not opened or nested, or a line or the voice is empty.
    """
    if len(text) > MAX_PROMPT_CHARS:
        raise PromptError(f"The prompt has {len(text)} characters; the limit is {MAX_PROMPT_CHARS}. Send it in pieces.")
    scene: list[str] = []
    lines: list[str] = []
    voices: list[str] = []
    opened: str | None = None
    # With one group in the pattern, split yields text, tag, text, tag, ..., text.
    parts = _TAG.split(text)
    for tag, part in zip([None, *parts[1::2]], parts[0::2], strict=True):
        content = _folded(part)
        if tag in _CLOSES:
            if opened is not None:
                raise PromptError(f"<{tag}> inside <{opened}>: close it with <{_CLOSES[opened]}> first. {_EXAMPLE}")
            opened = tag
            if not content:
                raise PromptError(f"Nothing between <{tag}> and <{_CLOSES[tag]}>. {_EXAMPLE}")
            (lines if tag == "S" else voices).append(content if tag == "S" else " ".join(content.split()))
            continue
        if tag is not None:
            if opened is None or _CLOSES[opened] != tag:
                raise PromptError(f"<{tag}> closes nothing. {_EXAMPLE}")
            opened = None
        if content:
            scene.append(content if len(parts) == 1 else " ".join(content.split()))
    if opened is not None:
        raise PromptError(f"<{opened}> is not closed: <{_CLOSES[opened]}> is missing. {_EXAMPLE}")
    if len(parts) == 1:
        if not scene:
            raise PromptError("The text is empty. Send what is to be said.")
        return Prompt(scene=None, lines=(scene[0],), voice=None)
    if not lines:
        raise PromptError(f"The prompt has no line to say. {_EXAMPLE}")
    if len(voices) > 1:
        raise PromptError("The prompt has more than one <AUDCAP>. Describe the voice once.")
    return Prompt(scene=" ".join(scene) or None, lines=tuple(lines), voice=voices[0] if voices else None)
