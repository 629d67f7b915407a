"""For how long a request may wait, as its client says."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from multidict import CIMultiDict

from signaling.http import make_app
from signaling.waiting import wait_of
from tests.signaling.test_http import OPEN, SDP, FakeService


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ([], None),
        (["wait=20"], 20),
        (["respond-async, wait=5"], 5),
        (["respond-async", 'Wait = "7"; x=y'], 7),
        (["wait=0"], 0),
        (["wait=5, wait=9"], 5),
        (["wait=86400"], 30),
        (["wait=-1"], None),
        (["wait=1e3"], None),
        (["wait"], None),
        (["waiting=5"], None),
    ],
)
def test_a_preference_that_can_be_read_is_taken(headers: list[str], wait_s: float | None) -> None:
    request = make_mocked_request("POST", "/whep", CIMultiDict([("Prefer", header) for header in headers]))
    assert wait_of(request) == wait_s


@pytest.mark.parametrize("path", ["/whep", "/v1/realtime/calls"])
async def test_calls_of_each_protocol_may_wait(path: str) -> None:
    service = FakeService()
    async with TestClient(TestServer(make_app(service, static_dir=None, allowed_origins=["*"], **OPEN))) as client:
        for headers, expected in ((SDP | {"Prefer": "wait=7"}, (7, "t1")), (SDP, (None, None))):
            assert (await client.post(f"{path}?ticket=t1", data="v=0", headers=headers)).status == 201
            (_, wanted, *_) = service.calls[-1]
            assert (wanted.wait_s, wanted.ticket) == expected
