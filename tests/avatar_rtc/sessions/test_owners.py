"""Sessions and those whose they are, on a real server that asks who calls."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import aiohttp
import pytest

from avatar_rtc.client import Call
from avatar_rtc.config import AuthConfig
from avatar_rtc.keys import add_key
from avatar_rtc.sessions import registry
from signaling.vocabulary import Error, ResponseCreate, ResponseDone, SessionCreated
from tests.avatar_rtc.outputs.test_offer import VIDEO, offer
from tests.support.calls import calling, make_config, serving

TIMEOUT_S = 20


async def test_what_a_viewer_may_holds_on_its_data_channel_too(tmp_path: Path) -> None:
    """Who calls without the scope speak keeps the call, and is spoken for by others; who watches can neither speak nor end it."""
    keys_file = tmp_path / "keys.yaml"
    key = add_key(keys_file, "web", ["call", "speak", "watch"])
    config = make_config().model_copy(update={"auth": AuthConfig(keys_file=keys_file)})
    async with serving(config=config) as server, aiohttp.ClientSession(server.address) as http:

        async def token(*scopes: str, name: str) -> str:
            body, headers = {"scopes": scopes, "name": name}, {"Authorization": f"Bearer {key}"}
            async with http.post("/v1/tokens", json=body, headers=headers) as response:
                return str((await response.json())["token"])

        async def status(method: str, path: str, bearer: str = "", data: str | None = None) -> int:
            headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
            async with http.request(method, path, headers=headers, data=data) as response:
                return response.status

        listener, viewer = (
            Call(server.address, await token("call", name="al")),
            Call(server.address, await token("watch", name="al")),
        )
        try:
            await listener.connect()
            await viewer.connect(f"?session={listener.session_id}&role=watch")
            for call in (listener, viewer):
                assert not call.received(SessionCreated)[0].may_speak
                call.send(ResponseCreate(input="Hello.", event_id="e"))
                (error,) = await call.wait_for(partial(call.received, Error), TIMEOUT_S, "it is not refused")
                assert (error.code, error.event_id) == ("not_allowed", "e")
            session_id, viewer_id = listener.session_id, listener.resource.rpartition("/")[2]
            assert await status("DELETE", f"/whep/{session_id}") == 404, "whoever watches knows this id, too"
            bob = await token("speak", "call", name="bob")
            for path in (session_id, viewer_id):
                assert await status("POST", f"/v1/sessions/{path}/events", bob, data="Not bob's.") == 404
            assert await status("POST", f"/v1/sessions/{viewer_id}/events", key, data="Said for it.") == 202, "of its Location"
            (done,) = await listener.wait_for(lambda: listener.received(ResponseDone), TIMEOUT_S, "nothing is said")
            assert done.heard_text == "Said for it."
            assert await status("DELETE", listener.resource) == 200
            assert server.registry.num_sessions == 0, "its caller has hung up"
            assert await status("DELETE", f"/v1/sessions/{session_id}", bob) == 404
            assert await status("DELETE", f"/v1/sessions/{session_id}", key) == 204
        finally:
            await listener.close()
            await viewer.close()


async def test_a_name_is_taken_among_ones_own_sessions_only(tmp_path: Path) -> None:
    keys_file = tmp_path / "keys.yaml"
    keys = [add_key(keys_file, name, ["call"]) for name in ("web", "other")]
    config = make_config(limits={"max_sessions": 4}).model_copy(update={"auth": AuthConfig(keys_file=keys_file)})
    async with serving(config=config) as server, aiohttp.ClientSession(server.address) as http:
        for key, expected in ((keys[0], 201), (keys[1], 201), (keys[0], 409)):
            headers = {"Authorization": f"Bearer {key}"}
            async with http.post("/v1/sessions", json={"name": "lobby"}, headers=headers) as response:
                assert response.status == expected


async def test_a_caller_is_remembered_however_many_watch_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_ENDED", 1)
    monkeypatch.setattr(registry, "MAX_VIEWERS", 2)
    sdp, headers = offer(VIDEO, bundle="0"), {"Content-Type": "application/sdp"}
    async with serving() as server, aiohttp.ClientSession(server.address) as http, calling(server) as call:
        watched: list[str] = []
        for _ in range(6):
            async with http.post(f"/whep?session={call.session_id}&role=watch", data=sdp, headers=headers) as response:
                assert response.status == 201
                watched.append(f"/{response.headers['Location']}")
            async with http.delete(watched[-1]) as response:
                assert response.status == 200
        async with http.delete(watched[0]) as response:
            assert response.status == 404, "forgotten"
        async with http.delete(call.resource) as response:
            assert response.status == 200
        assert server.registry.num_sessions == 0
