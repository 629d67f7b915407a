"""A call through a real TURN server, with credentials that our server makes of the secret that both share."""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiortc import RTCConfiguration, RTCIceGatherer, RTCIceServer, RTCIceTransportPolicy

from avatar_rtc.client import Call
from avatar_rtc.config import IceServerConfig
from signaling.ice import turn_credentials
from tests.support.calls import serving

SECRET = "north"


@pytest.fixture
async def turn_port(tmp_path: Path) -> AsyncIterator[int]:
    """A coturn on loopback that takes nobody but whom the secret vouches for."""
    program = shutil.which("turnserver")
    if program is None:
        pytest.skip("coturn is not installed; 'make system' does it")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    options = [
        f"--listening-port={port}",
        "--listening-ip=127.0.0.1",
        "--relay-ip=127.0.0.1",
        "--allow-loopback-peers",
        "--no-cli",
    ]
    options += ["--use-auth-secret", f"--static-auth-secret={SECRET}", "--realm=test", "--no-tls", "--no-dtls", "--no-tcp", "-n"]
    options += ["--log-file=stdout", "--no-stdout-log", f"--pidfile={tmp_path}/pid", f"--userdb={tmp_path}/db"]
    process = await asyncio.create_subprocess_exec(program, *options, stdout=asyncio.subprocess.DEVNULL, cwd=tmp_path)
    try:
        yield port
    finally:
        process.kill()
        await process.wait()


async def test_a_call_that_is_relayed_only(turn_port: int) -> None:
    turn = IceServerConfig(urls=(f"turn:127.0.0.1:{turn_port}?transport=udp",), secret=SECRET)
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


async def test_credentials_are_good_for_a_while(turn_port: int) -> None:
    """coturn lets nobody in whose time is past; whoever may only be relayed has no candidate then."""
    now_s = int(time.time())
    for expires_s, candidates in ((now_s + 60, 1), (now_s - 60, 0)):
        given: list[Any] = [RTCIceServer(f"turn:127.0.0.1:{turn_port}", *turn_credentials(SECRET, expires_s))]
        gatherer = RTCIceGatherer(given, iceTransportPolicy=RTCIceTransportPolicy.RELAY)
        await gatherer.gather()
        assert len(gatherer.getLocalCandidates()) == candidates
        await gatherer._connection.close()
