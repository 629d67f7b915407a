"""A recording: what a broadcast has encoded, in a file on the server's disk."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from avatar_rtc.config import RecordingConfig
from avatar_rtc.logs import SessionLog
from avatar_rtc.media.broadcast import Broadcast, Reader, ReaderClosed
from avatar_rtc.media.encode import OPUS_CLOCK_HZ, OPUS_PACKET_MS, Encoded, VideoCodec
from avatar_rtc.media.film import FilmFile
from avatar_rtc.media.playout import VIDEO_CLOCK_HZ
from avatar_rtc.outputs.output import Output
from model.chunk import StreamInfo

BACKLOG_S = 10.0
"""So much waits for a disk that is slow; what is more is left out, up to the next keyframe."""
KEYFRAME_EVERY_S = 2.0
"""Of media time: how far a player has to decode to where somebody seeks."""
MAX_EARLY = 100
"""Pieces of sound that are kept until the first picture is there."""
_SUFFIX: dict[VideoCodec, str] = {"VP8": ".webm", "H264": ".mp4"}
_FILE_NAME = re.compile(r"[0-9a-f]{32}-\d{8}T\d{6}\.\d{3}Z\.(webm|mp4)")


def find_recording(directory: Path | None, session_id: str, file_name: str) -> Path | None:
    """The file of a recording of that session, also after its end, and after the server's; None if there is none."""
    if directory is None or not _FILE_NAME.fullmatch(file_name) or not file_name.startswith(f"{session_id}-"):
        return None
    path = directory / file_name
    return path if path.is_file() else None


class Recording(Output):
    """Reads a broadcast from the next keyframe on and muxes it, in a thread of its own.

    Its time is that of the media: while the session is held it stands still, and the film has no gap. When it cannot be written
    any more it is over, and what was written stays.

    Args:
        recording: where the file is made, named after the session and the time at which it began, and how long it may become.
        codec: which pictures are read; WebM for VP8, MP4 for H.264.
        on_change: told when the state is another one.

    Its state is ``waiting`` until the first picture, and then ``live``.
    """

    kind = "recording"
    keeps_session = False  # nobody may remember it

    def __init__(
        self,
        session_id: str,
        config: RecordingConfig,
        broadcast: Broadcast,
        info: StreamInfo,
        codec: VideoCodec,
        log: SessionLog,
        on_change: Callable[[Output], None],
    ) -> None:
        super().__init__("waiting", on_change)
        began = f"{self.began:%Y%m%dT%H%M%S}.{self.began.microsecond // 1000:03d}Z"
        assert config.directory is not None
        self.path = config.directory / f"{session_id}-{began}{_SUFFIX[codec]}"
        self._max_minutes = config.max_minutes
        self._info = info
        self._codec = codec
        self._log = log
        self._pictures = broadcast.read_video(codec, backlog_s=BACKLOG_S)
        self._sound = broadcast.read_audio(backlog_s=BACKLOG_S)
        self._keyframe_ticks = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="record")
        # From here on used in that thread alone.
        self._film: FilmFile | None = None
        self._streams: dict[str, Any] = {}
        self._begin_s = self._last_s = Fraction(0)
        self._early: deque[Encoded] = deque(maxlen=MAX_EARLY)
        self._is_broken = False

    @property
    def is_seen(self) -> bool:
        return not self.is_over

    @property
    def file_name(self) -> str | None:
        return None if self._film is None else self.path.name

    @property
    def _duration_s(self) -> float:
        return float(self._last_s - self._begin_s)

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "duration_s": round(self._duration_s, 3),
            "file": self.file_name,
        }

    def stop(self) -> None:
        """Write what has been read already, and end."""
        self._pictures.close()
        self._sound.close()

    async def run(self) -> None:
        try:
            await asyncio.gather(self._read(self._pictures, "video"), self._read(self._sound, "audio"))
            if self.state != "failed":
                await self._finish()
        finally:
            self.stop()
            self._thread.shutdown(wait=False)

    async def _read(self, reader: Reader, kind: str) -> None:
        try:
            while True:
                encoded = await reader.get()
                if kind == "video":
                    self._keep_seekable(encoded)
                await self._in_thread(self._write, kind, encoded)
                if self.state == "waiting" and self._film is not None:
                    self._change("live")
                if self._duration_s >= 60 * self._max_minutes:
                    self.stop()
        except ReaderClosed:
            pass
        except (OSError, av.FFmpegError) as error:
            self.stop()
            self._log.warning("the recording %s ends: %s", self.path, error)
            self.fail(f"The file could not be written any more: {error.strerror}. What was recorded until then can be played.")

    def _keep_seekable(self, picture: Encoded) -> None:
        if picture.is_keyframe:
            self._keyframe_ticks = picture.timestamp
        elif picture.timestamp - self._keyframe_ticks >= KEYFRAME_EVERY_S * VIDEO_CLOCK_HZ:
            self._pictures.request_keyframe()

    async def _finish(self) -> None:
        message = None
        if self._duration_s >= 60 * self._max_minutes:
            message = f"A recording lasts at most {self._max_minutes:g} minutes here. Begin another one to go on."
        try:
            if self._film is not None:
                await self._in_thread(self._film.finish)
        except (OSError, av.FFmpegError) as error:
            self._log.warning("the recording %s has no index: %s", self.path, error.strerror)
            message = f"The file plays, but seeking in it is slow: its index could not be written ({error.strerror})."
        self._change("ended", message)

    async def _in_thread(self, step: Callable[..., None], *arguments: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, step, *arguments)

    # In the thread.

    def _write(self, kind: str, encoded: Encoded) -> None:
        if self._is_broken:
            return
        try:
            if self._film is not None:
                self._film.write(self._packets(kind, encoded))
            elif kind == "video":
                self._begin(encoded)
            else:
                self._early.append(encoded)
        except BaseException:
            self._is_broken = True
            if self._film is not None:
                self._film.close()
            raise

    def _begin(self, keyframe: Encoded) -> None:
        self._begin_s = Fraction(keyframe.timestamp, VIDEO_CLOCK_HZ)
        film, info = FilmFile(self.path), self._info
        self._streams = {
            "video": film.add_pictures(self._codec.lower(), info.width_px, info.height_px, info.fps),
            "audio": film.add_sound("libopus", info.sample_rate_hz, "mono", OPUS_PACKET_MS / 1000),
        }
        self._film = film
        film.write(self._packets("video", keyframe))
        film.write(self._packets("audio", *self._early))
        self._early.clear()

    def _packets(self, kind: str, *encoded: Encoded) -> Iterator[av.Packet[Any]]:
        """As the container takes them; sound from before the first picture is left out."""
        clock_hz = VIDEO_CLOCK_HZ if kind == "video" else OPUS_CLOCK_HZ
        length_s = Fraction(1, self._info.fps) if kind == "video" else Fraction(OPUS_PACKET_MS, 1000)
        for one in encoded:
            media_s = Fraction(one.timestamp, clock_hz)
            if media_s < self._begin_s:
                continue
            self._last_s = max(self._last_s, media_s + length_s)
            packet = av.Packet(one.data)
            packet.stream, packet.time_base = self._streams[kind], Fraction(1, clock_hz)
            packet.pts = packet.dts = round((media_s - self._begin_s) * clock_hz)
            packet.duration, packet.is_keyframe = round(length_s * clock_hz), one.is_keyframe
            yield packet
