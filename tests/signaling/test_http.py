"""The verbs over a service that is not there: status codes, headers and problems."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from signaling.auth import Auth
from signaling.connections import Connections
from signaling.dialects.dialect import Dialect
from signaling.dialects.frames import MAX_MESSAGE_BYTES
from signaling.errors import BadOffer, NotFound, StaleETag, Unavailable, UnknownAvatar, UnknownSession, Unprocessable
from signaling.http import MAX_BODY_BYTES, make_app
from signaling.ice import IceFragment, IceServer
from signaling.rate import RateLimit
from signaling.service import Answer, NewOutput, NewSession, Rights
from signaling.vocabulary import AvatarState, Command, Event, EventError, ResponseCreate

SDP = {"Content-Type": "application/sdp"}
FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}
OPEN: dict[str, Any] = {"connections": Connections(), "auth": Auth(), "rate_limit": RateLimit(None)}
"""Everybody may everything, as often as they like."""
CANDIDATE = "a=mid:0\r\na=candidate:1 1 udp 1 192.0.2.7 5000 typ host\r\n"


class FakeService:
    """Implements ``SessionService``: one session, ``s1`` with ETag ``e1``."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.calls: list[Any] = []
        self.reasons: list[str] = []
        self.owners: dict[str, str] = {"s1": "anyone"}
        self.ice_servers = (IceServer(("stun:stun.example:3478",)), IceServer(("turn:turn.example",), "u", "p"))

    def _check(self, session_id: str = "s1") -> None:
        if self.error is not None:
            raise self.error
        if session_id != "s1":
            raise UnknownSession("no such session")

    def owner(self, session_id: str) -> str | None:
        return self.owners.get(session_id)

    def new_id(self) -> str:
        return secrets.token_hex(16)

    def check_call(self, wanted: NewSession) -> None:
        self._check()
        self.calls.append(wanted)

    async def call(self, offer: str, wanted: NewSession, rights: Rights, dialect: Dialect) -> Answer:
        self._check()
        self.calls.append((offer, wanted, rights))
        return Answer("s1", "e1", "v=0 answer", "s1")

    async def join(self, session_id: str, offer: str, rights: Rights, dialect: Dialect, *, after: int | None) -> Answer:
        self._check(session_id)
        self.calls.append((offer, session_id, rights, after))
        return Answer("v2", "e2", "v=0 answer", "s1")

    async def create(self, wanted: NewSession) -> dict[str, Any]:
        self._check()
        self.calls.append(wanted)
        return {"id": "s1", "name": wanted.name}

    def sessions(self) -> list[dict[str, Any]]:
        return [{"id": "s1"}]

    async def leave(self, viewer_id: str) -> None:
        self._check(viewer_id)

    async def events(self, session_id: str, after: int | None) -> AsyncIterator[tuple[Event, int]]:
        for seq in range((after or 0) + 1, 4):
            yield AvatarState(state="listening"), seq

    async def attend(self, session_id: str, rights: Rights) -> AsyncGenerator[tuple[Event, int | None]]:
        async for item in self.events(session_id, None):
            yield item

    async def trickle(self, session_id: str, etags: Collection[str], fragment: IceFragment) -> None:
        self._check(session_id)
        if not {"*", "e1"}.intersection(etags):
            raise StaleETag("stale")
        self.calls.append(fragment)

    async def end(self, session_id: str) -> None:
        self._check(session_id)

    async def handle(self, session_id: str, event: Command) -> None:
        self._check(session_id)
        self.calls.append(event)

    async def stats(self, session_id: str) -> dict[str, Any]:
        self._check(session_id)
        return {"id": session_id}

    async def add_output(self, session_id: str, wanted: NewOutput) -> dict[str, Any]:
        self._check(session_id)
        self.calls.append(wanted)
        return {"id": "o1", "type": "recording", "file": "f.webm"}

    def output(self, session_id: str, output_id: str) -> dict[str, Any]:
        self._check(session_id)
        return {"id": output_id}

    async def end_output(self, session_id: str, output_id: str) -> dict[str, Any]:
        self._check(session_id)
        return {"id": output_id}

    def recording(self, session_id: str, file_name: str) -> Path:
        raise NotFound("no such recording")

    def avatars(self) -> dict[str, Any]:
        return {"avatars": [], "voices": []}

    def models(self) -> dict[str, Any]:
        return {"models": []}

    def not_ready(self) -> list[str]:
        return self.reasons

    def capacity(self) -> dict[str, Any]:
        return {"seats": 2, "draining": bool(self.reasons)}

    def drain(self) -> dict[str, Any]:
        self.reasons = ["The server is shutting down."]
        return self.capacity()

    def speed(self) -> dict[str, Any]:
        return {"speed": 0.77, "notice": "It is slow."}

    def metrics(self) -> tuple[bytes, str]:
        return b"# metrics\n", "text/plain; version=0.0.4; charset=utf-8"


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
async def client(service: FakeService, tmp_path: Path) -> AsyncIterator[TestClient[Any, Any]]:
    (tmp_path / "index.html").write_text("<p>page</p>")
    (tmp_path / "app.js").write_text("// script")
    app = make_app(
        service, static_dir=tmp_path, allowed_origins=["*"], connections=Connections(), auth=Auth(), rate_limit=RateLimit(None)
    )
    async with TestClient(TestServer(app)) as client:
        yield client


