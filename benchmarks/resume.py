"""A viewer is lost in the middle of a line and comes back: what was heard, before and after, is the line, and no word twice.

``page``: Chromium, whose datagrams are cut off for five seconds. ``killed``: a process that is killed (SIGKILL), and one
that comes back in its place. ``gone``: one that is killed, and nobody comes back; its seat is free when the grace is over. The
fake engine speaks each word with a tone of its own, and what is heard is the sound that comes out.

    python -m benchmarks.resume page killed gone --runs 20
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from playwright.sync_api import Browser

from avatar_rtc import resources
from avatar_rtc.client import Call
from benchmarks import machine, measurements
from benchmarks.figures import percentile
from signaling.vocabulary import ResponseCreate, ResponseDone, TranscriptDelta
from testkit.browser import RunningServer, call, eventually, open_browser, run_server, say, stats
from testkit.hearing import LISTEN, WORDS, Ear, words_heard, words_heard_in
from testkit.network import Network, open_network

CUT_S = 5.0
AFTER_WORDS = 4
GRACE_S = 10.0
TIMEOUT_S = 30.0


@contextmanager
def network_thread(server: str) -> Iterator[Network]:
    """A network in front of a server, in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    opened = open_network(server)
    try:
        yield asyncio.run_coroutine_threadsafe(opened.__aenter__(), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(opened.__aexit__(None, None, None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def cut_page(browser: Browser, network: Network) -> dict[str, Any]:
    """One call of the page."""
    page = browser.new_page(bypass_csp=True)
    page.add_init_script(f"({LISTEN})()")
    page.goto(network.url)
    call(page)
    session_id = stats(page)["session"]["id"]
    say(page, WORDS)
    caption = page.get_by_label("Captions")
    eventually(page, caption.text_content, lambda text: WORDS.split()[AFTER_WORDS - 1] in (text or ""), "a caption", TIMEOUT_S)
    network.is_cut = True
    page.wait_for_timeout(CUT_S * 1000)
    network.is_cut = False
    back_s = time.monotonic()
    eventually(page, lambda: stats(page)["numResumed"], lambda number: number == 1, "it comes back", TIMEOUT_S)
    resumed_s = time.monotonic() - back_s
    line = page.locator(".line").first
    eventually(
        page, lambda: line.get_attribute("data-status"), lambda status: status == "completed", "the line goes on", TIMEOUT_S
    )
    page.wait_for_timeout(1000)
    words = words_heard_in(page)
    seen = stats(page)
    text = page.locator(".line-text").first.text_content()
    page.get_by_role("button", name="Hang up").click()
    page.close()
    return {
        "is_right": words == WORDS.split() and text == WORDS and seen["session"]["id"] == session_id and seen["numResumed"] == 1,
        "heard": words,
        "back_after_s": round(resumed_s, 2),
    }


def be_viewer(pipe: Connection, url: str, session_id: str, after: int) -> None:
    """A process that calls, or comes back, and tells what it hears as it hears it."""
    asyncio.run(_view(pipe, url, session_id, after))


async def _view(pipe: Connection, url: str, session_id: str, after: int) -> None:
    viewer = Call(url)
    ear = Ear(viewer)
    began_s = time.monotonic()
    await viewer.connect(f"?session={session_id}&after={after}" if session_id else "")
    back_s = time.monotonic() - began_s
    viewer.last_seq = max(viewer.last_seq, after)
    if not session_id:
        viewer.send(ResponseCreate(input=WORDS, id="r"))
    while True:
        await asyncio.sleep(0.02)
        done = viewer.received(ResponseDone, "r")
        num_words = len(viewer.received(TranscriptDelta, "r"))
        told = {
            "session_id": viewer.session_id,
            "seq": viewer.last_seq,
            "num_words": num_words,
            "status": done[0].status if done else "",
            "heard_text": done[0].heard_text if done else "",
            "samples": ear.samples,
            "back_after_s": back_s,
        }
        pipe.send(told)
        if done:
            await asyncio.sleep(60)


class Viewer:
    """A process that can be killed, and what it told last."""

    def __init__(self, url: str, session_id: str = "", after: int = 0) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["avatar_rtc.client"])
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=be_viewer, args=(theirs, url, session_id, after), daemon=True)
        self._process.start()
        theirs.close()

    def until(self, holds: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        while self._pipe.poll(TIMEOUT_S):
            told: dict[str, Any] = self._pipe.recv()
            if holds(told):
                return told
        raise TimeoutError(f"nothing more came for {TIMEOUT_S:.0f} s")

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def kill_and_come_back(url: str) -> dict[str, Any]:
    first = Viewer(url)
    before = first.until(lambda told: told["num_words"] >= AFTER_WORDS)
    first.kill()
    time.sleep(3.0)
    second = Viewer(url, before["session_id"], before["seq"])
    after = second.until(lambda told: told["status"])
    second.kill()
    words = words_heard(before["samples"], after["samples"], sample_rate_hz=48_000)
    urlopen(Request(f"{url}/v1/sessions/{before['session_id']}", method="DELETE"))
    return {
        "is_right": words == WORDS.split() and (after["status"], after["heard_text"]) == ("completed", WORDS),
        "heard": words,
        "back_after_s": round(after["back_after_s"], 2),
    }


def kill_for_good(url: str) -> dict[str, Any]:
    """How long the seat is held."""
    viewer = Viewer(url)
    session_id = viewer.until(lambda told: told["num_words"] >= AFTER_WORDS)["session_id"]
    viewer.kill()
    killed_s = time.monotonic()
    while time.monotonic() - killed_s < GRACE_S + TIMEOUT_S:
        try:
            urlopen(f"{url}/v1/sessions/{session_id}/stats")
        except HTTPError:
            break
        time.sleep(0.05)
    free_s = time.monotonic() - killed_s
    return {"is_right": abs(free_s - GRACE_S) < 1.0, "free_after_s": round(free_s, 2)}


def measure(ways: list[str], runs: int, server: RunningServer, network: Network) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for way in ways:
        if way == "page":
            with open_browser() as browser:
                rows = list(_each(way, runs, partial(cut_page, browser, network)))
        else:
            rows = list(_each(way, runs, partial(kill_and_come_back if way == "killed" else kill_for_good, server.url)))
        times = [row[name] for row in rows for name in ("back_after_s", "free_after_s") if name in row]
        result[way] = {
            "runs": len(rows),
            "right": sum(row["is_right"] for row in rows),
            "seconds": {"p50": percentile(times, 0.5), "max": max(times)} if times else {},
            "wrong": [row for row in rows if not row["is_right"]],
        }
    result["tracebacks"] = server.log().count("Traceback")
    return result


def _each(way: str, runs: int, run: Callable[[], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for number in range(runs):
        try:
            row = run()
        except (AssertionError, TimeoutError) as error:
            row = {"is_right": False, "problem": str(error)}
        print(f"{way} {number + 1}: {row}", file=sys.stderr, flush=True)
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ways", nargs="+", choices=("page", "killed", "gone"))
    parser.add_argument("--runs", type=int, default=20, help="of each (default: 20)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="put the figures into this file of measurements")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    described = machine.describe(resources.num_cores())
    limits = {"grace_s": GRACE_S, "max_sessions": 2, "requests_per_minute": None}
    with run_server("fake", limits=limits) as server, network_thread(server.url) as network:
        result = measure(options.ways, options.runs, server, network)
    if options.out:
        measurements.keep(options.out, "resume", {"machine": described, **result})
    if options.json:
        print(json.dumps(result))
        return
    print(machine.headline(described))
    for way in options.ways:
        row = result[way]
        print(f"{way:8} {row['right']:3d} of {row['runs']:3d} right; seconds {row['seconds']}")
    print("the bar: all of them; a seat is free when the grace is over, and no traceback")


if __name__ == "__main__":
    main()
