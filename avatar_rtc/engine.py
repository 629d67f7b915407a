"""The engine: a process of its own that owns the devices and turns text into chunks.

A session holds an ``EngineStream`` and pulls. What it pulls from may be the process (``ProcessEngine``), running the network or
the deterministic fake; the session cannot tell.
"""

from __future__ import annotations

from typing import Protocol

from model.chunk import AVChunk, StreamInfo, StreamSettings


class EngineFailure(RuntimeError):
    """The engine crashed or hung. It is restarted by its owner; this stream is gone, and a new one may be opened."""

    code = "engine_failed"


class EngineStream(Protocol):
    """One speaker: text goes in, chunks come out. Calls of one stream come from one event loop."""

    async def push(self, reply_id: str, text: str, *, last: bool = True) -> None:
        """Append a line to what is to be said. ``last`` closes the reply; until then more pieces of it may follow.

        Returns when the text is accepted: it was normalised and can be pronounced.

        Raises:
            model.errors.PromptError: the text is empty, too long, or cannot be pronounced. The stream goes on.
            EngineFailure: the engine died.
        """

    async def next(self, deadline_s: float) -> AVChunk:
        """The next chunk, speaking or listening. Never ends by itself.

        Args:
            deadline_s: ``time.monotonic()`` at which the session would run dry. The engine serves the earliest deadline first.

        Raises:
            EngineFailure: the engine died or exceeded its time limit.
        """

    async def cancel(self) -> None:
        """Forget everything that is not yet in a chunk. A block in work is abandoned at its next step and done again as listening."""

    async def update(self, settings: StreamSettings) -> None:
        """Change look and voice from the next block on."""

    async def close(self) -> None:
        """Free everything; idempotent; never raises."""


class Engine(Protocol):
    """What the service needs of an engine."""

    @property
    def info(self) -> StreamInfo:
        """Rates and sizes; known once ``start`` has returned."""

    async def start(self) -> None:
        """Load, warm up, be ready. Raises ``EngineFailure`` or ``model.errors.ModelError`` with a remedy in its message."""

    async def open(self, settings: StreamSettings) -> EngineStream:
        """A new stream."""

    async def close(self) -> None:
        """End all streams and the process; idempotent."""
