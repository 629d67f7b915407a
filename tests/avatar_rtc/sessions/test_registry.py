"""Offers, candidates, events over HTTP and seats, against a real server on the instant engine."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import socket
import weakref
from urllib.parse import urljoin

import aiohttp
import av
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from avatar_rtc.client import Call
from avatar_rtc.errors import CallError
from avatar_rtc.fake import INFO
from avatar_rtc.logs import shorten_what_is_no_http
from avatar_rtc.rtf import in_words
from signaling.dialects.avatar import dump
from signaling.errors import UnknownSession
from signaling.vocabulary import AudioStarted, Command, Error, ResponseCreate, ResponseDone, SessionCreated, SessionUpdate
from tests.support.calls import calling, serving
from tests.support.instant_engine import InstantEngine

SDP = {"Content-Type": "application/sdp"}


async def test_media_use_the_configured_ports() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("0.0.0.0", 0))
        first = min(probe.getsockname()[1], 65_000)
    async with serving(ice={"udp_ports": (first, first + 20)}) as server, calling(server) as call:
        ports = re.findall(r"a=candidate:\S+ 1 udp \d+ \S+ (\d+) typ host", call.peer.remoteDescription.sdp)
        assert ports
        assert all(first <= int(port) <= first + 20 for port in ports)
        assert (await call.speak("Through the hole.")).status == "completed"


async def test_the_advertised_address_is_in_the_answer() -> None:
    async with serving(ice={"advertised_address": "203.0.113.9"}) as server, aiohttp.ClientSession() as http:
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        peer.addTransceiver("video", direction="recvonly")
        await peer.setLocalDescription(await peer.createOffer())
        async with http.post(f"{server.address}/whep", data=peer.localDescription.sdp, headers=SDP) as response:
            assert response.status == 201
            answer = await response.text()
        await peer.close()
    hosts = re.findall(r"a=candidate:\S+ 1 udp \d+ (\S+) \d+ typ host", answer)
    assert set(hosts) == {"203.0.113.9"}
    assert "m=video" in answer
    assert "a=sendonly" in answer


async def test_candidates_may_trickle_in() -> None:
    """An offer without candidates, which come later in a PATCH: the way of browsers."""
    async with serving() as server, aiohttp.ClientSession() as http:
        call = Call(server.address)

        async def post_without_candidates(query: str) -> str:
            full = call.peer.localDescription.sdp
            bare = "".join(line + "\r\n" for line in full.splitlines() if not line.startswith(("a=candidate", "a=end-of")))
            async with http.post(f"{server.address}/whep{query}", data=bare, headers=SDP) as response:
                answer = await response.text()
                location, etag = urljoin(str(response.url), response.headers["Location"]), response.headers["ETag"]
            candidates = [line for line in full.splitlines() if line.startswith("a=candidate")]
            ufrag = re.search(r"a=ice-ufrag:\S+", full)
            assert ufrag
            fragment = "\r\n".join([ufrag[0], "m=video 9 UDP/TLS/RTP/SAVPF 0", "a=mid:0", *candidates, "a=end-of-candidates", ""])
            headers = {"Content-Type": "application/trickle-ice-sdpfrag"}
            for if_match, body, status in (
                ('"other"', fragment, 412),
                (etag, "a=mid:0\r\na=candidate:nonsense\r\n", 400),
                (etag, fragment.replace(ufrag[0], "a=ice-ufrag:other"), 422),
                ("*", fragment.replace(ufrag[0], "a=ice-ufrag:other"), 422),
                ("*", fragment, 204),
                (etag, fragment, 204),
            ):
                async with http.patch(location, data=body, headers={**headers, "If-Match": if_match}) as response:
                    assert response.status == status
            call.resource = location
            return answer

        call._post_offer = post_without_candidates  # type: ignore[method-assign]
        try:
            await call.connect()
            assert (await call.speak("Hello.")).status == "completed"
        finally:
            await call.close()


async def test_events_over_http_have_the_outcome_in_the_answer() -> None:
    async with serving() as server, calling(server) as call, aiohttp.ClientSession() as http:
        url = f"{server.address}/v1/sessions/{call.session_id}/events"

        async def post(**event: object) -> tuple[int, str]:
            async with http.post(url, json=event) as response:
                body = await response.json(content_type=None)
                return response.status, body.get("code", "")

        for _ in range(2):
            unspeakable = await post(type="response.create", input="你好", id="u", event_id="e1")
            assert unspeakable == (422, "unspeakable_text")
        for _ in range(2):
            assert await post(type="response.create", input="Over HTTP.", id="h", event_id="e2") == (202, "")
        assert await post(type="response.cancel", id="nobody") == (404, "unknown_reply")
        assert await post(type="session.update", avatar="nobody") == (404, "unknown_avatar")
        await call.wait_for(lambda: len(call.received(ResponseDone)) == 2, 20, "the replies did not end")
        assert {event.response_id: event.status for event in call.received(ResponseDone)} == {"h": "completed", "u": "failed"}
        assert len(call.received(AudioStarted)) == 1
        assert not call.received(Error)

        async with http.delete(call.resource) as response:
            assert response.status == 200
        assert server.registry.num_sessions == 0
        async with http.post(url, data="Too late.") as response:
            assert response.status == 404


async def test_to_delete_a_session_that_is_ending_or_has_ended_is_no_error() -> None:
    async with serving() as server, calling(server) as call:
        await asyncio.gather(*(server.registry.end(call.session_id) for _ in range(2)))
        assert server.registry.num_sessions == 0
        await server.registry.end(call.session_id)
        with pytest.raises(UnknownSession):
            await server.registry.stats(call.session_id)
        with pytest.raises(UnknownSession):
            await server.registry.end("f" * 32)


async def test_a_seat_is_never_promised_twice() -> None:
    async with serving(limits={"max_sessions": 2}) as server:
        calls = [Call(server.address) for _ in range(4)]
        results = await asyncio.gather(*(call.connect() for call in calls), return_exceptions=True)
        assert sum(result is None for result in results) == 2
        assert server.registry.num_sessions == 2
        await asyncio.gather(*(call.close() for call in calls))
        assert server.registry.num_sessions == 0


@pytest.mark.parametrize(("rtf", "num_seats"), [(0.24, 3), (1.3, 1)])
async def test_the_measured_speed_says_how_many_calls_there_are_and_everybody_the_same_of_it(rtf: float, num_seats: int) -> None:
    async with serving(InstantEngine(rtf=rtf)) as server, aiohttp.ClientSession() as http:
        calls = [Call(server.address) for _ in range(num_seats + 1)]
        results = await asyncio.gather(*(call.connect() for call in calls), return_exceptions=True)
        assert sum(result is None for result in results) == num_seats
        async with http.get(f"{server.address}/readyz") as response:
            assert response.status == 200, "a slow machine serves"
            ready = await response.json()
        (hello,) = next(call for call in calls if call.session_id).received(SessionCreated)
        assert ready.pop("ready") is True
        assert ready == {name: value for name in ("speed", "notice") if (value := getattr(hello, name)) is not None}
        assert ready["speed"] == pytest.approx(1 / rtf, abs=0.01)
        assert ("notice" in ready) == (rtf > 1)
        assert ready.get("notice", in_words(rtf)) == in_words(rtf) == in_words(server.rtf), "which the console prints"
        await asyncio.gather(*(call.close() for call in calls))


async def test_a_call_that_takes_more_than_the_warm_up_has_promised_costs_seats() -> None:
    async with serving(InstantEngine(rtf=0.1, spent_s=10 * INFO.chunk_duration_s)) as server:
        assert server.registry.capacity()["seats"] == 6
        async with calling(server), asyncio.timeout(30):
            while server.registry.capacity()["seats"] > 1:  # noqa: ASYNC110 - it is learned as time goes by
                await asyncio.sleep(0.1)
            with pytest.raises(CallError, match="The only seat is taken"):
                async with calling(server):
                    pass


async def test_a_client_that_never_connects_gives_its_seat_back() -> None:
    engine = InstantEngine()
    async with serving(engine, limits={"join_timeout_s": 0.5}) as server, aiohttp.ClientSession() as http:
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        peer.addTransceiver("video", direction="recvonly")
        await peer.setLocalDescription(await peer.createOffer())
        async with http.post(f"{server.address}/whep", data=peer.localDescription.sdp, headers=SDP) as response:
            assert response.status == 201
        await peer.close()
        async with asyncio.timeout(20):
            while server.registry.num_sessions:  # noqa: ASYNC110 - the seat tells nobody that it is free
                await asyncio.sleep(0.05)
        assert not engine.streams


async def test_no_body_is_an_error_of_the_server() -> None:
    async with serving() as server, calling(server) as call, aiohttp.ClientSession() as http:
        events = f"{server.address}/v1/sessions/{call.session_id}/events"
        for url, method in ((f"{server.address}/whep", "POST"), (events, "POST"), (call.resource, "PATCH")):
            for coding in ("gzip", "deflate", "br", "gzip, gzip", "ä"):
                kind = "application/trickle-ice-sdpfrag" if method == "PATCH" else "application/sdp"
                headers = {"Content-Type": kind, "Content-Encoding": coding}
                async with http.request(method, url, data=b"\x1f\x8bno archive", headers=headers) as response:
                    assert (response.status, response.content_type) == (415, "application/problem+json")
        assert (await call.speak("Still here.")).status == "completed"


async def test_what_is_no_http_costs_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("aiohttp.server")
    log.addFilter(shorten_what_is_no_http)
    caplog.set_level(logging.INFO)
    try:
        async with serving() as server:
            for request in (
                b"POST /whep HTTP/1.1\r\nContent-Length: -3\r\n\r\n",
                b"GET / HTTP/9.9\r\n\r\n",
                b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
            ):
                reader, writer = await asyncio.open_connection("127.0.0.1", int(server.address.rpartition(":")[2]))
                writer.write(request)
                assert (await reader.readline()).startswith(b"HTTP/1.0 400")
                writer.close()
    finally:
        log.removeFilter(shorten_what_is_no_http)
    told = [record for record in caplog.records if record.name == "aiohttp.server"]
    assert [(record.levelno, record.exc_info) for record in told] == [(logging.INFO, None)] * 3


async def test_the_limits_that_are_announced_are_held() -> None:
    async with serving(limits={"max_queued_replies": 2}) as server, calling(server) as call, aiohttp.ClientSession() as http:
        (created,) = call.received(SessionCreated)
        limits = created.limits
        url = f"{server.address}/v1/sessions/{call.session_id}/events"

        async def post(event: Command) -> tuple[int, str]:
            async with http.post(url, data=dump(event)) as response:
                return response.status, (await response.json(content_type=None)).get("code", "")

        line = ("word " * limits.max_prompt_chars)[: limits.max_prompt_chars - 1] + "."
        for event in (
            ResponseCreate(input=line),
            ResponseCreate(input=line, mode="append", id="pieces", more=True),
            SessionUpdate(scene=line, voice=line),
        ):
            assert await post(event) == (202, "")
        for event in (ResponseCreate(input=line + "."), SessionUpdate(voice=line + ".")):
            assert await post(event) == (422, "bad_prompt")
        voice = {"voice": line + "."}
        async with http.post(f"{server.address}/whep", params=voice, data="v=0", headers=SDP) as response:
            assert (response.status, (await response.json(content_type=None))["code"]) == (422, "bad_prompt")
        call.send(ResponseCreate(input="Said.", id="first"))
        for number in range(limits.max_queued_replies):
            assert await post(ResponseCreate(input="Waits.", mode="queue", id=f"{number}")) == (202, "")
        assert await post(ResponseCreate(input="One too many.", mode="queue")) == (429, "queue_full")
        message = "x" * limits.max_message_bytes
        async with http.post(url, data=message) as response:
            assert response.status == 422, "not too large, but too long to be said"
        async with http.post(url, data=message + "x") as response:
            assert response.status == 413


async def test_who_only_watches_is_not_taken_for_gone_before_the_first_picture() -> None:
    # A block takes 3 s, so that for so long there is nothing to report on; the watcher has no data channel to ping over.
    limits = {"vanish_after_s": 1.5}
    async with serving(InstantEngine(chunk_s=4.0), limits=limits) as server, aiohttp.ClientSession() as http:
        watcher = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        receiver = watcher.addTransceiver("video", direction="recvonly").receiver
        await watcher.setLocalDescription(await watcher.createOffer())
        async with http.post(f"{server.address}/whep", data=watcher.localDescription.sdp, headers=SDP) as response:
            answer = RTCSessionDescription(await response.text(), "answer")
        call = Call(server.address)
        try:
            await watcher.setRemoteDescription(answer)
            joining = asyncio.create_task(call.connect())
            async with asyncio.timeout(20):
                assert await receiver.track.recv()
                await joining
            assert server.registry.num_sessions == 2
            pings = re.search(
                r'datachannel_messages_total{dir="in",result="ok",type="ping"} (\S+)', server.registry.metrics()[0].decode()
            )
            assert pings
            assert float(pings[1]) >= 2, "the headless client pings before the first picture"
        finally:
            await call.close()
            await watcher.close()


async def test_the_encoders_of_a_call_end_with_it_and_their_threads() -> None:
    def num_encoders() -> int:
        return sum(isinstance(thing, av.CodecContext) and thing.is_encoder for thing in gc.get_objects())

    async with serving() as server:
        gc.collect()
        before = num_encoders()
        gc.disable()  # which would end them some time, too
        try:
            for _ in range(2):
                async with calling(server):
                    assert num_encoders() == before + 2
                assert num_encoders() == before
        finally:
            gc.enable()


async def test_nothing_of_a_call_stays_until_python_looks_for_garbage() -> None:
    async with serving() as server:
        gc.disable()
        try:
            async with calling(server):
                (session,) = server.registry.live
                parts = [weakref.ref(part) for part in (session, *session.audience.viewers.values())]
                del session
            async with asyncio.timeout(20):
                while any(part() is not None for part in parts):  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0.1)
        finally:
            gc.enable()
