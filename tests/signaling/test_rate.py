"""How often one may ask."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request

from signaling import rate
from signaling.auth import Auth
from signaling.errors import TooManyRequests
from signaling.http import make_app
from signaling.rate import RateLimit
from tests.signaling.test_auth import SECRET, make_key
from tests.signaling.test_http import OPEN, SDP, FakeService, check_problem


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_bucket_holds_a_minute_and_fills_up() -> None:
    clock = Clock()
    limit = RateLimit(60, clock)
    assert [limit.take("a") for _ in range(60)] == [0.0] * 60
    assert limit.take("a") == pytest.approx(1.0)
    assert limit.take("b") == 0.0, "another one"
    clock.now_s = 0.5
    assert limit.take("a") == pytest.approx(0.5), "what is refused costs nothing"
    clock.now_s = 1.0
    assert limit.take("a") == 0.0
    assert limit.take("a") > 0
    clock.now_s = 3600.0
    assert sum(limit.take("a") == 0.0 for _ in range(100)) == 60, "no more than it holds"


def test_not_all_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "MAX_REMEMBERED", 2)
    limit = RateLimit(1, Clock())
    assert [limit.take(who) == 0.0 for who in "abacba"] == [True, True, False, True, True, True]


async def test_posts_of_a_principal_are_counted_and_reads_are_not() -> None:
    clock = Clock()
    web_key, kept = make_key("web", "call", "watch", "speak")
    other_key, other = make_key("other", "call")
    limited = OPEN | {"auth": Auth([kept, other], secret=SECRET), "rate_limit": RateLimit(2, clock)}
    service = FakeService()
    service.owners["s1"] = "web"
    app = make_app(service, static_dir=None, allowed_origins=["*"], **limited)
    async with TestClient(TestServer(app)) as client:

        async def call(key: dict[str, str]) -> Any:
            return await client.post("/whep", data="v=0", headers={**SDP, **key})

        assert [(await call(web_key)).status for _ in range(2)] == [201, 201]
        refused = await client.post("/v1/sessions/s1/events", data="Hello.", headers=web_key)
        problem = await check_problem(refused, 429, "too_many_requests")
        assert refused.headers["Retry-After"] == "30"
        assert "30 s" in problem["detail"]
        assert (await client.get("/v1/sessions/s1/stats", headers=web_key)).status == 200
        assert (await client.delete("/whep/s1", headers=web_key)).status == 200
        assert (await call(other_key)).status == 201
        assert (await call({})).status == 401
        clock.now_s = 30.0
        assert (await call(web_key)).status == 201


@pytest.mark.parametrize(
    ("address", "counts"), [("192.0.2.7", True), ("2001:db8::7", True), ("127.0.0.1", False), ("::1", False)]
)
async def test_an_address_is_counted_unless_it_is_this_machine(address: str, counts: bool) -> None:
    limit, identify = RateLimit(1, Clock()).middleware(), Auth().middleware(lambda _: None)

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response()

    async def counted(request: web.Request) -> web.StreamResponse:
        return await limit(request, handler)

    async def ask(method: str) -> None:
        await identify(make_mocked_request(method, "/whep").clone(remote=address), counted)

    await ask("POST")
    await ask("DELETE")
    if not counts:
        return await ask("PATCH")
    with pytest.raises(TooManyRequests):
        await ask("PATCH")
