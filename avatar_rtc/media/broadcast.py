"""Broadcast: a stream is encoded once a codec, however many read it.

Readers are bounded: one that does not keep up loses pictures up to the next keyframe, and slows nobody. Pictures are encoded for
a codec only while somebody reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

import av

from avatar_rtc.media.encode import Encoded, Opus, VideoCodec, VideoEncoder, VideoRates, make_video_encoder
from avatar_rtc.media.playout import Playout

MAX_WAITING = {"video": 25, "audio": 50}
"""Pictures, and pieces of sound, that wait for a reader each second of its backlog."""
KEYFRAME_EVERY_S = 0.5
"""Requests for keyframes within so long are answered by one."""


class ReaderClosed(Exception):
    """Nothing more comes: the reader or the broadcast was closed."""


class Reader:
    """What one output reads of one track, from its first ``get`` on.

    Args:
        backlog_s: about so much waits for it at most.

    Attributes:
        num_dropped: pictures or pieces of sound that it was too slow for.
    """

    def __init__(self, track: _Track, kind: str, backlog_s: float) -> None:
        self._track = track
        self._limit = round(MAX_WAITING[kind] * backlog_s)
        self._waiting: deque[Encoded] = deque()
        self._news = asyncio.Event()
        self._closed = False
        self._from_keyframe = True
        self.is_reading = False
        self.estimate_bps: int | None = None
        self.num_dropped = 0

    async def get(self) -> Encoded:
        """The next picture or piece of sound; the first picture is a keyframe.

        Raises:
            ReaderClosed: nothing more comes.
        """
        if not self.is_reading:
            self.is_reading = True
            self.request_keyframe()
        while not self._waiting:
            if self._closed:
                raise ReaderClosed
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()

    def request_keyframe(self) -> None:
        """The next picture shall be one that can be decoded without those before."""
        self._track.request_keyframe()

    def report_estimate(self, bitrate_bps: int) -> None:
        """How much the path to this reader carries."""
        self.estimate_bps = bitrate_bps
        self._track.on_estimate()

    def close(self) -> None:
        """Read no more; idempotent."""
        self._closed = True
        self._news.set()
        self._track.readers.discard(self)

    def put(self, encoded: Encoded) -> None:
        """For the broadcast: a picture or a piece of sound is there."""
        if not self.is_reading:
            return
        if self._from_keyframe and not encoded.is_keyframe:
            self.num_dropped += 1
            self.request_keyframe()
            return
        self._from_keyframe = False
        if len(self._waiting) >= self._limit:
            self.num_dropped += len(self._waiting)
            self._waiting.clear()
            if not encoded.is_keyframe:
                self._from_keyframe = True
                self.put(encoded)
                return
        self._waiting.append(encoded)
        self._news.set()


class _Track:
    """Who reads one codec. This much is enough for sound."""

    def __init__(self) -> None:
        self.readers: set[Reader] = set()

    @property
    def is_read(self) -> bool:
        return any(reader.is_reading for reader in self.readers)

    def deliver(self, encoded: Encoded | None) -> None:
        if encoded is not None:
            for reader in list(self.readers):
                reader.put(encoded)

    def request_keyframe(self) -> None:
        pass  # each piece of sound is one

    def on_estimate(self) -> None:
        pass  # sound has a steady rate


class _VideoTrack(_Track):
    """A video codec: its encoder, when it makes keyframes, and at which rate."""

    def __init__(self, encoder: VideoEncoder, now: Callable[[], float]) -> None:
        super().__init__()
        self.encoder = encoder
        self._now = now
        self._wants_keyframe = False
        self._keyframe_s = float("-inf")

    def encode(self, frame: av.VideoFrame, *, keyframe: bool) -> Encoded | None:
        return self.encoder.encode(frame, keyframe=keyframe)

    def deliver(self, encoded: Encoded | None) -> None:
        if encoded is not None and encoded.is_keyframe:
            self._keyframe_s, self._wants_keyframe = self._now(), False
        super().deliver(encoded)

    def takes_keyframe(self) -> bool:
        """Whether the picture that is encoded now is to be one."""
        return self._wants_keyframe and self._now() - self._keyframe_s >= KEYFRAME_EVERY_S

    def request_keyframe(self) -> None:
        self._wants_keyframe = True

    def on_estimate(self) -> None:
        estimates = [reader.estimate_bps for reader in self.readers if reader.estimate_bps is not None]
        if estimates:
            self.encoder.on_estimate(min(estimates))


class Broadcast:
    """Takes pictures and sound from a playout when they are due, encodes them, and hands them to its readers.

    Args:
        rates: of video.
        audio_bps: of sound, bits a second.
        executor: encodes; at most two calls at once a codec.
    """

    def __init__(self, playout: Playout, rates: VideoRates, audio_bps: int, executor: Executor) -> None:
        self._playout = playout
        self._rates = rates
        self._executor = executor
        self._video: dict[VideoCodec, _VideoTrack] = {}
        self._audio = _Track()
        self._opus = Opus(playout.info.sample_rate_hz, audio_bps)

    def read_video(self, codec: VideoCodec, *, backlog_s: float = 1.0) -> Reader:
        """A reader of pictures, from the next keyframe on."""
        track = self._video.get(codec)
        if track is None:
            track = self._video[codec] = self._new_video(codec)
        reader = Reader(track, "video", backlog_s)
        track.readers.add(reader)
        return reader

    def read_audio(self, *, backlog_s: float = 1.0) -> Reader:
        """A reader of sound."""
        reader = Reader(self._audio, "audio", backlog_s)
        self._audio.readers.add(reader)
        return reader

    def _new_video(self, codec: VideoCodec) -> _VideoTrack:
        now = self._playout.clock.now
        return _VideoTrack(make_video_encoder(codec, self._rates, now), now)

    @property
    def codecs(self) -> list[VideoCodec]:
        """Those that are being encoded."""
        return [codec for codec, track in self._video.items() if track.is_read]

    @property
    def video_bps(self) -> int:
        """Bits a second that pictures are encoded at, of the codec that has the most; 0 if nobody reads pictures."""
        return max((self._video[codec].encoder.bitrate_bps for codec in self.codecs), default=0)

    @property
    def num_keyframes(self) -> int:
        return sum(track.encoder.num_keyframes for track in self._video.values())

    async def run(self) -> None:
        """Encode until it is cancelled, in step with the playout's clock."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_video())
            group.create_task(self._run_audio())

    def close(self) -> None:
        """End all readers and codecs. To be called when ``run`` has ended."""
        for track in (*self._video.values(), self._audio):
            for reader in list(track.readers):
                reader.close()
        for video in self._video.values():
            video.encoder.close()
        self._opus.close()

    async def _run_video(self) -> None:
        loop = asyncio.get_running_loop()
        async with contextlib.aclosing(self._playout.pictures()) as pictures:
            async for frame in pictures:
                tracks = [track for track in self._video.values() if track.is_read]
                work = [
                    loop.run_in_executor(self._executor, partial(track.encode, frame, keyframe=track.takes_keyframe()))
                    for track in tracks
                ]
                for track, encoded in zip(tracks, await asyncio.gather(*work), strict=True):
                    track.deliver(encoded)

    async def _run_audio(self) -> None:
        loop = asyncio.get_running_loop()
        async with contextlib.aclosing(self._playout.sound()) as sound:
            async for frame in sound:
                if self._audio.is_read:
                    self._audio.deliver(await loop.run_in_executor(self._executor, self._opus.encode, frame))
