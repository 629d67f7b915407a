"""What is to be played, as slots of one picture and its sound.

A slot is decided once, when the first of the two tracks needs it, and both tracks take their part from it: whatever happens
(underrun, interruption, a slow encoder), the lips stay with the voice. Nothing here knows of clocks, sockets or tasks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from model.chunk import AVChunk, Mark, StreamInfo

FADE_MS = 20
KEPT_SLOTS = 50
"""Decided slots that the slower track may still fetch; two seconds at 25 fps."""


@dataclass(frozen=True)
class Slot:
    """One picture and the sound that belongs to it.

    Attributes:
        number: from 0, without gaps.
        frame: uint8 [H * 3 / 2, W], I420.
        samples: int16, as long as the picture is shown.
        held: there was nothing to play, or not enough yet: the last picture again, and silence.
    """

    number: int
    frame: np.ndarray
    samples: np.ndarray
    held: bool


@dataclass(frozen=True)
class Played:
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
class _Part:
    """A chunk that is being played. ``samples`` is a copy of our own, so that it can be faded; ``prefill_s`` see ``put``."""

    chunk: AVChunk
    samples: np.ndarray
    marks: deque[Mark]
    num_frames: int
    prefill_s: float
    next_frame: int = 0


class PlayBuffer:
    """Chunks in, slots out, marks told as they are passed.

    Args:
        info: rates of the stream.
        on_played: called with each mark when its slot is decided.
        kept_after_cancel_s: pictures that may still be played after an interruption; what lies beyond is dropped.

    Attributes:
        num_decided: slots decided so far.
        num_held_frames: slots that only hold the last picture.
        num_underruns: times that the buffer ran dry; a row of held slots is one.
    """

    def __init__(self, info: StreamInfo, on_played: Callable[[Played], None], *, kept_after_cancel_s: float) -> None:
        if info.sample_rate_hz % info.fps:
            raise ValueError(f"{info.sample_rate_hz} Hz is not a whole number of samples a picture at {info.fps} fps")
        self.info = info
        self.slot_samples = info.sample_rate_hz // info.fps
        self._on_played = on_played
        self._kept_after_cancel_frames = int(kept_after_cancel_s * info.fps)
        self._parts: deque[_Part] = deque()
        self._decided: deque[Slot] = deque(maxlen=KEPT_SLOTS)
        self._last_frame: np.ndarray | None = None
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
        return sum(part.num_frames - part.next_frame for part in self._parts)

    @property
    def buffered_s(self) -> float:
        return self.buffered_frames / self.info.fps

    @property
    def prefill_s(self) -> float:
        """What must be there before a chunk that waits may begin; 0 if none waits for more."""
        return max((part.prefill_s for part in self._parts if part.next_frame == 0), default=0.0)

    def put(self, chunk: AVChunk, *, muted: bool = False, prefill_s: float = 0.0, refill_s: float = 0.0) -> None:
        """Append a chunk.

        Args:
            chunk: as the engine made it.
            muted: it belongs to a reply that was interrupted while it was made; it is shown in silence.
            prefill_s: it does not begin before the buffer holds so much, from it on. Until then the last picture is held, in
                both tracks at once.
            refill_s: the same, if the buffer ran dry and nothing has come since.

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
        if self._dry and not self._parts:
            prefill_s = max(prefill_s, refill_s)
        samples = np.zeros_like(chunk.samples) if muted else chunk.samples.copy()
        marks: deque[Mark] = deque() if muted else deque(chunk.marks)
        self._parts.append(_Part(chunk, samples, marks, len(chunk.frames), prefill_s))
        if muted:
            self._trim(self._kept_after_cancel_frames)

    def release(self) -> None:
        """Play what is buffered without waiting for more."""
        for part in self._parts:
            part.prefill_s = 0.0
        if self._parts:
            self._dry = False

    def cancel(self) -> None:
        """Silence what is buffered within ``FADE_MS``; its pictures play on, at most ``kept_after_cancel_s`` of them."""
        self.release()
        fade = np.linspace(1.0, 0.0, self.info.sample_rate_hz * FADE_MS // 1000, dtype=np.float32)
        for part in self._parts:
            part.marks.clear()
            rest = part.samples[part.next_frame * self.slot_samples :]
            num_faded = min(len(fade), len(rest))
            rest[:num_faded] = (rest[:num_faded] * fade[:num_faded]).astype(np.int16)
            rest[num_faded:] = 0
            fade = fade[num_faded:]
        self._trim(self._kept_after_cancel_frames)

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

    def _decide(self) -> Slot:
        if self._last_frame is None:
            raise ValueError("nothing to show yet: no chunk has come")
        if not self._parts and not self._dry:
            self._dry = True
            self.num_underruns += 1
        wanted_s = self._parts[0].prefill_s if self._parts and self._parts[0].next_frame == 0 else 0.0
        if self.buffered_s <= wanted_s:
            self.num_held_frames += 1
            return Slot(self.num_decided, self._last_frame, np.zeros(self.slot_samples, np.int16), held=True)
        self._dry = False
        part = self._parts[0]
        first = part.next_frame * self.slot_samples
        end = first + self.slot_samples
        part.next_frame += 1
        is_last = part.next_frame >= part.num_frames
        if is_last:
            self._parts.popleft()
        self._last_frame = part.chunk.frames[part.next_frame - 1]
        slot = Slot(self.num_decided, self._last_frame, part.samples[first:end], held=False)
        # A mark at the very end of a chunk belongs to its last slot.
        while part.marks and (part.marks[0].start_sample < end or is_last):
            mark = part.marks.popleft()
            self._on_played(Played(mark, self._media_s(mark.start_sample - first), self._media_s(mark.end_sample - first)))
        return slot

    def _media_s(self, sample_in_slot: int) -> float:
        return self.num_decided / self.info.fps + sample_in_slot / self.info.sample_rate_hz

    def _trim(self, max_frames: int) -> None:
        excess = self.buffered_frames - max_frames
        while excess > 0 and self._parts:
            part = self._parts[-1]
            cut = min(excess, part.num_frames - part.next_frame)
            part.num_frames -= cut
            excess -= cut
            if part.num_frames == part.next_frame:
                self._parts.pop()