async def check_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response.status == status
    assert response.content_type == "application/problem+json"
    problem: dict[str, Any] = await response.json(content_type=None)
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["detail"]
    assert problem["title"]
    return problem


async def test_create_answers_201_with_everything_a_whep_player_needs(client: TestClient[Any, Any], service: FakeService) -> None:
    response = await client.post("/whep?avatar=ava&voice=deep", data="v=0 offer", headers={**SDP, "Origin": "https://a.example"})
    assert response.status == 201
    assert response.content_type == "application/sdp"
    assert await response.text() == "v=0 answer"
    assert response.headers["Location"] == "whep/s1"
    assert response.headers["ETag"] == '"e1"'
    assert response.headers.getall("Link") == [
        '<stun:stun.example:3478>; rel="ice-server"',
        '<turn:turn.example>; rel="ice-server"; username="u"; credential="p"; credential-type="password"',
    ]
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "Location" in response.headers["Access-Control-Expose-Headers"]
    assert service.calls == [("v=0 offer", NewSession("anyone", avatar="ava", voice="deep"), Rights())]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BadOffer("bad"), 400, "bad_sdp"),
        (UnknownAvatar("who"), 404, "unknown_avatar"),
        (Unprocessable("none", code="no_common_codec"), 422, "no_common_codec"),
        (Unavailable("full", code="full", retry_after_s=5), 503, "full"),
        (Unavailable("draining", code="draining", retry_after_s=5), 503, "draining"),
        (RuntimeError("secret"), 500, "internal_error"),
    ],
)
async def test_create_refused(
    client: TestClient[Any, Any], service: FakeService, error: Exception, status: int, code: str
) -> None:
    service.error = error
    response = await client.post("/whep", data="v=0", headers=SDP)
    problem = await check_problem(response, status, code)
    assert "secret" not in problem["detail"]
    assert response.headers.get("Retry-After") == ("5" if status == 503 else None)


async def test_bodies_of_wrong_type_size_or_encoding(client: TestClient[Any, Any]) -> None:
    await check_problem(await client.post("/whep", json={}), 415, "unsupported_media_type")
    await check_problem(await client.post("/whep", data=b"\xff\xfe", headers=SDP), 400, "bad_request")
    await check_problem(await client.post("/whep", data="x" * (MAX_BODY_BYTES + 1), headers=SDP), 413, "message_too_large")


async def test_no_path_is_an_error_of_the_server(client: TestClient[Any, Any]) -> None:
    for path in ("/%00", "/index.html%00.js", "/" + "a" * 300, "/" + "a/" * 2500, "/%ff%fe", "/%ed%a0%bd", "/../index.html%2f"):
        await check_problem(await client.get(URL(path, encoded=True)), 404, "not_found")


