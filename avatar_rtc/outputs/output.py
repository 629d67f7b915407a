"""What all outputs of a session besides its viewers have in common: a life of their own, and a state that is told."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from signaling.vocabulary import OutputKind, OutputState


class Output(ABC):
    """One place that a stream goes to.

    Args:
        on_change: told when the state is another one. Must not raise.

    Attributes:
        keeps_session: a session that was made without a viewer goes on for it, though nothing is said.
        output_id: names it in its session.
        state: ``ended`` and ``failed`` are final.
        message: for people, why it is so, where nobody asked for that.
    """

    kind: OutputKind
    keeps_session = True

    def __init__(self, state: OutputState, on_change: Callable[[Output], None]) -> None:
        self.output_id = secrets.token_hex(8)
        self.state = state
        self.message: str | None = None
        self.began = datetime.now(UTC)
        self._on_change = on_change

    @property
    def is_over(self) -> bool:
        return self.state in ("ended", "failed")

    @property
    @abstractmethod
    def is_seen(self) -> bool:
        """Whether what is sent now arrives, so that the stream is to go on for it."""

    @property
    def file_name(self) -> str | None:
        """Of the file that it leaves, where it does and there is one."""
        return None

    def describe(self) -> dict[str, Any]:
        """For ``GET``: how it stands."""
        return {
            "id": self.output_id,
            "type": self.kind,
            "state": self.state,
            "message": self.message,
            "started_at": self.began.isoformat(timespec="milliseconds"),
        }

    @abstractmethod
    async def run(self) -> None:
        """Live until ``stop`` is called, or it cannot go on."""

    @abstractmethod
    def stop(self) -> None:
        """End it; returns at once, ``run`` does the rest. Idempotent."""

    def fail(self, message: str) -> None:
        """It is over for a reason that nobody wanted."""
        if not self.is_over:
            self._change("failed", message)

    def _change(self, state: OutputState, message: str | None = None) -> None:
        self.state, self.message = state, message
        self._on_change(self)
