"""Recordings on the server: what is in the file, whatever ends it, and that no call suffers by one."""

from __future__ import annotations

import asyncio
import itertools
import json
import resource
import time
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import aiohttp
import av
import numpy as np
import pytest

from avatar_rtc.client import Call
from avatar_rtc.fake import FLASH_EVERY_FRAMES, FakeOptions, read_beeps, read_counter, read_flash
from avatar_rtc.media.encode import VideoCodec
from avatar_rtc.sessions.session import Session
from signaling.vocabulary import OutputEnded, OutputStarted, ResponseDone, SessionCreated
from testkit.browser import run_server
from tests.avatar_rtc.sessions.test_resume import TIMEOUT_S, cut, the, until
from tests.avatar_rtc.test_recording import playable_s
from tests.support.calls import calling, serving
from tests.support.frames import time_of
from tests.support.instant_engine import InstantEngine

RECORDING = {"type": "recording"}


def recorded_s(session: Session) -> float:
    """How much the one recording of a session has."""
    (output,) = session.outputs.describe()
    return float(output["duration_s"])


def the_file(directory: Path) -> Path:
    (path,) = directory.iterdir()
    return path


async def begin(http: aiohttp.ClientSession, session_id: str) -> dict[str, Any]:
    async with http.post(f"/v1/sessions/{session_id}/outputs", json=RECORDING) as response:
        assert response.status == 201, await response.text()
        output: dict[str, Any] = await response.json()
        assert response.headers["Location"] == output["url"]
        return output


async def end(http: aiohttp.ClientSession, output: dict[str, Any]) -> dict[str, Any]:
    async with http.delete(output["url"]) as response:
        assert response.status == 200
        ended: dict[str, Any] = await response.json()
        return ended


@pytest.mark.parametrize("codec", ["VP8", "H264"])
async def test_a_session_without_a_viewer_is_recorded(codec: VideoCodec, tmp_path: Path) -> None:
    engine = InstantEngine(options=FakeOptions(flash_and_beep=True))
    config: dict[str, Any] = {"recording": {"directory": tmp_path}, "media": {"video_codecs": (codec,)}}
    async with serving(engine, **config) as server, aiohttp.ClientSession(server.address) as http:
        async with http.post("/v1/sessions", json={"outputs": [RECORDING]}) as response:
            assert response.status == 201
            made = await response.json()
        assert (made["phase"], made["outputs"][0]["state"]) == ("live", "waiting"), "a recording is an audience"
        async with http.post(f"{made['url']}/outputs", json=RECORDING) as response:
            assert response.status == 409
        session = the(server)
        await until(lambda: recorded_s(session) > 5, "it is not recorded")
        ended = await end(http, made["outputs"][0])
        assert (ended["state"], ended["message"]) == ("ended", None)
        async with http.get(made["url"]) as response:
            after = await response.json()
        assert (after["phase"], after["outputs"]) == ("held", [ended])
        async with http.delete(made["url"]) as response:
            assert response.status == 204
        # Also when the session is over, and in pieces, by which browsers seek.
        async with http.get(ended["file_url"], headers={"Range": "bytes=1-3"}) as response:
            assert (response.status, response.content_type) == (206, "video/webm" if codec == "VP8" else "video/mp4")
            piece = await response.read()
        async with http.get(ended["file_url"].replace(made["id"], "0" * 32, 1)) as response:
            assert response.status == 404
    path = the_file(tmp_path)
    assert path.name.startswith(made["id"])
    content = path.read_bytes()
    assert content[1:4] == piece
    index, media = (b"\x1c\x53\xbb\x6b", b"\x1f\x43\xb6\x75") if codec == "VP8" else (b"moov", b"mdat")
    assert 0 < content.find(index) < content.find(media), "the index is in front"

    with av.open(str(path)) as film:
        pictures = [(time_of(frame), frame.to_ndarray(format="gray")) for frame in film.decode(video=0)]
    with av.open(str(path)) as film:
        sounds = [(time_of(frame), frame.to_ndarray()[0]) for frame in film.decode(audio=0)]
    sound = np.concatenate([samples for _, samples in sounds]) * 32767
    rate_hz = 48_000
    assert pictures[0][0] == 0
    assert pictures[-1][0] + 0.04 == pytest.approx(sounds[-1][0] + 0.02, abs=0.08)
    counters = [read_counter(picture) or 0 for _, picture in pictures]
    assert np.diff(counters).min() >= 1, "each picture once, in order"
    beeps_s = [sounds[0][0] + at_s for at_s in read_beeps(sound, rate_hz) if at_s > 0.01]
    flashes_s = [at_s for at_s, picture in pictures if read_flash(picture)]
    # A machine with other things to do may drop a picture, and so a flash.
    dropped = set(range(counters[0], counters[-1])) - set(counters)
    num_flashes_dropped = sum(number % FLASH_EVERY_FRAMES == 0 for number in dropped)
    unseen = [beep_s for beep_s in beeps_s if min(abs(beep_s - flash_s) for flash_s in flashes_s) >= 0.03]
    assert len(beeps_s) - len(unseen) >= 2
    assert len(unseen) <= num_flashes_dropped, "lips and voice"
    for at_s in (1.0, 2.5, 4.9):
        with av.open(str(path)) as film:
            film.seek(int(at_s * 1_000_000))
            packet = next(film.demux(video=0))
            assert packet.is_keyframe
            assert at_s - 2.6 < time_of(packet) <= at_s, "a keyframe is near"


