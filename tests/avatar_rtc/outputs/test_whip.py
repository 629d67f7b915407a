"""Pushes to a WHIP receiver: it gets what viewers get, whatever happens to it, and nobody is pushed to who must not be."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from avatar_rtc.app import Server
from avatar_rtc.fake import read_counter
from avatar_rtc.media import broadcast
from avatar_rtc.media.encode import VideoCodec, VideoEncoder, VideoRates, make_video_encoder
from avatar_rtc.outputs import whip
from avatar_rtc.outputs.targets import check_target
from signaling.errors import Unprocessable
from signaling.vocabulary import OutputEnded, OutputStarted, OutputUpdated
from testkit.network import open_network
from testkit.whip_receiver import WhipReceiver
from tests.avatar_rtc.sessions.test_resume import TIMEOUT_S, the, until
from tests.support.calls import calling, serving

TOKEN = "Not-to-be-told"
HERE = {"allow": (ipaddress.ip_network("127.0.0.0/8"),)}


@asynccontextmanager
async def receiving() -> AsyncIterator[WhipReceiver]:
    receiver = WhipReceiver(TOKEN)
    await receiver.start()
    try:
        yield receiver
    finally:
        await receiver.kill()


def push_to(receiver: WhipReceiver, path: str = "/live", token: str | None = TOKEN) -> dict[str, Any]:
    return {"type": "whip", "url": f"http://127.0.0.1:{receiver.port}{path}", "token": token}


async def post(server: Server, session_id: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Ask for an output; status and answer."""
    url = f"{server.address}/v1/sessions/{session_id}/outputs"
    async with aiohttp.ClientSession() as http, http.post(url, json=body) as response:
        return response.status, await response.json(content_type=None)


def states(server: Server) -> list[str]:
    """Of the outputs of the one session that there is."""
    return [output["state"] for output in the(server).outputs.describe()]


async def test_a_session_without_a_viewer_is_pushed_and_hung_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with receiving() as receiver, serving(whip=HERE) as server, aiohttp.ClientSession(server.address) as http:
        async with http.post("/v1/sessions", json={"outputs": [push_to(receiver, "/moved?key=also-secret")]}) as response:
            assert response.status == 201
            made = await response.json()
        async with http.post(made["events_url"], data="one two three") as response:
            assert response.status == 202
        session = the(server)
        await until(lambda: len(receiver.pictures) > 50 and receiver.num_sounds > 100, "nothing arrives")
        phase: str = session.phase
        assert phase == "live"
        assert session.performance.num_replies == 1
        async with http.get(made["outputs"][0]["url"]) as response:
            told = await response.json()
        assert (told["state"], told["to"]) == ("live", f"http://127.0.0.1:{receiver.port}")
        async with http.delete(told["url"]) as response:
            assert (await response.json())["state"] == "ended"
        assert receiver.deleted == 1
        phase = session.phase
        assert phase == "held"
        events = [event for event, _ in session.events.since(0)]
        kinds = [event for event in events if isinstance(event, OutputStarted | OutputUpdated | OutputEnded)]
        assert [getattr(event, "state", "started") for event in kinds] == ["started", "live", "ended"]
    assert receiver.asked[:2] == [("POST", "/moved"), ("POST", "/live")]
    counters = [read_counter(picture.to_ndarray(format="gray")) for picture in receiver.pictures]
    assert all(a is not None and b is not None and b >= a for a, b in itertools.pairwise(counters)), "pictures, in order"
    everything = " ".join([str(told), str(made), str(events), caplog.text])
    assert TOKEN not in everything
    assert "also-secret" not in str(told) + str(made) + str(events)


async def test_a_receiver_that_restarts_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whip, "FIRST_PAUSE_S", 0.2)
    async with receiving() as first, serving(whip=HERE) as server, aiohttp.ClientSession(server.address) as http:
        async with http.post("/v1/sessions", json={"outputs": [push_to(first)]}) as response:
            assert response.status == 201
        await until(lambda: len(first.pictures) > 10, "nothing arrives")
        await first.kill()
        await until(lambda: states(server) == ["waiting"], "it is not noticed")
        assert the(server).phase == "held", "nobody sees it, so it stands still"
        at = the(server).stats()["frames"]
        second = WhipReceiver(TOKEN, first.port)
        await asyncio.sleep(0.5)
        assert the(server).stats()["frames"] == at
        await second.start()
        try:
            await until(lambda: len(second.pictures) > 10, "it is not found again")
            assert (states(server), the(server).phase) == (["live"], "live")
            assert np.median([picture.to_ndarray(format="gray").std() for picture in second.pictures]) > 10
            the(server).end("deleted")
            await until(lambda: second.deleted == 1, "it is not told of the end")
        finally:
            await second.kill()


