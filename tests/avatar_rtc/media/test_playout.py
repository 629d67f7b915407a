"""Pacing on a simulated clock: what leaves when, and with which time stamp."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from avatar_rtc.media.buffer import PlayBuffer
from avatar_rtc.media.clock import MediaClock
from avatar_rtc.media.playout import Playout
from tests.support.chunks import INFO, speaking_chunk
from tests.support.clock import SimulatedClock
from tests.support.frames import time_of
from tests.support.slow_stream import SlowStream

LOW_WATER_S = 0.32


@dataclass
class Sent:
    """When (simulated seconds since the start), which time stamp in seconds, which value."""

    video: list[tuple[float, float, int]] = field(default_factory=list)
    audio: list[tuple[float, float, np.ndarray]] = field(default_factory=list)


@dataclass
class Rig:
    clock: SimulatedClock
    playout: Playout
    sent: Sent

    @property
    def buffer(self) -> PlayBuffer:
        return self.playout.buffer

    async def run(self, duration_s: float) -> None:
        await self.clock.run_until(self.clock.time_s + duration_s)


@asynccontextmanager
async def rig(
    encode_s: Callable[[], float] = lambda: 0.0,
    chunk_s: Callable[[], float] = lambda: 0.1,
    delay_s: float = 0.0,
    encode_sound_s: Callable[[], float] = lambda: 0.0,
) -> AsyncIterator[Rig]:
    """A source that makes a chunk in ``chunk_s()`` when the buffer is low; a sender that encodes pictures in ``encode_s()``."""
    clock = SimulatedClock()
    playout = Playout(INFO, low_water_s=LOW_WATER_S, video_delay_s=delay_s, clock=MediaClock(clock.now, sleep=clock.sleep))
    made = Rig(clock, playout, Sent())
    start_s = clock.time_s

    async def feed() -> None:
        numbers = itertools.count()
        async for _ in playout.pull(SlowStream(clock, lambda: speaking_chunk(next(numbers)), lambda _: chunk_s())):
            pass

    async def send_video() -> None:
        async for frame in playout.pictures():
            made.sent.video.append((clock.time_s - start_s, time_of(frame), int(frame.to_ndarray()[0, 0])))
            await clock.sleep(encode_s())

    async def send_audio() -> None:
        async for frame in playout.sound():
            made.sent.audio.append((clock.time_s - start_s, time_of(frame), frame.to_ndarray()[0]))
            await clock.sleep(encode_sound_s())

    tasks = [asyncio.create_task(life()) for life in (feed, send_video, send_audio)]
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def check_content_in_sync(sent: Sent) -> None:
    """Each sample is that of the picture with its time stamp, or silence."""
    shown = {round(pts * INFO.fps): value for _, pts, value in sent.video}
    checked = 0
    for _, pts, samples in sent.audio:
        value = shown.get(int(pts * INFO.fps + 1e-9))
        if value is not None:
            assert set(np.unique(samples)) <= {0, value}
            checked += 1
    assert checked > len(sent.audio) * 0.3


async def test_ten_minutes_without_drift_under_jitter_and_underruns() -> None:
    random_ = random.Random(1)
    async with rig(
        encode_s=lambda: random_.uniform(0.001, 0.03),
        chunk_s=lambda: random_.choice([0.05] * 30 + [0.2] * 10 + [0.7]),
    ) as made:
        await made.run(600)
        sent, buffer = made.sent, made.buffer
    assert buffer.num_underruns > 20
    assert len(sent.video) == pytest.approx(600 * 25, abs=20)
    video_s = sent.video[-1][1] + 1 / 25
    audio_s = sent.audio[-1][1] + 0.02
    assert abs(video_s - audio_s) < 1 / 25
    assert np.allclose(np.diff([pts for _, pts, _ in sent.audio]), 0.02)
    assert np.allclose(np.diff([pts for _, pts, _ in sent.video]), 0.04)
    # Time stamps and the clock stay together to the end: nothing drifts.
    lead_s = sent.video[0][0]
    assert all(-1e-6 <= at - lead_s - pts < 0.04 for at, pts, _ in sent.video)
    assert all(-1e-6 <= at - lead_s - pts < 0.04 for at, pts, _ in sent.audio)
    check_content_in_sync(sent)


async def test_a_source_that_keeps_up_pauses_no_longer_than_it_was_late() -> None:
    took_s = iter([0.1] * 20 + [0.9] + [0.1] * 80)
    async with rig(chunk_s=lambda: next(took_s, 0.1)) as made:
        await made.run(20)
        buffer, sent = made.buffer, made.sent
    late_s = 0.9 - LOW_WATER_S
    assert buffer.num_underruns == 1
    assert late_s <= buffer.num_held_frames / INFO.fps < late_s + 2 / INFO.fps
    check_content_in_sync(sent)


async def test_neither_track_is_ever_ahead_of_the_other() -> None:
    async with rig(encode_s=lambda: 0.02) as made:
        await made.run(20)
        moments = sorted([(at, "v", pts) for at, pts, _ in made.sent.video] + [(at, "a", pts) for at, pts, _ in made.sent.audio])
    last = {"v": 0.0, "a": 0.0}
    for _, kind, pts in moments:
        last[kind] = pts
        assert abs(last["v"] - last["a"]) <= 0.04 + 1e-9


async def test_a_slow_encoder_drops_pictures_and_not_sync() -> None:
    async with rig(encode_s=lambda: 0.1) as made:
        await made.run(20)
        sent, dropped = made.sent, made.playout.num_dropped
    assert dropped > 200
    assert all(at - pts < 0.35 for at, pts, _ in sent.video)
    assert np.allclose(np.diff([pts for _, pts, _ in sent.audio]), 0.02)
    check_content_in_sync(sent)


async def test_encoders_that_stand_still_and_catch_up_do_not_run_the_buffer_dry() -> None:
    """What is due is pulled for although nobody has taken it yet."""
    stands = itertools.cycle([0.0] * 24 + [0.8])
    sound_stands = itertools.cycle([0.0] * 49 + [0.8])
    async with rig(encode_s=lambda: next(stands), encode_sound_s=lambda: next(sound_stands)) as made:
        await made.run(30)
        assert made.playout.num_dropped > 50, "they do stand still"
        assert made.buffer.num_underruns == 0


async def test_late_video_keeps_its_time_stamps() -> None:
    async with rig(delay_s=0.2) as made:
        await made.run(10)
        sent = made.sent
    lead_s = sent.audio[0][0]
    assert all(at - lead_s - pts == pytest.approx(0.2, abs=1e-6) for at, pts, _ in sent.video)
    assert all(at - lead_s - pts == pytest.approx(0, abs=1e-6) for at, pts, _ in sent.audio)
    assert made.playout.num_dropped == 0
    check_content_in_sync(sent)


async def test_a_stall_of_the_machine_is_not_caught_up_in_a_burst() -> None:
    async with rig() as made:
        await made.run(5)
        made.clock.time_s += 30
        num_before = len(made.sent.video)
        await made.run(5)
        sent = made.sent
    assert len(sent.video) - num_before == pytest.approx(125, abs=3)
    assert abs(sent.video[-1][1] - sent.audio[-1][1]) <= 0.04 + 1e-9
    assert np.allclose(np.diff([pts for _, pts, _ in sent.audio]), 0.02)


async def test_what_nobody_hears_is_not_played_and_what_nobody_heard_is_played_again() -> None:
    """The connection breaks; the clock is stopped half a second later, and goes on after ten."""
    async with rig() as made:
        await made.run(5)
        before = len(made.sent.audio)
        made.playout.hold(unheard_s=0.52)
        pulled = made.buffer.buffered_s
        await made.run(10)
        assert len(made.sent.audio) <= before + 2, "nothing is played meanwhile"
        assert made.buffer.buffered_s == pulled, "and nothing is made"
        made.playout.go_on()
        await made.run(5)
        sent = made.sent
    values = [int(samples[0]) for _, _, samples in sent.audio]
    heard, again = values[: before - 26], values[before + 2 :]
    step = {0, 1, -199}  # frame n has the value n % 200 + 1
    assert {b - a for a, b in itertools.pairwise(again)} <= step
    assert again[0] - heard[-1] in (0, 1, 2), "it goes on where it was heard last"
    assert np.allclose(np.diff([pts for _, pts, _ in sent.audio]), 0.02), "media time has no gap"
    assert np.allclose(np.diff([pts for _, pts, _ in sent.video]), 0.04)
    assert made.playout.num_dropped == 0
    check_content_in_sync(sent)


@pytest.mark.parametrize("turns", range(8))
async def test_whoever_pulls_can_be_cancelled_at_any_moment(turns: int) -> None:
    """Also just when it wakes from a rest; else a session would never end."""
    clock = SimulatedClock()
    playout = Playout(INFO, low_water_s=LOW_WATER_S, clock=MediaClock(clock.now, sleep=clock.sleep))
    numbers = itertools.count()

    async def pull() -> None:
        async for _ in playout.pull(SlowStream(clock, lambda: speaking_chunk(next(numbers)), lambda _: 0.01)):
            pass

    pulling = asyncio.create_task(pull())
    await clock.run_until(clock.time_s + 0.1)
    assert playout.lines.spare_s() > 0, "it rests"
    playout.silence()
    for _ in range(turns):
        await asyncio.sleep(0)
    pulling.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert pulling.cancelled()
