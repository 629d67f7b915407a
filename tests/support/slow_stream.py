"""A stream of the fake model as a playout sees it, on a simulated clock: chunks take as long as a test says."""

from __future__ import annotations

from collections.abc import Callable

from avatar_rtc.fake import FakeStream
from model.chunk import AVChunk
from tests.support.clock import SimulatedClock


class SlowStream:
    """Implements ``avatar_rtc.media.playout.ChunkSource``.

    Args:
        make: the next chunk.
        took_s: how long it takes, given its duration.
    """

    def __init__(self, clock: SimulatedClock, make: Callable[[], AVChunk], took_s: Callable[[float], float]) -> None:
        self._clock = clock
        self._make = make
        self._took_s = took_s

    @classmethod
    def of(cls, clock: SimulatedClock, stream: FakeStream, took_s: Callable[[float], float]) -> SlowStream:
        def make() -> AVChunk:
            while (chunk := stream.step()) is None:
                pass
            return chunk

        return cls(clock, make, took_s)

    async def next(self, deadline_s: float) -> AVChunk:
        chunk = self._make()
        await self._clock.sleep(self._took_s(chunk.duration_s))
        return chunk
