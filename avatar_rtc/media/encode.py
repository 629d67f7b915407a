"""Encoders of our own: rates from config, few keyframes, and sound at the model's own rate. Packetising for RTP is aiortc's."""

from __future__ import annotations

import fractions
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import av
from aiortc.codecs.base import Encoder
from aiortc.codecs.h264 import H264Encoder
from aiortc.codecs.vpx import Vp8Encoder
from aiortc.mediastreams import VIDEO_TIME_BASE
from av.video.frame import PictureType

OPUS_CLOCK_HZ = 48_000
OPUS_RATES_HZ = (8_000, 12_000, 16_000, 24_000, 48_000)
OPUS_PACKET_MS = 20
NEVER_FRAMES = 1_000_000
"""Distance of periodic keyframes: there are none; a receiver that needs one asks."""


VideoCodec = Literal["VP8", "H264"]


@dataclass(frozen=True)
class Encoded:
    """A picture or a piece of sound, encoded, for as many readers as there are.

    Attributes:
        data: as a container takes it.
        payloads: the same as RTP payloads.
        timestamp: media time in ticks of the codec's RTP clock: 90000 a second for video, 48000 for Opus.
        is_keyframe: it can be decoded without those before; sound always can.
    """

    data: bytes
    payloads: tuple[bytes, ...]
    timestamp: int
    is_keyframe: bool


@dataclass(frozen=True)
class VideoRates:
    """Bits a second."""

    target_bps: int
    min_bps: int
    max_bps: int
    fps: int


@dataclass(frozen=True)
class ChangePolicy:
    """When a new rate is worth its price.

    Attributes:
        least: a change by less than this share of the current rate is none.
        lower_after_s: a lower estimate must have lasted so long.
        raise_after_s: a higher one, so long.
    """

    least: float
    lower_after_s: float
    raise_after_s: float


IN_PLACE = ChangePolicy(least=0.1, lower_after_s=0.0, raise_after_s=2.0)
WITH_KEYFRAME = ChangePolicy(least=0.25, lower_after_s=2.0, raise_after_s=10.0)


class BitrateControl:
    """Which rate to encode at, given what receivers report (REMB).

    Starts at the target. A lower estimate counts only below what is really sent: receivers cannot measure more than they get, and
    a quiet picture needs little. Nothing counts in the first seconds, in which they have not measured yet.
    """

    WARM_UP_S = 3.0

    def __init__(self, rates: VideoRates, policy: ChangePolicy, now: Callable[[], float] = time.monotonic) -> None:
        self._rates = rates
        self._policy = policy
        self._now = now
        self._start_s = now()
        self._window_start_s = now()
        self._window_bytes = 0
        self._sent_bps = 0.0
        self._trend: Literal["lower", "raise"] | None = None
        self._trend_start_s = now()
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
        if now - self._start_s < self.WARM_UP_S:
            return
        policy = self._policy
        wanted_bps = max(self._rates.min_bps, min(estimate_bps, self._rates.max_bps))
        trend: Literal["lower", "raise"] | None = None
        if wanted_bps < self.current_bps * (1 - policy.least) and estimate_bps < self._sent_bps:
            trend = "lower"
        elif wanted_bps > self.current_bps * (1 + policy.least):
            trend = "raise"
        if trend != self._trend:
            self._trend, self._trend_start_s = trend, now
        if trend is not None and now - self._trend_start_s >= (
            policy.lower_after_s if trend == "lower" else policy.raise_after_s
        ):
            self.current_bps = wanted_bps
            self._trend = None


class VideoEncoder(ABC):
    """Video at the rate that its control says; keyframes at the start and on request.

    ``encode`` runs in a thread, one call at a time; the rest in the event loop's.

    Args:
        packer: cuts a picture into RTP payloads.

    Attributes:
        num_keyframes: made so far.
    """

    def __init__(self, rates: VideoRates, policy: ChangePolicy, packer: Encoder, now: Callable[[], float]) -> None:
        self._rates = rates
        self._control = BitrateControl(rates, policy, now)
        self._packer = packer
        self._codec: Any = None
        self._codec_bps = 0  # as it was told; what it says itself is rounded
        self.num_keyframes = 0

    @property
    def bitrate_bps(self) -> int:
        """What is encoded at."""
        return self._control.current_bps

    def on_estimate(self, bitrate_bps: int) -> None:
        """What the slowest reader's path carries."""
        self._control.on_estimate(bitrate_bps)

    def encode(self, frame: av.VideoFrame, *, keyframe: bool = False) -> Encoded | None:
        """One picture, None if the codec keeps it."""
        assert frame.pts is not None
        assert frame.time_base is not None
        bitrate_bps = self._control.current_bps
        if self._codec is None:
            self._codec = self._open(frame, bitrate_bps)
        elif self._codec_bps != bitrate_bps:
            self._codec = self._with_bitrate(frame, bitrate_bps)
        self._codec_bps = bitrate_bps
        frame.pict_type = PictureType.I if keyframe else PictureType.NONE
        packets = self._codec.encode(frame)
        if not packets:
            return None
        is_keyframe = any(packet.is_keyframe for packet in packets)
        self.num_keyframes += is_keyframe
        data = b"".join(bytes(packet) for packet in packets)
        self._control.on_sent(len(data))
        whole = av.Packet(data)
        whole.pts, whole.time_base = frame.pts, frame.time_base
        payloads, timestamp = self._packer.pack(whole)
        return Encoded(data, tuple(payloads), timestamp, is_keyframe)

    def close(self) -> None:
        """End the codec's threads; who still holds this encoder does not keep them."""
        self._codec = None

    @abstractmethod
    def _open(self, frame: av.VideoFrame, bitrate_bps: int) -> Any:
        """A codec for pictures like this one."""

    @abstractmethod
    def _with_bitrate(self, frame: av.VideoFrame, bitrate_bps: int) -> Any:
        """The open codec at another rate, or a new one."""

    def _codec_for(self, name: str, frame: av.VideoFrame, bitrate_bps: int, options: dict[str, str]) -> Any:
        """What both codecs have in common: one thread, no delay, no periodic keyframes, constant rate."""
        codec: Any = av.CodecContext.create(name, "w")
        codec.width, codec.height, codec.pix_fmt = frame.width, frame.height, "yuv420p"
        codec.framerate, codec.time_base = fractions.Fraction(self._rates.fps), VIDEO_TIME_BASE
        codec.bit_rate = bitrate_bps
        codec.gop_size = NEVER_FRAMES
        codec.thread_count = 1
        codec.options = {"maxrate": str(bitrate_bps), **options}
        return codec


