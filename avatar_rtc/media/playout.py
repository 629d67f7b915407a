"""Playout: one stream, from the engine to the moment at which it is due.

It pulls chunks as late as it may, keeps them in a buffer, and gives pictures and sound out of one sequence of slots at the times
of one clock, so neither is ever ahead of the other. Who encodes or sends them, and whether anybody does, it does not know.
Sessions and benchmarks use it alike; with a simulated clock it is tested without waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import av
import numpy as np

from avatar_rtc.media.buffer import MarkReached, PlayBuffer, Slot
from avatar_rtc.media.clock import MediaClock
from avatar_rtc.media.lines import Lines
from avatar_rtc.media.pull_policy import PullPolicy
from avatar_rtc.rtf import RtfMeter
from model.chunk import AVChunk, StreamInfo

VIDEO_CLOCK_HZ = 90_000
SOUND_MS = 20
"""Of sound at once: an Opus packet."""
MAX_LATE_FRAMES = 2
"""A picture later than this is left out: the encoder is slower than the pictures come."""
KEPT_AFTER_CANCEL_S = 0.1
"""Pictures beyond one chunk that may still be played after an interruption."""
MIN_REST_S = 0.01


@dataclass(frozen=True)
class Pulled:
    """A chunk that has come, and is in the buffer.

    Attributes:
        took_s: since it was asked for.
        buffered_s: that were there when it was asked for: if that is less, the buffer ran dry meanwhile.
        rtf: the real-time factor of the block that it completes, if it does.
    """

    chunk: AVChunk
    took_s: float
    buffered_s: float
    rtf: float | None


class ChunkSource(Protocol):
    """What a playout needs of a stream of the engine."""

    async def next(self, deadline_s: float) -> AVChunk:
        """The next chunk; see :meth:`avatar_rtc.engine.api.EngineStream.next`."""


class Playout:
    """The one pull loop, and the joint gate of pictures and sound: a slot is given to whoever asks when it is due.

    Args:
        info: of the stream.
        low_water_s: the next chunk is pulled when less media than this is left.
        rtf: real-time factor of the engine so far; 0 if it is not known.
        on_mark: told each mark at its moment.
        is_wanted: whether a line is still to be heard.
        video_delay_s: pictures are given so much late, with their right time stamps; for measuring what receivers make of it.

    Attributes:
        lines: what the engine was given; whoever takes back a line tells them.
        num_sent, num_dropped: pictures given, and left out.
    """

    def __init__(
        self,
        info: StreamInfo,
        *,
        low_water_s: float,
        rtf: float = 0.0,
        on_mark: Callable[[MarkReached], None] = lambda reached: None,
        is_wanted: Callable[[str], bool] = lambda line_id: True,
        video_delay_s: float = 0.0,
        clock: MediaClock | None = None,
    ) -> None:
        self.info = info
        self.clock = clock or MediaClock()
        self.buffer = PlayBuffer(info, on_mark, kept_after_cancel_s=info.chunk_duration_s + KEPT_AFTER_CANCEL_S)
        self.policy = PullPolicy(low_water_s, info.chunk_duration_s, RtfMeter(info.chunks_per_block, prior=rtf))
        self.lines = Lines(self.buffer, self.policy)
        self.num_sent = self.num_dropped = 0
        self._is_wanted = is_wanted
        self._video_delay = Fraction(video_delay_s).limit_denominator(1000)
        self._filled = asyncio.Event()
        self._trimmed = asyncio.Event()
        self._num_interruptions = 0
        self._num_looks = self._shown_look = 0

    # In.

    async def pull(self, stream: ChunkSource) -> AsyncGenerator[Pulled]:
        """Pull for ever: the next chunk is asked for when the buffer is low, and not before.

        Raises:
            avatar_rtc.engine.api.EngineFailure: the engine died.
        """
        while True:
            self._trimmed.clear()
            if self.clock.is_stopped and self.buffer.ready:
                await self._trimmed.wait()
                continue
            # By the clock, not by what was taken: who encodes may be behind, and then takes everything that is due at once.
            if (spare_s := self.lines.spare_s() - self._behind_s()) > 0:
                await self._rest(max(spare_s, MIN_REST_S))
                continue
            interruptions, look = self._num_interruptions, self._num_looks
            asked_s, buffered_s = self.clock.now(), self.buffer.buffered_s - self._behind_s()
            chunk = await stream.next(asked_s + buffered_s)
            if self._shown_look != self._num_looks:
                # Asked for before the look changed, it may show either one; the first one asked for since shows the new one.
                self.buffer.cut()
                self._shown_look = look
            took_s = self.clock.now() - asked_s
            rtf = self.policy.on_chunk(took_s, chunk.duration_s, self.buffer.num_underruns)
            # A chunk that was asked for before an interruption may still speak for what was interrupted.
            known = any(self._is_wanted(mark.reply_id) for mark in chunk.marks)
            self.lines.put(chunk, muted=chunk.speaking and interruptions != self._num_interruptions and not known)
            self.lines.hasten(self._behind_s())
            self._filled.set()
            yield Pulled(chunk, took_s, buffered_s, rtf)

    async def _rest(self, duration_s: float) -> None:
        """Sleep, but not on when an interruption leaves less than was counted on."""
        sleeping = asyncio.ensure_future(self.clock.sleep(duration_s))
        trimmed = asyncio.ensure_future(self._trimmed.wait())
        try:
            await asyncio.wait((sleeping, trimmed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Not waited for: whoever cancels this at that moment would not be heard.
            sleeping.cancel()
            trimmed.cancel()

    def push(self, line_id: str, length_s: float) -> None:
        """The engine has taken a line, behind all others; see :meth:`avatar_rtc.media.lines.Lines.push`."""
        self.lines.push(line_id, length_s)
        self.lines.hasten(self._behind_s())
        self._trimmed.set()

    def silence(self) -> None:
        """Fade out now what is buffered; nothing that was asked for before is heard."""
        self.outdate()
        self.buffer.cancel()
        self._trimmed.set()

    def outdate(self) -> None:
        """What was asked for before, and is still under way, is not to be heard."""
        self._num_interruptions += 1

    def change_look(self) -> None:
        """What is asked for from now on shows somebody else."""
        self._num_looks += 1

    # Out.

    async def pictures(self) -> AsyncGenerator[av.VideoFrame]:
        """Pictures when they are due, with time stamps in 1/90000 s of media time; those that are late are left out."""
        fps, number = self.info.fps, self.buffer.num_decided
        while True:
            self._forgive_stall()
            # How many slots are due beyond the one that comes next.
            late_frames = int(self.clock.late_s(self._due(number) + self._video_delay) * fps)
            if late_frames > MAX_LATE_FRAMES:
                number += late_frames
                self.num_dropped += late_frames
            slot = await self._slot(number, self._video_delay)
            number = slot.number + 1
            self.num_sent += 1
            frame = av.VideoFrame.from_ndarray(slot.frame, format="yuv420p")
            frame.pts = slot.number * VIDEO_CLOCK_HZ // fps
            frame.time_base = Fraction(1, VIDEO_CLOCK_HZ)
            yield frame

    async def sound(self) -> AsyncGenerator[av.AudioFrame]:
        """Sound in pieces of 20 ms at the stream's own rate; without gaps as long as slots are fetched in time."""
        rate_hz = self.info.sample_rate_hz
        piece_samples = rate_hz * SOUND_MS // 1000
        number = self.buffer.num_decided
        pts = number * self.buffer.slot_samples
        pending = np.empty(0, np.int16)
        while True:
            while len(pending) < piece_samples:
                slot = await self._slot(number)
                if slot.number != number:
                    # Seconds late: what was not fetched is gone, and time stamps must say so.
                    pending = np.empty(0, np.int16)
                    pts = slot.number * self.buffer.slot_samples
                pending = np.concatenate([pending, slot.samples])
                number = slot.number + 1
            await self._wait(Fraction(pts, rate_hz))
            frame = av.AudioFrame.from_ndarray(pending[None, :piece_samples], format="s16", layout="mono")
            pending = pending[piece_samples:]
            frame.sample_rate = rate_hz
            frame.time_base = Fraction(1, rate_hz)
            frame.pts = pts
            pts += piece_samples
            yield frame

    def played_s(self) -> float:
        """Media time of what is being played. On a busy machine who takes it lags behind the clock."""
        return min(self.clock.media_s(), self.buffer.num_decided / self.info.fps)

    def hold(self, unheard_s: float = 0.0) -> None:
        """Stop the clock, and go back so far: nobody has heard that. It goes on with ``go_on``; idempotent."""
        if self.clock.is_stopped:
            return
        self.clock.stop()
        if self.clock.started:
            self.buffer.rewind(min(self.buffer.num_decided, round(unheard_s * self.info.fps)))

    def go_on(self) -> None:
        """Play on from where it was held; idempotent."""
        if self.clock.is_stopped:
            self.clock.go_on()
            self._trimmed.set()

    def _behind_s(self) -> float:
        """How much is due that nobody has taken yet."""
        return max(0.0, self.clock.late_s(self._due(self.buffer.num_decided)))

    def _due(self, number: int) -> Fraction:
        """Media time of a slot."""
        return Fraction(number, self.info.fps)

    async def _slot(self, number: int, delay: Fraction = Fraction(0)) -> Slot:
        """The slot with this number, as soon as it is due, or ``delay`` later."""
        await self._wait(self._due(number), delay)
        for earlier in range(self.buffer.num_decided, number):
            self.buffer.slot(earlier)
        return self.buffer.slot(number)

    async def _wait(self, due: Fraction, delay: Fraction = Fraction(0)) -> None:
        """Sleep until a media time, and ``delay`` longer. The first chunk starts the clock."""
        await self._filled.wait()
        self.clock.start()
        await self.clock.wait(due + delay)
        self._forgive_stall()

    def _forgive_stall(self) -> None:
        """Stop the clock for the time in which nobody asked for anything: the machine stood still, not just one of the two."""
        self.clock.forgive(self._due(self.buffer.num_decided))
