"""The two tracks of a call. Both take slots from one buffer at the times of one clock, so neither is ever ahead of the other."""

from __future__ import annotations

import asyncio
from fractions import Fraction

import av
import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from avatar_rtc.media.buffer import PlayBuffer, Slot
from avatar_rtc.media.encode import OPUS_PACKET_MS
from avatar_rtc.media.timeline import Timeline

VIDEO_CLOCK_HZ = 90_000
MAX_LATE_FRAMES = 2
"""A picture later than this is left out: the encoder is slower than the pictures come."""


class Playout:
    """The joint gate: a slot is given to whoever asks when it is due, and not before."""

    def __init__(self, buffer: PlayBuffer, timeline: Timeline) -> None:
        self.buffer = buffer
        self.timeline = timeline
        self._ready = asyncio.Event()
        self._closed = False

    def notify(self) -> None:
        """To be called when a chunk was put into the buffer: the first one starts the clock."""
        if self.buffer.ready:
            self._ready.set()

    def close(self) -> None:
        """Wake up whoever waits for the first chunk; every later call raises ``MediaStreamError``."""
        self._closed = True
        self._ready.set()

    def due(self, number: int) -> Fraction:
        """Media time of a slot."""
        return Fraction(number, self.buffer.info.fps)

    async def slot(self, number: int, delay: Fraction = Fraction(0)) -> Slot:
        """The slot with this number, as soon as it is due, or ``delay`` later.

        Raises:
            MediaStreamError: the call is over.
        """
        await self.wait(self.due(number), delay)
        for earlier in range(self.buffer.num_decided, number):
            self.buffer.slot(earlier)
        return self.buffer.slot(number)

    async def wait(self, due: Fraction, delay: Fraction = Fraction(0)) -> None:
        """Sleep until a media time, and ``delay`` longer. Starts the clock."""
        await self._ready.wait()
        if self._closed:
            raise MediaStreamError
        self.timeline.start()
        await self.timeline.wait(due + delay)
        if self._closed:
            raise MediaStreamError
        self.forgive_stall()

    def forgive_stall(self) -> None:
        """Stop the clock for the time in which neither track asked for anything: the machine stood still, not just one track."""
        self.timeline.forgive(self.due(self.buffer.num_decided))


class VideoTrack(MediaStreamTrack):
    """Pictures at the stream's rate.

    Args:
        delay_ms: send each picture this much late, with its right time stamp. For measuring what receivers make of it.
    """

    kind = "video"

    def __init__(self, playout: Playout, delay_ms: int = 0) -> None:
        super().__init__()
        self._playout = playout
        self._delay = Fraction(delay_ms, 1000)
        self._next = 0
        self.num_sent = 0
        self.num_dropped = 0

    async def recv(self) -> av.VideoFrame:
        if self.readyState != "live":
            raise MediaStreamError
        fps = self._playout.buffer.info.fps
        self._playout.forgive_stall()
        # How many slots are due beyond the one that comes next.
        late_frames = int(self._playout.timeline.late_s(self._playout.due(self._next) + self._delay) * fps)
        if late_frames > MAX_LATE_FRAMES:
            self._next += late_frames
            self.num_dropped += late_frames
        slot = await self._playout.slot(self._next, self._delay)
        self._next = slot.number + 1
        self.num_sent += 1
        frame = av.VideoFrame.from_ndarray(slot.frame, format="yuv420p")
        frame.pts = slot.number * VIDEO_CLOCK_HZ // fps
        frame.time_base = Fraction(1, VIDEO_CLOCK_HZ)
        return frame


class AudioTrack(MediaStreamTrack):
    """Sound in packets of 20 ms at the stream's own sample rate; without gaps as long as slots are fetched in time."""

    kind = "audio"

    def __init__(self, playout: Playout) -> None:
        super().__init__()
        self._playout = playout
        self._rate_hz = playout.buffer.info.sample_rate_hz
        self._packet_samples = self._rate_hz * OPUS_PACKET_MS // 1000
        self._pending = np.empty(0, np.int16)
        self._pts = 0
        self._next = 0

    async def recv(self) -> av.AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        while len(self._pending) < self._packet_samples:
            slot = await self._playout.slot(self._next)
            if slot.number != self._next:
                # Two seconds late: what was not fetched is gone, and time stamps must say so.
                self._pending = np.empty(0, np.int16)
                self._pts = slot.number * self._playout.buffer.slot_samples
            self._pending = np.concatenate([self._pending, slot.samples])
            self._next = slot.number + 1
        await self._playout.wait(Fraction(self._pts, self._rate_hz))
        frame = av.AudioFrame.from_ndarray(self._pending[None, : self._packet_samples], format="s16", layout="mono")
        self._pending = self._pending[self._packet_samples :]
        frame.sample_rate = self._rate_hz
        frame.time_base = Fraction(1, self._rate_hz)
        frame.pts = self._pts
        self._pts += self._packet_samples
        return frame
