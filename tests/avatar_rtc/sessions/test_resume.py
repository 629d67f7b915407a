"""A session outlives its viewers: held, resumed where it was heard last, and watched by several."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
import pytest

from avatar_rtc.app import Server
from avatar_rtc.client import VOICED_LEVEL, Call
from avatar_rtc.errors import CallError
from avatar_rtc.outputs import webrtc
from avatar_rtc.sessions import registry
from avatar_rtc.sessions.session import Session
from signaling.vocabulary import (
    AudioStarted,
    AvatarState,
    Error,
    Ping,
    ResponseCreate,
    ResponseDone,
    SessionCreated,
    TranscriptDelta,
)
from testkit.hearing import WORDS, Ear, words_heard
from tests.support.calls import calling, serving

TIMEOUT_S = 20


def cut(call: Call) -> None:
    """As kill -9, or a network that is gone: nothing arrives any more, and nothing says so."""
    ice: Any = call.peer.getTransceivers()[0].receiver.transport.transport
    for protocol in ice._connection._protocols:
        protocol.transport.abort()


def the(server: Server) -> Session:
    (session,) = server.registry.live
    return session


async def until(holds: Any, what: str) -> None:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while not holds():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(what) from None


@asynccontextmanager
async def watching(server: Server, session_id: str, query: str = "") -> AsyncIterator[Call]:
    async with calling(server, f"?session={session_id}{query}") as viewer:
        yield viewer


async def test_a_line_goes_on_where_it_was_heard_last() -> None:
    async with serving() as server, calling(server) as call:
        first_ear = Ear(call)
        call.send(ResponseCreate(input=WORDS, id="r"))
        await call.wait_for(lambda: len(call.received(TranscriptDelta)) >= 4, TIMEOUT_S, "no words")
        cut(call)
        session = the(server)
        await until(lambda: session.phase == "held", "it is not held")
        at = session.stats()["frames"]
        await asyncio.sleep(2)
        assert session.stats()["frames"] == at, "nobody hears it, so nothing is said"
        second_ear = Ear(call)
        await call.resume()
        (done,) = await call.wait_for(lambda: call.received(ResponseDone), TIMEOUT_S, "the line does not go on")
        assert (done.status, done.heard_text) == ("completed", WORDS)
        assert [event.text for event in call.received(TranscriptDelta)] == WORDS.split(), "each word once, in order"
        assert len(call.received(AudioStarted)) == 1
        assert call.received(SessionCreated)[-1].resumed
        assert server.registry.num_sessions == 1
        # The sound itself, to its end: each word's tone is heard, and in its order.
        await call.wait_for(lambda: max(call.audio.level[-25:]) < VOICED_LEVEL, TIMEOUT_S, "it does not fall silent")
        assert words_heard(first_ear.samples, second_ear.samples, sample_rate_hz=48_000) == WORDS.split()


async def test_a_line_waits_until_who_comes_back_says_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webrtc, "WAKE_PATIENCE_S", 1000)
    async with serving() as server, calling(server) as call:
        call.send(ResponseCreate(input=WORDS, id="r"))
        await call.wait_for(lambda: len(call.received(TranscriptDelta)) >= 4, TIMEOUT_S, "no words")
        cut(call)
        session = the(server)
        await until(lambda: session.phase == "held", "it is not held")
        at = session.stats()["frames"]
        monkeypatch.setattr(Call, "_live", _say_nothing)
        resuming = asyncio.ensure_future(call.resume())
        await until(lambda: len(call.received(SessionCreated)) == 2, "it does not come back")
        await asyncio.sleep(0.3)
        assert (session.phase, session.stats()["frames"]) == ("held", at)
        call.send(Ping(t=1))
        await resuming
        (done,) = await call.wait_for(lambda: call.received(ResponseDone), TIMEOUT_S, "the line does not go on")
        assert done.heard_text == WORDS


async def _say_nothing(call: Call, channel: object) -> None:
    pass


async def test_one_that_does_not_come_back_loses_its_seat_when_the_grace_is_over() -> None:
    async with serving(limits={"grace_s": 3.0, "max_sessions": 1}) as server, calling(server) as call:
        assert call.received(SessionCreated)[0].grace_ms == 3000
        cut(call)
        cut_s = time.monotonic()
        session = the(server)
        await until(lambda: session.phase == "held", "it is not held")
        await session.finished()
        assert 2.5 < time.monotonic() - cut_s < 6
        with pytest.raises(CallError, match="unknown_session"):
            await call.resume()


async def test_hanging_up_ends_a_call_also_while_it_is_held() -> None:
    async with serving(limits={"grace_s": 60.0}) as server, calling(server) as call:
        cut(call)
        session = the(server)
        await until(lambda: session.phase == "held", "it is not held")
        async with aiohttp.ClientSession() as http, http.delete(call.resource) as response:
            assert response.status == 200
        assert server.registry.num_sessions == 0


async def test_several_watch_one_stream_that_is_encoded_once() -> None:
    async with serving() as server, calling(server) as call:
        session = the(server)
        async with watching(server, call.session_id, "&role=watch") as first, watching(server, call.session_id) as second:
            (created,) = first.received(SessionCreated)
            assert (created.resumed, created.may_speak) == (True, False)
            assert session.broadcast.codecs == ["VP8"]
            call.send(ResponseCreate(input="one two three", id="r"))
            for viewer in (call, first, second):
                (done,) = await viewer.wait_for(partial(viewer.received, ResponseDone), TIMEOUT_S, "not told")
                assert done.heard_text == "one two three"
            first.send("I may not speak.")
            (error,) = await first.wait_for(lambda: first.received(Error), TIMEOUT_S, "no error")
            assert error.code == "not_allowed"
            assert not call.received(Error)
            second.send(ResponseCreate(input="So can I.", id="s"))
            await call.wait_for(lambda: call.received(ResponseDone, "s"), TIMEOUT_S, "not heard by the other")
            assert session.stats()["viewers"] == 3
        pictures = len(call.video.pts)
        await call.wait_for(lambda: len(call.video.pts) > pictures + 10, TIMEOUT_S, "they have taken the pictures along")
        assert session.phase == "live"


async def test_a_session_without_a_viewer_waits_for_one_and_is_led_over_http() -> None:
    async with serving() as server, aiohttp.ClientSession(server.address) as http:
        async with http.post("/v1/sessions", json={"avatar": "maya", "name": "lobby"}) as response:
            assert response.status == 201
            made = await response.json()
        async with http.post("/v1/sessions", json={"name": "lobby"}) as response:
            assert response.status == 409
        session = the(server)
        assert (session.phase, session.name) == ("waiting", "lobby")
        async with http.get(made["events_url"], headers={"Last-Event-ID": "0"}) as events:
            async with http.post(made["events_url"], data="Hello lobby.") as response:
                assert response.status == 202
            await asyncio.sleep(0.5)
            assert session.stats()["frames"] == 0, "nobody hears it yet"
            async with watching(server, made["id"]) as viewer:
                (done,) = await viewer.wait_for(lambda: viewer.received(ResponseDone), TIMEOUT_S, "it is not said")
                assert done.heard_text == "Hello lobby."
            told: list[bytes] = []
            async with asyncio.timeout(TIMEOUT_S):
                while not any(b"response.done" in line for line in told):
                    told.append(await events.content.readline())
        assert server.registry.num_sessions == 1, "its viewer has gone, and it stays"
        async with http.delete(made["url"]) as response:
            assert response.status == 204
        assert server.registry.num_sessions == 0


async def test_a_reader_of_events_that_goes_is_no_fault_and_leaves_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signaling.sse.SIGN_OF_LIFE_S", 0.2)
    async with serving() as server, aiohttp.ClientSession(server.address) as http:
        async with http.post("/v1/sessions", json={}) as response:
            made = await response.json()
        # One is noticed when something happens, the other one by itself.
        for happens in (True, False):
            (await http.get(made["events_url"])).close()
            if happens:
                async with http.post(made["events_url"], data="Nobody reads this.") as response:
                    assert response.status == 202
            await until(
                lambda: not any("Queue.get" in repr(task) for task in asyncio.all_tasks()), "somebody still waits for events"
            )
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_who_reads_no_events_is_let_go_and_costs_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_UNREAD_EVENTS", 8)
    async with serving() as server, calling(server) as call:
        log = the(server).events
        events = server.registry.events(call.session_id, None)
        reading = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        at = log.last_seq
        for _ in range(100):
            log.append(AvatarState(state="listening"))
        assert (await reading)[1] == at + 1
        assert [seq async for _, seq in events] == [], "it knows where to go on"
