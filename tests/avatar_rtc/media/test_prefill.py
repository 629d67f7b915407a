"""An engine that is slower than real time: a reply waits until the rest of it comes in time, and then plays without a break."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest

from avatar_rtc.fake import INFO, FakeModel, FakeOptions, FakeStream
from avatar_rtc.media.buffer import PlayBuffer, Played
from avatar_rtc.media.demand import Demand
from avatar_rtc.media.timeline import Timeline
from avatar_rtc.media.tracks import AudioTrack, Playout, VideoTrack
from avatar_rtc.pace import Pace
from avatar_rtc.session import WORDS_PER_S
from model.chunk import StreamSettings
from tests.support.clock import SimulatedClock

LOW_WATER_S = 0.4
PUSHED_S = 6.0
LINE = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
BEFORE_VOICE_S = 0.2
"""Of media: the mark of a reply's start lies so far behind its chunk's begin at most."""


@dataclass
class Heard:
    """What became of ``LINE``, in simulated seconds since the first picture."""

    start_s: float = 0.0
    end_s: float = 0.0
    held_in_reply: int = 0
    num_held: int = 0
    video: list[tuple[float, float]] = field(default_factory=list)
    audio: list[tuple[float, float]] = field(default_factory=list)


async def hear(factor: float, max_prefill_s: float = 10.0) -> Heard:
    """Say ``LINE`` on a fake engine whose chunks take ``factor`` of their own length."""
    clock, heard = SimulatedClock(), Heard()

    def on_played(played: Played) -> None:
        if played.mark.kind == "start":
            heard.start_s, heard.held_in_reply = played.media_s, -buffer.num_held_frames
        elif played.mark.kind == "end":
            heard.end_s = played.media_s
            heard.held_in_reply += buffer.num_held_frames

    buffer = PlayBuffer(INFO, on_played, kept_after_cancel_s=0.42)
    playout = Playout(buffer, Timeline(clock.now, sleep=clock.sleep))
    stream: FakeStream = FakeModel(FakeOptions(flash_and_beep=False)).open(StreamSettings("a woman", "a voice"))
    demand = Demand(LOW_WATER_S, INFO.block_duration_s, Pace(INFO.chunks_per_block), max_prefill_s)
    began_s = clock.time_s

    async def feed() -> None:
        wanted_s, pushed = 0.0, False
        while True:
            if not pushed and clock.time_s - began_s >= PUSHED_S:
                stream.push("line", LINE)
                pushed = True
            spare_s = demand.spare_s(buffer.buffered_s, max(wanted_s, buffer.prefill_s))
            if spare_s > 0:
                await clock.sleep(max(spare_s, 0.01))
                continue
            asked_s = clock.time_s
            while (chunk := stream.step()) is None:
                pass
            await clock.sleep(factor * chunk.duration_s)
            demand.on_chunk(clock.time_s - asked_s, chunk.duration_s, buffer.num_underruns)
            kinds = {mark.kind for mark in chunk.marks}
            if "start" in kinds:
                wanted_s = demand.prefill_s(len(LINE.split()) / WORDS_PER_S)
            buffer.put(chunk, prefill_s=wanted_s if "start" in kinds else 0.0, refill_s=demand.refill_s)
            if "end" in kinds and wanted_s:
                wanted_s = 0.0
                buffer.release()
            playout.notify()

    async def send(track: VideoTrack | AudioTrack, sent: list[tuple[float, float]]) -> None:
        while True:
            frame = await track.recv()
            sent.append((clock.time_s - began_s, float(frame.pts * frame.time_base)))

    lives = (feed(), send(VideoTrack(playout), heard.video), send(AudioTrack(playout), heard.audio))
    tasks = [asyncio.create_task(life) for life in lives]
    await clock.run_until(began_s + 60)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    heard.num_held = buffer.num_held_frames
    return heard


def check_no_drift(heard: Heard) -> None:
    """Both tracks on the clock of the first picture, without a gap in their time stamps."""
    (lead_s, _), *_ = heard.video
    for sent, period_s in ((heard.video, 0.04), (heard.audio, 0.02)):
        assert all(-1e-6 <= at_s - lead_s - pts_s < 0.04 for at_s, pts_s in sent)
        assert np.allclose(np.diff([pts_s for _, pts_s in sent]), period_s)
    assert abs(heard.video[-1][1] + 0.04 - heard.audio[-1][1] - 0.02) < 0.04


@pytest.mark.parametrize("factor", [1.1, 1.5, 2.5])
async def test_a_reply_plays_through_on_a_slow_engine(factor: float) -> None:
    heard = await hear(factor)
    assert heard.num_held > 0, "the engine is too slow, so something has to wait"
    assert heard.held_in_reply == 0
    guessed_s, length_s = len(LINE.split()) / WORDS_PER_S, heard.end_s - heard.start_s
    prefill_s = min(length_s, guessed_s * (1 - 1 / factor) + LOW_WATER_S)
    # A block was in work when the line came, two more may be cut by its begin and its end.
    assert heard.start_s < PUSHED_S + factor * (prefill_s + 3 * INFO.block_duration_s), "no longer than it must"
    check_no_drift(heard)


async def test_a_long_reply_does_not_wait_for_longer_than_configured_and_pauses_instead() -> None:
    heard = await hear(2.5, max_prefill_s=1.0)
    assert heard.start_s < PUSHED_S + 2.5 * 1.0 + 2.5
    assert heard.held_in_reply > 0
    check_no_drift(heard)


async def test_nothing_waits_where_the_engine_keeps_up() -> None:
    heard, unable = await hear(0.6), await hear(0.6, max_prefill_s=0.0)
    assert heard.start_s == unable.start_s < PUSHED_S + 2 * LOW_WATER_S + BEFORE_VOICE_S
    assert heard.num_held == 0
    check_no_drift(heard)


def test_a_block_that_was_made_again_for_a_line_does_not_make_its_reply_wait() -> None:
    """The beginning of a call on one H200, whose first line comes when three chunks are there."""
    demand = Demand(1.2, 0.16, Pace(chunks_per_block=6, prior=0.86), max_prefill_s=10.0)
    for chunk, took_s in enumerate([0.305, 0.057, 0.058, 0.057, 0.618, 0.058]):
        if chunk == 3:
            demand.on_line()
        factor = demand.on_chunk(took_s, 0.16, num_underruns=int(chunk >= 4))
    assert factor is not None
    assert factor > 1.1
    assert demand.prefill_s(3.0) == demand.refill_s == 0.0
    for _ in range(6):
        demand.on_chunk(0.2, 0.16, num_underruns=1)
    assert demand.prefill_s(3.0) > 1.2 == demand.refill_s, "that block counts"


def test_the_pace_is_that_of_whole_blocks() -> None:
    pace = Pace(chunks_per_block=3, prior=0.7)
    assert pace.percentile(95) == pace.recent(3.0) == 0.7
    took = [0.9, 0.0, 0.0, 0.3, 0.3, 0.0]
    assert [pace.add(spent_s, 0.25) for spent_s in took] == [None, None, pytest.approx(1.2), None, None, pytest.approx(0.8)]
    assert pace.percentile(95) == pytest.approx(0.8)
    assert pace.recent(0.5) == pytest.approx(0.8)
    assert pace.recent(9.0) == pytest.approx(1.0)
