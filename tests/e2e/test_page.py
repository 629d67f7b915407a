"""The page in real Chromium, against a real server with the deterministic engine: what a person would do, and see, and hear."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from avatar_rtc import fake
from testkit.browser import (
    NO_CHROMIUM,
    RunningServer,
    call,
    chromium_path,
    eventually,
    open_browser,
    run_server,
    say,
    stats,
)
from testkit.turn import NO_COTURN, run_turn

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(chromium_path() is None, reason=NO_CHROMIUM)]

LINE = "Hello, nice to meet you."
LONG_LINE = "This is a rather long line that would go on and on and on, unless somebody stopped it before its very last word."
ONE_SEAT = {"max_sessions": 1, "retry_after_s": 1}

expect.set_options(timeout=20_000)  # a safety net: a busy machine may take its time

WATCH = """([x, y, width, height]) => {
    const seen = (window.seen = { states: [], openMouths: 0 });
    const status = document.querySelector("[role=status]");
    const note = () => seen.states.at(-1) === status.innerText || seen.states.push(status.innerText);
    new MutationObserver(note).observe(status, { childList: true, characterData: true, subtree: true });
    note();
    const video = document.querySelector("video");
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    const look = () => {
        context.drawImage(video, x, y, width, height, 0, 0, width, height);
        const reds = [...context.getImageData(0, 0, width, height).data].filter((_, i) => i % 4 === 0);
        seen.openMouths += reds.reduce((sum, red) => sum + red) / reds.length < 110;
        video.requestVideoFrameCallback(look);
    };
    video.requestVideoFrameCallback(look);
}"""
"""Keeps what passes quickly, so that no test has to look at the right moment. Below closed lips there is no dark spot."""

WATCH_HUSH = """() => {
    const [track] = document.querySelector("video").srcObject.getAudioTracks();
    Object.assign(window, { heard: [], track });
    Object.defineProperty(track, "enabled", { set: (enabled) => heard.push(enabled) });
}"""
"""Keeps when the browser is told to play its sound, and not to."""

WATCH_WAITING = """([x, y, width, height]) => {
    window.waiting = new Set();
    const video = document.querySelector("video");
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    const look = () => {
        context.drawImage(video, x, y, width, height, 0, 0, width, height);
        const bits = [...context.getImageData(0, 0, width, height).data].filter((_, i) => i % 40 === 20).map((red) => red > 99);
        if (document.getElementById("preparing").checkVisibility()) waiting.add(String(bits));
        video.requestVideoFrameCallback(look);
    };
    video.requestVideoFrameCallback(look);
}"""
"""Keeps which numbered pictures are shown while an answer is waited for."""

NUMBERED = """() => {
    const stand = (window.stand = { created: 0, seq: 0, graceMs: 10000, channels: [] });
    const property = Object.getOwnPropertyDescriptor(RTCDataChannel.prototype, "onmessage");
    const tell = (listener, message) => listener({ data: JSON.stringify(message) });
    Object.defineProperty(RTCDataChannel.prototype, "onmessage", {
        set(listener) {
            if (listener) stand.channels.push(Object.assign(this, { tell: (message) => tell(listener, message) }));
            property.set.call(this, listener && (({ data }) => {
                if (this.cut) return;
                const message = JSON.parse(data);
                if (!["pong", "session.created"].includes(message.type)) message.seq = ++stand.seq;
                if (message.type !== "session.created") return tell(listener, message);
                const resumed = stand.created++ > 0;
                tell(listener, { ...message, resumed, grace_ms: stand.graceMs });
                if (resumed) tell(listener, { type: "error", code: "internal_error", message: "Told before.", seq: 1 });
            }));
        },
    });
    const send = RTCDataChannel.prototype.send;
    RTCDataChannel.prototype.send = function (data) {
        if (this.cut) return;
        send.call(this, data);
    };
    stand.cut = () => stand.channels.forEach((channel) => (channel.cut = true));
}"""
"""Stands for a server that numbers its events. ``stand.cut()`` loses what comes and goes over open connections."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with run_server(limits=ONE_SEAT) as running:
        yield running


@pytest.fixture
def page(browser: Browser, server: RunningServer) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if "Content Security" in message.text else None)
    # As on a page that came over plain HTTP from another machine.
    opened.add_init_script("delete Crypto.prototype.randomUUID")
    opened.goto(server.url)
    yield opened
    context.close()
    assert problems == []


def state(page: Page) -> Any:
    return expect(page.get_by_role("status"))


