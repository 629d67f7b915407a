"""The headless client as a user runs it, and what it records."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import av
import numpy as np
import pytest

from avatar_rtc import bot
from avatar_rtc.bot import say
from avatar_rtc.errors import CallError
from avatar_rtc.fake import FakeOptions, read_beeps, read_counter, read_flash
from tests.support.calls import calling, serving
from tests.support.instant_engine import InstantEngine


async def test_say_records_both_tracks_in_sync_and_reports(tmp_path: Path) -> None:
    path, captions = tmp_path / "call.mp4", []
    engine = InstantEngine(options=FakeOptions(flash_and_beep=True))
    async with serving(engine) as server:
        summary = await say(server.address, ["Hello there.", "A second line."], record=path, on_caption=captions.append)
        assert server.registry.num_sessions == 0
        counted = re.search(
            r'avatar_rtc_frames_total\{kind="video",result="dropped"\} (\S+)', server.registry.metrics()[0].decode()
        )
    assert counted
    assert captions == ["Hello there.", "A second line."]
    assert [line.status for line in summary.lines] == ["completed"] * 2
    assert 0 < summary.connected_ms <= summary.join_ms
    assert (summary.width_px, summary.height_px) == (256, 256)
    assert summary.frames > 40
    assert summary.packets_lost == 0
    assert summary.as_dict()["lines"][0]["captions"][0]["text"] == "Hello"
    assert "Hello there." in summary.summary()

    with av.open(str(path)) as film:
        pictures = [(float(frame.time), frame.to_ndarray(format="gray")) for frame in film.decode(video=0)]
    with av.open(str(path)) as film:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in film.decode(audio=0)]) * 32767
    counters = [read_counter(picture) for _, picture in pictures]
    # A machine with other things to do may drop a picture, and says so; those that come have their own time.
    steps = np.diff(counters)
    assert steps.min() >= 1, "each picture once, in order"
    assert (steps - 1).sum() <= float(counted[1])
    assert np.diff([time_s for time_s, _ in pictures]) == pytest.approx(0.04 * steps, abs=0.002)
    assert pictures[-1][0] + 0.04 == pytest.approx(len(sound) / 48_000, abs=0.039)
    flashes_s = [time_s for time_s, picture in pictures if read_flash(picture)]
    beeps_s = read_beeps(sound, 48_000)
    assert len(beeps_s) >= 2
    # The film may begin within a beep, after the picture that goes with its start.
    for beep_s in [at_s for at_s in beeps_s if at_s > 0.01]:
        assert min(abs(beep_s - flash_s) for flash_s in flashes_s) < 0.02


async def test_say_explains_what_went_wrong(tmp_path: Path, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bot, "ABSENT_PATIENCE_S", 0.0)
    with pytest.raises(CallError, match="avatar-rtc serve"):
        await say(f"http://127.0.0.1:{unused_tcp_port}", ["Hello."])
    async with serving() as server:
        with pytest.raises(CallError, match="unspeakable_text"):
            await say(server.address, ["你好"])
        with pytest.raises(OSError, match="no-such-folder"):
            await say(server.address, ["Hello."], record=tmp_path / "no-such-folder" / "a.mp4")
        assert server.registry.num_sessions == 0


async def test_say_waits_for_a_server_that_is_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bot, "READY_EVERY_S", 0.01)
    engine, told, starts = InstantEngine(), [], []

    def on_wait(text: str) -> None:
        told.append(text)
        starts.append(asyncio.ensure_future(engine.start()))

    async with serving(engine) as server:
        engine.crash()
        summary = await say(server.address, ["Hello."], on_wait=on_wait)
    assert [line.status for line in summary.lines] == ["completed"]
    assert len(told) == 1
    assert "The engine is restarting" in told[0]
    assert "Waiting for up to 180 s" in told[0]


async def test_say_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> None:
    for name, value in (("READY_EVERY_S", 0.01), ("START_PATIENCE_S", 0.05), ("ABSENT_PATIENCE_S", 0.05)):
        monkeypatch.setattr(bot, name, value)
    told: list[str] = []
    engine = InstantEngine()
    async with serving(engine) as server:
        engine.crash()
        with pytest.raises(CallError, match="The engine is restarting"):
            await say(server.address, ["Hello."], on_wait=told.append)
    with pytest.raises(CallError, match="avatar-rtc serve"):
        await say(f"http://127.0.0.1:{unused_tcp_port}", ["Hello."], on_wait=told.append)
    assert len(told) == 2


async def test_say_tells_what_is_waited_for_on_a_slow_machine() -> None:
    told: list[str] = []
    async with serving(InstantEngine(block_s=0.6, rtf=1.4)) as server:
        summary = await say(server.address, ["One two three four five six."], on_wait=told.append)
    assert [line.status for line in summary.lines] == ["completed"]
    assert told[0].startswith("This machine makes 0.71 s of speech a second")
    assert re.fullmatch(r"The answer begins in about \d s\.", told[1])


async def test_say_does_not_wait_where_that_does_not_help() -> None:
    told: list[str] = []
    async with serving(limits={"max_sessions": 1}) as server, calling(server):
        with pytest.raises(CallError, match="The only seat is taken"):
            await say(server.address, ["Hello."], on_wait=told.append)
    assert told == []