def test_what_is_recorded_survives_that_the_server_is_killed(tmp_path: Path) -> None:
    with run_server("fake", recording={"directory": str(tmp_path)}) as server:
        ask = Request(f"{server.url}/v1/sessions", b'{"outputs": [{"type": "recording"}]}')
        with urlopen(ask) as response:
            url = server.url + json.load(response)["url"]
        recorded_s = 0.0
        until_s = time.monotonic() + TIMEOUT_S
        while recorded_s < 4 and time.monotonic() < until_s:
            with urlopen(url) as response:
                recorded_s = json.load(response)["outputs"][0]["duration_s"]
            time.sleep(0.05)
        server.kill()
    path = the_file(tmp_path)
    assert recorded_s >= 4
    assert min(playable_s(path).values()) > recorded_s - 2


async def test_a_full_disk_ends_the_recording_and_not_the_call(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with serving(recording={"directory": tmp_path}) as server, calling(server) as call:
        assert call.received(SessionCreated)[0].may_record
        async with aiohttp.ClientSession(server.address) as http:
            output = await begin(http, call.session_id)
            await until(lambda: recorded_s(the(server)) > 3, "it is not recorded")
            # No file may grow any more, as on a disk that is full.
            path = the_file(tmp_path)
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 2000, limits[1]))
            try:
                (ended,) = await call.wait_for(lambda: call.received(OutputEnded), TIMEOUT_S, "nobody is told")
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert (ended.output_id, ended.state) == (output["id"], "failed")
            assert "File too large" in (ended.message or "")
            assert (await call.speak("The call goes on.")).status == "completed"
            async with http.get(output["url"]) as response:
                assert (await response.json())["state"] == "failed"
            again = await end(http, await begin(http, call.session_id))
            assert again["state"] == "ended", "there is room again"
    assert min(playable_s(path).values()) > 1.5


async def test_a_recording_stands_still_with_its_call_and_ends_with_it(tmp_path: Path) -> None:
    async with serving(recording={"directory": tmp_path}) as server:
        call = Call(server.address)
        await call.connect()
        async with aiohttp.ClientSession(server.address) as http:
            await begin(http, call.session_id)
            await call.wait_for(lambda: call.received(OutputStarted), TIMEOUT_S, "nobody is told")
            session = the(server)
            await until(lambda: recorded_s(session) > 1, "it is not recorded")
            cut(call)
            await until(lambda: session.phase == "held", "it is not held")
            held_s = recorded_s(session)
            await asyncio.sleep(2)
            assert recorded_s(session) == held_s
            await call.resume()
            await until(lambda: recorded_s(session) > held_s + 1, "it does not go on")
            await call.close()
            await session.finished()
    path = the_file(tmp_path)
    with av.open(str(path)) as film:
        times_s = [time_of(packet) for packet in film.demux(video=0) if packet.pts is not None]
    assert max(b - a for a, b in itertools.pairwise(times_s)) < 1, "there is no gap"
    assert (session.outputs.describe()[0]["state"]) == "ended"


async def test_without_a_directory_it_is_said_what_to_set() -> None:
    async with serving() as server, calling(server) as call, aiohttp.ClientSession(server.address) as http:
        assert not call.received(SessionCreated)[0].may_record
        for path, body in ((f"/v1/sessions/{call.session_id}/outputs", RECORDING), ("/v1/sessions", {"outputs": [RECORDING]})):
            async with http.post(path, json=body) as response:
                problem = await response.json(content_type=None)
                assert (response.status, problem["code"]) == (422, "no_recordings")
                assert "recording.directory" in problem["detail"]
        assert server.registry.num_sessions == 1, "no seat is taken for what is not possible"


async def test_a_recording_ends_when_it_is_long_enough(tmp_path: Path) -> None:
    recording = {"directory": tmp_path, "max_minutes": 0.02}
    async with serving(recording=recording) as server, calling(server) as call, aiohttp.ClientSession(server.address) as http:
        output = await begin(http, call.session_id)
        (ended,) = await call.wait_for(lambda: call.received(OutputEnded), TIMEOUT_S, "it goes on")
        assert ended.state == "ended"
        assert "at most 0.02 minutes" in (ended.message or "")
        async with http.get(output["url"]) as response:
            assert 1.2 <= (await response.json())["duration_s"] < 1.5
        assert (await end(http, await begin(http, call.session_id)))["state"] == "ended", "another one may begin"


async def test_a_forgotten_recording_keeps_no_seat(tmp_path: Path) -> None:
    limits = {"idle_s": 1.0}
    async with serving(recording={"directory": tmp_path}, limits=limits) as server, aiohttp.ClientSession(server.address) as http:
        async with http.post("/v1/sessions", json={"outputs": [RECORDING]}) as response:
            made = await response.json()
        session = the(server)
        async with http.post(made["events_url"], data=" ".join(["word"] * 12)) as response:
            assert response.status == 202
        await session.finished()
        (done,) = [event for event, _ in session.events.since(0) if isinstance(event, ResponseDone)]
        assert (done.status, session.reason) == ("completed", "idle"), "what was said is recorded to its end"
        assert recorded_s(session) > done.heard_ms / 1000
        await until(lambda: not server.registry.num_sessions, "its seat is not free")
