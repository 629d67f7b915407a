"""A short run of what ``python -m tests.fuzz`` does at length: always the same mutations."""

from __future__ import annotations

import pytest

from tests.fuzz import fuzz


@pytest.mark.parametrize(("what", "count"), [("events", 300), ("offers", 80), ("fragments", 80), ("requests", 100)])
def test_nothing_that_is_sent_ends_a_call_or_answers_500(what: str, count: int) -> None:
    outcomes = fuzz(what, count, minutes=1.0, seed=2026)
    assert outcomes["sent"] > count / 2, "the machine is too busy for it to mean something"
    # Both what is taken and what is refused must have come up.
    taken = {"events": "HTTP 202", "offers": "HTTP 201", "fragments": "HTTP 204", "requests": "HTTP 200"}
    assert {"HTTP 400", taken[what]} <= set(outcomes)