def luma(page: Page, left_px: int, top_px: int, width_px: int, height_px: int) -> list[int]:
    """Red channel of a rectangle of the picture that is shown, row by row."""
    pixels: list[int] = page.evaluate(
        """([x, y, width, height]) => {
            const canvas = new OffscreenCanvas(width, height);
            const context = canvas.getContext("2d");
            context.drawImage(document.querySelector("video"), x, y, width, height, 0, 0, width, height);
            return [...context.getImageData(0, 0, width, height).data].filter((_, i) => i % 4 === 0);
        }""",
        [left_px, top_px, width_px, height_px],
    )
    return pixels


def counter(page: Page) -> list[int]:
    return luma(page, fake.COUNTER_LEFT_PX, fake.COUNTER_TOP_PX, 24 * fake.CELL_PX, fake.COUNTER_HEIGHT_PX)


def watch(page: Page) -> None:
    """Begin to keep the states and the pictures with an open mouth in ``window.seen``."""
    page.evaluate(WATCH, [fake.MOUTH_X_PX - 4, fake.MOUTH_Y_PX + 4, 8, 3])


def num_open_mouths(page: Page) -> int:
    """Pictures with an open mouth since the last time that this was asked."""
    number: int = page.evaluate("[seen.openMouths, seen.openMouths = 0][0]")
    return number


def test_a_typed_line_is_seen_heard_and_read(page: Page) -> None:
    seen = call(page)
    state(page).to_have_text("Listening")
    assert seen["call"]["firstFrameMs"] > 0
    before = counter(page)
    eventually(page, lambda: counter(page), lambda now: now != before, "pixels that move")
    watch(page)
    page.wait_for_timeout(300)
    assert num_open_mouths(page) == 0

    say(page, LINE)
    expect(page.get_by_label("Captions")).to_have_text(LINE)
    expect(page.locator(".line")).to_have_attribute("data-status", "completed")
    state(page).to_have_text("Listening")
    expect(page.get_by_label("What should be said?")).to_have_value("")

    reply = stats(page)["replies"][0]
    assert reply["status"] == "completed"
    assert 0 < reply["textToFrameMs"] < 5000
    assert 0 < reply["textToSoundMs"] < 5000, "nothing was heard through the stream's sound"
    states = page.evaluate("seen.states")
    assert "Speaking" in states
    assert (states[0], states[-1]) == ("Listening", "Listening")
    assert num_open_mouths(page) > 3
    page.wait_for_timeout(300)
    num_open_mouths(page)
    page.wait_for_timeout(300)
    assert num_open_mouths(page) == 0, "a mouth that does not close"


def test_interrupt_and_the_next_line(page: Page) -> None:
    call(page)
    interrupt = page.get_by_role("button", name="Interrupt")
    expect(interrupt).to_be_disabled()
    page.evaluate(WATCH_HUSH)
    say(page, LONG_LINE)
    expect(page.get_by_label("Captions")).not_to_be_empty()
    interrupt.click()
    expect(page.locator(".line")).to_have_attribute("data-status", "cancelled")
    state(page).to_have_text("Listening")
    expect(interrupt).to_be_disabled()
    assert LONG_LINE.startswith(page.get_by_label("Captions").inner_text())
    expect(page.locator(".line .unheard")).to_contain_text("its very last word")

    say(page, LINE)
    expect(page.get_by_label("Captions")).to_have_text(LINE)
    assert page.evaluate("heard.slice(0, 3)") == [True, False, True], "what the browser still had of the first line is not played"


def test_a_new_line_replaces_or_waits(page: Page) -> None:
    call(page)
    say(page, LONG_LINE)
    state(page).to_have_text("Speaking")
    say(page, LONG_LINE)
    statuses = page.locator(".line")
    expect(statuses.nth(0)).to_have_attribute("data-status", "cancelled")
    expect(statuses.nth(1)).to_have_attribute("data-status", "speaking")

    page.get_by_text("Queue", exact=True).click()
    say(page, "One more.")
    expect(statuses.nth(2)).to_have_attribute("data-status", "queued")
    expect(statuses.nth(1)).to_have_attribute("data-status", "completed")
    expect(statuses.nth(2)).to_have_attribute("data-status", "completed")


def test_what_cannot_be_said_is_explained_and_the_call_goes_on(page: Page) -> None:
    call(page)
    notice = page.get_by_role("alert")
    say(page, "Привет")
    expect(notice).to_contain_text("Latin")
    expect(page.locator(".line")).to_have_attribute("data-status", "failed")
    say(page, "   ")
    expect(notice).to_contain_text("Type what should be said")
    say(page, "x " * 50_000)
    expect(notice).to_contain_text("characters")
    assert len(page.get_by_label("What should be said?").input_value()) > 90_000, "a refused text must not be lost"
    say(page, LINE)
    expect(page.get_by_label("Captions")).to_have_text(LINE)
    expect(notice).to_be_hidden()


