from __future__ import annotations

import pytest
from aiortc.rtp import RtcpSenderInfo, RtcpSrPacket
from hypothesis import given
from hypothesis import strategies as st

from avatar_rtc.media.clock import MediaClock
from avatar_rtc.outputs.aiortc_patches import media_clock_report
from tests.support.clock import SimulatedClock


@given(
    origin=st.integers(0, 2**32 - 1),
    media_s=st.floats(min_value=0, max_value=200_000),
    late_s=st.floats(min_value=0, max_value=2),
)
def test_reports_tell_media_time_however_late_they_leave(origin: int, media_s: float, late_s: float) -> None:
    clock = SimulatedClock()
    timeline = MediaClock(clock.now, wall=lambda: 0.0)
    timeline.start()
    clock.time_s += media_s + late_s
    timestamp = (origin + int(media_s * 90_000)) % 2**32
    sent_ntp = timeline.ntp(media_s + late_s)
    report = RtcpSrPacket(ssrc=1, sender_info=RtcpSenderInfo(sent_ntp, timestamp, 10, 1000))
    media_clock_report(report, origin, timeline, 90_000)
    assert report.sender_info.rtp_timestamp == timestamp
    assert (report.sender_info.ntp_timestamp - timeline.ntp(media_s)) / 2**32 == pytest.approx(0, abs=1e-4)