@pytest.mark.parametrize(
    ("answer", "states_told", "says"),
    [
        (401, ["started", "failed"], "HTTP 401"),
        (503, ["started", "waiting", "connecting", "failed"], "HTTP 503"),
        ("nothing", ["started", "waiting", "connecting", "failed"], "cannot be reached"),
    ],
)
async def test_a_push_that_does_not_arrive_says_why(
    monkeypatch: pytest.MonkeyPatch, answer: int | str, states_told: list[str], says: str
) -> None:
    monkeypatch.setattr(whip, "FIRST_PAUSE_S", 0.2)
    monkeypatch.setattr(whip, "PATIENCE_S", 3)
    async with receiving() as receiver, serving(whip=HERE) as server, calling(server) as call:
        wanted = push_to(receiver, token="wrong")
        if answer == 503:
            monkeypatch.setattr(WhipReceiver, "_is_known", _busy)
        if answer == "nothing":
            await receiver.kill()
        assert (await post(server, call.session_id, wanted))[0] == 201
        (ended,) = await call.wait_for(lambda: call.received(OutputEnded), TIMEOUT_S, "nobody is told")
        told = [event for _, event in call.events if isinstance(event, OutputStarted | OutputUpdated | OutputEnded)]
        # How often it is tried again in the time that it has is a matter of the machine.
        assert list(dict.fromkeys(getattr(event, "state", "started") for event in told)) == states_told
        assert says in (ended.message or "")
        assert "secret words" not in str(told), "what a receiver says is told to nobody"
        assert (await call.speak("The call goes on.")).status == "completed"


def _busy(receiver: WhipReceiver, request: Any) -> bool:
    raise web.HTTPServiceUnavailable


async def test_a_receiver_that_names_its_address_once_and_waits_is_sent_to() -> None:
    """As those do that are on the internet themselves (ICE lite); a bundled answer has addresses in its first section only."""
    async with (
        receiving() as receiver,
        serving(whip=HERE) as server,
        calling(server) as call,
        open_network(f"http://127.0.0.1:{receiver.port}") as network,
    ):
        assert (await post(server, call.session_id, {**push_to(receiver), "url": f"{network.url}/live"}))[0] == 201
        await until(lambda: receiver.num_pictures > 10 and receiver.num_sounds > 10, "nothing arrives")


@pytest.mark.parametrize("location", ["http://10.0.0.1/live", "http://[::1]/", "ftp://127.0.0.1/", "//169.254.169.254/latest"])
async def test_a_redirect_leads_nowhere_that_may_not_be_asked(monkeypatch: pytest.MonkeyPatch, location: str) -> None:
    async def moved(receiver: WhipReceiver, request: web.Request) -> web.Response:
        return web.Response(status=308, headers={"Location": location})

    monkeypatch.setattr(WhipReceiver, "_moved", moved)
    async with receiving() as receiver, serving(whip=HERE) as server, calling(server) as call:
        assert (await post(server, call.session_id, push_to(receiver, "/moved")))[0] == 201
        (ended,) = await call.wait_for(lambda: call.received(OutputEnded), TIMEOUT_S, "nobody is told")
        assert (ended.state, "may not be connected to" in (ended.message or "")) == ("failed", True)


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1/live", "https://[::ffff:10.1.2.3]/", "http://192.168.1.1:80/", "http://localhost/"),
        *("http://a.localhost./", "http://169.254.169.254/", "http://[fe80::1]/", "http://0.0.0.0/", "http://224.0.0.1/"),
        *("ftp://203.0.113.9/", "file:///etc/passwd", "//example.org/live", "http://me:word@example.org/", "http://[/", "live"),
    ],
)
def test_nobody_is_pushed_to_who_must_not_be(url: str) -> None:
    with pytest.raises(Unprocessable):
        check_target(url, [])


async def test_names_and_addresses_that_lead_inside_are_not_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    leads_to = iter(["127.0.0.1", "127.0.0.1", "8.8.8.8", "127.0.0.1"])

    async def resolve(self: Any, host: str, port: int = 0, family: int = 0) -> list[dict[str, Any]]:
        return [{"hostname": host, "host": next(leads_to), "port": port, "family": 2, "proto": 0, "flags": 0}]

    monkeypatch.setattr(aiohttp.DefaultResolver, "resolve", resolve)
    async with receiving() as receiver, serving() as server, calling(server) as call:
        status, problem = await post(server, call.session_id, push_to(receiver))
        assert (status, problem["code"]) == (422, "whip_not_allowed")
        assert "whip.allow" in problem["detail"]
        by_name = {**push_to(receiver), "url": f"http://inside.example.org:{receiver.port}/live"}
        status, problem = await post(server, call.session_id, by_name)
        assert (status, problem["code"]) == (422, "whip_not_allowed")
        assert "inside.example.org leads to no public address" in problem["detail"]
        async with (
            aiohttp.ClientSession(server.address) as http,
            http.post("/v1/sessions", json={"outputs": [by_name]}) as response,
        ):
            assert response.status == 422
        assert server.registry.num_sessions == 1, "no seat is taken for it"
        # It leads elsewhere when it is connected to.
        assert (await post(server, call.session_id, by_name))[0] == 201
        (ended,) = await call.wait_for(lambda: call.received(OutputEnded), TIMEOUT_S, "nobody is told")
        assert "has no public address" in (ended.message or "")
        assert not receiver.asked


async def test_viewer_recording_and_push_share_one_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[VideoCodec] = []

    def counted(codec: VideoCodec, rates: VideoRates, now: Any) -> VideoEncoder:
        made.append(codec)
        return make_video_encoder(codec, rates, now)

    monkeypatch.setattr(broadcast, "make_video_encoder", counted)
    async with receiving() as receiver, serving(whip=HERE, recording={"directory": tmp_path}) as server, calling(server) as call:
        for body in ({"type": "recording"}, push_to(receiver)):
            assert (await post(server, call.session_id, body))[0] == 201
        pictures = len(call.video.pts)
        await until(lambda: len(receiver.pictures) > 25, "nothing is pushed")
        await until(lambda: the(server).outputs.describe()[0]["duration_s"] > 1, "nothing is recorded")
        assert len(call.video.pts) > pictures
    assert made == ["VP8"]