def test_a_text_that_was_refused_comes_back_to_be_corrected(page: Page) -> None:
    call(page)
    field = page.get_by_label("What should be said?")
    say(page, "Привет")
    expect(field).to_have_value("Привет")
    field.fill("Something else meanwhile")
    expect(page.get_by_role("alert")).to_be_hidden()
    page.locator(".line").get_by_role("button", name="Edit it").click()
    expect(field).to_have_value("Привет")
    expect(field).to_be_focused()


def test_lines_that_wait_say_how_many_are_before_them(page: Page) -> None:
    call(page)
    page.get_by_text("Queue", exact=True).click()
    for text in (LONG_LINE, "Second of all.", "Third of all."):
        say(page, text)
    lines = page.locator(".line-status")
    expect(lines.nth(2)).to_have_text("Waiting, 2 before it")
    expect(lines.nth(0)).to_have_text("Said")
    expect(lines.nth(2)).to_have_text("Waiting, 1 before it")
    expect(lines.nth(2)).to_have_text("Said")


def test_a_slow_machine_says_so_and_counts_down_to_the_answer(browser: Browser) -> None:
    page = browser.new_page()
    with run_server(limits=ONE_SEAT, engine={"fake_rtf": 1.5}) as slow:
        page.goto(slow.url)
        machine = page.locator("#machine")
        expect(machine).to_contain_text(
            re.compile(r"This machine makes 0\.\d\d s of speech a second: answers begin about \d s late\.")
        )
        assert (
            machine.inner_text()
            == page.request.get(f"{slow.url}/readyz").json()["notice"]
            == slow.log().splitlines()[-1].partition(" 'a")[0]
        )
        call(page)
        state(page).to_have_text("Listening")
        watch(page)
        page.evaluate(WATCH_WAITING, [fake.COUNTER_LEFT_PX, fake.COUNTER_TOP_PX, 24 * fake.CELL_PX, 1])
        say(page, LINE)
        words = page.locator("#preparing-words")
        expect(words).to_contain_text("The answer begins in about")
        state(page).to_have_text("Preparing")
        expect(page.locator("#announcement")).to_contain_text("The answer begins in about")
        expect(words).to_be_hidden()
        assert page.evaluate("waiting.size") > 5, "the face goes on to move"
        assert "Speaking" in page.evaluate("seen.states"), "it ends with the wait"
        expect(page.locator(".line")).to_have_attribute("data-status", "completed")
        state(page).to_have_text("Listening")
    page.close()


def test_looks_and_voices_are_offered_and_change_the_picture(page: Page) -> None:
    call(page)
    corner = luma(page, 4, 100, 8, 8)
    page.get_by_role("radio", name="Walter").check(force=True)
    expect(page.get_by_label("Scene")).to_have_value(re.compile("library"))
    eventually(page, lambda: luma(page, 4, 100, 8, 8), lambda now: abs(now[0] - corner[0]) > 3, "another background")
    page.get_by_label("Scene").fill("A robot on the moon.")
    page.get_by_label("Scene").blur()
    expect(page.locator("#looks input:checked")).to_have_count(0)
    expect(page.locator("#who-now")).to_contain_text("In your words")
    say(page, "A man in a library. <S>This line alone.<E> <AUDCAP>a deep, calm male voice<ENDAUDCAP>")
    expect(page.get_by_label("Captions")).to_have_text("This line alone.")
    expect(page.locator(".line-text")).to_have_text("This line alone.")
    expect(page.get_by_label("Scene")).to_have_value("A man in a library.")
    expect(page.get_by_role("alert")).to_be_hidden()


def overtaken(route: Route) -> None:
    """A busy machine: what goes over the connection is there before the request."""
    time.sleep(0.3)
    route.continue_()


