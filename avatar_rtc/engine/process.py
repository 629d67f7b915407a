"""One life of the child process, seen by its parent, and the streams in it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from mmap import mmap
from typing import Any

from avatar_rtc.engine import worker
from avatar_rtc.engine.api import EngineFailure, ModelLoader
from avatar_rtc.engine.wire import (
    Alive,
    CallResult,
    Cancel,
    ChunkReady,
    CloseStream,
    Command,
    Next,
    Progress,
    Push,
    Ready,
    Release,
    Report,
    SharedChunks,
    Shutdown,
    Unloadable,
    Unpacker,
    Update,
    pack,
)
from avatar_rtc.rtf import RtfMeter
from model.chunk import AVChunk, StreamInfo, StreamSettings


@dataclass(frozen=True)
class EngineLimits:
    """How long an engine may take over things, in seconds.

    Attributes:
        start_s: from the start of the process to a loaded, warm model.
        progress_s: without a sign of life while something is wanted of it. One step of the model must stay far below this.
        open_s: how long ``open`` waits for an engine that is restarting.
        close_s: between being asked to end and being killed.
        first_restart_s: pause before the first restart; it doubles with each further one, up to ``last_restart_s``.
        last_restart_s: the longest pause.
    """

    start_s: float = 300.0
    progress_s: float = 10.0
    open_s: float = 15.0
    close_s: float = 3.0
    first_restart_s: float = 0.2
    last_restart_s: float = 30.0


class EngineCounters:
    """What an engine counts, over all lives of its process."""

    def __init__(self) -> None:
        self.chunks = 0
        self.late_chunks = 0
        self.stage_s: dict[str, float] = {}
        self.rtf_warm_up = 0.0
        self.rtf = RtfMeter(1)

    def add_chunk(self, stage_s: Mapping[str, float], copy_s: float, duration_s: float, *, late: bool) -> None:
        self.chunks += 1
        self.late_chunks += late
        for stage, seconds in (*stage_s.items(), ("copy", copy_s)):
            self.stage_s[stage] = self.stage_s.get(stage, 0.0) + seconds
        self.rtf.add(sum(stage_s.values()), duration_s)


class EngineProcess(asyncio.Protocol):
    """One life of the child process, from its start to its end, and the parent's end of the socket.

    It ends once, through ``end(reason)``, whoever notices first: the closed socket, a limit, or a close that was asked for.
    Then the process is killed, and everything that waits for it gets an ``EngineFailure``.
    """

    def __init__(
        self, load: ModelLoader, limits: EngineLimits, counters: EngineCounters, on_progress: Callable[[str], None]
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[StreamInfo] = self.loop.create_future()
        self.ended: asyncio.Future[str] = self.loop.create_future()
        self.streams: dict[int, ProcessStream] = {}
        self.info: StreamInfo | None = None
        self._limits = limits
        self._counters = counters
        self._on_progress = on_progress
        self._numbers = itertools.count()
        self._calls: dict[int, asyncio.Future[float]] = {}
        self._unpacker = Unpacker()
        self._chunks: SharedChunks | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._is_reaped = False
        self._transport: asyncio.Transport | None = None
        self._heard_s = self.loop.time()
        self._memory_fd = _nameless_memory()
        self._parent_end, child_end = socket.socketpair()
        # A daemon, so that an interpreter that exits without closing the engine ends it instead of waiting for it.
        self._child = multiprocessing.get_context("spawn").Process(
            target=worker.run, args=(child_end, load, os.getpid()), name="avatar-rtc engine", daemon=True
        )
        self._child.start()
        socket.send_fds(self._parent_end, [b"m"], [self._memory_fd])
        # Now only the child holds its end, so that its death closes the socket.
        child_end.close()

    @property
    def pid(self) -> int:
        assert self._child.pid is not None
        return self._child.pid

    async def begin(self) -> StreamInfo:
        """Wait until the model is loaded and warm. Raises as ``Engine.start``; then this life is over."""
        await self.loop.create_connection(lambda: self, sock=self._parent_end)
        interval_s = self._limits.progress_s / 4
        self._watchdog = self.loop.call_later(interval_s, self._watch, self.loop.time() + interval_s)
        try:
            async with asyncio.timeout(self._limits.start_s):
                self.info = await asyncio.shield(self.ready)
        except TimeoutError:
            self.end(f"the model was not ready within {self._limits.start_s:g} s")
            raise EngineFailure(self.ended.result()) from None
        return self.info

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._heard_s = self.loop.time()
        for report in self._unpacker.feed(data):
            assert isinstance(report, Report)
            if not self.ended.done():
                self._on_report(report)

    def connection_lost(self, error: Exception | None) -> None:
        self.end(
            "the engine process ended"
            if self.ready.done()
            else "the engine process ended while it loaded; see what it wrote above"
        )

    # Talking to the child

    def send(self, command: Command) -> None:
        """Raises ``EngineFailure`` when this life is over."""
        if self.ended.done():
            raise EngineFailure(self.ended.result())
        assert self._transport is not None
        if not self._is_busy:
            self._heard_s = self.loop.time()
        self._transport.write(pack(command))

    async def call(self, make: Callable[[int], Command]) -> float:
        """Send the command that ``make(call number)`` makes, and wait for its answer: the length of what was pushed."""
        number = self.new_number()
        self.send(make(number))
        answer: asyncio.Future[float] = self.loop.create_future()
        self._calls[number] = answer
        return await answer

    def new_number(self) -> int:
        return next(self._numbers)

    def _on_report(self, report: Report) -> None:
        match report:
            case Progress():
                self._on_progress(report.message)
            case Ready():
                self._chunks = SharedChunks(mmap(self._memory_fd, SharedChunks.size_bytes(report.info)), report.info)
                # What an earlier life measured says nothing of this one.
                self._counters.rtf_warm_up = report.rtf
                self._counters.rtf = RtfMeter(report.info.chunks_per_block, report.rtf)
                self.ready.set_result(report.info)
            case Unloadable():
                _fail(self.ready, report.error)
                self.end(str(report.error))
            case CallResult():
                waiting = self._calls.pop(report.call)
                if report.error is not None:
                    _fail(waiting, report.error)
                elif not waiting.done():
                    waiting.set_result(report.length_s)
            case ChunkReady():
                self._on_chunk(report)
            case Alive():
                pass

    def _on_chunk(self, ready: ChunkReady) -> None:
        """Copy a chunk out, give its slot back, and hand it to its stream, if that is still open."""
        assert self._chunks is not None
        started_s = time.perf_counter()
        chunk = self._chunks.read(ready)
        copy_s = time.perf_counter() - started_s
        self.send(Release(ready.slot))
        stream = self.streams.get(ready.stream)
        late = stream is not None and time.monotonic() > stream.deadline_s
        self._counters.add_chunk(ready.stage_s, copy_s, chunk.duration_s, late=late)
        if stream is not None:
            stream.deliver(chunk)

    def forget(self, number: int) -> None:
        """Close a stream of this life."""
        del self.streams[number]
        self.send(CloseStream(number))

    # The end

    @property
    def _is_busy(self) -> bool:
        return bool(self._calls) or any(stream.is_waiting for stream in self.streams.values())

    def _watch(self, due_s: float) -> None:
        """Look whether a child of which something is wanted has said anything lately."""
        if self.ended.done():
            return
        now_s = self.loop.time()
        interval_s = self._limits.progress_s / 4
        if now_s - due_s > interval_s:
            # This loop itself stood still, and maybe the child with it: a paused container, a debugger.
            self._heard_s = now_s
        elif self.ready.done() and self._is_busy and now_s - self._heard_s > self._limits.progress_s:
            self.end(f"the engine made no progress for {self._limits.progress_s:g} s")
            return
        self._watchdog = self.loop.call_later(interval_s, self._watch, now_s + interval_s)

    def end(self, reason: str) -> None:
        """Kill the child and fail everything that waits for it; idempotent."""
        if self.ended.done():
            return
        self.ended.set_result(reason)
        self._child.kill()
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._transport is not None:
            self._transport.abort()
        failure = EngineFailure(reason)
        _fail(self.ready, failure)
        for waiting in self._calls.values():
            _fail(waiting, failure)
        self._calls.clear()
        for stream in self.streams.values():
            stream.fail(failure)
        self.streams.clear()

    async def shut_down(self) -> None:
        """Ask the child to end, kill it if it does not, and wait until it is gone. One that still loads would not hear."""
        if not self.ended.done() and self.ready.done():
            self.send(Shutdown())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.close_s):
                    await asyncio.shield(self.ended)
        self.end("the engine was closed")
        await self.reap()

    async def reap(self) -> None:
        """Wait until the killed process is gone, and free what belongs to it; idempotent."""
        if self._is_reaped:
            return
        gone = self.loop.create_future()
        self.loop.add_reader(self._child.sentinel, gone.cancel)
        try:
            await asyncio.wait([gone])
        finally:
            self.loop.remove_reader(self._child.sentinel)
        self._child.join()
        self._child.close()
        self._parent_end.close()
        if self._chunks is not None:
            self._chunks.memory.close()
        os.close(self._memory_fd)
        self._is_reaped = True


class ProcessStream:
    """The parent's side of a stream: at most one chunk is asked for at a time."""

    def __init__(self, process: EngineProcess, number: int) -> None:
        self.deadline_s = math.inf
        self._process = process
        self._number = number
        self._chunk: asyncio.Future[AVChunk] | None = None
        self._is_pulled = False
        self._failure: EngineFailure | None = None

    @property
    def is_waiting(self) -> bool:
        return self._chunk is not None and not self._chunk.done()

    async def push(self, reply_id: str, text: str, *, last: bool = True) -> float:
        self._check()
        return await self._process.call(lambda call: Push(call, self._number, reply_id, text, last))

    async def next(self, deadline_s: float) -> AVChunk:
        self._check()
        assert not self._is_pulled, "one next() at a time"
        if self._chunk is None or (self.is_waiting and deadline_s != self.deadline_s):
            self._process.send(Next(self._number, deadline_s))
        self.deadline_s = deadline_s
        if self._chunk is None:
            self._chunk = self._process.loop.create_future()
        self._is_pulled = True
        try:
            # A caller that gives up loses nothing: its next call gets this chunk.
            chunk = await asyncio.shield(self._chunk)
        finally:
            self._is_pulled = False
        self._chunk = None
        return chunk

    async def cancel(self) -> None:
        self._check()
        await self._process.call(lambda call: Cancel(call, self._number))
        if self._chunk is not None and self._chunk.done() and not self._is_pulled:
            self._chunk = None

    async def update(self, settings: StreamSettings) -> None:
        self._check()
        await self._process.call(lambda call: Update(call, self._number, settings))

    async def close(self) -> None:
        if self._failure is not None:
            return
        self._process.forget(self._number)
        self.fail(EngineFailure("the stream was closed"))

    def deliver(self, chunk: AVChunk) -> None:
        if self._chunk is not None and not self._chunk.done():
            self._chunk.set_result(chunk)

    def fail(self, failure: EngineFailure) -> None:
        self._failure = failure
        if self._chunk is not None:
            _fail(self._chunk, failure)

    def _check(self) -> None:
        if self._failure is not None:
            raise EngineFailure(str(self._failure))


def _fail(waiting: asyncio.Future[Any], error: BaseException) -> None:
    """Give whoever waits an exception; one that nobody waits for is not worth a line in the log."""
    if not waiting.done():
        waiting.set_exception(error)
        waiting.exception()


def _nameless_memory() -> int:
    """A file in memory that no name leads to, so that nothing can be left behind, whoever is killed when."""
    if sys.platform == "linux":
        return os.memfd_create("avatar-rtc-chunks")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
