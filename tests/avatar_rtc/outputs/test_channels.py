"""Whatever a client sends or cannot take: the call goes on, and it is told what can be told."""

from __future__ import annotations

import asyncio
import json
import re
from functools import partial
from typing import Any
from urllib.parse import urljoin

import aiohttp
import pytest
from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection
from aiortc.rtcsctptransport import WEBRTC_DCEP, WEBRTC_STRING

from avatar_rtc.client import Call
from avatar_rtc.sessions.conversation import Conversation
from signaling.vocabulary import (
    AvatarState,
    Error,
    Pong,
    ResponseCancel,
    ResponseCreate,
    ResponseCreated,
    ResponseDone,
    SessionCreated,
)
from tests.support.calls import calling, serving

TIMEOUT_S = 20
HALF = "\\ud83d"
"""Half of an emoji, as JSON can write it and nothing can encode it."""


def listen(channel: RTCDataChannel) -> list[dict[str, Any]]:
    """What a channel is told."""
    told: list[dict[str, Any]] = []
    channel.on("message", lambda frame: told.append(json.loads(frame)))
    return told


async def until(holds: Any) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not holds():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)


async def check_alive(call: Call) -> None:
    """Both tracks go on, and a line is heard and seen to its end."""
    line = await call.speak("Still here.")
    assert (line.status, line.heard_text) == ("completed", "Still here.")
    pictures, sounds = len(call.video.pts), len(call.audio.pts)
    await call.wait_for(
        lambda: len(call.video.pts) > pictures + 5 and len(call.audio.pts) > sounds + 5, TIMEOUT_S, "a track has ended"
    )


HARMFUL = [
    f'{{"type":"response.create","input":"Great{HALF} news.","mode":"queue"}}',
    f'{{"type":"response.create","input":"A man{HALF}. <S>Yes{HALF}.<E> <AUDCAP>a voice{HALF}<ENDAUDCAP>","mode":"queue"}}',
    f'{{"type":"session.update","scene":"A {HALF} hill."}}',
    f'{{"type":"session.update","voice":"a {HALF} voice"}}',
    '{"type":"session.update","image":"日本語"}',
    f'{{"type":"ping","event_id":"{HALF}"}}',
    f'{{"type":"dance{HALF}","event_id":"{HALF}"}}',
    f'{{"type":"response.create","input":"x","id":"{HALF}"}}',
    '{"type":"client.stats","first_frame_ms":' + "9" * 400 + "}",
    '{"type":"client.stats","freezes":' + "9" * 4000 + "}",
    '{"type":"ping","t":NaN}',
    '{"type":"ping","t":-Infinity}',
    '{"type":"ping","t":1e999}',
    '{"type":"ping","t":' + "9" * 400 + "}",
]


async def test_no_event_ends_a_call_or_a_track() -> None:
    async with serving() as server, calling(server) as call, aiohttp.ClientSession() as http:
        url = f"{server.address}/v1/sessions/{call.session_id}/events"
        for frame in HARMFUL:
            call.send(frame)
            async with http.post(url, data=frame) as response:
                assert response.status in (202, 400, 422)
        await check_alive(call)
        assert {error.code for error in call.received(Error)} == {"invalid_event", "invalid_json", "bad_image"}
        # Text is repaired, and not refused: what was meant can be said.
        heard = [done.heard_text for done in call.received(ResponseDone)]
        assert heard == ["Great\ufffd news."] * 2 + ["Yes\ufffd."] * 2 + ["Still here."]
        assert not [pong for pong in call.received(Pong) if pong.t is None or pong.t > 1e15]


async def test_an_error_of_ours_costs_the_event_and_not_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("as the test says")

    async with serving() as server, calling(server) as call, aiohttp.ClientSession() as http:
        with monkeypatch.context() as broken:
            broken.setattr(Conversation, "receive", fail)
            call.send('{"type":"response.cancel","event_id":"e"}')
            await call.wait_for(lambda: call.received(Error), TIMEOUT_S, "no error")
            async with http.post(
                f"{server.address}/v1/sessions/{call.session_id}/events", json={"type": "response.cancel"}
            ) as response:
                assert response.status == 500
        (error,) = call.received(Error)
        assert (error.code, error.event_id) == ("internal_error", "e")
        await check_alive(call)


