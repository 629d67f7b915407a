"""The engine: a process of its own that owns the devices and turns text into chunks.

A session holds an ``EngineStream`` and pulls. What it pulls from may be the process (``ProcessEngine``), running the network or
the deterministic fake; the session cannot tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from mmap import mmap
from typing import Any, Literal, Protocol

from avatar_rtc import engine_worker
from avatar_rtc.engine_worker import (
    Alive,
    Answer,
    Cancel,
    ChunkReady,
    CloseStream,
    Command,
    ModelLoader,
    Next,
    Open,
    Progress,
    Push,
    Ready,
    Release,
    Report,
    Shutdown,
    Slots,
    Unloadable,
    Unpacker,
    Update,
    pack,
)
from avatar_rtc.pace import Pace, in_words, keeps_up
from model.chunk import AVChunk, StreamInfo, StreamSettings
from model.errors import ModelError

logger = logging.getLogger(__name__)


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
        rtf_p50, rtf_p95: real-time factor of the latest blocks: seconds of computing a second of media. Before the first block,
            that of the warm-up.
    """

    state: EngineState
    message: str
    streams: int = 0
    restarts: int = 0
    chunks: int = 0
    late_chunks: int = 0
    stage_s: Mapping[str, float] = field(default_factory=dict)
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


class _Totals:
    """What is counted over all lives of the process."""

    def __init__(self) -> None:
        self.chunks = 0
        self.late_chunks = 0
        self.stage_s: dict[str, float] = {}
        self.pace = Pace(1)

    def add_chunk(self, stage_s: Mapping[str, float], copy_s: float, duration_s: float, *, late: bool) -> None:
        self.chunks += 1
        self.late_chunks += late
        for stage, seconds in (*stage_s.items(), ("copy", copy_s)):
            self.stage_s[stage] = self.stage_s.get(stage, 0.0) + seconds
        self.pace.add(sum(stage_s.values()), duration_s)