def test_full_then_free_then_ended(browser: Browser, page: Page, server: RunningServer) -> None:
    call(page)
    with contextlib.closing(browser.new_page()) as other:
        other.goto(server.url)
        other.get_by_role("button", name="Call").click()
        state(other).to_have_text("Waiting for a seat")
        expect(other.locator("#welcome-title")).to_have_text("You are next")
        say(other, LINE)
        expect(other.locator(".line-status")).to_have_text("Waiting for a seat")
        with contextlib.closing(browser.new_page()) as third:
            third.goto(server.url)
            third.get_by_role("button", name="Call").click()
            expect(third.locator("#welcome-title")).to_have_text("You are 2nd in line")
            waiting = lambda: page.request.get(f"{server.url}/v1/capacity").json()["waiting"]  # noqa: E731
            assert waiting() == 2
            third.get_by_role("button", name="Stop waiting").click()
            state(third).to_have_text("Ended")
            eventually(page, waiting, lambda now: now == 1, "who stops waiting leaves the line")

        page.route("**/whep/*", overtaken)
        with page.expect_response(lambda response: response.request.method == "DELETE") as freed:
            page.get_by_role("button", name="Hang up").click()
        assert freed.value.ok
        state(page).to_have_text("Ended")
        expect(page.get_by_role("button", name="Call again")).to_be_focused()
        eventually(other, lambda: stats(other)["state"], lambda now: now == "connected", "the freed seat")
        expect(other.locator(".line")).to_have_attribute("data-status", "completed")

    page.unroute("**/whep/*")
    assert call(page)["state"] == "connected", "a closed tab frees its seat too"


def test_the_page_says_which_place_in_line_it_has_and_for_about_how_long(page: Page) -> None:
    offers: list[Route] = []
    address = re.compile(r"/whep(\?.*)?$")
    page.route(address, lambda route: offers.append(route))

    def answer(**members: Any) -> tuple[str | None, str | None]:
        """Refuse the next offer; for how long it would have waited, and with which ticket."""
        eventually(page, lambda: len(offers), bool, "an offer")
        route = offers.pop()
        route.fulfill(status=503, body=json.dumps({"code": "full", **members}), headers={"Retry-After": "5"})
        return route.request.header_value("Prefer"), asked(route).get("ticket")

    page.get_by_role("button", name="Call").click()
    assert answer() == (None, None), "as any WHEP client asks"
    assert answer(ticket="t1", place=23, wait_s=130) == ("wait=0", None)
    title, text = page.locator("#welcome-title"), page.locator("#welcome-text")
    expect(title).to_have_text("You are 23rd in line")
    expect(text).to_have_text("Every seat is taken. It should be your turn in about 2 minutes.")
    expect(page.locator("#announcement")).to_have_text("You are 23rd in line")
    for place, wait_s, words in ((2, 20, "in about 20 s."), (1, 2, "any moment."), (1, None, "; the next one is yours.")):
        assert answer(ticket="t1", place=place, wait_s=wait_s) == ("wait=5", "t1")
        expect(text).to_contain_text(words)
    expect(title).to_have_text("You are next")
    eventually(page, lambda: len(offers), bool, "it asks on")
    offers.pop().continue_()
    state(page).to_have_text("Listening")


def test_a_dead_server_is_noticed_and_a_new_one_is_found(browser: Browser) -> None:
    page = browser.new_page()
    with run_server(limits=ONE_SEAT) as first:
        page.goto(first.url)
        call(page)
        first.kill()
        state(page).to_have_text("Reconnecting", timeout=8000)
        expect(page.locator("#welcome-title")).to_have_text("The call dropped")
        page.wait_for_timeout(300)
        assert page.evaluate("getComputedStyle(document.getElementById('still')).opacity") == "1", (
            "its last picture stays, dimmed"
        )
        expect(page.get_by_role("button", name="Stop trying")).to_be_visible()
    with run_server(limits=ONE_SEAT, port=int(first.url.rpartition(":")[2])):
        state(page).to_have_text("Listening", timeout=20_000)
        say(page, LINE)
        expect(page.get_by_label("Captions")).to_have_text(LINE)
    page.close()


def test_a_server_that_is_drained_lets_the_call_go_on_and_says_until_when(browser: Browser) -> None:
    page = browser.new_page()
    with run_server(limits=ONE_SEAT | {"drain_s": 100}) as server:
        page.goto(server.url)
        call(page)
        assert page.request.post(f"{server.url}/v1/drain").status == 202
        expect(page.get_by_role("alert")).to_have_text("The server is going to restart. This call can go on for about 2 minutes.")
        say(page, LINE)
        expect(page.locator(".line")).to_have_attribute("data-status", "completed")
        assert stats(page)["numResumed"] == 0, "it is the same connection"
        server.process.send_signal(signal.SIGTERM)
        eventually(page, server.log, lambda log: "a second SIGTERM ends them" in log, "it waits for the call")
        server.process.send_signal(signal.SIGTERM)
        expect(page.locator("#welcome-title")).to_have_text("The call dropped")
        assert server.process.wait(20) == 0
    page.close()


def asked(route: Route) -> dict[str, str]:
    """What an offer asks for besides its media."""
    return {name: value for name, (value,) in parse_qs(urlsplit(route.request.url).query, keep_blank_values=True).items()}