async def test_trickle(client: TestClient[Any, Any], service: FakeService) -> None:
    etag = {"If-Match": '"e1"'}
    assert (await client.patch("/whep/s1", data=CANDIDATE, headers=FRAGMENT | etag)).status == 204
    assert service.calls[0].candidates == (("0", "1 1 udp 1 192.0.2.7 5000 typ host"),)
    # Some players send none, or any, and mean the one ICE session that there is.
    for lenient in ({}, {"If-Match": "*"}, {"If-Match": '"e0", "e1"'}, {"If-Match": 'W/"e1"'}, {"If-Match": '"e0",W/"e1"'}):
        assert (await client.patch("/whep/s1", data=CANDIDATE, headers=FRAGMENT | lenient)).status == 204
    stale = {"If-Match": '"e0"'}
    await check_problem(await client.patch("/whep/s1", data=CANDIDATE, headers=FRAGMENT | stale), 412, "stale_etag")
    await check_problem(await client.patch("/whep/s1", data=CANDIDATE, headers=SDP | etag), 415, "unsupported_media_type")
    await check_problem(await client.patch("/whep/s1", data="?", headers=FRAGMENT | etag), 400, "bad_ice_fragment")
    await check_problem(await client.patch("/whep/s2", data=CANDIDATE, headers=FRAGMENT | etag), 404, "unknown_session")


async def test_delete(client: TestClient[Any, Any]) -> None:
    assert (await client.delete("/whep/s1")).status == 200
    await check_problem(await client.delete("/whep/s2"), 404, "unknown_session")


async def test_options(client: TestClient[Any, Any]) -> None:
    for path in ("/whep", "/whep/s1", "/v1/sessions/s1/events"):
        response = await client.options(path, headers={"Origin": "https://a.example"})
        assert response.status == 200
        assert response.headers["Accept-Post"] == "application/sdp"
        assert "PATCH" in response.headers["Access-Control-Allow-Methods"]
        assert "If-Match" in response.headers["Access-Control-Allow-Headers"]


async def test_only_allowed_origins_are_named(service: FakeService) -> None:
    app = make_app(service, static_dir=None, allowed_origins=["https://mine.example"], **OPEN)
    async with TestClient(TestServer(app)) as client:
        mine = await client.get("/livez", headers={"Origin": "https://mine.example"})
        assert mine.headers["Access-Control-Allow-Origin"] == "https://mine.example"
        other = await client.get("/livez", headers={"Origin": "https://other.example"})
        assert "Access-Control-Allow-Origin" not in other.headers
        await check_problem(await client.get("/"), 404, "not_found")


async def test_events_over_http(client: TestClient[Any, Any], service: FakeService) -> None:
    path = "/v1/sessions/s1/events"
    response = await client.post(path, json={"type": "response.create", "input": "Hello.", "mode": "queue"})
    assert response.status == 202
    assert service.calls == [ResponseCreate(input="Hello.", mode="queue")]
    assert (await client.post(path, data="Plain.")).status == 202
    await check_problem(await client.post(path, data="{"), 400, "invalid_json")
    await check_problem(await client.post(path, data='{"type":"x"}'), 400, "unknown_type")
    await check_problem(await client.post(path, data=""), 422, "empty_text")
    await check_problem(await client.post(path, data="x" * (MAX_MESSAGE_BYTES + 1)), 413, "message_too_large")
    await check_problem(await client.post("/v1/sessions/s2/events", data="Hi."), 404, "unknown_session")
    service.error = EventError("unspeakable_text", "Write it in Latin letters.")
    await check_problem(await client.post(path, data="Hi."), 422, "unspeakable_text")


