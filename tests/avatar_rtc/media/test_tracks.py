"""Pacing on a simulated clock: what leaves when, and with which time stamp."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError

from avatar_rtc.media.buffer import PlayBuffer
from avatar_rtc.media.demand import Demand
from avatar_rtc.media.timeline import Timeline
from avatar_rtc.media.tracks import AudioTrack, Playout, VideoTrack
from avatar_rtc.pace import Pace
from tests.support.chunks import INFO, speaking_chunk
from tests.support.clock import SimulatedClock

LOW_WATER_S = 0.32


@dataclass
class Sent:
    """When (simulated seconds since the start), which time stamp in seconds, which value."""

    video: list[tuple[float, float, int]] = field(default_factory=list)
    audio: list[tuple[float, float, np.ndarray]] = field(default_factory=list)


@dataclass
class Rig:
    clock: SimulatedClock
    buffer: PlayBuffer
    playout: Playout
    video: VideoTrack
    audio: AudioTrack
    sent: Sent

    async def run(self, duration_s: float) -> None:
        await self.clock.run_until(self.clock.time_s + duration_s)


@asynccontextmanager
async def rig(
    encode_s: Callable[[], float] = lambda: 0.0, block_s: Callable[[], float] = lambda: 0.1, delay_ms: int = 0
) -> AsyncIterator[Rig]:
    """A source that makes a block in ``block_s()`` when the buffer is low; a sender that encodes pictures in ``encode_s()``."""
    clock = SimulatedClock()
    buffer = PlayBuffer(INFO, lambda played: None, kept_after_cancel_s=0.42)
    playout = Playout(buffer, Timeline(clock.now, sleep=clock.sleep))
    made = Rig(clock, buffer, playout, VideoTrack(playout, delay_ms), AudioTrack(playout), Sent())
    start_s = clock.time_s

    async def feed() -> None:
        index = 0
        demand = Demand(LOW_WATER_S, INFO.block_duration_s, Pace(1))
        while True:
            spare_s = demand.spare_s(buffer.buffered_s)
            if spare_s > 0:
                await clock.sleep(max(spare_s, 0.01))
                continue
            asked_s = clock.time_s
            await clock.sleep(block_s())
            demand.on_chunk(clock.time_s - asked_s, INFO.block_duration_s, buffer.num_underruns)
            buffer.put(speaking_chunk(index))
            playout.notify()
            index += 1

    async def send_video() -> None:
        while True:
            frame = await made.video.recv()
            made.sent.video.append((clock.time_s - start_s, float(frame.pts * frame.time_base), int(frame.to_ndarray()[0, 0])))
            await clock.sleep(encode_s())

    async def send_audio() -> None:
        while True:
            frame = await made.audio.recv()
            made.sent.audio.append((clock.time_s - start_s, float(frame.pts * frame.time_base), frame.to_ndarray()[0]))

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
        block_s=lambda: random_.choice([0.05] * 30 + [0.2] * 10 + [0.7]),
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
    async with rig(block_s=lambda: next(took_s, 0.1)) as made:
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
        sent, dropped = made.sent, made.video.num_dropped
    assert dropped > 200
    assert all(at - pts < 0.35 for at, pts, _ in sent.video)
    assert np.allclose(np.diff([pts for _, pts, _ in sent.audio]), 0.02)
    check_content_in_sync(sent)


async def test_late_video_keeps_its_time_stamps() -> None:
    async with rig(delay_ms=200) as made:
        await made.run(10)
        sent = made.sent
    lead_s = sent.audio[0][0]
    assert all(at - lead_s - pts == pytest.approx(0.2, abs=1e-6) for at, pts, _ in sent.video)
    assert all(at - lead_s - pts == pytest.approx(0, abs=1e-6) for at, pts, _ in sent.audio)
    assert made.video.num_dropped == 0
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


async def test_recv_after_the_end_raises_media_stream_error_and_nothing_else() -> None:
    clock = SimulatedClock()
    playout = Playout(PlayBuffer(INFO, lambda played: None, kept_after_cancel_s=0.4), Timeline(clock.now, sleep=clock.sleep))
    video, audio = VideoTrack(playout), AudioTrack(playout)
    waiting = [asyncio.create_task(video.recv()), asyncio.create_task(audio.recv())]
    await asyncio.sleep(0)
    playout.close()
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, MediaStreamError)
    video.stop()
    with pytest.raises(MediaStreamError):
        await video.recv()
