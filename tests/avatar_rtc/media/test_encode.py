from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from aiortc.codecs.h264 import H264Decoder
from aiortc.codecs.vpx import Vp8Decoder, vp8_depayload
from aiortc.jitterbuffer import JitterFrame

from avatar_rtc.media.encode import (
    IN_PLACE,
    WITH_KEYFRAME,
    BitrateControl,
    ChangePolicy,
    Encoded,
    Opus,
    VideoCodec,
    VideoEncoder,
    VideoRates,
    make_video_encoder,
)
from tests.support.clock import SimulatedClock

RATES = VideoRates(target_bps=600_000, min_bps=200_000, max_bps=1_200_000, fps=25)


def picture(number: int) -> av.VideoFrame:
    planes = np.full((96, 64), 128, np.uint8)
    planes[:64] = (np.arange(64)[None] * 3 + number * 5) % 200 + 20
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    frame.pts, frame.time_base = number * 3600, Fraction(1, 90_000)
    return frame


def encoder(codec: VideoCodec) -> VideoEncoder:
    return make_video_encoder(codec, RATES)


def encoded(made: VideoEncoder, frame: av.VideoFrame, *, keyframe: bool = False) -> Encoded:
    one = made.encode(frame, keyframe=keyframe)
    assert one is not None
    return one


def noise(number: int) -> av.VideoFrame:
    """A picture that takes whatever bits there are."""
    frame = av.VideoFrame.from_ndarray(np.random.default_rng(number).integers(80, 176, (192, 128), np.uint8), format="yuv420p")
    frame.pts, frame.time_base = number * 3600, Fraction(1, 90_000)
    return frame


@pytest.mark.parametrize(("codec", "keyframes_a_change"), [("VP8", 1), ("H264", 0)])
def test_a_new_rate_is_followed(codec: VideoCodec, keyframes_a_change: int) -> None:
    made = encoder(codec)
    for changes, bitrate_bps in enumerate((RATES.target_bps, 200_123, 1_199_456)):
        made._control.current_bps = bitrate_bps
        sent_bytes = [len(encoded(made, noise(75 * changes + number)).data) for number in range(75)]
        assert sum(sent_bytes[-25:]) * 8 == pytest.approx(bitrate_bps, rel=0.35)
        assert made.num_keyframes == 1 + changes * keyframes_a_change


@pytest.mark.parametrize("codec", ["VP8", "H264"])
def test_keyframes_only_at_the_start_and_on_request(codec: VideoCodec) -> None:
    made = encoder(codec)
    for number in range(60):
        made_one = encoded(made, picture(number), keyframe=number == 40)
        assert made_one.timestamp == number * 3600
        assert made_one.is_keyframe == (number in (0, 40))
    assert made.num_keyframes == 2


def test_vp8_can_be_decoded() -> None:
    made, decoder = encoder("VP8"), Vp8Decoder()
    for number in range(5):
        one = encoded(made, picture(number))
        (frame,) = decoder.decode(JitterFrame(b"".join(map(vp8_depayload, one.payloads)), one.timestamp))
    assert isinstance(frame, av.VideoFrame)
    error = frame.to_ndarray(format="gray").astype(int) - picture(4).to_ndarray(format="gray")
    assert np.abs(error).mean() < 12


def test_h264_can_be_decoded() -> None:
    from aiortc.codecs.h264 import h264_depayload

    made, decoder = encoder("H264"), H264Decoder()
    frames = []
    for number in range(5):
        one = encoded(made, picture(number))
        frames += decoder.decode(JitterFrame(b"".join(map(h264_depayload, one.payloads)), one.timestamp))
    assert len(frames) >= 4


def test_opus_takes_24_khz_as_it_is_and_counts_in_48_khz() -> None:
    made = Opus(24_000, 32_000)
    stamps = []
    for number in range(10):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 480), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 24_000, number * 480, Fraction(1, 24_000)
        sound = made.encode(frame)
        assert sound is not None
        assert sound.payloads == (sound.data,)
        stamps.append(sound.timestamp)
    assert all(b - a == 960 for a, b in pairwise(stamps))
    with pytest.raises(ValueError, match="44100"):
        Opus(44_100, 32_000)


class Path:
    """A control, and a path over which ``sent_bps`` are sent."""

    def __init__(self, policy: ChangePolicy) -> None:
        self.clock = SimulatedClock()
        self.control = BitrateControl(RATES, policy, self.clock.now)

    def run(self, duration_s: int, sent_bps: int, *estimates_bps: int) -> int:
        """Each second one of the estimates in turn. Returns the rate at the end."""
        for second in range(duration_s):
            for _ in range(25):
                self.clock.time_s += 0.04
                self.control.on_sent(sent_bps // 8 // 25)
            self.control.on_estimate(estimates_bps[second % len(estimates_bps)])
        return self.control.current_bps


both_policies = pytest.mark.parametrize("policy", [IN_PLACE, WITH_KEYFRAME])


@both_policies
def test_bitrate_waits_until_receivers_know_the_path(policy: ChangePolicy) -> None:
    assert Path(policy).run(2, 500_000, 100_000) == RATES.target_bps


@both_policies
def test_bitrate_of_a_quiet_picture_is_not_lowered(policy: ChangePolicy) -> None:
    assert Path(policy).run(60, 80_000, 120_000) == RATES.target_bps


def test_a_rate_that_costs_a_keyframe_ignores_wobbling_and_short_dips() -> None:
    assert Path(WITH_KEYFRAME).run(60, 600_000, 550_000, 700_000) == RATES.target_bps
    assert Path(WITH_KEYFRAME).run(60, 600_000, 250_000, 600_000, 1_000_000, 600_000) == RATES.target_bps


def test_bitrate_follows_a_path_that_carries_less_and_later_more() -> None:
    path = Path(WITH_KEYFRAME)
    assert path.run(8, 500_000, 50_000) == RATES.min_bps
    assert path.run(10, 200_000, 5_000_000) == RATES.min_bps, "up only when it has lasted"
    assert path.run(3, 200_000, 5_000_000) == RATES.max_bps


def test_a_rate_that_costs_nothing_is_lowered_at_once() -> None:
    path = Path(IN_PLACE)
    assert path.run(4, 500_000, 1_000_000) == RATES.target_bps
    assert path.run(1, 500_000, 300_000) == 300_000
    assert path.run(4, 300_000, 5_000_000) == RATES.max_bps
