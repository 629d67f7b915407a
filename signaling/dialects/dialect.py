"""What a dialect is: how one client and the server write commands and events. The endpoint that a client calls chooses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from signaling.vocabulary import Command, Event


@dataclass(frozen=True)
class Message:
    """What a client has sent.

    Attributes:
        commands: what it asks for, in this order.
        answers: frames that it is sent at once, whatever becomes of the commands.
    """

    commands: Sequence[Command] = ()
    answers: Sequence[str] = ()


class Dialect(Protocol):
    """One object a client: it may remember what it was told, and what it has told."""

    def read(self, frame: str | bytes) -> Message:
        """Read a frame. Raises ``signaling.vocabulary.EventError``, which the client is told."""

    def write(self, event: Event, seq: int | None, max_bytes: int) -> Sequence[str]:
        """Frames that tell an event; none where this protocol has no word for it.

        Args:
            seq: number of an event of the session; None for what this client alone is told.
            max_bytes: what one frame may have in UTF-8. What is longer is cut, or left out.
        """