def test_a_lost_connection_is_resumed(page: Page, server: RunningServer) -> None:
    """The server here knows no resuming: it takes the offer for a new call, and the page is told that it is the old one."""
    offers: list[dict[str, str]] = []
    free: list[bool] = []

    def resume(route: Route) -> None:
        offers.append(asked(route))
        if free:  # the one seat, which this server would hold for the old connection
            urlopen(Request(f"{server.url}/v1/sessions/{offers[-1]['session']}", method="DELETE"))
            route.continue_(url=f"{server.url}/whep")
        else:
            route.fulfill(status=503, body="{}")

    ended: list[str] = []
    page.on("request", lambda request: ended.append(request.url) if request.method == "DELETE" else None)
    page.add_init_script(f"({NUMBERED})()")
    page.reload()
    call(page)
    say(page, LINE)
    lines = page.locator(".line")
    expect(lines.nth(0)).to_have_attribute("data-status", "completed")
    session = stats(page)["session"]
    page.route("**/whep?*session=*", resume)
    page.evaluate("stand.cut()")
    say(page, "Typed meanwhile.")
    state(page).to_have_text("Reconnecting")
    expect(page.locator("#lost")).to_have_text("Connection lost. Reconnecting …")
    expect(page.locator("#welcome")).to_be_hidden()
    expect(page.locator("#stage")).to_have_attribute("data-state", "resuming")
    assert page.evaluate("getComputedStyle(document.getElementById('still')).opacity") == "1", "its last picture stays"
    expect(lines.nth(1).locator(".line-status")).to_have_text("Waiting for the connection")
    free.append(True)

    expect(lines.nth(1)).to_have_attribute("data-status", "completed")
    expect(lines).to_have_count(2)
    expect(lines.nth(0)).to_have_attribute("data-status", "completed")
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.locator("#lost")).to_be_hidden()
    seen = stats(page)
    assert seen["numResumed"] == 1
    assert offers[-1]["session"] == session["id"]
    assert int(offers[-1]["after"]) >= session["seq"]
    assert not ended, "a session that is to go on is not ended"
    page.get_by_role("button", name="Hang up").click()
    eventually(page, lambda: len(ended), lambda number: number == 1, "the session ends")


def test_a_session_that_is_over_begins_anew(page: Page) -> None:
    def gone(route: Route) -> None:
        problem = {"title": "Not found", "status": 404, "code": "unknown_session", "detail": "There is no such session."}
        route.fulfill(status=404, content_type="application/problem+json", body=json.dumps(problem))

    page.add_init_script(f"({NUMBERED})()")
    page.reload()
    page.route("**/whep?*session=*", gone)
    call(page)
    say(page, LONG_LINE)
    state(page).to_have_text("Speaking")
    page.evaluate("[stand.cut(), stand.created = 0]")
    say(page, "Typed meanwhile.")
    lines = page.locator(".line")
    expect(lines.nth(0).locator(".line-status")).to_have_text("Cut off")
    expect(page.get_by_role("alert")).to_contain_text("The conversation begins anew")
    expect(lines.nth(1)).to_have_attribute("data-status", "completed")
    assert stats(page)["numResumed"] == 0


def test_a_page_that_slept_asks_before_it_calls_the_server_silent(page: Page) -> None:
    call(page)
    state(page).to_have_text("Listening")
    session = page.locator("#stage").get_attribute("data-session")
    page.evaluate("() => { const end = performance.now() + 6000; while (performance.now() < end); }")
    say(page, LINE)
    expect(page.locator(".line")).to_have_attribute("data-status", "completed")
    assert page.locator("#stage").get_attribute("data-session") == session


def test_a_viewer_sees_what_is_said_and_has_nothing_to_type(browser: Browser, server: RunningServer) -> None:
    page = browser.new_page()
    offers: list[dict[str, str]] = []

    def watch_it(route: Route) -> None:
        offers.append(asked(route))
        route.continue_(url=f"{server.url}/whep")

    page.route("**/whep?*session=*", watch_it)
    page.goto(f"{server.url}/?session=abc&watch")
    expect(page.get_by_label("What should be said?")).to_be_hidden()
    expect(page.get_by_label("Scene")).to_be_hidden()
    page.get_by_role("button", name="Watch").click()
    state(page).to_have_text("Listening")
    assert offers == [{"session": "abc", "role": "watch"}]
    expect(page.get_by_text("You are watching a call.")).to_be_visible()
    session = page.locator("#stage").get_attribute("data-session")
    page.request.post(f"{server.url}/v1/sessions/{session}/events", data=LINE, headers={"Content-Type": "text/plain"})
    expect(page.locator(".line-text")).to_have_text(LINE)
    expect(page.get_by_role("button", name="Say it again")).to_be_hidden()
    page.get_by_role("button", name="Leave").click()
    state(page).to_have_text("Ended")
    expect(page.get_by_role("button", name="Watch again")).to_be_focused()
    page.close()


