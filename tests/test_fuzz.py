"""A short run of what ``python -m tests.fuzz`` does at length: always the same mutations."""

from __future__ import annotations

import pytest

from tests.fuzz import fuzz


@pytest.mark.parametrize(("what", "count"), [("events", 300), ("offers", 80)])
def test_nothing_that_is_sent_ends_a_call_or_answers_500(what: str, count: int) -> None:
    outcomes = fuzz(what, count, minutes=1.0, seed=2026)
    assert outcomes["sent"] > count / 2, "the machine is too busy for it to mean something"
    # Both what is taken and what is refused must have come up.
    assert {"HTTP 400", "HTTP 202" if what == "events" else "HTTP 201"} <= set(outcomes)