class _Life(asyncio.Protocol):
    """One life of the child process, from its start to its end, and the parent's end of the socket.

    It ends once, through ``end(reason)``, whoever notices first: the closed socket, a limit, or a close that was asked for.
    Then the process is killed, and everything that waits for it gets an ``EngineFailure``.
    """

    def __init__(self, load: ModelLoader, limits: EngineLimits, totals: _Totals, on_progress: Callable[[str], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[StreamInfo] = self.loop.create_future()
        self.ended: asyncio.Future[str] = self.loop.create_future()
        self.streams: dict[int, _ProcessStream] = {}
        self.info: StreamInfo | None = None
        self._limits = limits
        self._totals = totals
        self._on_progress = on_progress
        self._numbers = itertools.count()
        self._calls: dict[int, asyncio.Future[float]] = {}
        self._unpacker = Unpacker()
        self._slots: Slots | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._is_buried = False
        self._transport: asyncio.Transport | None = None
        self._heard_s = self.loop.time()
        self._memory_fd = _nameless_memory()
        self._parent_end, child_end = socket.socketpair()
        # A daemon, so that an interpreter that exits without closing the engine ends it instead of waiting for it.
        self._process = multiprocessing.get_context("spawn").Process(
            target=engine_worker.run, args=(child_end, load, os.getpid()), name="avatar-rtc engine", daemon=True
        )
        self._process.start()
        socket.send_fds(self._parent_end, [b"m"], [self._memory_fd])
        # Now only the child holds its end, so that its death closes the socket.
        child_end.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

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
                self._hear(report)

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

    def _hear(self, report: Report) -> None:
        match report:
            case Progress():
                self._on_progress(report.message)
            case Ready():
                self._slots = Slots(mmap(self._memory_fd, Slots.size_bytes(report.info)), report.info)
                # What an earlier life measured says nothing of this one.
                self._totals.pace = Pace(report.info.chunks_per_block, report.rtf)
                self.ready.set_result(report.info)
            case Unloadable():
                _fail(self.ready, report.error)
                self.end(str(report.error))
            case Answer():
                waiting = self._calls.pop(report.call)
                if report.error is not None:
                    _fail(waiting, report.error)
                elif not waiting.done():
                    waiting.set_result(report.length_s)
            case ChunkReady():
                self._take(report)
            case Alive():
                pass

    def _take(self, ready: ChunkReady) -> None:
        """Copy a chunk out, give its slot back, and hand it to its stream, if that is still open."""
        assert self._slots is not None
        started_s = time.perf_counter()
        chunk = self._slots.read(ready)
        copy_s = time.perf_counter() - started_s
        self.send(Release(ready.slot))
        stream = self.streams.get(ready.stream)
        late = stream is not None and time.monotonic() > stream.deadline_s
        self._totals.add_chunk(ready.stage_s, copy_s, chunk.duration_s, late=late)
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
        self._process.kill()
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
        await self.bury()

    async def bury(self) -> None:
        """Wait until the killed process is gone, and free what belongs to it; idempotent."""
        if self._is_buried:
            return
        gone = self.loop.create_future()
        self.loop.add_reader(self._process.sentinel, gone.cancel)
        try:
            await asyncio.wait([gone])
        finally:
            self.loop.remove_reader(self._process.sentinel)
        self._process.join()
        self._process.close()
        self._parent_end.close()
        if self._slots is not None:
            self._slots.memory.close()
        os.close(self._memory_fd)
        self._is_buried = True


class _ProcessStream:
    """The parent's side of a stream: at most one chunk is asked for at a time."""

    def __init__(self, life: _Life, number: int) -> None:
        self.deadline_s = math.inf
        self._life = life
        self._number = number
        self._chunk: asyncio.Future[AVChunk] | None = None
        self._is_pulled = False
        self._failure: EngineFailure | None = None

    @property
    def is_waiting(self) -> bool:
        return self._chunk is not None and not self._chunk.done()

    async def push(self, reply_id: str, text: str, *, last: bool = True) -> float:
        self._check()
        return await self._life.call(lambda call: Push(call, self._number, reply_id, text, last))

    async def next(self, deadline_s: float) -> AVChunk:
        self._check()
        assert not self._is_pulled, "one next() at a time"
        if self._chunk is None or (self.is_waiting and deadline_s != self.deadline_s):
            self._life.send(Next(self._number, deadline_s))
        self.deadline_s = deadline_s
        if self._chunk is None:
            self._chunk = self._life.loop.create_future()
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
        await self._life.call(lambda call: Cancel(call, self._number))
        if self._chunk is not None and self._chunk.done() and not self._is_pulled:
            self._chunk = None

    async def update(self, settings: StreamSettings) -> None:
        self._check()
        await self._life.call(lambda call: Update(call, self._number, settings))

    async def close(self) -> None:
        if self._failure is not None:
            return
        self._life.forget(self._number)
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


class ProcessEngine:
    """An engine in a child process, which is started again whenever it crashes or hangs.

    Its streams share the process and never wait for one another longer than a step of the model.
    """

    def __init__(
        self, load: ModelLoader, *, limits: EngineLimits | None = None, on_progress: Callable[[str], None] = logger.info
    ) -> None:
        """
        Args:
            load: makes the model in the child; it is pickled. See :func:`avatar_rtc.models.model_loader`.
            limits: time limits.
            on_progress: hears how loading goes on, in words for people.
        """
        self._load = load
        self._limits = limits or EngineLimits()
        self._on_progress = on_progress
        self._state: EngineState = "new"
        self._message = "not started"
        self._info: StreamInfo | None = None
        self._life: _Life | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._usable = asyncio.Event()
        self._totals = _Totals()
        self._restarts = 0

    @property
    def info(self) -> StreamInfo:
        assert self._info is not None, "start() first"
        return self._info

    @property
    def pid(self) -> int | None:
        """Of the child, while there is one."""
        return None if self._life is None or self._life.ended.done() else self._life.pid

    async def start(self) -> None:
        assert self._state == "new", "an engine starts once"
        self._state = "starting"
        self._life = self._new_life()
        try:
            self._info = await self._life.begin()
        except BaseException:
            await self.close()
            raise
        self._be_ready()
        self._supervisor = asyncio.create_task(self._supervise(self._life), name="engine supervisor")

    async def open(self, settings: StreamSettings) -> EngineStream:
        life = await self._wait_for_life()
        number = life.new_number()
        stream = _ProcessStream(life, number)
        life.streams[number] = stream
        try:
            await life.call(lambda call: Open(call, number, settings))
        except asyncio.CancelledError:
            await stream.close()
            raise
        except ModelError:
            del life.streams[number]
            raise
        return stream

    async def close(self) -> None:
        if self._state == "closed":
            return
        self._state, self._message = "closed", "closed"
        self._usable.set()
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
        if self._life is not None:
            await self._life.shut_down()

    def stats(self) -> EngineStats:
        totals = self._totals
        return EngineStats(
            state=self._state,
            message=self._message,
            streams=len(self._life.streams) if self._life is not None else 0,
            restarts=self._restarts,
            chunks=totals.chunks,
            late_chunks=totals.late_chunks,
            stage_s=dict(totals.stage_s),
            rtf_p50=totals.pace.percentile(50),
            rtf_p95=totals.pace.percentile(95),
        )

    def _new_life(self) -> _Life:
        return _Life(self._load, self._limits, self._totals, self._progress)

    def _progress(self, message: str) -> None:
        self._message = message
        self._on_progress(message)

    def _be_ready(self) -> None:
        self._state, self._message = "ready", "ready"
        self._usable.set()

    async def _wait_for_life(self) -> _Life:
        assert self._state != "new", "start() first"
        if self._life is not None and self._life.ended.done() and self._state != "closed":
            self._usable.clear()
        try:
            async with asyncio.timeout(self._limits.open_s):
                await self._usable.wait()
        except TimeoutError:
            raise EngineFailure(f"the engine is restarting ({self._message}); try again in a few seconds") from None
        if self._state == "closed":
            raise EngineFailure("the engine is closed")
        assert self._life is not None
        return self._life

    async def _supervise(self, life: _Life) -> None:
        """Start the process again whenever it has ended, with growing pauses."""
        pause_s = self._limits.first_restart_s
        while True:
            began_s = time.monotonic()
            reason = await asyncio.shield(life.ended)
            self._usable.clear()
            self._restarts += 1
            if time.monotonic() - began_s > self._limits.last_restart_s:
                pause_s = self._limits.first_restart_s
            self._state, self._message = "restarting", reason
            logger.warning("%s; it is started again in %.1f s", reason, pause_s)
            while True:
                await life.bury()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, self._limits.last_restart_s)
                self._life = life = self._new_life()
                try:
                    self._info = await life.begin()
                except (EngineFailure, ModelError) as error:
                    self._message = str(error)
                    logger.error("the engine did not start again: %s", error)
                else:
                    break
            self._be_ready()


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
