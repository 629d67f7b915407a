"""What a session sees of an engine: streams to push text into and to pull chunks from.

What it pulls from may be a process (:mod:`avatar_rtc.engine.process_engine`) that runs the network or the deterministic fake, or
an engine of a test; the session cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from avatar_rtc.rtf import in_words, keeps_up
from model.chunk import AVChunk, StreamInfo, StreamSettings
from model.stream import Model

OnProgress = Callable[[str], None]
"""Hears how loading goes on, in words for people."""

ModelLoader = Callable[[OnProgress], Model]


class EngineFailure(RuntimeError):
    """The engine crashed or hung. It is restarted by its owner; this stream is gone, and a new one may be opened."""

    code = "engine_failed"


class EngineStream(Protocol):
    """One speaker: text goes in, chunks come out. Calls of one stream come from one event loop."""

    async def push(self, reply_id: str, text: str, *, last: bool = True) -> float:
        """Append a line to what is to be said. ``last`` closes the reply; until then more pieces of it may follow.

        Returns when the text is accepted: it was normalised and can be pronounced. What it returns is how many seconds the line
        will be heard for, as well as the model knows.

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
        """Forget what is not yet in a chunk. A block in work is abandoned at its next step and done again as listening.

        A chunk that was finished before may still reach a ``next`` that waits at this moment, before this returns; a ``next``
        called after this returned gets nothing older.
        """

    async def update(self, settings: StreamSettings) -> None:
        """Change look and voice from the next block on."""

    async def close(self) -> None:
        """Free everything; idempotent; never raises."""


EngineState = Literal["new", "starting", "ready", "restarting", "closed"]


@dataclass(frozen=True)
class EngineStats:
    """What an engine is doing and has done. Totals only grow, over restarts too.

    Attributes:
        state: only a ``ready`` engine makes chunks.
        message: what it is busy with while it starts, or why it restarts; for people.
        streams: open now.
        restarts: after crashes and hangs.
        chunks: finished so far.
        late_chunks: of these, finished after their deadline.
        stage_s: seconds of computing by stage (``text``, ``dit``, ``vae``, ``audio``; ``copy`` is the way out of shared memory).
        rtf_warm_up: real-time factor of the warm-up, of one stream: seconds of computing a second of media.
        rtf_p50, rtf_p95: of the latest blocks; before the first block, that of the warm-up.
    """

    state: EngineState
    message: str
    streams: int = 0
    restarts: int = 0
    chunks: int = 0
    late_chunks: int = 0
    stage_s: Mapping[str, float] = field(default_factory=dict)
    rtf_warm_up: float = 0.0
    rtf_p50: float = 0.0
    rtf_p95: float = 0.0


class Engine(Protocol):
    """What the service needs of an engine."""

    @property
    def info(self) -> StreamInfo:
        """Rates and sizes; known once ``start`` has returned."""

    async def start(self) -> None:
        """Load, warm up, be ready. Raises ``EngineFailure`` or ``model.errors.ModelError`` with a remedy in its message."""

    async def open(self, settings: StreamSettings) -> EngineStream:
        """A new stream. Waits for an engine that restarts, within a limit; then raises ``EngineFailure``."""

    async def close(self) -> None:
        """End all streams and the process; idempotent."""

    def stats(self) -> EngineStats:
        """For readiness and metrics; cheap."""


def speed_of(engine: Engine) -> dict[str, Any]:
    """How fast an engine is, for clients: ``speed`` in seconds of speech a second, and ``notice``, a sentence where that is not
    real time. Empty where nothing was measured."""
    factor = engine.stats().rtf_p50
    if factor <= 0:
        return {}
    return {"speed": round(1 / factor, 2)} | ({} if keeps_up(factor) else {"notice": in_words(factor)})
