"""Callers for whom there is no seat yet, against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection

from avatar_rtc.app import Server
from avatar_rtc.client import Call
from avatar_rtc.errors import CallError
from tests.support.calls import calling, serving

ONE_SEAT = {"max_sessions": 1}
LONG_S = 30


async def make_offer() -> str:
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    peer.addTransceiver("video", direction="recvonly")
    await peer.setLocalDescription(await peer.createOffer())
    offer: str = peer.localDescription.sdp
    await peer.close()
    return offer


async def ask(
    http: aiohttp.ClientSession, server: Server, wait_s: int | None, ticket: str = ""
) -> tuple[int, dict[str, Any], str]:
    """Status, problem and Retry-After of a call."""
    headers = {"Content-Type": "application/sdp"} | ({} if wait_s is None else {"Prefer": f"respond-async, wait={wait_s}"})
    url = f"{server.address}/whep" + (f"?ticket={ticket}" if ticket else "")
    async with http.post(url, data=await make_offer(), headers=headers) as response:
        problem = await response.json(content_type=None) if response.status != 201 else {}
        return response.status, problem, response.headers.get("Retry-After", "")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - a queue tells nobody that somebody has joined
            await asyncio.sleep(0.02)


def num_waiting(server: Server) -> int:
    waiting: int = server.registry.capacity()["waiting"]
    return waiting


async def test_who_waits_gets_the_seat_in_order() -> None:
    async with serving(limits=ONE_SEAT) as server:
        first, second, third = (Call(server.address, wait_s=LONG_S) for _ in range(3))
        await first.connect()
        waiting = []
        for call in (second, third):
            waiting.append(asyncio.create_task(call.connect()))
            await until(lambda: num_waiting(server) == len(waiting))
        await first.close()
        await waiting[0]
        assert not waiting[1].done()
        assert num_waiting(server) == 1
        assert (await second.speak("It was worth it.")).status == "completed"
        await second.close()
        await waiting[1]
        await third.close()
        assert num_waiting(server) == server.registry.num_sessions == 0


async def test_a_place_outlives_the_request_and_whoever_does_not_wait_is_behind_it() -> None:
    async with serving(limits=ONE_SEAT) as server, aiohttp.ClientSession() as http:
        async with calling(server):
            status, problem, retry_after = await ask(http, server, 0)
            assert (status, problem["code"], problem["place"], problem["wait_s"]) == (503, "full", 1, None)
            assert retry_after == "5", "nobody knows how long it takes: no call has ended yet"
            ticket = problem["ticket"]
            _, behind, _ = await ask(http, server, 0)
            assert behind["place"] == 2
            status, problem, _ = await ask(http, server, None)
            assert status == 503
            assert "ticket" not in problem
            again = asyncio.create_task(ask(http, server, LONG_S, ticket))
            await asyncio.sleep(0.05)
            assert num_waiting(server) == 2
        assert (await again)[0] == 201
        _, problem, _ = await ask(http, server, 0, behind["ticket"])
        assert problem["place"] == 1
        metrics = server.registry.metrics()[0].decode()
        assert 'avatar_rtc_admission_total{reason="full",result="waits"} 3.0' in metrics
        assert 'avatar_rtc_admission_total{reason="full",result="refused"} 1.0' in metrics
        assert "avatar_rtc_waiting 1.0" in metrics


async def test_how_long_it_takes_is_told_once_calls_have_ended() -> None:
    async with serving(limits=ONE_SEAT) as server, aiohttp.ClientSession() as http:
        for _ in range(3):
            async with calling(server):
                await asyncio.sleep(0.5)
        async with calling(server) as call:
            _, problem, retry_after = await ask(http, server, 0)
            assert 0 <= problem["wait_s"] <= 60
            assert int(retry_after) == max(1, problem["wait_s"])
            _, refused, _ = await ask(http, server, None)
            assert "Try again in" in refused["detail"]
            assert call.lost == ""


async def test_who_goes_away_leaves_the_queue() -> None:
    async with serving(limits=ONE_SEAT) as server, aiohttp.ClientSession() as http:
        async with calling(server):
            gone = asyncio.create_task(ask(http, server, LONG_S))
            await until(lambda: num_waiting(server) == 1)
            gone.cancel()
            await until(lambda: num_waiting(server) == 0)
        async with calling(server):
            pass


async def test_who_waits_for_a_server_that_shuts_down_is_told() -> None:
    async with serving(limits=ONE_SEAT) as server, calling(server):
        call = Call(server.address, wait_s=LONG_S)
        waiting = asyncio.create_task(call.connect())
        await until(lambda: num_waiting(server) == 1)
        server.registry.drain()
        with pytest.raises(CallError, match=r"shutting down.*draining"):
            await waiting
        await call.close()
