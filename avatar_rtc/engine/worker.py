"""The child's side of the engine: it owns the model, and steps whichever stream is the most urgent.

One thread, one loop: read the commands that have arrived, step the stream with the earliest deadline, repeat. Commands are
therefore heard between two steps. Chunks go into slots of a memory that parent and child share; the socket carries only words.

An exception of the model is not caught here. It ends the process, and that is how the parent learns of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import math
import os
import select
import signal
import socket
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from mmap import mmap

from avatar_rtc.engine.api import ModelLoader
from avatar_rtc.engine.wire import (
    NUM_SLOTS,
    Alive,
    CallResult,
    Cancel,
    ChunkReady,
    CloseStream,
    Command,
    Next,
    Open,
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
from model.chunk import StreamSettings
from model.errors import ModelError
from model.stream import Model, Stream

ALIVE_EVERY_S = 0.25
"""While it works the child says something at least this often, a step's length permitting."""

MEASURED_BLOCKS = 3
"""So many blocks at the end of the warm-up say how fast the model is on this machine."""

WARM_UP_SETTINGS = StreamSettings(scene="A woman with brown hair in a bright office.", voice="a warm, clear female voice")
WARM_UP_LINE = "Hello, nice to meet you."


class _ParentIsGone(Exception):
    pass


class _Wire:
    """The child's end of the socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._unpacker = Unpacker()
        self._last_sent_s = 0.0

    def send(self, report: Report) -> None:
        try:
            self._socket.sendall(pack(report))
        except (BrokenPipeError, ConnectionResetError):
            raise _ParentIsGone from None
        self._last_sent_s = time.monotonic()

    def say_alive(self) -> None:
        if time.monotonic() - self._last_sent_s > ALIVE_EVERY_S:
            self.send(Alive())

    def receive(self, wait_s: float) -> Iterator[Command | Report]:
        """What has arrived; if nothing has, what comes within ``wait_s``, which may be inf."""
        readable, _, _ = select.select([self._socket], [], [], None if math.isinf(wait_s) else max(0.0, wait_s))
        if not readable:
            return
        try:
            data = self._socket.recv(1 << 16)
        except ConnectionResetError:
            raise _ParentIsGone from None
        if not data:
            raise _ParentIsGone
        yield from self._unpacker.feed(data)


@dataclass
class _Speaker:
    """A stream and what is wanted of it."""

    stream: Stream
    deadline_s: float | None = None
    stage_s: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Book the time of what is done inside under a stage of the chunk in work."""
        started_s = time.perf_counter()
        yield
        self.stage_s[stage] = self.stage_s.get(stage, 0.0) + time.perf_counter() - started_s


class _Scheduler:
    """Earliest deadline first, over the streams of which a chunk is wanted, one step at a time; then those that work ahead."""

    def __init__(self, model: Model, chunks: SharedChunks, wire: _Wire) -> None:
        self._model = model
        self._chunks = chunks
        self._wire = wire
        self._free_slots = list(range(NUM_SLOTS))
        self._speakers: dict[int, _Speaker] = {}
        self._running = True

    def run(self) -> None:
        while True:
            wanted = self._most_urgent() is not None
            for command in self._wire.receive(0.0 if wanted else self._next_due()[0] - time.monotonic()):
                assert not isinstance(command, Report)
                self._execute(command)
            if not self._running:
                return
            # Asked again, because a command may have changed it.
            stream_id = self._most_urgent()
            if stream_id is not None:
                self._step(stream_id, self._speakers[stream_id])
                continue
            due_s, speaker = self._next_due()
            if speaker is not None and due_s <= time.monotonic():
                with speaker.timed(speaker.stream.stage):
                    speaker.stream.work()
                self._wire.say_alive()

    def _next_due(self) -> tuple[float, _Speaker | None]:
        """When somebody wants to work although no chunk is asked for, and who."""
        due = [(speaker.stream.due_s, speaker) for speaker in self._speakers.values()]
        return min(due, key=lambda one: one[0], default=(math.inf, None))

    def _most_urgent(self) -> int | None:
        if not self._free_slots:
            return None
        wanted = [
            (speaker.deadline_s, stream_id) for stream_id, speaker in self._speakers.items() if speaker.deadline_s is not None
        ]
        return min(wanted)[1] if wanted else None

    def _step(self, stream_id: int, speaker: _Speaker) -> None:
        with speaker.timed(speaker.stream.stage):
            chunk = speaker.stream.step(speaker.deadline_s)
        if chunk is None:
            self._wire.say_alive()
            return
        slot = self._free_slots.pop()
        self._chunks.write(slot, chunk)
        self._wire.send(ChunkReady(stream_id, slot, chunk.index, chunk.speaking, chunk.marks, speaker.stage_s))
        speaker.stage_s = {}
        speaker.deadline_s = None

    def _execute(self, command: Command) -> None:
        match command:
            case Next():
                self._speakers[command.stream].deadline_s = command.deadline_s
            case Release():
                self._free_slots.append(command.slot)
            case CloseStream():
                self._speakers.pop(command.stream).stream.close()
            case Shutdown():
                self._running = False
            case Open() | Push() | Update() | Cancel():
                try:
                    self._wire.send(CallResult(command.call, length_s=self._call(command)))
                except ModelError as error:
                    self._wire.send(CallResult(command.call, error))

    def _call(self, command: Open | Push | Update | Cancel) -> float:
        if isinstance(command, Open):
            self._speakers[command.stream] = _Speaker(self._model.open(command.settings))
            return 0.0
        speaker = self._speakers[command.stream]
        match command:
            case Push():
                with speaker.timed("text"):
                    return speaker.stream.push(command.reply_id, command.text, last=command.last)
            case Update():
                speaker.stream.update(command.settings)
            case Cancel():
                speaker.stream.cancel()
                speaker.stage_s = {}
        return 0.0