def test_link_for_viewers(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    call(page)
    page.get_by_role("button", name="Copy link for viewers").click()
    expect(page.get_by_role("alert")).to_contain_text("copied")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url + f"?session={stats(page)['session']['id']}&watch"


def test_a_token_goes_along_and_is_not_shown(browser: Browser, server: RunningServer) -> None:
    page = browser.new_page()
    sent: list[tuple[str, str | None]] = []
    page.on("request", lambda request: sent.append((urlsplit(request.url).path, request.headers.get("authorization"))))
    page.goto(f"{server.url}/#token=abc.def")
    call(page)
    assert page.url == f"{server.url}/"
    for path in ("/whep", "/v1/avatars", "/readyz"):
        assert {token for asked_for, token in sent if asked_for == path} == {"Bearer abc.def"}, path
    page.get_by_role("button", name="Hang up").click()
    state(page).to_have_text("Ended")
    page.route("**/whep*", lambda route: route.fulfill(status=401, body="{}"))
    page.get_by_role("button", name="Call again").click()
    expect(page.locator("#welcome-text")).to_contain_text("does not take the key of your link")
    page.close()


def test_a_call_is_recorded_and_the_browser_seeks_in_it(browser: Browser, tmp_path: Path) -> None:
    with run_server("fake", recording={"directory": str(tmp_path)}) as server:
        page = browser.new_page()
        page.goto(server.url)
        call(page)
        page.get_by_role("button", name="Record").click()
        expect(page.get_by_role("button", name="Stop recording")).to_have_attribute("aria-pressed", "true")
        say(page, LINE)
        page.wait_for_timeout(5000)
        page.get_by_role("button", name="Stop recording").click()
        with page.expect_download() as downloading:
            page.get_by_role("link", name="Save the recording").click()
        assert downloading.value.suggested_filename.startswith(stats(page)["session"]["id"])
        # What runs when the caller hangs up ends with the call, and is there, too.
        page.get_by_role("button", name="Record").click()
        button = page.get_by_role("button", name="Stop recording")
        expect(button).to_be_visible()
        page.wait_for_timeout(1000)
        page.get_by_role("button", name="Hang up").click()
        second = str(page.get_by_role("link", name="Save the recording").get_attribute("href"))
        first, last = sorted(tmp_path.iterdir())
        assert second.endswith(last.name)
        eventually(page, lambda: list(tmp_path.glob(".*")), lambda parts: not parts, "the recording is finished")
        for path, at_least_s in ((last, 0.5), (first, 4)):
            page.goto(f"{server.url}/v1/sessions/{path.name.partition('-')[0]}/recordings/{path.name}")
            page.wait_for_function("document.querySelector('video')?.readyState >= 2")
            assert page.evaluate("document.querySelector('video').duration") > at_least_s
        page.evaluate("""() => new Promise((resolve) => {
            const video = document.querySelector("video");
            video.onseeked = resolve;
            video.pause();
            video.currentTime = 3.1;
        })""")
        assert abs(page.evaluate("document.querySelector('video').currentTime") - 3.1) < 0.05
        page.close()


def test_who_may_not_record_has_no_button_for_it(browser: Browser, server: RunningServer) -> None:
    page = browser.new_page()
    page.goto(server.url)
    call(page)
    assert page.locator("#record").is_hidden(), "this server keeps no recordings"
    page.close()


def test_the_lines_of_the_readme_embed_a_call(browser: Browser, server: RunningServer, tmp_path: Path) -> None:
    """From another origin than the server's."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (html,) = re.findall(r"```html\n(.*?)```", readme, re.DOTALL)
    (tmp_path / "index.html").write_text(html.replace("http://127.0.0.1:8080", server.url))
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{other.server_port}/")
        page.get_by_role("button", name="Talk to me").click()
        face = "[face.videoWidth, face.srcObject?.getAudioTracks().length]"
        eventually(page, lambda: page.evaluate(face), lambda now: now == [256, 1], "picture and sound")
        page.close()
        other.shutdown()


def test_a_lost_prompt_is_sent_again_and_said_once(page: Page) -> None:
    page.evaluate(
        """() => {
            const send = RTCDataChannel.prototype.send;
            window.prompts = 0;
            RTCDataChannel.prototype.send = function (data) {
                if (data.includes("response.create") && ++window.prompts < 3) return;
                send.call(this, data);
                if (window.prompts === 3) send.call(this, data); // and a repetition that was not needed
            };
        }"""
    )
    call(page)
    say(page, LINE)
    expect(page.locator(".line")).to_have_attribute("data-status", "completed")
    state(page).to_have_text("Listening")
    expect(page.get_by_label("Captions")).to_have_text(LINE)
    assert page.evaluate("window.prompts") == 3
    expect(page.get_by_role("alert")).to_be_hidden()


def test_keyboard_alone(page: Page) -> None:
    page.get_by_role("button", name="Call").focus()
    page.keyboard.press("Enter")
    eventually(page, lambda: stats(page)["state"], lambda now: now == "connected", "a call")
    expect(page.get_by_label("What should be said?")).to_be_focused()
    page.keyboard.type("Two")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type(f"lines. {LONG_LINE}")
    page.keyboard.press("Enter")
    state(page).to_have_text("Speaking")
    page.keyboard.press("Escape")
    expect(page.locator(".line")).to_have_attribute("data-status", "cancelled")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "hangup":
            break
    page.keyboard.press("Enter")
    state(page).to_have_text("Ended")


def test_everything_has_a_name(page: Page) -> None:
    call(page)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, video, [role]")]
            .filter((element) => element.checkVisibility())
            .filter((element) => !(element.ariaLabel || element.labels?.length || element.innerText?.trim()
                || element.getAttribute("aria-labelledby")))
            .map((element) => element.outerHTML)"""
    )
    assert nameless == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(ids) == len(set(ids))
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.locator("h1:visible").count() == page.locator("h1").count() == 1


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_phone_width(browser: Browser, server: RunningServer, colours: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=colours, has_touch=True)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(server.url)
    too_wide = "document.documentElement.scrollWidth > innerWidth"
    assert not page.evaluate(too_wide)
    call(page)
    page.get_by_role("button", name="Latency and health").click()
    expect(page.get_by_label("Latency and health", exact=True).locator("visible=true").first).to_be_visible()
    say(page, "Supercalifragilisticexpialidocious " * 3)
    state(page).to_have_text("Speaking")
    assert not page.evaluate(too_wide)
    for name in ("Send", "Interrupt", "Hang up", "Mute"):
        expect(page.get_by_role("button", name=name)).to_be_in_viewport()
    context.close()


