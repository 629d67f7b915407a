"""What is to be played, as slots of one picture and its sound.

A slot is decided once, when the first of the two tracks needs it, and both tracks take their part from it: whatever happens
(underrun, interruption, a slow encoder), the lips stay with the voice. Nothing here knows of clocks, sockets or tasks.

Where there is nothing to play, or not enough yet, a face that listened goes on to move: its latest pictures are shown back and
forth, and what comes then is faded in. One that spoke stands still.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from model.chunk import AVChunk, Mark, StreamInfo

FADE_MS = 20
KEPT_SLOTS = 50
"""Decided slots that the slower track may still fetch; two seconds at 25 fps."""
LOOP_FRAMES = 50
"""So many pictures of a face that listens are shown back and forth while there is nothing else."""
DISSOLVE_FRAMES = 4
"""Over so many pictures the loop fades into what comes then."""


@dataclass(frozen=True)
class Slot:
    """One picture and the sound that belongs to it.

    Attributes:
        number: from 0, without gaps.
        frame: uint8 [H * 3 / 2, W], I420.
        samples: int16, as long as the picture is shown.
        held: there was nothing to play, or not enough yet: a picture that was shown before, and silence.
    """

    number: int
    frame: np.ndarray
    samples: np.ndarray
    held: bool


@dataclass(frozen=True)
class MarkReached:
    """A mark whose moment has come.

    Attributes:
        mark: as the engine set it.
        media_s: media time of its start.
        end_media_s: media time of its end; beyond the chunk where the word goes on.
    """

    mark: Mark
    media_s: float
    end_media_s: float


@dataclass
class Gate:
    """A place that is not passed before ``needed_s`` are buffered from it on. Whoever set it may change that."""

    needed_s: float


@dataclass
class _QueuedChunk:
    """A chunk that is being played, or a part of one behind a gate. ``samples`` is a copy of our own, so that it can be faded."""

    chunk: AVChunk
    samples: np.ndarray
    marks: deque[Mark]
    next_frame: int
    num_frames: int
    gate: Gate | None = None
    muted: bool = False
    is_cut: bool = False
    is_jump: bool = False


class _Loop:
    """The latest pictures of a face that listens, and what is shown of them while there is nothing new."""

    def __init__(self) -> None:
        self._frames: deque[np.ndarray] = deque(maxlen=LOOP_FRAMES)
        self._at = 0
        self._step = -1
        self._faded: np.ndarray | None = None
        self._num_faded = DISSOLVE_FRAMES

    def show(self, frame: np.ndarray, *, speaking: bool) -> np.ndarray:
        """A new picture is due. Returns it as it is to be shown."""
        if self._at < len(self._frames) - 1:
            self._faded, self._num_faded = self._frames[self._at], 0
        if speaking:
            self._frames.clear()
        else:
            self._frames.append(frame)
        self._at, self._step = len(self._frames) - 1, -1
        if self._faded is None:
            return frame
        self._num_faded += 1
        share = self._num_faded / (DISSOLVE_FRAMES + 1)
        shown = (self._faded * np.float32(1 - share) + frame * np.float32(share) + np.float32(0.5)).astype(np.uint8)
        if self._num_faded == DISSOLVE_FRAMES:
            self._faded = None
        return shown

    def leave(self, last_frame: np.ndarray) -> None:
        """What is shown next does not follow on the last picture, and fades in."""
        self._faded, self._num_faded = last_frame, 0

    def next(self, last_frame: np.ndarray) -> np.ndarray:
        """Nothing new is there. Returns the next picture of the loop; the last one again where nobody listened."""
        if len(self._frames) < 2:
            return last_frame
        if not 0 <= self._at + self._step < len(self._frames):
            self._step = -self._step
        self._at += self._step
        return self._frames[self._at]


class PlayBuffer:
    """Chunks in, slots out, marks told as they are passed.

    Args:
        info: rates of the stream.
        on_mark: called with each mark when its slot is decided.
        kept_after_cancel_s: pictures that may still be played after an interruption; what lies beyond is dropped.

    Attributes:
        num_decided: slots decided so far.
        num_held_frames: slots that show nothing new.
        num_underruns: times that the buffer ran dry; a row of held slots is one.
    """

    def __init__(self, info: StreamInfo, on_mark: Callable[[MarkReached], None], *, kept_after_cancel_s: float) -> None:
        if info.sample_rate_hz % info.fps:
            raise ValueError(f"{info.sample_rate_hz} Hz is not a whole number of samples a picture at {info.fps} fps")
        self.info = info
        self.slot_samples = info.sample_rate_hz // info.fps
        self._on_mark = on_mark
        self._kept_after_cancel_frames = int(kept_after_cancel_s * info.fps)
        self._queue: deque[_QueuedChunk] = deque()
        self._decided: deque[Slot] = deque(maxlen=KEPT_SLOTS)
        self._last_frame: np.ndarray | None = None
        self._loop = _Loop()
        self._in_line = False
        self._is_cut = self._is_jump = False
        self._dry = False
        self.num_decided = 0
        self.num_held_frames = 0
        self.num_underruns = 0

    @property
    def ready(self) -> bool:
        """Whether there is anything to show: a chunk has come."""
        return self._last_frame is not None

    @property
    def buffered_frames(self) -> int:
        """Pictures that wait to be decided."""
        return sum(queued.num_frames - queued.next_frame for queued in self._queue)

    @property
    def buffered_s(self) -> float:
        return self.buffered_frames / self.info.fps

    @property
    def is_dry(self) -> bool:
        """Whether it ran dry, and nothing has come since."""
        return self._dry and not self._queue

    def buffered_behind_s(self, gate: Gate) -> float | None:
        """How much is buffered from a gate on; None if it was passed."""
        frames = 0
        for queued in reversed(self._queue):
            frames += queued.num_frames - queued.next_frame
            if queued.gate is gate:
                return frames / self.info.fps
        return None

    def put(self, chunk: AVChunk, *, muted: bool = False, gates: Sequence[tuple[int, Gate]] = ()) -> None:
        """Append a chunk.

        Args:
            chunk: as the engine made it.
            muted: it belongs to a reply that was interrupted while it was made; it is shown in silence.
            gates: frames of it, in order, before which playing waits, in both tracks at once.

        Raises:
            ValueError: its rates or its size are not those of the stream.
        """
        expected = (self.info.fps, self.info.sample_rate_hz, self.info.height_px * 3 // 2, self.info.width_px)
        if (chunk.fps, chunk.sample_rate_hz, *chunk.frames.shape[1:]) != expected:
            raise ValueError(
                f"chunk {chunk.index} has fps, rate and shape {(chunk.fps, chunk.sample_rate_hz, *chunk.frames.shape[1:])}"
            )
        if self._last_frame is None:
            self._last_frame = chunk.frames[0]
        samples = np.zeros_like(chunk.samples) if muted else chunk.samples.copy()
        marks: deque[Mark] = deque() if muted else deque(chunk.marks)
        places = [(0, None), *gates, (len(chunk.frames), None)]
        for (first, gate), (end, _) in itertools.pairwise(places):
            if end > first:
                # What ends where the next part begins belongs to this one, what begins there does not.
                is_last = end == len(chunk.frames)
                own: deque[Mark] = deque()
                while marks and (is_last or marks[0].start_sample - (marks[0].kind == "end") < end * self.slot_samples):
                    own.append(marks.popleft())
                self._queue.append(_QueuedChunk(chunk, samples, own, first, end, gate, muted, self._is_cut, self._is_jump))
                self._is_cut = self._is_jump = False
        if muted:
            self._trim(self._kept_after_cancel_frames)

    def cut(self) -> None:
        """What is put in from now on shows somebody else, or another place: it does not fade in."""
        self._is_cut = True

    def shorten(self, kept_s: float) -> None:
        """Of a face that listens, leave out what lies beyond ``kept_s``: somebody waits for what comes then."""
        self._trim(round(kept_s * self.info.fps), only_listening=True)

    def release(self) -> None:
        """Play what is buffered without waiting for more."""
        for queued in self._queue:
            queued.gate = None
        if self._queue:
            self._dry = False

    def cancel(self) -> None:
        """Silence what is buffered within ``FADE_MS``; its pictures play on, at most ``kept_after_cancel_s`` of them."""
        self.release()
        fade = np.linspace(1.0, 0.0, self.info.sample_rate_hz * FADE_MS // 1000, dtype=np.float32)
        self._in_line = False
        for queued in self._queue:
            queued.marks.clear()
            queued.muted = True
            rest = queued.samples[queued.next_frame * self.slot_samples : queued.num_frames * self.slot_samples]
            num_faded = min(len(fade), len(rest))
            rest[:num_faded] = (rest[:num_faded] * fade[:num_faded]).astype(np.int16)
            rest[num_faded:] = 0
            fade = fade[num_faded:]
        self._trim(self._kept_after_cancel_frames)

    def rewind(self, num_slots: int) -> int:
        """Play the latest slots again, before what waits: nobody has heard them. Their marks were told and are not told again.

        Returns:
            How many there will be: no more than are kept. They count as held, for they add no speech.
        """
        again = list(self._decided)[-num_slots:] if num_slots > 0 else []
        if not again:
            return 0
        chunk = AVChunk(
            index=0,
            frames=np.stack([slot.frame for slot in again]),
            samples=np.concatenate([slot.samples for slot in again]),
            fps=self.info.fps,
            sample_rate_hz=self.info.sample_rate_hz,
            speaking=self._in_line,
        )
        self._queue.appendleft(_QueuedChunk(chunk, chunk.samples, deque(), 0, len(again)))
        self.num_held_frames += len(again)
        return len(again)

    def slot(self, number: int) -> Slot:
        """The slot with this number, decided now if it was not. A number that is too old gives the oldest slot that is kept.

        Raises:
            ValueError: slots in between were never decided, or nothing was ever put in.
        """
        if number > self.num_decided:
            raise ValueError(f"slot {number} before slot {self.num_decided} was decided")
        if number == self.num_decided:
            self._decided.append(self._decide())
            self.num_decided += 1
        oldest = self._decided[0].number
        return self._decided[max(number, oldest) - oldest]

    def recent_samples(self) -> np.ndarray:
        """The sound of the slots that are kept, int16 [S]: what was played lately, and is being played."""
        return np.concatenate([slot.samples for slot in self._decided]) if self._decided else np.empty(0, np.int16)

    def _decide(self) -> Slot:
        if self._last_frame is None:
            raise ValueError("nothing to show yet: no chunk has come")
        if not self._queue and not self._dry:
            self._dry = True
            self.num_underruns += 1
        queued = self._queue[0] if self._queue else None
        if queued is None or (queued.gate is not None and self.buffered_s < queued.gate.needed_s):
            self.num_held_frames += 1
            self._last_frame = self._loop.next(self._last_frame)
            return Slot(self.num_decided, self._last_frame, np.zeros(self.slot_samples, np.int16), held=True)
        self._dry = False
        queued.gate = None
        if queued.is_cut:
            self._loop = _Loop()
        elif queued.is_jump:
            self._loop.leave(self._last_frame)
        queued.is_cut = queued.is_jump = False
        first = queued.next_frame * self.slot_samples
        end = first + self.slot_samples
        queued.next_frame += 1
        is_last = queued.next_frame >= queued.num_frames
        if is_last:
            self._queue.popleft()
        speaking = self._in_line or (queued.muted and queued.chunk.speaking)
        # A mark at the very end of a part belongs to its last slot.
        while queued.marks and (queued.marks[0].start_sample < end or is_last):
            mark = queued.marks.popleft()
            self._in_line = mark.kind != "end"
            speaking = True
            self._on_mark(MarkReached(mark, self._media_s(mark.start_sample - first), self._media_s(mark.end_sample - first)))
        self._last_frame = self._loop.show(queued.chunk.frames[queued.next_frame - 1], speaking=speaking)
        return Slot(self.num_decided, self._last_frame, queued.samples[first:end], held=False)

    def _media_s(self, sample_in_slot: int) -> float:
        return self.num_decided / self.info.fps + sample_in_slot / self.info.sample_rate_hz

    def _trim(self, max_frames: int, *, only_listening: bool = False) -> None:
        excess = self.buffered_frames - max_frames
        while excess > 0 and self._queue:
            queued = self._queue[-1]
            if only_listening and (queued.chunk.speaking or queued.marks):
                return
            cut = min(excess, queued.num_frames - queued.next_frame)
            queued.num_frames -= cut
            excess -= cut
            self._is_jump = self._is_jump or only_listening
            if queued.num_frames == queued.next_frame:
                self._is_cut = self._is_cut or queued.is_cut
                self._queue.pop()
