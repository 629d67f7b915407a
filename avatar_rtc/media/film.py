"""A film: encoded pictures and sound in one file, which plays whatever ends it, and seeks when it is finished.

While it is written it is made of fragments that are complete in themselves, so that what is written stays playable if the process
is killed, or the disk is full. Finished, its packets are copied as they are into a file with the index in front: a browser plays
and seeks in it while it loads.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.audio.stream import AudioStream
from av.stream import Stream
from av.video.stream import VideoStream

FRAGMENT_MS = 500
AAC_SAMPLES = 1024
"""Of a packet of AAC."""
PATIENCE_S = 2.0
"""A track that is behind the other by more is taken to have stopped."""

_FRAGMENTED = {
    "mp4": {"movflags": "delay_moov+default_base_moof", "frag_duration": str(FRAGMENT_MS * 1000)},
    "webm": {"cluster_time_limit": str(FRAGMENT_MS)},
}
# Packets come in their order already, and those that were given are to be on the disk.
_AT_ONCE = {"flush_packets": "1", "max_interleave_delta": "1"}
_INDEX_IN_FRONT = {"mp4": {"movflags": "faststart"}, "webm": {"cues_to_front": "1"}}


class _Track:
    """What waits of one track until the other one has come as far."""

    def __init__(self, packet_s: float) -> None:
        self.packet_s = packet_s
        self.waiting: deque[av.Packet[Any]] = deque()
        self.end_s = -math.inf

    def start_s(self, packet: av.Packet[Any]) -> float:
        assert packet.pts is not None
        return float(packet.pts * packet.time_base)

    def add(self, packet: av.Packet[Any]) -> None:
        self.waiting.append(packet)
        lasts_s = self.packet_s
        if packet.stream.type == "audio" and packet.duration:  # the last one is short
            lasts_s = min(lasts_s, float(packet.duration * packet.time_base))
        self.end_s = max(self.end_s, self.start_s(packet) + lasts_s)


class FilmFile:
    """One track of pictures and one of sound, which end together: with the first of them, but for less than a picture.

    Nothing of it knows an event loop; each call may wait for the disk, and raises ``OSError`` where it cannot be written. After
    that only ``close`` is of use: what was written until then stays.

    Args:
        path: is overwritten. WebM where its name ends so, else MP4.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._format = "webm" if path.suffix == ".webm" else "mp4"
        options = {**_FRAGMENTED[self._format], **_AT_ONCE}
        self._container: Any = av.open(str(path), "w", format=self._format, options=options)
        self._tracks: dict[int, _Track] = {}

    def add_pictures(self, codec: str, width_px: int, height_px: int, fps: int) -> VideoStream:
        """The track of pictures that come encoded by ``codec``; their packets name the stream that is returned."""
        stream: VideoStream = self._container.add_mux_stream(
            codec, rate=fps, width=width_px, height=height_px, time_base=Fraction(1, fps * 1000)
        )
        self._add(stream, 1 / fps)
        return stream

    def add_video_encoder(self, encoder: str, width_px: int, height_px: int, fps: int, **settings: Any) -> VideoStream:
        """The track of pictures, which ``encode`` of the stream that is returned makes.

        Args:
            settings: of the encoder: ``bit_rate``, ``time_base``, ``options``.
        """
        stream: VideoStream = self._container.add_stream(encoder, rate=fps, options=settings.pop("options", None))
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        self._add(stream, 1 / fps)
        return stream

    def add_sound(self, encoder: str, rate_hz: int, layout: str, packet_s: float, bit_rate: int | None = None) -> AudioStream:
        """The track of sound. Its packets are made by ``encode`` of the stream that is returned, or come from an encoder like it.

        Args:
            packet_s: how long a packet lasts.
        """
        stream: AudioStream = self._container.add_stream(encoder, rate=rate_hz, layout=layout)
        if bit_rate is not None:
            stream.bit_rate = bit_rate
        self._add(stream, packet_s)
        return stream

    def _add(self, stream: Stream, packet_s: float) -> None:
        self._tracks[stream.index] = _Track(packet_s)

    def write(self, packets: Iterable[av.Packet[Any]]) -> None:
        """Take packets of one track, in their order; they are in the file when those of the other track have come as far."""
        for packet in packets:
            self._tracks[packet.stream.index].add(packet)
        ends_s = [track.end_s for track in self._tracks.values()]
        # What may turn out to stand for less than half its time waits, see ``finish``.
        sure_s = min(ends_s) - max(track.packet_s for track in self._tracks.values()) / 2
        self._mux_until(max(sure_s, max(ends_s) - PATIENCE_S))

    def finish(self) -> None:
        """Let both tracks end together, and put the index in front. If that fails, the file is what ``close`` leaves."""
        begun = [track for track in self._tracks.values() if track.end_s > -math.inf]
        end_s = min(track.end_s for track in begun)
        for track in begun:
            while track.waiting and track.start_s(track.waiting[-1]) > end_s - track.packet_s / 2:
                track.waiting.pop()
        self._mux_until(math.inf)
        self._container.close()
        _put_index_in_front(self._path, self._format)

    def close(self) -> None:
        """Let the file go as it is. Never raises."""
        with contextlib.suppress(OSError):
            self._container.close()

    def _mux_until(self, end_s: float) -> None:
        """Write the packets that begin before ``end_s``, in the order of their time."""
        while True:
            heads = [(track.start_s(track.waiting[0]), index) for index, track in self._tracks.items() if track.waiting]
            if not heads or min(heads)[0] >= end_s:
                return
            self._container.mux(self._tracks[min(heads)[1]].waiting.popleft())


def _put_index_in_front(path: Path, format_name: str) -> None:
    """Copy the packets into a new file that takes the place of the old one; if that fails, the old one stays."""
    part = path.with_name(f".{path.name}.part")
    try:
        with (
            av.open(str(path)) as film,
            av.open(str(part), "w", format=format_name, options=_INDEX_IN_FRONT[format_name]) as copy,
        ):
            copies = {stream.index: copy.add_stream_from_template(stream, opaque=True) for stream in film.streams}
            for packet in film.demux():
                if packet.dts is not None:
                    packet.stream = copies[packet.stream_index]
                    copy.mux(packet)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