@pytest.mark.parametrize(("width", "height"), [(640, 400), (844, 390), (320, 256)])
def test_low_windows(page: Page, width: int, height: int) -> None:
    """A page at 200 % and 400 %, and a phone on its side: nothing that is pressed is cut off or lies over the picture."""
    page.set_viewport_size({"width": width, "height": height})
    page.reload()
    call(page)
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
    picture = page.locator("#video").bounding_box()
    assert picture is not None
    for name in ("Hang up", "Mute", "Latency and health"):
        button = page.get_by_role("button", name=name).bounding_box()
        assert button is not None
        assert button["y"] >= picture["y"] + picture["height"], "below the picture"
        assert button["x"] >= 0
        assert button["x"] + button["width"] <= width
    if width > 600:
        page.evaluate("scrollTo(0, 0)")
        for name in ("Send", "Hang up"):
            expect(page.get_by_role("button", name=name)).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1000, 620)])
def test_a_desktop_window_does_not_scroll(page: Page, width: int, height: int) -> None:
    page.set_viewport_size({"width": width, "height": height})
    page.reload()
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")
    call(page)
    page.get_by_role("button", name="Latency and health").click()
    for figure in ("#h-fps", "#h-bitrate", "#h-rtt"):
        expect(page.locator(figure)).to_have_text(re.compile(r"\d"))
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")


def test_what_was_chosen_is_remembered(page: Page) -> None:
    call(page)
    page.get_by_role("button", name="Latency and health").click()
    expect(page.get_by_text("Round trip")).to_be_visible()
    page.get_by_role("button", name=re.compile("Auto")).click()
    page.get_by_role("button", name="Hang up").click()
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    call(page)
    expect(page.get_by_text("Round trip")).to_be_visible()
    expect(page.locator("#h-fps")).to_have_text(re.compile(r"2\d fps"))


