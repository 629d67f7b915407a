"""Encoded once, read by many; on a simulated clock."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiortc.codecs.vpx import Vp8Decoder, vp8_depayload
from aiortc.jitterbuffer import JitterFrame

from avatar_rtc.media.broadcast import KEYFRAME_EVERY_S, MAX_WAITING, Broadcast, Reader, ReaderClosed
from avatar_rtc.media.clock import MediaClock
from avatar_rtc.media.encode import Encoded, VideoRates
from avatar_rtc.media.playout import Playout
from tests.support.chunks import INFO, numbered_chunk
from tests.support.clock import SimulatedClock
from tests.support.slow_stream import SlowStream

RATES = VideoRates(target_bps=400_000, min_bps=100_000, max_bps=800_000, fps=25)


class Inline(Executor):
    """Runs what it is given at once: real threads know nothing of simulated time."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


class Station:
    """A broadcast that runs, and what its readers got."""

    def __init__(self, clock: SimulatedClock, broadcast: Broadcast) -> None:
        self.clock = clock
        self.broadcast = broadcast
        self.tasks: list[asyncio.Task[None]] = []

    def read(self, reader: Reader, until: int | None = None) -> list[Encoded]:
        got: list[Encoded] = []

        async def read() -> None:
            while until is None or len(got) < until:
                got.append(await reader.get())

        self.tasks.append(asyncio.create_task(read()))
        return got

    async def run(self, num_pictures: int) -> None:
        """For so many pictures' time."""
        for _ in range(num_pictures):
            await self.clock.run_until(self.clock.time_s + 1 / INFO.fps)


@asynccontextmanager
async def on_air() -> AsyncIterator[Station]:
    clock = SimulatedClock()
    playout = Playout(INFO, low_water_s=0.3, clock=MediaClock(clock.now, sleep=clock.sleep))
    numbers = itertools.count()
    station = Station(clock, Broadcast(playout, RATES, 24_000, Inline()))

    async def pull() -> None:
        async for _ in playout.pull(SlowStream(clock, lambda: numbered_chunk(next(numbers)), lambda _: 0.05)):
            pass

    station.tasks += [asyncio.create_task(pull()), asyncio.create_task(station.broadcast.run())]
    yield station
    for task in station.tasks:
        task.cancel()
    await asyncio.gather(*station.tasks, return_exceptions=True)
    station.broadcast.close()


async def test_many_readers_share_one_encoder_and_each_begins_with_a_keyframe() -> None:
    async with on_air() as station:
        first = station.read(station.broadcast.read_video("VP8"))
        await station.run(20)
        second = station.read(station.broadcast.read_video("VP8"))
        await station.run(30)
        assert len(first) > 40
        assert second[0].is_keyframe
        assert second == first[-len(second) :], "the very same pictures"
        assert station.broadcast.num_keyframes == 2
        decoder = Vp8Decoder()
        for one in second:
            assert decoder.decode(JitterFrame(b"".join(map(vp8_depayload, one.payloads)), one.timestamp))


async def test_keyframe_requests_are_merged() -> None:
    async with on_air() as station:
        readers = [station.broadcast.read_video("VP8") for _ in range(5)]
        got = [station.read(reader) for reader in readers]
        for _ in range(50):
            for reader in readers:
                reader.request_keyframe()
            await station.run(1)
        made = [one.timestamp / 90_000 for one in got[0] if one.is_keyframe]
        assert 3 <= len(made) <= 2 / KEYFRAME_EVERY_S + 1
        assert min(b - a for a, b in itertools.pairwise(made)) >= KEYFRAME_EVERY_S


async def test_a_slow_reader_goes_on_from_the_next_keyframe_and_slows_nobody() -> None:
    async with on_air() as station:
        slow, fast = station.broadcast.read_video("VP8"), station.read(station.broadcast.read_video("VP8"))
        station.read(slow, until=3)
        await station.run(3 * MAX_WAITING["video"])
        assert len(fast) > 2.8 * MAX_WAITING["video"]
        assert {b.timestamp - a.timestamp for a, b in itertools.pairwise(fast)} == {3600}
        assert slow.num_dropped
        rest = station.read(slow)
        await station.run(5)
        assert rest[0].is_keyframe
        assert {b.timestamp - a.timestamp for a, b in itertools.pairwise(rest)} == {3600}


async def test_pictures_are_encoded_only_for_codecs_that_are_read() -> None:
    async with on_air() as station:
        heard = station.read(station.broadcast.read_audio())
        h264 = station.broadcast.read_video("H264")
        await station.run(10)
        assert station.broadcast.codecs == []
        seen = station.read(h264)
        await station.run(10)
        assert station.broadcast.codecs == ["H264"]
        assert seen
        assert len(heard) > 30
        h264.close()
        assert station.broadcast.codecs == []
        with pytest.raises(ReaderClosed):
            await h264.get()


async def test_the_rate_is_that_of_the_slowest_path() -> None:
    async with on_air() as station:
        wide, narrow = (station.broadcast.read_video("H264") for _ in range(2))
        for reader in (wide, narrow):
            station.read(reader)
        await station.run(100)
        wide.report_estimate(2_000_000)
        narrow.report_estimate(1_000)
        wide.report_estimate(2_000_000)
        assert station.broadcast.video_bps == RATES.min_bps
