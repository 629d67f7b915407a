"""The page before two machines of a cluster, one of which goes: the call comes back by itself, and what was sent is heard."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Browser, Page, expect

from signaling.nodes import node_of
from testkit.browser import NO_CHROMIUM, RunningServer, call, chromium_path, eventually, open_browser, say, stats
from testkit.hearing import LISTEN, WORDS, words_heard_in
from testkit.machines import STOP_S, free_port, run_machine

pytest.importorskip("ray")
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(chromium_path() is None, reason=NO_CHROMIUM)]

LINES = [" ".join(WORDS.split()[start : start + 4]) for start in (0, 4, 8)]

expect.set_options(timeout=20_000)  # a safety net: a busy machine may take its time


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def ray_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def first(ray_port: int) -> Iterator[RunningServer]:
    with run_machine("a", ray_port, begins=True, limits={"max_sessions": 1}) as machine:
        yield machine


def ask(url: str, method: str = "GET", body: bytes | None = None) -> Any:
    with urlopen(Request(url, body, {"Content-Type": "application/json"}, method=method)) as response:
        return json.loads(response.read() or b"null")


def home_of(page: Page) -> str:
    """The machine that has the page's call."""
    return str(node_of(stats(page)["session"]["id"])).rpartition("-")[0]


@contextmanager
def calling_at_the_second(browser: Browser, first: RunningServer) -> Iterator[Page]:
    """A page at the first machine's front door whose call is with the second one, while the first one has a free seat."""
    page = browser.new_page(bypass_csp=True)
    page.add_init_script(f"({LISTEN})()")
    page.goto(first.url)
    eventually(page, lambda: ask(f"{first.url}/v1/capacity")["free"], lambda free: free == 3, "the seats of both")
    taken: list[str] = []
    while not any(session.startswith("a-") for session in taken):
        taken.append(ask(f"{first.url}/v1/sessions", "POST", b"{}")["id"])
    call(page)
    for session in taken:
        ask(f"{first.url}/v1/sessions/{session}", "DELETE")
    assert home_of(page) == "b"
    page.get_by_text("Queue", exact=True).click()
    yield page
    page.get_by_role("button", name="Hang up").click()
    page.close()


def test_the_call_of_a_machine_that_is_drained_goes_on_at_another_one(
    browser: Browser, first: RunningServer, ray_port: int
) -> None:
    with run_machine("b", ray_port, limits={"max_sessions": 2}) as second, calling_at_the_second(browser, first) as page:
        for line in LINES:
            say(page, line)
        lines = page.locator(".line")
        expect(lines.nth(0)).to_have_attribute("data-status", "speaking")
        second.process.send_signal(signal.SIGTERM)
        expect(lines.nth(2)).to_have_attribute("data-status", "completed")
        assert (home_of(page), stats(page)["numResumed"]) == ("a", 1)
        assert [lines.nth(number).get_attribute("data-status") for number in range(3)] == 3 * ["completed"]
        eventually(page, lambda: words_heard_in(page), lambda words: words == WORDS.split(), "each word, once")
        assert second.process.wait(STOP_S) == 0


def test_the_page_of_a_machine_that_is_killed_calls_another_one(browser: Browser, first: RunningServer, ray_port: int) -> None:
    with run_machine("b", ray_port, limits={"max_sessions": 2}) as second, calling_at_the_second(browser, first) as page:
        say(page, LINES[0])
        lines = page.locator(".line")
        expect(lines.nth(0)).to_have_attribute("data-status", "completed")
        second.kill()
        for line in LINES[1:]:
            say(page, line)
        expect(lines.nth(2)).to_have_attribute("data-status", "completed")
        assert (home_of(page), stats(page)["numResumed"]) == ("a", 0)
        expect(page.get_by_role("alert")).to_contain_text("The conversation begins anew")
        eventually(page, lambda: words_heard_in(page), lambda words: words == WORDS.split(), "each word, once")
