"""A call through a real TURN server, with credentials that our server makes of the secret that both share."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from aiortc import RTCConfiguration, RTCIceGatherer, RTCIceServer, RTCIceTransportPolicy

from avatar_rtc.client import Call
from avatar_rtc.config import IceServerConfig
from signaling.ice import turn_credentials
from testkit.turn import NO_COTURN, run_turn
from tests.support.calls import serving

SECRET = "north"


@pytest.fixture
def turn_url() -> Iterator[str]:
    if shutil.which("turnserver") is None:
        pytest.skip(NO_COTURN)
    with run_turn(SECRET) as url:
        yield url


async def test_a_call_that_is_relayed_only(turn_url: str) -> None:
    turn = IceServerConfig(urls=(turn_url,), secret=SECRET)
    async with serving(ice={"servers": (turn,)}) as server, aiohttp.ClientSession() as http:
        async with http.options(f"{server.address}/whep") as response:
            # <turn:...>; rel="ice-server"; username="..."; credential="..."; credential-type="password"
            url, _, username, credential, _ = [part.strip() for part in response.headers["Link"].split(";")]
        given = RTCIceServer(url.strip("<>"), username.split('"')[1], credential.split('"')[1])
        call = Call(server.address, configuration=RTCConfiguration([given], iceTransportPolicy=RTCIceTransportPolicy.RELAY))
        try:
            await call.connect()
            assert (await call.speak("Hello.")).status == "completed"
            offered, answered = (
                [line.split()[7] for line in sdp.splitlines() if line.startswith("a=candidate:")]
                for sdp in (call.peer.localDescription.sdp, call.peer.remoteDescription.sdp)
            )
            assert set(offered) == {"relay"}
            assert "relay" in answered, "the server has one of its own"
        finally:
            await call.close()


async def test_credentials_are_good_for_a_while(turn_url: str) -> None:
    """coturn lets nobody in whose time is past; whoever may only be relayed has no candidate then."""
    now_s = int(time.time())
    for expires_s, candidates in ((now_s + 60, 1), (now_s - 60, 0)):
        given: list[Any] = [RTCIceServer(turn_url, *turn_credentials(SECRET, expires_s))]
        gatherer = RTCIceGatherer(given, iceTransportPolicy=RTCIceTransportPolicy.RELAY)
        await gatherer.gather()
        assert len(gatherer.getLocalCandidates()) == candidates
        await gatherer._connection.close()