def _warm_up(model: Model) -> float:
    """Make a little speech, so that the first caller does not pay for what is done once.

    Returns:
        The real-time factor: the median of the last blocks, of which one may have met a busy moment of the machine.
    """
    stream, meter = model.open(WARM_UP_SETTINGS), RtfMeter(model.info.chunks_per_block)
    stream.push("warm-up", WARM_UP_LINE)
    num_chunks, began_s = 0, time.perf_counter()
    factors: deque[float] = deque(maxlen=MEASURED_BLOCKS)
    while num_chunks < model.warm_up_chunks:
        if stream.step() is None:
            continue
        now_s = time.perf_counter()
        if (factor := meter.add(now_s - began_s, model.info.chunk_duration_s)) is not None:
            factors.append(factor)
        began_s = now_s
        num_chunks += 1
    stream.close()
    return statistics.median(factors)


def _give_memory_back() -> None:
    """What loading needed and let go of, the C library keeps for later unless it is told (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        gc.collect()
        trim(0)


def _die_with(parent_pid: int) -> None:
    """Have the kernel end this process when the parent ends, however it ends. Elsewhere than on Linux the closed socket tells."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent_pid:
        raise SystemExit(0)


def run(connection: socket.socket, load: ModelLoader, parent_pid: int) -> None:
    """The whole life of the child.

    Args:
        connection: the child's end of a stream socket. The first thing to come through is the descriptor of an empty, nameless
            file, which the child gives the size that the model needs.
        load: makes the model, and tells how it goes.
        parent_pid: the process without which there is nothing to live for.
    """
    _die_with(parent_pid)
    # Ctrl-C and its like go to a whole process group; the parent first says goodbye to its callers, and then to us.
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Before torch: threads that spin while they wait cost the media threads next door ten times what they gain here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    # A crash in native code says where.
    faulthandler.enable()
    _, (memory_fd,), _, _ = socket.recv_fds(connection, 1, 1)
    wire = _Wire(connection)
    try:
        wire.send(Progress("loading the model"))
        started_s = time.monotonic()
        try:
            model = load(lambda message: wire.send(Progress(message)))
        except ModelError as error:
            wire.send(Unloadable(error))
            return
        wire.send(Progress(f"loaded {model.info.model} in {time.monotonic() - started_s:.1f} s, warming up"))
        started_s = time.monotonic()
        rtf = _warm_up(model)
        _give_memory_back()
        wire.send(Progress(f"warm after {time.monotonic() - started_s:.1f} s, real-time factor {rtf:.2f}"))
        size_bytes = SharedChunks.size_bytes(model.info)
        os.ftruncate(memory_fd, size_bytes)
        chunks = SharedChunks(mmap(memory_fd, size_bytes), model.info)
        wire.send(Ready(model.info, rtf))
        _Scheduler(model, chunks, wire).run()
    except _ParentIsGone:
        return
