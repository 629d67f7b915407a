"""An engine in a child process, which is started again whenever it crashes or hangs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from avatar_rtc.engine.api import EngineFailure, EngineState, EngineStats, EngineStream, ModelLoader
from avatar_rtc.engine.process import EngineCounters, EngineLimits, EngineProcess, ProcessStream
from avatar_rtc.engine.wire import Open
from model.chunk import StreamInfo, StreamSettings
from model.errors import ModelError

logger = logging.getLogger(__name__)


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
        self._process: EngineProcess | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._usable = asyncio.Event()
        self._counters = EngineCounters()
        self._restarts = 0

    @property
    def info(self) -> StreamInfo:
        assert self._info is not None, "start() first"
        return self._info

    @property
    def pid(self) -> int | None:
        """Of the child, while there is one."""
        return None if self._process is None or self._process.ended.done() else self._process.pid

    async def start(self) -> None:
        assert self._state == "new", "an engine starts once"
        self._state = "starting"
        self._process = self._new_process()
        try:
            self._info = await self._process.begin()
        except BaseException:
            await self.close()
            raise
        self._be_ready()
        self._supervisor = asyncio.create_task(self._supervise(self._process), name="engine supervisor")

    async def open(self, settings: StreamSettings) -> EngineStream:
        process = await self._running_process()
        number = process.new_number()
        stream = ProcessStream(process, number)
        process.streams[number] = stream
        try:
            await process.call(lambda call: Open(call, number, settings))
        except asyncio.CancelledError:
            await stream.close()
            raise
        except ModelError:
            del process.streams[number]
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
        if self._process is not None:
            await self._process.shut_down()

    def stats(self) -> EngineStats:
        counters = self._counters
        return EngineStats(
            state=self._state,
            message=self._message,
            streams=len(self._process.streams) if self._process is not None else 0,
            restarts=self._restarts,
            chunks=counters.chunks,
            late_chunks=counters.late_chunks,
            stage_s=dict(counters.stage_s),
            rtf_warm_up=counters.rtf_warm_up,
            rtf_p50=counters.rtf.percentile(50),
            rtf_p95=counters.rtf.percentile(95),
        )

    def _new_process(self) -> EngineProcess:
        return EngineProcess(self._load, self._limits, self._counters, self._progress)

    def _progress(self, message: str) -> None:
        # While it restarts, who asks is to hear why, not how far the next try has come.
        if self._state == "starting":
            self._message = message
        self._on_progress(message)

    def _be_ready(self) -> None:
        self._state, self._message = "ready", "ready"
        self._usable.set()

    async def _running_process(self) -> EngineProcess:
        assert self._state != "new", "start() first"
        if self._process is not None and self._process.ended.done() and self._state != "closed":
            self._usable.clear()
        try:
            async with asyncio.timeout(self._limits.open_s):
                await self._usable.wait()
        except TimeoutError:
            raise EngineFailure(f"the engine is restarting ({self._message}); try again in a few seconds") from None
        if self._state == "closed":
            raise EngineFailure("the engine is closed")
        assert self._process is not None
        return self._process

    async def _supervise(self, process: EngineProcess) -> None:
        """Start the process again whenever it has ended, with growing pauses."""
        pause_s = self._limits.first_restart_s
        while True:
            began_s = time.monotonic()
            reason = await asyncio.shield(process.ended)
            self._usable.clear()
            self._restarts += 1
            if time.monotonic() - began_s > self._limits.last_restart_s:
                pause_s = self._limits.first_restart_s
            self._state, self._message = "restarting", reason
            logger.warning("%s; it is started again in %.1f s", reason, pause_s)
            while True:
                await process.reap()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, self._limits.last_restart_s)
                self._process = process = self._new_process()
                try:
                    self._info = await process.begin()
                except (EngineFailure, ModelError) as error:
                    self._message = str(error)
                    logger.error("the engine did not start again: %s", error)
                else:
                    break
            self._be_ready()
