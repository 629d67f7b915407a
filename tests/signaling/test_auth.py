"""Who is let in, and to what: over a service that is not there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp.test_utils import TestClient, TestServer

from signaling.auth import ROUTES, SCOPES, ApiKey, Auth, Scope, new_api_key
from signaling.http import make_app
from signaling.service import Rights
from tests.signaling.test_http import CANDIDATE, FRAGMENT, OPEN, SDP, FakeService, check_problem

SECRET = "0123456789abcdef0123456789abcdef"


def make_key(key_id: str, *scopes: Scope) -> tuple[dict[str, str], ApiKey]:
    """Headers of a key, and what the server has of it."""
    key, kept = new_api_key(key_id, scopes)
    return {"Authorization": f"Bearer {key}"}, kept


@asynccontextmanager
async def asking(auth: Auth, service: FakeService | None = None) -> AsyncIterator[TestClient[Any, Any]]:
    app = make_app(service or FakeService(), static_dir=None, allowed_origins=["*"], **OPEN | {"auth": auth})
    async with TestClient(TestServer(app)) as client:
        yield client


async def token_of(client: TestClient[Any, Any], key: dict[str, str], **wanted: Any) -> dict[str, str]:
    response = await client.post("/v1/tokens", json={"scopes": ["call"], **wanted}, headers=key)
    assert response.status == 201, await response.text()
    assert response.headers["Cache-Control"] == "no-store"
    return {"Authorization": f"Bearer {(await response.json())['token']}"}


async def test_each_route_wants_its_scope() -> None:
    requests: list[tuple[Scope, str, str, dict[str, Any]]] = [
        ("call", "POST", "/whep", {"data": "v=0", "headers": SDP}),
        ("call", "POST", "/whep/", {"data": "v=0", "headers": SDP}),
        ("watch", "POST", "/whep?role=watch", {"data": "v=0", "headers": SDP}),
        ("call", "POST", "/start", {"json": {}}),
        ("call", "POST", "/api/offer", {"json": {"sdp": "v=0"}}),
        ("speak", "POST", "/v1/sessions/s1/events", {"data": "Hello."}),
        ("watch", "GET", "/v1/sessions", {}),
        ("watch", "GET", "/v1/sessions/s1/stats", {}),
        ("watch", "HEAD", "/v1/sessions/s1/stats", {}),
        ("record", "POST", "/v1/sessions/s1/outputs", {"json": {"type": "recording"}}),
        ("record", "GET", "/v1/sessions/s1/outputs/o1", {}),
        ("record", "DELETE", "/v1/sessions/s1/outputs/o1", {}),
        ("call", "GET", "/v1/capacity", {}),
        ("admin", "POST", "/v1/drain", {}),
        ("admin", "GET", "/metrics", {}),
    ]
    keys = {scope: make_key(scope, scope) for scope in SCOPES}
    service = FakeService()
    async with asking(Auth([kept for _, kept in keys.values()], secret=SECRET), service) as client:
        for needed, method, path, rest in requests:
            service.owners["s1"] = needed
            for scope, (header, _) in keys.items():
                headers = {**rest.get("headers", {}), **header}
                response = await client.request(method, path, **{**rest, "headers": headers})
                if scope == needed:
                    assert response.status in (200, 201, 202), (method, path)
                else:
                    assert response.status == 403, (method, path, scope)
                    if method != "HEAD":
                        assert needed in (await check_problem(response, 403, "missing_scope"))["detail"]
                    assert f'scope="{needed}"' in response.headers["WWW-Authenticate"]
            nobody = await client.request(method, path, **rest)
            assert nobody.status == 401
            assert nobody.headers["WWW-Authenticate"] == "Bearer"
        for verb in (client.patch, client.delete):  # of whoever knows the address
            for header in (keys["watch"][0], {}, {"Authorization": "Bearer expired"}):
                answer = await verb("/whep/s1", data=CANDIDATE, headers={**FRAGMENT, **header})
                assert answer.status in (200, 204)


def test_every_route_is_in_the_table_or_meant_to_be_open_or_for_admins() -> None:
    app = make_app(FakeService(), static_dir=None, allowed_origins=["*"], **OPEN)
    routes = {
        (route.method, route.resource.canonical.rstrip("/"))
        for route in app.router.routes()
        if route.resource is not None and route.method not in ("OPTIONS", "HEAD")
    }
    readable = ("/v1/avatars", "/v1/models", "/livez", "/readyz", "/metrics", "/{path}")
    refused = ("*", "/whep"), ("*", "/whep/{id}")
    assert routes - {("GET", path) for path in readable} - {*refused} <= set(ROUTES)


async def test_what_is_open_stays_open_and_preflight_tells_no_relay() -> None:
    header, kept = make_key("web", "call")
    async with asking(Auth([kept], secret=SECRET, open_paths=["/livez", "/metrics"])) as client:
        for path in ("/v1/avatars", "/v1/models", "/livez", "/metrics"):
            assert (await client.get(path)).status == 200, path
            assert (await client.get(path, headers={"Authorization": "Basic dTpw"})).status == 200, "a proxy's own sign-in"
        await check_problem(await client.get("/readyz"), 401, "unauthorized")
        await check_problem(await client.get("/nothing"), 404, "not_found")
        assert (await client.put("/whep")).status == 405
        asks = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
        preflight = await client.options("/whep", headers=asks)
        assert preflight.status == 200
        assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
        assert "Link" not in preflight.headers
        assert "Link" in (await client.options("/whep", headers=header)).headers
        refused = await client.post("/whep", data="v=0", headers={**SDP, "Origin": "https://a.example"})
        assert refused.headers["Access-Control-Allow-Origin"] == "*", "or the page could not read why"


async def test_a_token_is_worth_what_it_says_and_no_more_than_its_key() -> None:
    web, kept = make_key("web", "call", "watch")
    _, other_kept = make_key("other", "speak")
    async with asking(Auth([kept, other_kept], secret=SECRET)) as client:
        before_s = int(time.time())
        response = await client.post("/v1/tokens", json={"scopes": ["call"], "ttl_s": 60, "name": "alice"}, headers=web)
        made = await response.json()
        assert before_s + 60 <= made["expires_at"] <= time.time() + 60
        claims = jwt.decode(made["token"], SECRET, algorithms=["HS256"], issuer="avatar-rtc")
        assert (claims["sub"], claims["scope"], claims["exp"]) == ("web/alice", "call", made["expires_at"])
        token = {"Authorization": f"Bearer {made['token']}"}
        assert (await client.post("/whep", data="v=0", headers={**SDP, **token})).status == 201
        await check_problem(await client.get("/v1/sessions/s1/stats", headers=token), 403, "missing_scope")
        response = await client.post("/v1/tokens", headers=web, json={"scopes": ["call", "speak"]})
        assert "speak" in (await check_problem(response, 403, "missing_scope"))["detail"]
        await check_problem(await client.post("/v1/tokens", headers=token, json={"scopes": ["call"]}), 403, "api_key_needed")
        wrongs: list[dict[str, Any]] = [
            {},
            {"scopes": []},
            {"scopes": ["fly"]},
            {"scopes": ["call"], "ttl_s": 10**6},
            {"scopes": ["call"], "x": 1},
        ]
        for wrong in wrongs:
            await check_problem(await client.post("/v1/tokens", headers=web, json=wrong), 422, "invalid_token_request")
        for wrong_body in (b"", b"{", b"\xff", b"[" * 5000):
            await check_problem(await client.post("/v1/tokens", headers=web, data=wrong_body), 400, "bad_request")


async def test_a_token_of_one_session_touches_no_other() -> None:
    web, kept = make_key("web", "call", "watch", "speak")
    service = FakeService()
    service.owners["s1"] = "web"
    async with asking(Auth([kept], secret=SECRET), service) as client:
        token = await token_of(client, web, scopes=["call", "watch", "speak"], session="s1")
        assert (await client.get("/v1/sessions/s1/stats", headers=token)).status == 200
        await check_problem(await client.get("/v1/sessions/s2/stats", headers=token), 403, "other_session")
        assert (await client.post("/whep?session=s1", data="v=0", headers={**SDP, **token})).status == 201
        for path in ("/whep", "/whep?session=s2"):
            await check_problem(await client.post(path, data="v=0", headers={**SDP, **token}), 403, "other_session")


SESSION_REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/whep?session=s1", {"data": "v=0", "headers": SDP}),
    ("POST", "/whep?session=s1&after=7", {"data": "v=0", "headers": SDP}),
    ("POST", "/whep?session=s1&role=watch", {"data": "v=0", "headers": SDP}),
    ("GET", "/v1/sessions/s1", {}),
    ("GET", "/v1/sessions/s1/stats", {}),
    ("GET", "/v1/sessions/s1/events", {}),
    ("POST", "/v1/sessions/s1/events", {"data": "Hello."}),
    ("POST", "/v1/sessions/s1/outputs", {"json": {"type": "recording"}}),
    ("GET", "/v1/sessions/s1/outputs/o1", {}),
    ("DELETE", "/v1/sessions/s1/outputs/o1", {}),
    ("DELETE", "/v1/sessions/s1", {}),
]


async def test_a_session_is_its_owners() -> None:
    """By whom it was made, who asks, and whether they may."""
    most: tuple[Scope, ...] = ("call", "watch", "speak", "record")
    (web, kept), (other, other_kept), (root, root_kept) = make_key("web", *most), make_key("we", *most), make_key("root", *SCOPES)
    service = FakeService()
    async with asking(Auth([kept, other_kept, root_kept], secret=SECRET), service) as client:

        async def token(key: dict[str, str], **wanted: Any) -> dict[str, str]:
            return await token_of(client, key, scopes=list(most), **wanted)

        who = {
            "web": web,
            "web/al": await token(web, name="al"),
            "web/al, the next": await token(web, name="al"),
            "web/alice": await token(web, name="alice"),
            "web, without a name": await token(web),
            "web's for s1": await token(web, session="s1"),
            "we": other,
            "we/al": await token(other, name="al"),
            "we's for s1": await token(other, session="s1"),
            "root": root,
            "root's for s1": await token(root, session="s1"),
            "root/al, not for all": await token(root, name="al"),
        }
        roots = {"root", "root's for s1"}
        for owner, may in (
            ("web", {"web", "web's for s1"}),
            ("web/al", {"web", "web's for s1", "web/al", "web/al, the next"}),
            ("we", {"we", "we's for s1"}),
            ("root/al", {"root/al, not for all"}),
            ("anyone", set()),
            (None, set()),
        ):
            service.owners = {} if owner is None else {"s1": owner}
            for name, header in who.items():
                for method, path, rest in SESSION_REQUESTS:
                    response = await client.request(method, path, **{**rest, "headers": {**rest.get("headers", {}), **header}})
                    if name in may | roots:
                        assert response.status < 300, (owner, name, method, path)
                    else:
                        await check_problem(response, 404, "unknown_session")
                if not name.endswith("for s1"):
                    listed = (await (await client.get("/v1/sessions", headers=header)).json())["sessions"]
                    assert bool(listed) == (name in may | roots), (owner, name)


async def test_a_session_that_a_program_makes_comes_with_a_token_for_it() -> None:
    web, kept = make_key("web", "call", "speak", "record")
    service = FakeService()
    service.owners["s1"] = "web"
    async with asking(Auth([kept], secret=SECRET), service) as client:
        made = await (await client.post("/v1/sessions", headers=web)).json()
        claims = jwt.decode(made["token"], SECRET, algorithms=["HS256"], issuer="avatar-rtc")
        assert (claims["session"], claims["scope"], claims["exp"]) == ("s1", "call speak", made["token_expires_at"])
        token = {"Authorization": f"Bearer {made['token']}"}
        assert (await client.post(made["whep_url"], data="v=0", headers={**SDP, **token})).status == 201
        assert service.calls[-1][2] == Rights(may_record=False)
        await check_problem(await client.post("/v1/sessions", headers=token), 403, "other_session")
        assert "token" not in await (await client.post("/v1/sessions", headers=await token_of(client, web))).json()


async def test_what_is_no_key_and_no_token() -> None:
    web, kept = make_key("web", "call", "admin")
    gone, gone_kept = make_key("gone", "admin")
    past = Auth([kept], secret=SECRET, clock=lambda: time.time() - 3600)
    async with asking(past) as client:
        expired = await token_of(client, web)
    async with asking(Auth([kept, gone_kept], secret=SECRET)) as client:
        orphan = await token_of(client, gone, scopes=["admin"])
        full = await token_of(client, web, scopes=["admin", "call"])
    async with asking(Auth([kept], secret="x" * 32)) as client:
        forged = await token_of(client, web)
    unsigned = {
        "Authorization": f"Bearer {jwt.encode({'iss': 'avatar-rtc', 'sub': 'web', 'scope': 'admin', 'exp': 2e9}, '', 'none')}"
    }
    less = ApiKey("web", kept.sha256, frozenset({"call"}))
    async with asking(Auth([less], secret=SECRET)) as client:
        await check_problem(await client.get("/metrics", headers=expired), 401, "token_expired")
        for header in (orphan, gone, forged, unsigned):
            await check_problem(await client.get("/metrics", headers=header), 401, "invalid_token")
        for value in ("Bearer x", "Bearer a.b.c", "bearer ü", "Bearer " + "." * 3000):
            response = await client.get("/metrics", headers={"Authorization": value})
            assert (await response.json(content_type=None))["code"] == "invalid_token", value
        for value in ("Bearer", "Bearer ", "Basic dTpw", ""):
            await check_problem(await client.get("/metrics", headers={"Authorization": value}), 401, "unauthorized")
        await check_problem(await client.get("/metrics", headers=full), 403, "missing_scope")
        reader, writer = await asyncio.open_connection(client.host, client.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Bearer \xff\xfe\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 401"), "what is no text"
        writer.close()


async def test_without_keys_everybody_may_everything_and_needs_no_token() -> None:
    async with asking(Auth()) as client:
        assert (await client.get("/metrics")).status == 200
        assert (await client.get("/metrics", headers={"Authorization": "Bearer x"})).status == 200
        await check_problem(await client.post("/v1/tokens", json={"scopes": ["call"]}), 404, "not_found")
