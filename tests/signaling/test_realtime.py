"""What clients of the OpenAI Realtime API ask over HTTP and a WebSocket, over a service that is not there."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from signaling.auth import Auth
from signaling.errors import Unavailable
from signaling.http import make_app
from signaling.realtime import MAX_SIDEBANDS
from signaling.service import NewSession, Rights
from signaling.vocabulary import AvatarState, Error, Event, EventError, ResponseCreate, Tool
from tests.signaling.test_auth import SECRET, asking, make_key
from tests.signaling.test_http import OPEN, SDP, FakeService

CALLS = "/v1/realtime/calls"
SESSION = {
    "type": "realtime",
    "model": "gpt",
    "avatar": {"look": "ava", "scene": "A man."},
    "audio": {"output": {"voice": "deep"}},
}
WANTED = NewSession("anyone", avatar="ava", scene="A man.", voice="deep")
CLEAR = {"type": "output_audio_buffer.clear", "event_id": "e"}

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


class Service(FakeService):
    """Goes on until it is told to end."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = asyncio.Event()

    def avatars(self) -> dict[str, Any]:
        return {"avatars": [], "voices": [{"id": "deep"}]}

    async def attend(self, session_id: str, rights: Rights) -> AsyncGenerator[tuple[Event, int | None]]:
        self._check(session_id)
        yield AvatarState(state="listening"), None
        yield Error(code="hello", message="It attends."), 7
        await self.ended.wait()


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def client(service: Service) -> AsyncIterator[TestClient[Any, Any]]:
    app = make_app(service, static_dir=None, allowed_origins=["*"], **OPEN)
    async with TestClient(TestServer(app)) as client:
        yield client