async def test_health_and_page(client: TestClient[Any, Any], service: FakeService) -> None:
    assert (await client.get("/livez")).status == 200
    ready = await client.get("/readyz")
    assert ready.status == 200
    assert await ready.json() == {"ready": True, "speed": 0.77, "notice": "It is slow."}, "slow is ready"
    service.reasons = ["The engine is starting."]
    problem = await check_problem(await client.get("/readyz"), 503, "not_ready")
    assert problem["reasons"] == service.reasons
    metrics = await client.get("/metrics")
    assert metrics.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "page" in await (await client.get("/")).text()
    assert (await client.get("/app.js")).status == 200
    await check_problem(await client.get("/nothing"), 404, "not_found")
    for path in ("/..%2f..%2f..%2f..%2f..%2fetc/passwd", "/%2fetc/passwd"):
        assert (await client.get(path)).status == 404


async def test_a_session_can_be_joined_watched_and_resumed(client: TestClient[Any, Any], service: FakeService) -> None:
    watches = Rights(is_caller=False, may_speak=False, may_record=False)
    for query, rights, after in (("", Rights(), None), ("&role=watch", watches, None), ("&after=7", Rights(), 7)):
        response = await client.post(f"/whep?session=s1{query}", data="v=0 offer", headers=SDP)
        assert response.status == 201
        assert response.headers["Location"].endswith("v2")
        assert service.calls[-1] == ("v=0 offer", "s1", rights, after)
    for query in ("&role=sing", "&after=-1", "&after=seven", "&after=" + "9" * 40):
        response = await client.post(f"/whep?session=s1{query}", data="v=0 offer", headers=SDP)
        assert response.status in (400, 422)
    await check_problem(await client.post("/whep?session=s2", data="v=0 offer", headers=SDP), 404, "unknown_session")


async def test_sessions_are_made_listed_and_ended(client: TestClient[Any, Any], service: FakeService) -> None:
    response = await client.post("/v1/sessions", json={"avatar": "ava", "name": "lobby", "idle_s": 60.0})
    assert response.status == 201
    assert response.headers["Location"] == "/v1/sessions/s1"
    made = await response.json()
    assert (made["id"], made["name"], made["whep_url"]) == ("s1", "lobby", "/whep?session=s1")
    assert service.calls == [NewSession("anyone", avatar="ava", name="lobby", idle_s=60.0)]
    assert (await client.post("/v1/sessions")).status == 201
    for body in ('{"nam": "x"}', '{"idle_s": -1}', "[]", "{oops"):
        await check_problem(await client.post("/v1/sessions", data=body), 422, "bad_request")
    assert (await (await client.get("/v1/sessions")).json()) == {"sessions": [{"id": "s1", "outputs": []}]}
    assert (await client.get("/v1/sessions/s2")).status == 404
    assert (await client.delete("/v1/sessions/s1")).status == 204


async def test_events_can_be_followed_over_http_from_any_number_on(client: TestClient[Any, Any]) -> None:
    response = await client.get("/v1/sessions/s1/events", headers={"Last-Event-ID": "1"})
    assert response.content_type == "text/event-stream"
    events = (await response.text()).strip().split("\n\n")
    assert [event.split("\n")[0] for event in events] == ["id: 2", "id: 3"]
    assert 'data: {"type":"avatar.state","seq":2,"state":"listening"}' in events[0]
    await check_problem(await client.get("/v1/sessions/s2/events"), 404, "unknown_session")


async def test_location_counts_from_the_request(client: TestClient[Any, Any]) -> None:
    """Behind a proxy that takes a prefix off, a client's request has another path than ours."""
    for path in ("/whep", "/whep/", "/whep?avatar=ava"):
        response = await client.post(path, data="v=0", headers=SDP)
        assert response.status == 201
        location = URL(response.headers["Location"])
        assert URL(f"https://h.example/talk{path}").join(location) == URL("https://h.example/talk/whep/s1"), path


async def test_what_cannot_be_read_says_what_can_be_done(client: TestClient[Any, Any]) -> None:
    for path, allowed in (("/whep", "OPTIONS, POST"), ("/whep/", "OPTIONS, POST"), ("/whep/s1", "DELETE, OPTIONS, PATCH")):
        for method in ("GET", "PUT", "HEAD"):
            response = await client.request(method, path)
            assert (response.status, response.headers["Allow"]) == (405, allowed), (method, path)
        await check_problem(await client.get(path), 405, "method_not_allowed")