@pytest.mark.parametrize("max_bytes", [400, 100])
async def test_events_are_cut_to_what_the_client_takes(max_bytes: int) -> None:
    async with serving() as server, aiohttp.ClientSession() as http:
        call = Call(server.address)
        sizes: list[int] = []
        call.channel.on("message", lambda frame: sizes.append(len(frame.encode())))

        async def post_small(query: str) -> str:
            offer, num_changed = re.subn(
                r"a=max-message-size:\d+", f"a=max-message-size:{max_bytes}", call.peer.localDescription.sdp
            )
            assert num_changed == 1
            headers = {"Content-Type": "application/sdp"}
            async with http.post(f"{server.address}/whep{query}", data=offer, headers=headers) as response:
                call.resource = urljoin(str(response.url), response.headers["Location"])
                return await response.text()

        call._post_offer = post_small  # type: ignore[method-assign]
        joining = asyncio.create_task(call.connect())
        try:
            await until(lambda: call.received(Pong) and len(call.video.pts) > 5)
            call.send(ResponseCreate(input="strengths " * 25 + "end.", id="r"))
            if max_bytes >= 400:
                await joining
                (created,) = call.received(SessionCreated)
                assert created.scene.endswith("…")
                (done,) = await call.wait_for(lambda: call.received(ResponseDone), TIMEOUT_S, "no response.done")
                assert done.status == "completed"
                assert done.heard_text.startswith("strengths strengths")
                assert done.heard_text.endswith("…")
                await check_alive(call)
            else:
                # Not even an event without its texts would fit.
                (session,) = server.registry.live
                await until(lambda: session.state == "speaking")
                await session.handle(ResponseCancel())
                pictures, sounds = len(call.video.pts), len(call.audio.pts)
                await until(lambda: len(call.video.pts) > pictures + 10 and len(call.audio.pts) > sounds + 10)
            assert max(sizes) <= max_bytes
        finally:
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)
            await call.close()


async def test_events_follow_the_channel_that_is_open() -> None:
    async with serving() as server, calling(server) as call, aiohttp.ClientSession() as http:
        second = call.peer.createDataChannel("протокол", ordered=False, maxRetransmits=0)
        told = listen(second)
        await until(lambda: second.readyState == "open")
        second.send('{"type":"ping","t":5}')
        await call.wait_for(lambda: [pong for pong in call.received(Pong) if pong.t == 5], TIMEOUT_S, "no pong on the first")
        assert not told
        call.channel.close()
        await until(lambda: [event["type"] for event in told] == ["session.created", "avatar.state"])
        second.close()
        await until(lambda: second.readyState == "closed")
        # While there is none, what happens is kept for the next.
        async with http.post(f"{server.address}/v1/sessions/{call.session_id}/events", data="Hello there.") as response:
            assert response.status == 202
        third = call.peer.createDataChannel("")
        told = listen(third)
        await until(lambda: "response.done" in [event["type"] for event in told])
        assert [event["type"] for event in told][:3] == ["session.created", "avatar.state", "response.created"]


async def test_a_negotiated_channel_is_found_by_what_it_says() -> None:
    async with serving() as server:
        call = Call(server.address)
        await call.peer.close()
        call.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        call.channel = call.peer.createDataChannel("mine", negotiated=True, id=6)
        try:
            await call.connect()
            await check_alive(call)
        finally:
            await call.close()


async def test_messages_that_no_browser_sends_end_nothing() -> None:
    async with serving() as server, calling(server) as call:
        sctp = call.peer.sctp
        assert sctp is not None
        stream_id = call.channel.id
        assert stream_id is not None
        opening = b"\x03\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00"
        for stream, protocol, data in (
            (stream_id, WEBRTC_STRING, b"\xff\xfe"),
            (stream_id, WEBRTC_DCEP, opening + b"ab"),
            (40, WEBRTC_DCEP, opening + b"\xff\xfe"),
            (42, WEBRTC_DCEP, b"\x02"),
            (65535, WEBRTC_STRING, b"hi"),
        ):
            await sctp._send(stream, protocol, data)
        await sctp._transmit()
        await call.wait_for(lambda: call.received(Error), TIMEOUT_S, "no error")
        assert call.received(Error)[0].code == "not_text"
        await check_alive(call)


async def test_pieces_of_white_space_keep_words_apart() -> None:
    async with serving() as server, calling(server) as call:
        for pieces, heard in (
            (["", "\n", "Good", ",", " ", "morning", ",", " ", "my", " ", "friend", "."], "Good, morning, my friend."),
            (["Hello there.", "\n\n", "How are you.", ""], "Hello there. How are you."),
            ([" ", "", " "], ""),
        ):
            reply_id = f"r{len(call.received(ResponseDone))}"
            for piece in pieces:
                call.send(ResponseCreate(id=reply_id, mode="append", more=True, input=piece))
            call.send(ResponseCreate(id=reply_id, mode="append", input=""))
            (done,) = await call.wait_for(partial(call.received, ResponseDone, reply_id), TIMEOUT_S, "no end")
            assert (done.status, done.heard_text) == ("completed", heard)
        assert not call.received(Error)
        assert len(call.received(ResponseCreated)) == 3
        # It is told after the reply's end, in a message of its own.
        await call.wait_for(lambda: call.received(AvatarState)[-1].state == "listening", TIMEOUT_S, "it goes on to think")
