from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_rtc.media.clock import MAX_LATE_S, NTP_EPOCH_OFFSET_S, MediaClock
from tests.support.clock import SimulatedClock


def test_media_time_starts_with_start_and_only_once() -> None:
    clock = SimulatedClock()
    timeline = MediaClock(clock.now)
    clock.time_s += 7
    assert timeline.media_s() == 0
    timeline.start()
    clock.time_s += 2
    timeline.start()
    assert timeline.media_s() == 2
    assert timeline.late_s(Fraction(3)) == -1


@given(st.integers(min_value=0, max_value=10_000_000))
def test_ntp_is_wall_time_of_the_media_time(frame: int) -> None:
    timeline = MediaClock(SimulatedClock().now, wall=lambda: 1_700_000_000.0)
    timeline.start()
    ntp_s = timeline.ntp(frame / 25) / 2**32
    assert ntp_s == pytest.approx(1_700_000_000 + NTP_EPOCH_OFFSET_S + frame / 25, abs=1e-5)


@given(st.floats(min_value=0, max_value=20))
def test_only_a_long_stall_is_forgiven(stall_s: float) -> None:
    clock = SimulatedClock()
    timeline = MediaClock(clock.now, wall=lambda: 0.0)
    timeline.start()
    clock.time_s += 10 + stall_s
    before = timeline.ntp(10.0)
    forgiven = timeline.forgive(Fraction(10))
    assert forgiven == (timeline.ntp(10.0) > before)
    if stall_s > MAX_LATE_S + 1e-6:
        assert forgiven
        assert timeline.media_s() == pytest.approx(10)
        assert (timeline.ntp(10.0) - before) / 2**32 == pytest.approx(stall_s, abs=1e-3)
    elif stall_s < MAX_LATE_S - 1e-6:
        assert not forgiven
