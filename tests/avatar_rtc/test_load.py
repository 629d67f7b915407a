"""Many callers at once, and what is told of them."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from avatar_rtc.load import OwnLoad, load, read_script
from tests.support.calls import serving

SCRIPT = ("One two.", 0.1, "Three four.")


async def test_callers_say_the_script_and_who_is_refused_is_counted() -> None:
    told: list[str] = []
    async with serving(limits={"max_sessions": 2}, media={"video_delay_ms": 1000}) as server:
        report = await load(server.address, 3, ramp_s=0.2, script=SCRIPT, on_progress=told.append)
        assert server.registry.num_sessions == 0
    assert [call.status for call in report.calls] == ["completed", "completed", "refused"]
    assert [call.num_lines for call in report.calls] == [2, 2, 0]
    assert report.calls[2].code == "full"
    assert not report.is_good
    assert "2 calling" in " ".join(told)
    figures = json.loads(json.dumps(report.as_dict()))
    assert figures["statuses"] == {"completed": 2, "refused": 1}
    percentiles = figures["percentiles"]
    for name in ("answered_ms", "join_ms", "first_voice_ms"):
        assert 0 < percentiles[name]["p50"] <= percentiles[name]["p95"] <= percentiles[name]["max"]
    assert percentiles["skew_ms"]["p50"] > 500, "pictures were sent a second late"
    table = report.table()
    assert "3 calls" in table
    assert "refused, 1: " in table
    assert "the callers took" in table


async def test_callers_wait_for_a_seat_where_they_are_told_to() -> None:
    async with serving(limits={"max_sessions": 1}) as server:
        report = await load(server.address, 2, ramp_s=0.5, script=("One two.",), wait_s=30)
    assert report.is_good
    first, second = (call.answered_ms or 0 for call in report.calls)
    assert second > first + 500


async def test_a_call_that_breaks_off_is_no_success() -> None:
    async with serving() as server:
        loading = asyncio.create_task(load(server.address, 1, ramp_s=0, script=("one two three four five six seven eight.",)))
        async with asyncio.timeout(20):
            while not any(session.state == "speaking" for session in server.registry.live):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await server.close()
        report = await loading
    (call,) = report.calls
    assert call.status == "broken"
    assert "shutdown" in call.why


async def test_the_callers_say_where_they_were_the_bottleneck() -> None:
    async with serving() as server:
        asyncio.get_running_loop().call_later(0.5, time.sleep, 3.0)
        report = await load(server.address, 1, ramp_s=0, script=(1.0, "One."))
    assert report.own.late_ms["max"] > 1000
    idle, busy = OwnLoad(0.2, 2, {"p95": 3.0}), OwnLoad(0.9, 2, {"p95": 40.0})
    assert idle.warnings == []
    assert busy.warnings == [
        "the callers took 90% of the 2 cores of this machine",
        "their event loop was late by 40 ms (p95), and so is what it measured",
    ]


@pytest.mark.parametrize(
    ("text", "steps"),
    [("Hello.\n\n# comment\n 1.5 \n2\nIt is 3.\n", ("Hello.", 1.5, 2.0, "It is 3.")), ("# nothing\n", ())],
)
def test_a_script_has_lines_and_pauses(tmp_path: Path, text: str, steps: tuple[str | float, ...]) -> None:
    path = tmp_path / "script.txt"
    path.write_text(text)
    assert read_script(path) == steps
