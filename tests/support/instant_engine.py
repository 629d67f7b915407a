"""An engine in this process: the deterministic fake model behind the ``Engine`` protocol, with faults at the push of a button."""

from __future__ import annotations

import asyncio
import contextlib

from avatar_rtc.engine.api import EngineFailure, EngineState, EngineStats
from avatar_rtc.fake import INFO, FakeModel, FakeOptions, FakeStream
from model.chunk import AVChunk, StreamInfo, StreamSettings
from model.errors import PromptError


class InstantEngine:
    """Implements ``avatar_rtc.engine.api.Engine``.

    Args:
        chunk_s: time that a chunk takes.
        transit_s: time that a finished chunk is under way; no cancel reaches it there.
        rtf: the real-time factor that it says it has.
        spent_s: time of computing that it says a chunk took.

    Attributes:
        streams: those that are open.
        opened: settings of all streams ever opened.
        refuse_voice: a voice that the model cannot use.
    """

    def __init__(
        self,
        chunk_s: float = 0.0,
        transit_s: float = 0.0,
        options: FakeOptions | None = None,
        rtf: float = 0.0,
        spent_s: float = 0.0,
    ) -> None:
        self.chunk_s = chunk_s
        self.transit_s = transit_s
        self.rtf = rtf
        self.spent_s = spent_s
        self.num_chunks = 0
        self.streams: list[InstantStream] = []
        self.opened: list[StreamSettings] = []
        self.refuse_voice: str | None = None
        self._model = FakeModel(options or FakeOptions(flash_and_beep=False))
        self._up = asyncio.Event()
        self._closed = False

    @property
    def info(self) -> StreamInfo:
        return INFO

    async def start(self) -> None:
        self._up.set()

    async def open(self, settings: StreamSettings) -> InstantStream:
        await self._up.wait()
        self.check(settings)
        stream = InstantStream(self, self._model.open(settings))
        self.opened.append(settings)
        self.streams.append(stream)
        return stream

    async def close(self) -> None:
        self._closed = True
        self.crash()

    def stats(self) -> EngineStats:
        state: EngineState = "closed" if self._closed else "ready" if self._up.is_set() else "restarting"
        return EngineStats(
            state,
            "as the test says",
            chunks=self.num_chunks,
            stage_s={"dit": self.num_chunks * self.spent_s},
            rtf_warm_up=self.rtf,
            rtf_p50=self.rtf,
            rtf_p95=self.rtf,
        )

    def check(self, settings: StreamSettings) -> None:
        if settings.voice == self.refuse_voice:
            raise PromptError(f"There is no voice {settings.voice!r}. Describe another one.")

    def crash(self) -> None:
        """All streams are lost; ``start`` brings the engine back."""
        self._up.clear()
        for stream in self.streams:
            stream.lost.set()
        self.streams.clear()


class InstantStream:
    def __init__(self, engine: InstantEngine, stream: FakeStream) -> None:
        self.lost = asyncio.Event()
        self.updates: list[StreamSettings] = []
        self.pushed: list[str] = []
        self._engine = engine
        self._stream = stream

    async def push(self, reply_id: str, text: str, *, last: bool = True) -> float:
        self._check()
        length_s = self._stream.push(reply_id, text, last=last)
        self.pushed.append(text)
        return length_s

    async def next(self, deadline_s: float) -> AVChunk:
        self._check()
        while (chunk := self._stream.step()) is None:
            await self._nap(self._engine.chunk_s / 4)
            self._check()
        await asyncio.sleep(self._engine.transit_s)
        self._engine.num_chunks += 1
        return chunk

    async def cancel(self) -> None:
        self._check()
        self._stream.cancel()

    async def update(self, settings: StreamSettings) -> None:
        self._check()
        self._engine.check(settings)
        self.updates.append(settings)
        self._stream.update(settings)

    async def close(self) -> None:
        if self in self._engine.streams:
            self._engine.streams.remove(self)

    async def _nap(self, duration_s: float) -> None:
        """A crash ends it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(duration_s):
                await self.lost.wait()

    def _check(self) -> None:
        if self.lost.is_set():
            raise EngineFailure("the engine was made to crash")
