"""An engine that is slower than real time: a line waits until the rest of it comes in time, and then plays without a break."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from avatar_rtc.fake import INFO, FakeModel, FakeOptions, FakeStream
from avatar_rtc.media.buffer import MarkReached
from avatar_rtc.media.clock import MediaClock
from avatar_rtc.media.playout import Playout
from avatar_rtc.media.pull_policy import MARGIN_S, PullPolicy
from avatar_rtc.rtf import RtfMeter, in_words
from model.chunk import StreamInfo, StreamSettings
from tests.support.clock import SimulatedClock
from tests.support.frames import time_of
from tests.support.slow_stream import SlowStream

LOW_WATER_S = 0.4
PUSHED_S = 6.0
LINE = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
LINE_S = 3.84
BEFORE_VOICE_S = 0.2
"""Of media: the mark of a line's start lies so far behind its chunk's begin at most."""


@dataclass
class Line:
    """In simulated seconds since the first picture."""

    start_s: float = 0.0
    end_s: float = 0.0
    num_held: int = 0


@dataclass
class Heard:
    """What became of the lines that were pushed after ``PUSHED_S``."""

    lines: list[Line] = field(default_factory=list)
    told_s: float | None = None
    num_held: int = 0
    num_stills: int = 0
    video: list[tuple[float, float]] = field(default_factory=list)
    audio: list[tuple[float, float]] = field(default_factory=list)


async def hear(
    factor: float | Callable[[], float],
    lines: tuple[str, ...] = (LINE,),
    prior: float = 0.0,
    info: StreamInfo = INFO,
    low_water_s: float = LOW_WATER_S,
) -> Heard:
    """Say lines on a fake engine whose chunks take ``factor`` of their own length; those of a block come together."""
    clock, heard = SimulatedClock(), Heard()
    pictures: list[np.ndarray] = []

    def on_mark(played: MarkReached) -> None:
        if played.mark.kind == "start":
            heard.lines.append(Line(played.media_s, num_held=-buffer.num_held_frames))
        elif played.mark.kind == "end":
            heard.lines[-1].end_s = played.media_s
            heard.lines[-1].num_held += buffer.num_held_frames
            playout.lines.forget(played.mark.reply_id)

    playout = Playout(
        info,
        low_water_s=low_water_s,
        rtf=prior,
        on_mark=on_mark,
        clock=MediaClock(clock.now, sleep=clock.sleep),
    )
    buffer = playout.buffer
    stream: FakeStream = FakeModel(FakeOptions(flash_and_beep=False)).open(StreamSettings("a woman", "a voice"))
    began_s = clock.time_s

    async def pull() -> None:
        factor_of = factor if callable(factor) else lambda: factor
        numbers = itertools.count()

        def took_s(duration_s: float) -> float:
            begins_block = next(numbers) % info.chunks_per_block == 0
            return factor_of() * duration_s * info.chunks_per_block if begins_block else 0.0

        async for _ in playout.pull(SlowStream.of(clock, stream, took_s)):
            pass

    async def push() -> None:
        await clock.sleep(PUSHED_S)
        for index, text in enumerate(lines):
            playout.push(f"line {index}", stream.push(f"line {index}", text))
        heard.told_s = playout.lines.wait_s()

    async def show() -> None:
        async for frame in playout.pictures():
            heard.video.append((clock.time_s - began_s, time_of(frame)))
            pictures.append(frame.to_ndarray())
            heard.num_stills += len(pictures) > 1 and bool((pictures[-1] == pictures[-2]).all())

    async def sound() -> None:
        async for frame in playout.sound():
            heard.audio.append((clock.time_s - began_s, time_of(frame)))

    tasks = [asyncio.create_task(life) for life in (pull(), push(), show(), sound())]
    while (len(heard.lines) < len(lines) or not heard.lines[-1].end_s) and clock.time_s < began_s + 90:
        await clock.run_until(clock.time_s + 1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    heard.num_held = buffer.num_held_frames
    assert len(heard.lines) == len(lines)
    return heard


def check_no_drift(heard: Heard) -> None:
    """Both tracks on the clock of the first picture, without a gap in their time stamps."""
    (lead_s, _), *_ = heard.video
    for sent, period_s in ((heard.video, 0.04), (heard.audio, 0.02)):
        assert all(-1e-6 <= at_s - lead_s - pts_s < 0.04 for at_s, pts_s in sent)
        assert np.allclose(np.diff([pts_s for _, pts_s in sent]), period_s)
    assert abs(heard.video[-1][1] + 0.04 - heard.audio[-1][1] - 0.02) < 0.04


@pytest.mark.parametrize("factor", [1.1, 1.5, 2.0, 2.5, 3.0])
async def test_a_line_plays_through_on_a_slow_engine_and_says_when_it_begins(factor: float) -> None:
    heard = await hear(factor)
    (line,) = heard.lines
    assert line.num_held == 0
    assert line.end_s - line.start_s == pytest.approx(LINE_S)
    waited_s = line.start_s - PUSHED_S
    least_s = LINE_S * (factor - 1)
    # A block was in work when the line came, two more may be cut by its begin and its end.
    assert least_s < waited_s < least_s + factor * (LOW_WATER_S + 3 * INFO.chunk_duration_s), "no longer than it must"
    assert heard.told_s is not None
    assert abs(heard.told_s - waited_s) < 0.3 * waited_s
    assert heard.num_held > 0, "the engine is too slow, so something has to wait"
    assert heard.num_stills < 3, "and the face is alive meanwhile"
    check_no_drift(heard)


@pytest.mark.parametrize("factor", [1.2, 1.5, 2.0, 2.5])
async def test_a_line_plays_through_where_the_chunks_of_a_block_come_together(factor: float) -> None:
    """Then a block is three times as long as a chunk, and how long a line waits is told to within what a block takes."""
    info = replace(INFO, chunks_per_block=3)
    heard = await hear(factor, info=info, low_water_s=1.2)
    (line,) = heard.lines
    assert line.num_held == 0
    assert heard.told_s is not None
    assert abs(heard.told_s - (line.start_s - PUSHED_S)) < factor * info.block_duration_s


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mean", [0.9, 1.2])
async def test_a_line_plays_through_on_a_machine_that_others_use_too(mean: float, seed: int) -> None:
    drawn = random.Random(seed)
    heard = await hear(lambda: mean * drawn.choice([0.7, 0.8, 0.9, 1.0, 1.1, 1.5]))
    assert heard.lines[0].num_held == 0
    assert heard.told_s is None or abs(heard.told_s - (heard.lines[0].start_s - PUSHED_S)) < 1.0


@pytest.mark.parametrize("num_words", range(3, 16, 2))
async def test_lines_of_any_length_play_through(num_words: int) -> None:
    heard = await hear(2.3, lines=(" ".join(LINE.split()[:num_words]),))
    assert heard.lines[0].num_held == 0


async def test_each_of_many_lines_plays_through() -> None:
    heard = await hear(1.5, lines=(LINE, "Just this.", LINE))
    assert [line.num_held for line in heard.lines] == [0, 0, 0]
    assert heard.num_stills < 20


async def test_a_line_that_runs_dry_after_all_does_so_once() -> None:
    factors = iter([1.1] * 22)  # and then three times as long, for ever
    heard = await hear(lambda: next(factors, 3.3))
    late_s = heard.lines[0].end_s - heard.lines[0].start_s - LINE_S
    assert late_s > 1.0
    gaps = np.flatnonzero(np.diff([at_s for at_s, _ in heard.video]) > 0.05)
    assert not len(gaps), "both tracks go on"
    assert heard.lines[0].num_held == pytest.approx(late_s * INFO.fps, abs=1)


async def test_nothing_waits_where_the_engine_keeps_up() -> None:
    heard = await hear(0.6)
    assert heard.told_s is None
    assert heard.num_held == 0
    check_no_drift(heard)


@pytest.mark.parametrize("factor", [0.1, 0.3, 0.6])
async def test_a_face_that_listens_does_so_no_longer_than_a_line_takes_to_be_made(factor: float) -> None:
    heard = await hear(factor)
    took_s = factor * INFO.chunk_duration_s
    # One chunk may be in work, which has read its text; before the next one the face listens for as long as that takes.
    assert heard.lines[0].start_s < PUSHED_S + took_s + max(LOW_WATER_S / 2, took_s + MARGIN_S) + BEFORE_VOICE_S
    assert heard.num_held == 0
    assert heard.lines[0].end_s - heard.lines[0].start_s == pytest.approx(LINE_S)
    check_no_drift(heard)


def test_a_block_that_was_made_again_for_a_line_does_not_make_it_wait() -> None:
    """The beginning of a call on one H200, whose first line comes when three chunks are there."""
    policy = PullPolicy(1.2, 0.16, RtfMeter(chunks_per_block=6, prior=0.86))
    for chunk, took_s in enumerate([0.305, 0.057, 0.058, 0.057, 0.618, 0.058]):
        if chunk == 3:
            policy.on_line()
        factor = policy.on_chunk(took_s, 0.16, num_underruns=int(chunk >= 4))
    assert factor is not None
    assert factor > 1.1
    assert policy.needed_s(3.0) == 0.0
    for _ in range(6):
        policy.on_chunk(0.2, 0.16, num_underruns=1)
    assert policy.needed_s(3.0) > 1.2, "that block counts"


def test_the_pace_is_that_of_whole_blocks() -> None:
    meter = RtfMeter(chunks_per_block=3, prior=0.7)
    assert meter.percentile(95) == meter.recent(3.0) == meter.bound(3.0, 3.0) == 0.7
    took = [0.9, 0.0, 0.0, 0.3, 0.3, 0.0]
    assert [meter.add(spent_s, 0.25) for spent_s in took] == [None, None, pytest.approx(1.2), None, None, pytest.approx(0.8)]
    assert meter.percentile(95) == pytest.approx(0.8)
    assert meter.recent(0.5) == pytest.approx(0.8)
    assert meter.recent(9.0) == pytest.approx(1.0)
    assert 1.0 < meter.bound(9.0, 60.0) < meter.bound(9.0, 3.0) < 1.6, "many blocks differ less from their mean than few"


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (0.0, ""),
        (0.05, "This machine makes 20 s of speech a second: it keeps up with real time."),
        (0.24, "This machine makes 4.2 s of speech a second: it keeps up with real time."),
        (0.9, "This machine makes 1.1 s of speech a second: it keeps up with real time."),
        (1.0, "This machine makes 1.00 s of speech a second: answers begin about 1 s late."),
        (1.3, "This machine makes 0.77 s of speech a second: answers begin about 2 s late."),
        (2.0, "This machine makes 0.50 s of speech a second: answers begin about 5 s late."),
    ],
)
def test_what_a_factor_means(factor: float, words: str) -> None:
    assert in_words(factor) == words