class Vp8(VideoEncoder):
    """VP8. FFmpeg hands libvpx its rate only at the start, so another rate is another codec and a keyframe."""

    def __init__(self, rates: VideoRates, now: Callable[[], float]) -> None:
        super().__init__(rates, WITH_KEYFRAME, Vp8Encoder(), now)

    def _open(self, frame: av.VideoFrame, bitrate_bps: int) -> Any:
        options = {
            # minrate = maxrate = bit_rate is constant rate; the buffer is one second.
            "minrate": str(bitrate_bps),
            "bufsize": str(bitrate_bps),
            "undershoot-pct": "100",
            "overshoot-pct": "15",
            "deadline": "realtime",
            "cpu-used": "-6",
            "lag-in-frames": "0",
            "static-thresh": "1",
        }
        codec = self._codec_for("libvpx", frame, bitrate_bps, options)
        codec.qmin, codec.qmax = 2, 56
        return codec

    def _with_bitrate(self, frame: av.VideoFrame, bitrate_bps: int) -> Any:
        return self._open(frame, bitrate_bps)


class H264(VideoEncoder):
    """H.264 baseline. FFmpeg hands libx264 a new rate with the next picture."""

    def __init__(self, rates: VideoRates, now: Callable[[], float]) -> None:
        super().__init__(rates, IN_PLACE, H264Encoder(), now)

    def _open(self, frame: av.VideoFrame, bitrate_bps: int) -> Any:
        options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            "level": "31",
            "bufsize": str(self._rates.target_bps // 2),
            "sc_threshold": "0",
        }
        # libx264 follows any rate up to the one that it was opened with, as long as that was its highest, too.
        codec = self._codec_for("libx264", frame, self._rates.max_bps, options)
        codec.profile = "Baseline"
        codec.open()
        codec.bit_rate = bitrate_bps
        return codec

    def _with_bitrate(self, frame: av.VideoFrame, bitrate_bps: int) -> Any:
        self._codec.bit_rate = bitrate_bps
        return self._codec


class Opus:
    """Opus at the model's own sample rate: the codec takes it as it is, so nothing is resampled and nothing is delayed.

    RTP counts Opus in 1/48000 s whatever the rate is (RFC 7587).
    """

    def __init__(self, sample_rate_hz: int, bitrate_bps: int) -> None:
        if sample_rate_hz not in OPUS_RATES_HZ:
            raise ValueError(f"Opus takes {OPUS_RATES_HZ} Hz, the model makes {sample_rate_hz} Hz")
        self._clock_ratio = OPUS_CLOCK_HZ // sample_rate_hz
        self._codec: Any = av.CodecContext.create("libopus", "w")
        self._codec.sample_rate = sample_rate_hz
        self._codec.layout = "mono"
        self._codec.format = "s16"
        self._codec.bit_rate = bitrate_bps
        self._codec.options = {"application": "audio", "frame_duration": str(OPUS_PACKET_MS), "fec": "1", "packet_loss": "5"}

    def encode(self, frame: av.AudioFrame) -> Encoded | None:
        """A piece of sound of ``OPUS_PACKET_MS``."""
        assert frame.pts is not None
        packets = [bytes(packet) for packet in self._codec.encode(frame)]
        return Encoded(b"".join(packets), tuple(packets), frame.pts * self._clock_ratio, True) if packets else None

    def close(self) -> None:
        """As that of a video encoder."""
        self._codec = None


def make_video_encoder(codec: VideoCodec, rates: VideoRates, now: Callable[[], float] = time.monotonic) -> VideoEncoder:
    """The encoder of a codec, by its name in SDP.

    Args:
        now: seconds of a monotonic clock.
    """
    return Vp8(rates, now) if codec == "VP8" else H264(rates, now)