async def check_error(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response.status == status
    error: dict[str, Any] = (await response.json())["error"]
    assert (error["code"], error["param"]) == (code, None)
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    assert error["message"]
    return error


async def test_a_call_in_its_three_bodies(client: TestClient[Any, Any], service: Service) -> None:
    form = aiohttp.FormData()
    form.add_field("sdp", "v=0 offer", content_type="application/sdp")
    form.add_field("session", json.dumps(SESSION), content_type="application/json")
    plain = aiohttp.FormData({"sdp": "v=0 offer", "session": json.dumps(SESSION)}, default_to_multipart=True)
    bodies: list[tuple[dict[str, Any], NewSession]] = [
        ({"data": "v=0 offer", "headers": SDP}, NewSession("anyone")),
        ({"data": form}, WANTED),
        ({"data": plain}, WANTED),
        ({"json": {"sdp": "v=0 offer", "session": SESSION}}, WANTED),
        ({"json": {"sdp": "v=0 offer", "session": {"audio": {"output": {"voice": "alloy"}}}}}, NewSession("anyone")),
    ]
    for body, wanted in bodies:
        response = await client.post(CALLS, **body)
        assert (response.status, response.content_type) == (201, "application/sdp"), await response.text()
        assert response.headers["Location"] == f"{CALLS}/s1"
        assert service.calls.pop() == ("v=0 offer", wanted, Rights())
    assert (await client.post(f"{CALLS}/s1/hangup")).status == 200
    assert (await client.delete(f"{CALLS}/s1")).status == 200


async def test_errors_are_as_openais_libraries_read_them(client: TestClient[Any, Any], service: Service) -> None:
    await check_error(await client.post(CALLS, data="x", headers={"Content-Type": "text/plain"}), 415, "unsupported_media_type")
    for text in ('{"session": {}}', "[]", "{"):
        response = await client.post(CALLS, data=text, headers={"Content-Type": "application/json"})
        await check_error(response, 422, "bad_request")
    form = aiohttp.FormData({"a": "b"}, default_to_multipart=True)
    await check_error(await client.post(CALLS, data=form), 422, "bad_request")
    for boundary, data in (("; boundary=x", b"--x\r\nno form"), ("", b"")):
        headers = {"Content-Type": f"multipart/form-data{boundary}"}
        await check_error(await client.post(CALLS, data=data, headers=headers), 400, "bad_request")
    for avatar, code in (({"looks": "ava"}, "bad_request"), ({"mode": "sing"}, "bad_request"), ({"mode": "llm"}, "no_llm")):
        response = await client.post(CALLS, json={"sdp": "v=0", "session": {"avatar": avatar}})
        await check_error(response, 422, code)
    await check_error(await client.post(f"{CALLS}/s2/hangup"), 404, "unknown_session")
    await check_error(await client.get(CALLS), 404, "not_found")
    service.error = Unavailable("full", code="full", retry_after_s=5)
    response = await client.post(CALLS, data="v=0", headers=SDP)
    await check_error(response, 503, "full")
    assert response.headers["Retry-After"] == "5"
    service.error = RuntimeError("secret")
    error = await check_error(await client.post(CALLS, data="v=0", headers=SDP), 500, "internal_error")
    assert "secret" not in error["message"]


async def test_a_page_of_another_origin_may_call(client: TestClient[Any, Any]) -> None:
    headers = {"Origin": "https://a.example", "Access-Control-Request-Headers": "authorization,content-type,x-openai-agents-sdk"}
    preflight = await client.options(CALLS, headers=headers)
    allowed = preflight.headers["Access-Control-Allow-Headers"].lower().replace(" ", "").split(",")
    assert {"authorization", "content-type", "x-openai-agents-sdk"} <= {*allowed}
    assert "Location" in preflight.headers["Access-Control-Expose-Headers"]


async def test_what_the_language_model_is_told_comes_with_a_secret_and_with_a_call(
    client: TestClient[Any, Any], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = Tool(name="dice", description="Roll.", parameters={"type": "object"})
    instructions = "Be brief, and kind. " * 300
    session = {"type": "realtime", "instructions": instructions, "tools": [{"type": "function", **tool}]}
    wanted = NewSession("anyone", instructions=instructions, tools=[tool])
    for llm in (True, False):
        monkeypatch.setattr(service, "models", lambda llm=llm: {"models": [], "llm": llm})
        secret = await (await client.post("/v1/realtime/client_secrets", json={"session": session})).json()
        bearer = {"Authorization": f"Bearer {secret['value']}"}
        assert (await client.post(CALLS, data="v=0 offer", headers=SDP | bearer)).status == 201
        assert (await client.post(CALLS, json={"sdp": "v=0", "session": session})).status == 201
        of_call, of_secret = service.calls.pop()[1], service.calls.pop()[1]
        assert of_secret == of_call == (wanted if llm else NewSession("anyone"))


async def test_client_secrets(client: TestClient[Any, Any], service: Service) -> None:
    response = await client.post("/v1/realtime/client_secrets", json={"session": SESSION})
    secret = await response.json()
    assert (response.status, response.headers["Cache-Control"]) == (200, "no-store")
    assert (secret["session"]["type"], secret["session"]["avatar"]) == ("realtime", SESSION["avatar"])
    bearer = {"Authorization": f"Bearer {secret['value']}"}
    assert (await client.post(CALLS, data="v=0 offer", headers=SDP | bearer)).status == 201
    assert service.calls.pop()[1] == WANTED, "what the secret says of the session"
    override = {"sdp": "v=0", "session": {"avatar": {"look": "tom"}}}
    assert (await client.post(CALLS, json=override, headers=bearer)).status == 201
    assert service.calls.pop()[1] == NewSession("anyone", avatar="tom", voice="deep")
    wrong: list[dict[str, Any]] = [
        {"expires_after": {"anchor": "created_at", "seconds": 5}},
        {"session": []},
        {"session": {"avatar": {"x": 1}}},
        {"session": {"avatar": {"scene": secrets.token_hex(9000)}}},
    ]
    for body in wrong:
        await check_error(await client.post("/v1/realtime/client_secrets", json=body), 422, "bad_request")


async def test_the_sideband_tells_and_obeys(client: TestClient[Any, Any], service: Service) -> None:
    async with client.ws_connect("/v1/realtime?call_id=s1") as socket:
        assert (await socket.receive_json())["error"]["code"] == "hello", "it has no word for the state, and tells what follows"
        await socket.send_json({"type": "input_audio_buffer.clear"})
        assert (await socket.receive_json())["type"] == "input_audio_buffer.cleared"
        await socket.send_json({"type": "response.create", "response": {"input": [{"content": [{"text": "Hello."}]}]}})
        await socket.send_json({"type": "dance", "event_id": "e"})
        assert (await socket.receive_json())["error"]["event_id"] == "e"
        (command,) = service.calls
        assert isinstance(command, ResponseCreate)
        assert command.input == "Hello."
        await socket.send_str("x" * 100_000)
        assert (await socket.receive_json())["error"]["code"] == "message_too_large"
        service.error = EventError("queue_full", "Wait.")
        await socket.send_json(CLEAR)
        assert (await socket.receive_json())["error"]["code"] == "queue_full"
        service.error = None
        service.ended.set()
        assert (await socket.receive()).type == aiohttp.WSMsgType.CLOSE


async def test_the_sideband_is_bounded_and_says_what_it_wants(client: TestClient[Any, Any]) -> None:
    await check_error(await client.get("/v1/realtime?model=gpt-realtime"), 400, "bad_request")
    await check_error(await client.get("/v1/realtime?call_id=s2"), 404, "unknown_session")
    await check_error(await client.get("/v1/realtime?call_id=s1"), 400, "bad_request")
    sockets = [await client.ws_connect("/v1/realtime?call_id=s1") for _ in range(MAX_SIDEBANDS)]
    await check_error(await client.get("/v1/realtime?call_id=s1", headers=UPGRADE), 503, "full")
    await sockets[0].close()
    async with asyncio.timeout(5):
        while (await client.get("/v1/realtime?call_id=s1", headers=UPGRADE)).status != 101:  # noqa: ASYNC110 - until it has gone
            await asyncio.sleep(0.01)


async def test_who_may_only_watch_hears_and_is_not_obeyed() -> None:
    service = Service()
    watch, watch_kept = make_key("watch", "watch")
    call, call_kept = make_key("call", "call")
    service.owners["s1"] = "watch"
    async with asking(Auth([watch_kept, call_kept], secret=SECRET), service) as client:
        async with client.ws_connect("/v1/realtime?call_id=s1", headers=watch) as socket:
            await socket.receive_json()
            await socket.send_json(CLEAR)
            error = (await socket.receive_json())["error"]
            assert (error["code"], error["event_id"]) == ("not_allowed", "e")
            assert service.calls == []
        await check_error(await client.get("/v1/realtime?call_id=s1", headers=call), 403, "missing_scope")
        await check_error(await client.get("/v1/realtime?call_id=s1"), 401, "unauthorized")
        service.owners["s1"] = "somebody"
        await check_error(await client.get("/v1/realtime?call_id=s1", headers=watch), 404, "unknown_session")
