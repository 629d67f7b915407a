"""For how long a request may wait, as its client says."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from signaling.waiting import wait_of


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
