"""The routes of SmallWebRTC over a service that is not there."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from signaling.auth import Auth
from signaling.errors import Unavailable, Unprocessable
from signaling.service import NewSession, Rights
from tests.signaling.test_auth import SECRET, asking, make_key
from tests.signaling.test_http import FakeService, check_problem, client, service

__all__ = ["client", "service"]  # fixtures

OFFER = {"sdp": "v=0 offer", "type": "offer", "pc_id": None, "restart_pc": False}


async def test_a_call_from_its_start_to_its_candidates(client: TestClient[Any, Any], service: FakeService) -> None:
    body = {"transport": "webrtc", "enableDefaultIceServers": True, "body": {"avatar": "ava", "voice": "deep", "mine": 1}}
    response = await client.post("/start", json=body, headers={"Origin": "https://a.example"})
    assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (200, "*")
    started = await response.json()
    assert started["iceConfig"] == {
        "iceServers": [{"urls": ["stun:stun.example:3478"]}, {"urls": ["turn:turn.example"], "username": "u", "credential": "p"}]
    }
    place = f"/sessions/{started['sessionId']}/api/offer"
    wanted = NewSession("anyone", avatar="ava", voice="deep")
    assert service.calls == [wanted], "it was asked whether there is a seat, and none was taken"
    response = await client.post(place, json=OFFER)
    assert await response.json() == {"sdp": "v=0 answer", "type": "answer", "pc_id": "s1"}
    assert service.calls[1:] == [("v=0 offer", wanted, Rights())]
    candidates = [
        {"candidate": "candidate:1 1 udp 1 192.0.2.7 5000 typ host", "sdp_mid": "0", "sdp_mline_index": 0},
        {"candidate": "", "sdp_mid": "0", "sdp_mline_index": 0},
    ]
    response = await client.patch(place, json={"pc_id": "s1", "candidates": candidates})
    assert await response.json() == {"status": "success"}
    fragment = service.calls[-1]
    assert (fragment.candidates, fragment.complete) == ((("0", "1 1 udp 1 192.0.2.7 5000 typ host"),), True)
    await check_problem(await client.patch(place, json={"pc_id": "s2", "candidates": []}), 404, "unknown_session")


async def test_a_call_without_a_start(client: TestClient[Any, Any], service: FakeService) -> None:
    assert (await client.post("/api/offer", json={**OFFER, "requestData": {"avatar": "ava"}})).status == 200
    assert service.calls == [("v=0 offer", NewSession("anyone", avatar="ava"), Rights())]
    assert (await client.post("/start")).status == 200
    await check_problem(await client.post("/sessions/unknown/api/offer", json=OFFER), 404, "unknown_session")


async def test_who_comes_back_joins_its_session(client: TestClient[Any, Any], service: FakeService) -> None:
    pc_id = (await (await client.post("/api/offer", json=OFFER)).json())["pc_id"]
    again = {**OFFER, "pc_id": pc_id, "restart_pc": True}
    assert (await (await client.post("/api/offer", json=again)).json())["pc_id"] == "v2"
    assert service.calls[-1] == ("v=0 offer", "s1", Rights(), 0)
    await check_problem(await client.post("/api/offer", json={**again, "pc_id": "gone"}), 404, "unknown_session")
    # Three tries of an offer that was refused have no pc_id.
    assert (await client.post("/api/offer", json={**OFFER, "restart_pc": True})).status == 200
    assert len(service.calls) == 3


async def test_nobody_comes_back_to_the_session_of_another() -> None:
    (mine, my_key), (other, other_key) = make_key("mine", "call"), make_key("other", "call")
    service = FakeService()
    service.owners["s1"] = "mine"
    async with asking(Auth([my_key, other_key], secret=SECRET), service) as client:
        pc_id = (await (await client.post("/api/offer", json=OFFER, headers=mine)).json())["pc_id"]
        assert service.calls == [("v=0 offer", NewSession("mine"), Rights(True, False, False))]
        again = {**OFFER, "pc_id": pc_id, "restart_pc": True}
        await check_problem(await client.post("/api/offer", json=again, headers=other), 404, "unknown_session")
        assert (await client.post("/api/offer", json=again, headers=mine)).status == 200


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Unavailable("full", code="full", retry_after_s=5), 503, "full"),
        (Unprocessable("none", code="no_common_codec"), 422, "no_common_codec"),
    ],
)
async def test_refusals_have_the_detail_that_the_client_shows(
    client: TestClient[Any, Any], service: FakeService, error: Exception, status: int, code: str
) -> None:
    service.error = error
    for path in ("/start", "/api/offer"):
        problem = await check_problem(await client.post(path, json=OFFER), status, code)
        assert problem["detail"] == str(error)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/start", '{"transport": "daily"}'),
        ("POST", "/start", "{"),
        ("POST", "/start", '{"body": {"avatar": 7}}'),
        ("POST", "/api/offer", '{"type": "offer"}'),
        ("POST", "/api/offer", "[]"),
        ("PATCH", "/api/offer", '{"pc_id": "s1"}'),
        ("PATCH", "/api/offer", '{"pc_id": "s1", "candidates": [{}]}'),
    ],
)
async def test_bodies_that_cannot_be_read(client: TestClient[Any, Any], method: str, path: str, body: str) -> None:
    await check_problem(await client.request(method, path, data=body), 422, "bad_request")
