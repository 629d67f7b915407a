"""Encoders of our own for aiortc's senders: rates from config, few keyframes, and sound at the model's own rate.

The bitrate of an open libvpx or libx264 encoder cannot be changed through PyAV, so a change means a new encoder and a keyframe.
``BitrateControl`` therefore follows the receiver's estimate (REMB) only where it matters.
"""

from __future__ import annotations

import fractions
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import av
from aiortc.codecs.base import Encoder
from aiortc.codecs.h264 import H264Encoder
from aiortc.codecs.vpx import Vp8Encoder
from aiortc.mediastreams import VIDEO_TIME_BASE, convert_timebase
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from av.frame import Frame
from av.video.frame import PictureType

OPUS_CLOCK_HZ = 48_000
OPUS_RATES_HZ = (8_000, 12_000, 16_000, 24_000, 48_000)
OPUS_PACKET_MS = 20
NEVER_FRAMES = 1_000_000
"""Distance of periodic keyframes: there are none; a receiver that needs one asks."""


@dataclass(frozen=True)
class VideoRates:
    """Bits a second."""

    target_bps: int
    min_bps: int
    max_bps: int
    fps: int


class BitrateControl:
    """Which rate to encode at, given what receivers report.

    Starts at the target. A lower estimate is followed when it is below 3/4 of the current rate and below what is really
    sent: receivers cannot measure more than they get, and a quiet picture needs little. Not in the first seconds, in which
    they have not measured yet. A higher one is followed when it allows 4/3 of the current rate, at most every ten seconds.
    """

    WARM_UP_S = 3.0
    RAISE_EVERY_S = 10.0
    LOWER_EVERY_S = 2.0

    def __init__(self, rates: VideoRates, now: Callable[[], float] = time.monotonic) -> None:
        self._rates = rates
        self._now = now
        self._start_s = now()
        self._changed_s = now()
        self._window_start_s = now()
        self._window_bytes = 0
        self._sent_bps = 0.0
        self.current_bps = rates.target_bps

    def on_sent(self, num_bytes: int) -> None:
        """A picture was encoded; the rate is measured in windows of a second."""
        self._window_bytes += num_bytes
        elapsed_s = self._now() - self._window_start_s
        if elapsed_s >= 1:
            self._sent_bps = self._window_bytes * 8 / elapsed_s
            self._window_start_s, self._window_bytes = self._now(), 0

    def on_estimate(self, estimate_bps: int) -> None:
        """A receiver's estimate of what the path carries."""
        now = self._now()
        wanted = max(self._rates.min_bps, min(estimate_bps, self._rates.max_bps))
        if now - self._start_s < self.WARM_UP_S:
            return
        since_s = now - self._changed_s
        lower = wanted * 4 < self.current_bps * 3 and estimate_bps < self._sent_bps and since_s >= self.LOWER_EVERY_S
        higher = wanted * 3 > self.current_bps * 4 and since_s >= self.RAISE_EVERY_S
        if lower or higher:
            self.current_bps = wanted
            self._changed_s = now


class Vp8(Vp8Encoder):
    """VP8 at a steady rate. Packetising is aiortc's."""

    def __init__(self, rates: VideoRates) -> None:
        super().__init__()
        self._rates = rates
        self.control = BitrateControl(rates)
        self.num_keyframes = 0

    @property
    def target_bitrate(self) -> int:
        return self.control.current_bps

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        self.control.on_estimate(bitrate)

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        assert isinstance(frame, av.VideoFrame)
        if self.codec is None or self.codec.bit_rate != self.control.current_bps:
            self.codec = _open_vp8(frame, self._rates.fps, self.control.current_bps)
        frame.pict_type = PictureType.I if force_keyframe else PictureType.NONE
        packets = self.codec.encode(frame)
        self.num_keyframes += sum(packet.is_keyframe for packet in packets)
        data = b"".join(bytes(packet) for packet in packets)
        self.control.on_sent(len(data))
        payloads = self._packetize(data, self.picture_id)
        self.picture_id = (self.picture_id + 1) % (1 << 15)
        assert frame.pts is not None
        assert frame.time_base is not None
        return payloads, convert_timebase(frame.pts, frame.time_base, VIDEO_TIME_BASE)


