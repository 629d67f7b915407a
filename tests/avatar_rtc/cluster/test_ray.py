"""Two machines on Ray, each a process of this one: a killed one is noticed, and a drained one hangs up on nobody."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from avatar_rtc.client import Call, come_back
from avatar_rtc.config import AuthConfig, HalloLiveConfig
from avatar_rtc.errors import CallError, ServerConfigError
from avatar_rtc.keys import add_key
from signaling.nodes import node_of
from signaling.vocabulary import ResponseDone
from testkit.browser import RunningServer
from testkit.machines import STOP_S, free_port, node_process, ray_process, run_machine
from tests.support.calls import make_config

pytest.importorskip("ray")

TIMEOUT_S = 60


@pytest.fixture(scope="module")
def ray_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def first(ray_port: int) -> Iterator[RunningServer]:
    with run_machine("a", ray_port, begins=True, limits={"max_sessions": 4}) as machine:
        yield machine


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from avatar_rtc.cluster import rays, up

    key = AuthConfig(keys_file=tmp_path / "keys.yaml")
    add_key(tmp_path / "keys.yaml", "web", ["call"])
    begins, joins = rays.Place(None, "a", None, 1), rays.Place("127.0.0.1:1", "a", None, 1)
    with pytest.raises(ServerConfigError, match="the same secret on all machines"):
        up.up(make_config().model_copy(update={"auth": key}), begins, lambda *_: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(ServerConfigError, match="set the environment variable RAY_AUTH_TOKEN"):
        rays.take_token(joins)
    token = rays.take_token(begins)
    assert token == os.environ["RAY_AUTH_TOKEN"]
    assert rays.take_token(joins) is None, "it has one now"
    published = make_config(engine={"model": "hallo-live", "hallo_live": HalloLiveConfig(weights_dir=tmp_path)})
    assert (rays.num_gpus(make_config()), rays.num_gpus(published)) == (0, 1)


async def nodes(machine: RunningServer) -> dict[str, dict[str, Any]]:
    """What a front door says of each node, by the name of its machine."""
    async with aiohttp.ClientSession() as http, http.get(f"{machine.url}/v1/capacity") as response:
        told = await response.json(content_type=None)
    return {node["node"].rpartition("-")[0]: node for node in told.get("nodes", [])}


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while not await holds():  # noqa: ASYNC110 - other processes make it so
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(what)


async def until_nodes(machine: RunningServer, names: set[str]) -> None:
    async def are_there() -> bool:
        return (await nodes(machine)).keys() == names

    await until(are_there, f"not {names}")


async def connected(machine: RunningServer) -> tuple[str, Call]:
    """A call, after the machine that has it."""
    call = Call(machine.url)
    await call.connect()
    return str(node_of(call.session_id)).rpartition("-")[0], call


async def lost(call: Call) -> None:
    with pytest.raises(CallError, match="broke off"):
        await call.wait_for(lambda: False, TIMEOUT_S, "the call goes on")


async def test_a_machine_that_is_killed_is_noticed_and_its_callers_call_again(first: RunningServer, ray_port: int) -> None:
    with ExitStack() as stack:
        second = stack.enter_context(run_machine("b", ray_port, limits={"max_sessions": 4}))
        await until_nodes(first, {"a", "b"})
        calls = dict([await connected(first), await connected(first)])
        assert calls.keys() == {"a", "b"}, "each goes where more is free"
        line = "One two three four five six seven eight."
        lines = {home: asyncio.create_task(call.speak(line)) for home, call in calls.items()}
        second.kill()
        with pytest.raises(CallError, match="broke off"):
            await lines["b"]
        assert not await come_back(calls["b"])
        assert str(node_of(calls["b"].session_id)).startswith("a-")
        assert (await calls["b"].speak("Here again.")).status == "completed"
        assert (await lines["a"]).status == "completed", "the other call has not noticed"
        assert calls["a"].lost == ""
        assert list(await nodes(first)) == ["a"]
        for call in calls.values():
            await call.close()


async def test_a_node_that_ends_is_started_again_as_another_one(first: RunningServer) -> None:
    home, call = await connected(first)
    before, process = node_of(call.session_id), node_process(first)
    priorities = [os.getpriority(os.PRIO_PROCESS, pid) for pid in (process, first.process.pid)]
    assert priorities[0] == priorities[1], "Ray has it wait for everybody else"
    os.kill(process, signal.SIGKILL)
    await lost(call)

    async def is_back() -> bool:
        return (await nodes(first)).get(home, {"node": before})["node"] != before

    await until(is_back, "it is not started again")
    assert not await come_back(call)
    assert node_of(call.session_id) != before
    await call.close()


async def test_the_calls_of_a_machine_that_is_told_to_end_go_on_elsewhere(first: RunningServer, ray_port: int) -> None:
    with ExitStack() as stack:
        second = stack.enter_context(run_machine("b", ray_port, limits={"max_sessions": 4}))
        await until_nodes(first, {"a", "b"})
        calls: dict[str, Call] = {}
        while "b" not in calls:
            calls |= [await connected(first)]
        assert (await calls["b"].speak("One two.")).status == "completed"
        second.process.send_signal(signal.SIGTERM)
        await lost(calls["b"])
        assert await come_back(calls["b"]), "it is the same session"
        assert str(node_of(calls["b"].session_id)).startswith("a-")
        assert (await calls["b"].speak("Three.")).status == "completed"
        assert [line.heard_text for line in calls["b"].received(ResponseDone)] == ["One two.", "Three."]
        try:
            assert await asyncio.to_thread(second.process.wait, STOP_S) == 0
        except subprocess.TimeoutExpired:
            pytest.fail(second.log())
        await until_nodes(first, {"a"})
        for call in calls.values():
            await call.close()


def is_open(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def test_a_machine_whose_ray_or_whose_head_is_gone_ends_soon_and_says_why(first: RunningServer, ray_port: int) -> None:
    """The last test here: it leaves no cluster."""
    with run_machine("b", ray_port) as second, run_machine("c", ray_port) as third:
        os.kill(ray_process(second), signal.SIGKILL)
        assert second.process.wait(STOP_S) == 1
        assert "Ray has ended on this machine, and with it the node and its calls" in second.log()
        first.kill()
        while is_open(ray_port):
            time.sleep(0.05)
        third.process.send_signal(signal.SIGINT)
        assert third.process.wait(STOP_S) == 0
        assert f"the cluster's head at 127.0.0.1:{ray_port} does not answer" in third.log()