def test_captions_go_after_the_last_word_and_leave_no_word_alone(page: Page) -> None:
    call(page)
    say(page, LINE)
    expect(page.get_by_label("Captions")).to_have_text(LINE)
    expect(page.get_by_label("Captions")).to_have_text("")
    shown = page.evaluate(
        """async () => {
            const { Captions } = await import("/captions.js");
            const element = document.getElementById("captions");
            const captions = new Captions(element);
            const words = "We all met again, on a rainy day in November, in the old town hall.".split(" ");
            const shown = [];
            for (let i = 0; i < 60; i++) {
                captions.add(words[i % words.length]);
                const now = element.textContent;
                if (shown.length && now.startsWith(shown.at(-1))) shown.pop();
                shown.push(now);
            }
            return shown;
        }"""
    )
    assert len(shown) > 2
    assert all(text.startswith(("We ", "on ", "in ")) for text in shown), shown


def test_a_long_text_is_folded_and_its_length_told(page: Page) -> None:
    call(page)
    field = page.get_by_label("What should be said?")
    field.fill("This is one of many sentences. " * 90)
    expect(page.locator("#length")).to_have_text("2789 of 4000 characters, about 3 minutes")
    field.press("Enter")
    expect(page.locator("#length")).to_be_hidden()
    row = page.locator(".line-text")
    folded = row.bounding_box()
    page.get_by_role("button", name="Show all").click()
    unfolded = row.bounding_box()
    assert folded
    assert unfolded
    assert 3 * folded["height"] < unfolded["height"]
    say(page, LINE)
    expect(page.get_by_role("button", name="Show all")).to_have_count(0)


def test_what_is_not_english_is_noticed(page: Page) -> None:
    texts = {
        "Guten Tag, wie geht es dir?": "German",
        "Ich habe heute keine Zeit, aber wir sehen uns morgen und das ist gut.": "German",
        "Bonjour, je suis très content de vous voir.": "French",
        "Hola, ¿cómo estás? Estoy muy bien y el día es bonito.": "Spanish",
        "Hello, nice to meet you.": None,
        "To die, or not to die: that is the question.": None,
        "The war in the Ukraine, con artists, and the Los Angeles police.": None,
        "He said: ich bin ein Berliner, and everybody was delighted to hear it.": None,
        "Voilà!": None,
    }
    guess = (
        "async (texts) => { const { foreignLanguageOf } = await import('/language.js'); return texts.map(foreignLanguageOf); }"
    )
    assert dict(zip(texts, page.evaluate(guess, list(texts)), strict=True)) == texts


def test_the_look_is_shown_until_the_first_picture(page: Page) -> None:
    portrait = "getComputedStyle(document.querySelector('.portrait')).display"
    shown = f"[getComputedStyle(poster).opacity, poster.naturalWidth > 0, {portrait}]"
    eventually(page, lambda: page.evaluate(shown), lambda now: now == ["1", True, "none"], "the look that is chosen at first")
    page.get_by_role("radio", name="Omar").check(force=True)
    expect(page.locator("#poster")).to_have_attribute("src", "looks/omar.webp")
    page.get_by_label("Scene").fill("A robot on the moon.")
    assert page.evaluate(shown)[::2] == ["0", "block"], "a look of one's own has no picture yet"


def test_the_buttons_fade_and_the_first_touch_only_brings_them_back(browser: Browser, server: RunningServer) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 780}, has_touch=True)
    page = context.new_page()
    page.goto(server.url)
    call(page)
    button = page.get_by_role("button", name="Hang up").bounding_box()
    assert button
    expect(page.locator("#bar")).to_have_css("opacity", "0")
    page.touchscreen.tap(button["x"] + 20, button["y"] + 20)
    expect(page.locator("#bar")).to_have_css("opacity", "1")
    assert stats(page)["state"] == "connected"
    page.touchscreen.tap(button["x"] + 20, button["y"] + 20)
    state(page).to_have_text("Ended")
    context.close()


def test_a_call_that_is_relayed_only(browser: Browser) -> None:
    if shutil.which("turnserver") is None:
        pytest.skip(NO_COTURN)
    with run_turn("north") as url, run_server(ice={"servers": [{"urls": [url], "secret": "north"}]}) as server:
        page = browser.new_page()
        page.add_init_script(
            """const Peer = window.RTCPeerConnection;
            window.RTCPeerConnection = class extends Peer {
                constructor(given) {
                    super({ ...given, iceTransportPolicy: "relay" });
                    window.peer = this;
                }
            };"""
        )
        page.goto(server.url)
        call(page)
        say(page, LINE)
        expect(page.locator(".line")).to_have_attribute("data-status", "completed")
        kinds = page.evaluate(
            """async () => {
                const report = await window.peer.getStats();
                const used = [...report.values()].filter(({ type, nominated }) => type === "candidate-pair" && nominated);
                return used.map(({ localCandidateId }) => report.get(localCandidateId).candidateType);
            }"""
        )
        assert set(kinds) == {"relay"}
        page.close()
