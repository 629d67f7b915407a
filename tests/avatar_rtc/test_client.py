"""The headless client as a user runs it, and what it records."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import aiohttp
import av
import numpy as np
import pytest

from avatar_rtc import client
from avatar_rtc.errors import CallError
from avatar_rtc.fake import FakeOptions, read_beeps, read_counter, read_flash
from avatar_rtc.media.buffer import DISSOLVE_FRAMES
from avatar_rtc.say import say
from testkit.browser import run_server
from tests.avatar_rtc.test_recording import playable_s
from tests.support.calls import calling, serving
from tests.support.frames import time_of
from tests.support.instant_engine import InstantEngine
from tests.support.lateness import lateness

T = TypeVar("T")
LONG = "word " * 100


async def until(holds: Callable[[], T]) -> T:
    async with asyncio.timeout(60):
        while not (value := holds()):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)
    return value


def has_begun(path: Path) -> bool:
    """Whether a recording is more than its head."""
    return path.exists() and path.stat().st_size > 20_000


async def test_say_records_both_tracks_in_sync_and_reports(tmp_path: Path) -> None:
    path, captions = tmp_path / "call.mp4", list[str]()
    engine = InstantEngine(options=FakeOptions(flash_and_beep=True))
    async with serving(engine) as server:
        summary = await say(server.address, ["Hello there.", "A second line."], record=path, on_caption=captions.append)
        assert server.registry.num_sessions == 0
        counted = re.search(r'avatar_rtc_frames_total\{result="dropped"\} (\S+)', server.registry.metrics()[0].decode())
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
        pictures = [(time_of(frame), frame.to_ndarray(format="gray")) for frame in film.decode(video=0)]
    with av.open(str(path)) as film:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in film.decode(audio=0)]) * 32767
    counters = [read_counter(picture) or 0 for _, picture in pictures]
    # A machine with other things to do may drop a picture, and says so; those that come have their own time.
    steps, gaps = np.diff(counters), np.diff([time_s for time_s, _ in pictures]) / 0.04
    assert gaps == pytest.approx(gaps.round(), abs=0.05)
    assert (gaps.round() - 1).sum() <= float(counted[1])
    assert steps.min() >= 0, "in order"
    # Each once; but a face that listens is cut short for a line that is waited for, and what follows fades in.
    assert (steps != gaps.round()).sum() <= 2 * (DISSOLVE_FRAMES + 1)
    assert pictures[-1][0] + 0.04 == pytest.approx(len(sound) / 48_000, abs=0.039)
    flashes_s = [time_s for time_s, picture in pictures if read_flash(picture)]
    beeps_s = read_beeps(sound, 48_000)
    assert len(beeps_s) >= 2
    # The film may begin within a beep, after the picture that goes with its start.
    for beep_s in [at_s for at_s in beeps_s if at_s > 0.01]:
        assert min(abs(beep_s - flash_s) for flash_s in flashes_s) < 0.02


async def test_say_explains_what_went_wrong(tmp_path: Path, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ABSENT_PATIENCE_S", 0.0)
    with pytest.raises(CallError, match="avatar-rtc serve"):
        await say(f"http://127.0.0.1:{unused_tcp_port}", ["Hello."])
    async with serving() as server:
        with pytest.raises(CallError, match="unspeakable_text"):
            await say(server.address, ["你好"])
        with pytest.raises(OSError, match="no-such-folder"):
            await say(server.address, ["Hello."], record=tmp_path / "no-such-folder" / "a.mp4")
        assert server.registry.num_sessions == 0


async def test_say_waits_for_a_server_that_is_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avatar_rtc.say.READY_EVERY_S", 0.01)
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
    monkeypatch.setattr("avatar_rtc.say.READY_EVERY_S", 0.01)
    for name in ("START_PATIENCE_S", "ABSENT_PATIENCE_S"):
        monkeypatch.setattr(client, name, 0.05)
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
    async with serving(InstantEngine(chunk_s=0.6, rtf=1.4)) as server:
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


async def test_a_line_that_is_cut_off_is_no_success(tmp_path: Path) -> None:
    async with serving() as server:
        saying = asyncio.create_task(say(server.address, ["one two three four five six seven eight."], record=tmp_path / "a.mp4"))
        (session,) = await until(lambda: server.registry.live)
        await until(lambda: session.state == "speaking")
        await asyncio.sleep(0.5)
        await server.close()
        with pytest.raises(CallError, match=r"'one two .* was cut off after 'one.*shutdown"):
            await saying
    assert min(playable_s(tmp_path / "a.mp4").values()) > 0.5


async def test_a_line_after_the_call_has_ended_says_why() -> None:
    async with serving() as server, calling(server) as call:
        await server.close()
        await until(lambda: call.channel.readyState == "closed")
        with pytest.raises(CallError, match=r"the call broke off: .*shutdown"):
            await call.speak("Too late.")


async def test_a_voice_that_comes_later_than_its_events_is_waited_for() -> None:
    async with serving(InstantEngine(options=FakeOptions(flash_and_beep=True))) as server:
        call = client.Call(server.address)

        class Late(type(call.audio)):  # type: ignore[misc]
            """Sound that is read two seconds after it came, as on a machine that has other things to do."""

            def add(self, pts: int, arrived_s: float, level: float = 0.0) -> None:
                asyncio.get_running_loop().call_later(2.0, super().add, pts, arrived_s + 2.0, level)

        call.audio = Late(48_000)
        try:
            await call.connect()
            line = await call.speak("Hello there.")
        finally:
            await call.close()
    assert line.text_to_first_voiced_audio_ms is not None
    assert line.text_to_first_voiced_audio_ms > 2000


async def test_what_nobody_looks_at_is_not_decoded() -> None:
    frames: list[object] = []
    async with serving() as server:
        call = client.Call(server.address, decodes=False)
        call.on_frame = call.on_sound = frames.append
        await call.connect()
        line = await call.speak("One two three.")
        assert (line.status, line.heard_text) == ("completed", "One two three.")
        assert min(len(call.video.pts), len(call.audio.pts)) > 10
        assert call.video.pts == sorted(call.video.pts)
        assert (frames, line.text_to_first_voiced_audio_ms) == ([], None)
        await call.close()


async def test_what_ends_without_a_word_is_noticed_and_its_recording_stays(tmp_path: Path) -> None:
    first, second = tmp_path / "first.mp4", tmp_path / "second.mp4"
    with run_server() as server:
        command = (str(Path(sys.executable).parent / "avatar-rtc"), "say", server.url, LONG, "--record", str(first))
        told = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        untold = asyncio.create_task(say(server.url, [LONG, "More."], record=second))
        for path in (first, second):
            await until(partial(has_begun, path))
        told.terminate()
        assert await asyncio.wait_for(told.wait(), 30) == 128 + signal.SIGTERM
        async with aiohttp.ClientSession() as http, http.get(f"{server.url}/metrics") as response:
            assert 'avatar_rtc_seats{state="taken"} 1.0' in await response.text(), "it has hung up"
        async with lateness() as late:
            server.kill()
            killed_s = time.monotonic()
            with pytest.raises(CallError, match="nothing has come from the server"):
                await untold
            assert time.monotonic() - killed_s - late.total_s(killed_s) < 5
    for path in (first, second):
        assert min(playable_s(path).values()) > 0.5


async def test_no_empty_file_is_left_and_none_is_lost(
    tmp_path: Path, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ABSENT_PATIENCE_S", 0.0)
    (tmp_path / "old.mp4").write_bytes(b"of yesterday")
    for name in ("new.mp4", "old.mp4"):
        with pytest.raises(CallError):
            await say(f"http://127.0.0.1:{unused_tcp_port}", ["Hello."], record=tmp_path / name)
    assert os.listdir(tmp_path) == ["old.mp4"]
    assert (tmp_path / "old.mp4").read_bytes() == b"of yesterday"
