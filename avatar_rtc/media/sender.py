"""What aiortc's senders must do otherwise, for one call at a time: our encoders, and sender reports from the media clock.

aiortc writes the time of sending into RTCP sender reports. A receiver uses them to line up lips and voice, so pictures that leave
late would be shown late. Ours say which media time belongs to which RTP time stamp.

Everything that touches the insides of aiortc is in this file and in transport.py, on instances, never on modules.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiortc import RTCRtpSender
from aiortc.codecs.base import Encoder
from aiortc.rtp import RtcpSrPacket

from avatar_rtc.media.timeline import Timeline


class StampingEncoder(Encoder):
    """Wraps an encoder and remembers the last time stamp that it gave out."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder: Any = encoder
        self.last_timestamp: int | None = None

    @property
    def target_bitrate(self) -> int:
        return int(self.encoder.target_bitrate)

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        # Sound has a steady rate, and its encoder no such attribute.
        if hasattr(self.encoder, "target_bitrate"):
            self.encoder.target_bitrate = bitrate

    def encode(self, frame: Any, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        payloads, timestamp = self.encoder.encode(frame, force_keyframe)
        self.last_timestamp = timestamp
        return payloads, timestamp

    def pack(self, packet: Any) -> tuple[list[bytes], int]:
        payloads, timestamp = self.encoder.pack(packet)
        self.last_timestamp = timestamp
        return payloads, timestamp


def media_clock_report(report: RtcpSrPacket, origin: int, timeline: Timeline, clock_hz: int) -> None:
    """Rewrite a sender report: its RTP time stamp stays, its NTP time becomes the media time of that time stamp.

    Args:
        origin: RTP time stamp of media time 0.
    """
    elapsed = (report.sender_info.rtp_timestamp - origin) & 0xFFFFFFFF
    # The time stamp wraps after 13 h of video; the clock says in which round we are.
    rounds = round((timeline.media_s() * clock_hz - elapsed) / (1 << 32))
    report.sender_info.ntp_timestamp = timeline.ntp((elapsed + rounds * (1 << 32)) / clock_hz)


def prepare_sender(sender: RTCRtpSender, encoder: Encoder, timeline: Timeline, clock_hz: int) -> None:
    """Make a sender use ``encoder`` and report the media clock. To be called between negotiation and the first packet."""
    stamping = StampingEncoder(encoder)
    insides: Any = sender
    insides._RTCRtpSender__encoder = stamping
    origin: int | None = None
    next_encoded_frame: Callable[[Any], Awaitable[Any]] = sender._next_encoded_frame
    send_rtcp: Callable[[list[Any]], Awaitable[None]] = sender._send_rtcp

    async def next_encoded_frame_learning_origin(codec: Any) -> Any:
        # The sender adds a random origin that it keeps to itself. When it asks for a frame, the one before has left as a whole.
        nonlocal origin
        if origin is None and stamping.last_timestamp is not None and insides._RTCRtpSender__packet_count:
            origin = (insides._RTCRtpSender__rtp_timestamp - stamping.last_timestamp) & 0xFFFFFFFF
        return await next_encoded_frame(codec)

    async def send_rtcp_of_media_clock(packets: list[Any]) -> None:
        for packet in packets:
            if isinstance(packet, RtcpSrPacket):
                if origin is None:
                    return  # nothing was sent yet, so there is nothing to report
                media_clock_report(packet, origin, timeline, clock_hz)
                # Receivers echo the middle of the NTP time; the sender must know it again to measure round trips.
                insides._RTCRtpSender__lsr = (packet.sender_info.ntp_timestamp >> 16) & 0xFFFFFFFF
        await send_rtcp(packets)

    insides._next_encoded_frame = next_encoded_frame_learning_origin
    insides._send_rtcp = send_rtcp_of_media_clock