class H264(H264Encoder):
    """H.264 baseline without delay. Packetising is aiortc's."""

    def __init__(self, rates: VideoRates) -> None:
        super().__init__()
        self._rates = rates
        self.control = BitrateControl(rates)
        self.num_keyframes = 0

    @property
    def target_bitrate(self) -> int:
        return self.control.current_bps

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        self.control.on_estimate(bitrate)

    def _encode_frame(self, frame: av.VideoFrame, force_keyframe: bool) -> Iterator[bytes]:
        if self.codec is None or self.codec.bit_rate != self.control.current_bps:
            self.codec = _open_h264(frame, self._rates.fps, self.control.current_bps)
        frame.pict_type = PictureType.I if force_keyframe else PictureType.NONE
        packets = self.codec.encode(frame)
        self.num_keyframes += sum(packet.is_keyframe for packet in packets)
        data = b"".join(bytes(packet) for packet in packets)
        self.control.on_sent(len(data))
        yield from self._split_bitstream(data)


class Opus(Encoder):
    """Opus at the model's own sample rate: the codec takes it as it is, so nothing is resampled and nothing is delayed.

    RTP counts Opus in 1/48000 s whatever the rate is (RFC 7587).
    """

    def __init__(self, sample_rate_hz: int, bitrate_bps: int) -> None:
        if sample_rate_hz not in OPUS_RATES_HZ:
            raise ValueError(f"Opus takes {OPUS_RATES_HZ} Hz, the model makes {sample_rate_hz} Hz")
        self._clock_ratio = OPUS_CLOCK_HZ // sample_rate_hz
        self._codec = av.CodecContext.create("libopus", "w")
        self._codec.sample_rate = sample_rate_hz
        self._codec.layout = "mono"
        self._codec.format = "s16"
        self._codec.bit_rate = bitrate_bps
        self._codec.options = {"application": "audio", "frame_duration": str(OPUS_PACKET_MS), "fec": "1", "packet_loss": "5"}

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        assert isinstance(frame, av.AudioFrame)
        assert frame.pts is not None
        timestamp = frame.pts * self._clock_ratio
        return [bytes(packet) for packet in self._codec.encode(frame)], timestamp

    def pack(self, packet: Any) -> tuple[list[bytes], int]:
        return [bytes(packet)], convert_timebase(packet.pts, packet.time_base, fractions.Fraction(1, OPUS_CLOCK_HZ))


def make_encoder(codec: RTCRtpCodecParameters, rates: VideoRates, sample_rate_hz: int, audio_bps: int) -> Encoder:
    """The encoder for a negotiated codec.

    Raises:
        ValueError: it is none of VP8, H.264 and Opus.
    """
    match codec.mimeType.lower():
        case "video/vp8":
            return Vp8(rates)
        case "video/h264":
            return H264(rates)
        case "audio/opus":
            return Opus(sample_rate_hz, audio_bps)
        case other:
            raise ValueError(f"no encoder for {other}")


def _open_vp8(frame: av.VideoFrame, fps: int, bitrate_bps: int) -> Any:
    codec = av.CodecContext.create("libvpx", "w")
    codec.width, codec.height, codec.pix_fmt = frame.width, frame.height, "yuv420p"
    codec.framerate, codec.time_base = fractions.Fraction(fps), fractions.Fraction(1, VIDEO_TIME_BASE.denominator)
    codec.bit_rate = bitrate_bps
    codec.gop_size = NEVER_FRAMES
    codec.qmin, codec.qmax = 2, 56
    codec.thread_count = 1
    codec.options = {
        # minrate = maxrate = bit_rate is constant rate; the buffer is one second.
        "minrate": str(bitrate_bps),
        "maxrate": str(bitrate_bps),
        "bufsize": str(bitrate_bps),
        "undershoot-pct": "100",
        "overshoot-pct": "15",
        "deadline": "realtime",
        "cpu-used": "-6",
        "lag-in-frames": "0",
        "static-thresh": "1",
    }
    return codec


def _open_h264(frame: av.VideoFrame, fps: int, bitrate_bps: int) -> Any:
    codec = av.CodecContext.create("libx264", "w")
    codec.width, codec.height, codec.pix_fmt = frame.width, frame.height, "yuv420p"
    codec.framerate, codec.time_base = fractions.Fraction(fps), fractions.Fraction(1, VIDEO_TIME_BASE.denominator)
    codec.bit_rate = bitrate_bps
    codec.gop_size = NEVER_FRAMES
    codec.thread_count = 1
    codec.profile = "Baseline"
    codec.options = {
        "preset": "veryfast",
        "tune": "zerolatency",
        "level": "31",
        "maxrate": str(bitrate_bps),
        "bufsize": str(bitrate_bps),
        "sc_threshold": "0",
    }
    return codec
