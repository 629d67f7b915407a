"""What parent and child say to each other over the socket, and the memory in which chunks lie."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap

import numpy as np

from model.chunk import AVChunk, Mark, StreamInfo, StreamSettings
from model.errors import ModelError

NUM_SLOTS = 4
"""Chunks on their way. The parent copies one out as soon as it hears of it: more than one is taken only while it is busy."""

# Commands: from the parent. ``call`` is the number under which a CallResult is expected.


@dataclass(frozen=True)
class Open:
    call: int
    stream: int
    settings: StreamSettings


@dataclass(frozen=True)
class Push:
    call: int
    stream: int
    reply_id: str
    text: str
    last: bool


@dataclass(frozen=True)
class Update:
    call: int
    stream: int
    settings: StreamSettings


@dataclass(frozen=True)
class Cancel:
    call: int
    stream: int


@dataclass(frozen=True)
class Next:
    """The next chunk is wanted by ``deadline_s``; sent again, it moves the deadline."""

    stream: int
    deadline_s: float


@dataclass(frozen=True)
class CloseStream:
    stream: int


@dataclass(frozen=True)
class Release:
    """The parent has copied the chunk in this slot."""

    slot: int


@dataclass(frozen=True)
class Shutdown:
    pass


Command = Open | Push | Update | Cancel | Next | CloseStream | Release | Shutdown


# Reports: to the parent.


@dataclass(frozen=True)
class Progress:
    """Loading goes on."""

    message: str


@dataclass(frozen=True)
class Ready:
    """The model is loaded and warm; ``rtf`` is the real-time factor of its warm-up's last blocks."""

    info: StreamInfo
    rtf: float


@dataclass(frozen=True)
class Unloadable:
    """The model cannot be loaded, for a reason that a person can mend."""

    error: ModelError


@dataclass(frozen=True)
class CallResult:
    """``length_s`` is how long what was pushed will be heard; 0 of other commands."""

    call: int
    error: ModelError | None = None
    length_s: float = 0.0


@dataclass(frozen=True)
class ChunkReady:
    """A chunk lies in ``slot``. ``stage_s`` is the time its steps took, by stage."""

    stream: int
    slot: int
    index: int
    speaking: bool
    marks: tuple[Mark, ...]
    stage_s: dict[str, float]


@dataclass(frozen=True)
class Alive:
    """A step is done and there was nothing else to say for a while."""


Report = Progress | Ready | Unloadable | CallResult | ChunkReady | Alive

_LENGTH = struct.Struct("!I")


def pack(message: Command | Report) -> bytes:
    """One message as it goes over the socket: a length, then a pickle. Both ends are the same program, started by one another."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


class Unpacker:
    """Bytes in, whole messages out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Command | Report]:
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield pickle.loads(body)


class SharedChunks:
    """The shared memory seen as ``NUM_SLOTS`` places for a chunk: frames first, then samples."""

    def __init__(self, memory: mmap, info: StreamInfo) -> None:
        self.memory = memory
        self._frames_shape = (info.chunk_frames, info.height_px * 3 // 2, info.width_px)
        self._num_frames_bytes = info.chunk_frames * info.height_px * 3 // 2 * info.width_px
        self._num_samples = info.chunk_samples
        self._info = info

    @staticmethod
    def size_bytes(info: StreamInfo) -> int:
        return NUM_SLOTS * (info.chunk_frames * info.height_px * 3 // 2 * info.width_px + 2 * info.chunk_samples)

    def _views(self, slot: int) -> tuple[np.ndarray, np.ndarray]:
        offset = slot * (self._num_frames_bytes + 2 * self._num_samples)
        frames = np.frombuffer(self.memory, np.uint8, self._num_frames_bytes, offset).reshape(self._frames_shape)
        samples = np.frombuffer(self.memory, np.int16, self._num_samples, offset + self._num_frames_bytes)
        return frames, samples

    def write(self, slot: int, chunk: AVChunk) -> None:
        frames, samples = self._views(slot)
        frames[:] = chunk.frames
        samples[:] = chunk.samples

    def read(self, ready: ChunkReady) -> AVChunk:
        """The chunk that is ready, copied out of its slot."""
        frames, samples = self._views(ready.slot)
        return AVChunk(
            index=ready.index,
            frames=frames.copy(),
            samples=samples.copy(),
            fps=self._info.fps,
            sample_rate_hz=self._info.sample_rate_hz,
            speaking=ready.speaking,
            marks=ready.marks,
        )
