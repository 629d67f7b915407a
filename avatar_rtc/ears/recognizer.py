"""What a recogniser is: whatever makes words of speech."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class RecognitionError(RuntimeError):
    """There are no words.

    Args:
        code: stable, one of docs/protocol.md.
        message: for whoever reads events; nothing of it is secret.
        detail: for the log; may hold words of the server that was asked, but no key.
    """

    def __init__(self, code: str, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail or message


class Recognizer(Protocol):
    """Serves any number of sessions, and keeps nothing of them."""

    async def recognize(self, samples: np.ndarray) -> str:
        """The words of one turn, or of its beginning; empty where there are none. Never computes on the event loop.

        Args:
            samples: float32 [S] at 16 kHz, half a minute at most.

        Raises:
            RecognitionError: it could not be asked, or has not understood the question.
        """

    async def close(self) -> None:
        """Let go of what it holds."""
