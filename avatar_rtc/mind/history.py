"""What a source is told of a conversation: what the user has said, and of the avatar's part what was heard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from avatar_rtc.mind.source import Message, Said, ToolUse


class History:
    """The latest messages of a conversation.

    Args:
        max_chars: the oldest are forgotten where all have more characters; never those since the user's latest.
        messages: so far.
    """

    def __init__(self, max_chars: int, messages: Sequence[Message] = ()) -> None:
        self._max_chars = max_chars
        self._messages = list(messages)

    @property
    def messages(self) -> Sequence[Message]:
        """From the oldest on; neither side speaks twice in a row."""
        return tuple(self._messages)

    def recall(self, messages: Sequence[Message]) -> None:
        """Go on after messages of before."""
        self._messages = list(messages)

    def add_user(self, text: str) -> None:
        """The user says something. Where nothing was answered to what came before, it is one message with that."""
        self._say("user", text)
        self._forget_oldest()

    def with_user(self, text: str) -> Sequence[Message]:
        """What ``messages`` are if the user says this next."""
        history = History(self._max_chars, self._messages)
        history.add_user(text)
        return history.messages

    def add_tool_use(self, use: ToolUse) -> None:
        """Tools were called for the turn that goes on."""
        self._messages.append(use)

    def end_turn(self) -> None:
        """Nothing more is made up for the turn that goes on: from now on only what is heard of it counts."""
        for index in range(self._start_of_turn(), len(self._messages)):
            if isinstance(use := self._messages[index], ToolUse):
                self._messages[index] = replace(use, text="")

    def add_heard(self, text: str) -> None:
        """So much was heard of a reply, in the avatar's voice."""
        if text:
            self._say("assistant", text)

    def _say(self, role: str, text: str) -> None:
        last = self._messages[-1] if self._messages else None
        if isinstance(last, Said) and last.role == role:
            self._messages[-1] = replace(last, text=f"{last.text}\n{text}")
        else:
            self._messages.append(Said("user" if role == "user" else "assistant", text))

    def _start_of_turn(self) -> int:
        """Index of the user's latest message; 0 where there is none."""
        users = (i for i in reversed(range(len(self._messages))) if _is_user(self._messages[i]))
        return next(users, 0)

    def _forget_oldest(self) -> None:
        """Whole exchanges: what is left begins with the user."""
        excess = sum(map(_num_chars, self._messages)) - self._max_chars
        keep_from = self._start_of_turn()
        first = 0
        while first < keep_from and (excess > 0 or (first > 0 and not _is_user(self._messages[first]))):
            excess -= _num_chars(self._messages[first])
            first += 1
        del self._messages[:first]


def _is_user(message: Message) -> bool:
    return isinstance(message, Said) and message.role == "user"


def _num_chars(message: Message) -> int:
    if isinstance(message, Said):
        return len(message.text)
    return len(message.text) + sum(len(call.arguments) for call in message.calls) + sum(map(len, message.outputs))
