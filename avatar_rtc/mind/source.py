"""What a source of replies is: whatever makes up, piece by piece, what is said next in a conversation."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from signaling.vocabulary import Tool


@dataclass(frozen=True)
class Said:
    """What one side has said: the user, or the avatar as far as it was heard."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True)
class ToolCall:
    """A tool is to be called. ``arguments`` are JSON, as the model wrote them: they need not be valid."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ToolUse:
    """Tools that were called, and what came of each, in the same order.

    Attributes:
        text: what was said before they were called, in the same turn.
    """

    calls: tuple[ToolCall, ...]
    outputs: tuple[str, ...]
    text: str = ""


Message = Said | ToolUse


@dataclass(frozen=True)
class Brief:
    """What a session adds to what the config tells a source: instructions, behind the config's, and tools that may be called."""

    instructions: str = ""
    tools: tuple[Tool, ...] = ()

    def and_also(self, instructions: str | None) -> Brief:
        """With further instructions behind these."""
        return Brief("\n\n".join(filter(None, (self.instructions, instructions))), self.tools)


SPOKEN = {
    "llm_unreachable": "Sorry, my language model does not answer. Please try again later.",
    "llm_refused": "Sorry, my language model refuses to answer. Whoever runs this server has to look into it.",
    "llm_busy": "Sorry, too much is being asked of my language model. Please try again in a minute.",
    "llm_timeout": "Sorry, this takes me too long. Please ask again.",
    "llm_empty": "Sorry, I have no answer to that.",
    "llm_broken": "Sorry, I have lost my thread. Please ask again.",
}
"""What a caller hears for each code of a ``SourceError``."""


class SourceError(RuntimeError):
    """There is no reply, or no more of it.

    Args:
        code: one of ``SPOKEN``.
        message: for whoever reads events; nothing of it is secret.
        detail: for the log; may hold words of the server that was asked, but no key.
    """

    def __init__(self, code: str, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail or message

    @property
    def spoken(self) -> str:
        """The same for the caller's ears."""
        return SPOKEN[self.code]


class ReplySource(Protocol):
    """Serves any number of conversations at once, and keeps nothing of them."""

    def reply(self, messages: Sequence[Message], brief: Brief) -> AsyncGenerator[str | ToolCall]:
        """What is said next: pieces of text as they come, and tools that are to be called before it can go on.

        Closing the generator gives up at once, wherever it is.

        Args:
            messages: the conversation so far; the last one is the user's, or a use of tools. None where the source is to begin.
            brief: of the session.

        Raises:
            SourceError: also in the middle.
        """

    async def close(self) -> None:
        """Let go of what it holds."""
