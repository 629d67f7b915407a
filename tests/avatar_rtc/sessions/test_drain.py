"""A server that is told to shut down: nobody new, and nobody hung up on before time."""

from __future__ import annotations

import asyncio
import signal
import socket
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from avatar_rtc.client import Call
from avatar_rtc.errors import CallError
from signaling.vocabulary import SessionClosing
from testkit.browser import run_server
from tests.support.calls import calling, serving

TIMEOUT_S = 30


async def test_a_drained_server_takes_no_calls_and_those_that_run_go_on() -> None:
    async with serving() as server, calling(server) as call, aiohttp.ClientSession() as http:

        async def capacity() -> dict[str, object]:
            async with http.get(f"{server.address}/v1/capacity") as response:
                told: dict[str, object] = await response.json()
                return told

        assert (await capacity())["draining"] is False
        assert (await capacity())["free"] == 29
        for _ in range(2):
            async with http.post(f"{server.address}/v1/drain") as response:
                assert response.status == 202
                assert (await response.json()) == await capacity()
        assert (await capacity())["draining"] is True
        assert (await capacity())["free"] == 0
        await call.wait_for(lambda: call.received(SessionClosing), TIMEOUT_S, "nobody tells")
        (closing,) = call.received(SessionClosing)
        assert (closing.reason, closing.in_ms) == ("shutdown", 60_000)
        with pytest.raises(CallError, match=r"shutting down.*draining"):
            async with calling(server):
                pass
        async with http.get(f"{server.address}/readyz") as response:
            assert response.status == 503
            assert "those that run end within" in (await response.json(content_type=None))["detail"]
        assert (await call.speak("Still here.")).status == "completed"
        async with calling(server, f"?session={call.session_id}&role=watch"):
            pass  # whoever knows a session, or comes back to it, finds it
    await server.registry.emptied()


async def test_what_still_runs_at_the_limit_ends_with_a_goodbye() -> None:
    async with serving(limits={"drain_s": 0.5}) as server, calling(server) as call:
        server.registry.drain()
        await call.wait_for(lambda: len(call.received(SessionClosing)) == 2, TIMEOUT_S, "it goes on")
        await server.registry.emptied()
        assert [closing.in_ms for closing in call.received(SessionClosing)] == [500, 200]


def has_goodbye(call: Call) -> bool:
    return len(call.received(SessionClosing)) == 2


async def told_by(manager: socket.socket) -> str:
    return (await asyncio.get_running_loop().sock_recv(manager, 4096)).decode()


async def test_sigterm_waits_for_the_call_and_a_second_one_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        for is_hurried in (False, True):
            with run_server() as server:
                assert await told_by(manager) == "READY=1"
                call = Call(server.url)
                await call.connect()
                server.process.send_signal(signal.SIGTERM)
                assert "EXTEND_TIMEOUT_USEC=75000000" in await told_by(manager)
                assert (await call.speak("Still here.")).status == "completed"
                assert server.process.poll() is None
                if is_hurried:
                    server.process.send_signal(signal.SIGTERM)
                    await call.wait_for(partial(has_goodbye, call), TIMEOUT_S, "no goodbye")
                await call.close()
                assert await asyncio.to_thread(server.process.wait, TIMEOUT_S) == 0
                assert await told_by(manager) == "STOPPING=1"
                assert "that run go on for 60 s at most" in server.log()
