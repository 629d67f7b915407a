"""The page in real Chromium where the server listens: its microphone plays a recording; what is heard in it is a script."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from testkit.browser import NO_CHROMIUM, RunningServer, call, chromium_path, microphone_flags, open_browser, run_server, say
from testkit.threads import in_a_thread
from testkit.transcription_server import TranscriptionServer, transcription_server

pytest.importorskip("silero_vad")
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(chromium_path() is None, reason=NO_CHROMIUM)]

QUESTION = Path(__file__).parents[1] / "data" / "question.wav"
LONG_LINE = "This is a rather long line that would go on and on and on, unless somebody stopped it before its very last word."

expect.set_options(timeout=20_000)  # a safety net: a busy machine may take its time


@pytest.fixture(scope="module")
def recogniser() -> Iterator[TranscriptionServer]:
    with in_a_thread(transcription_server("What time is it?")) as server:
        yield server


@pytest.fixture(scope="module")
def server(recogniser: TranscriptionServer) -> Iterator[RunningServer]:
    with run_server(listen={"recognizer": recogniser.base_url}) as running:
        yield running


@pytest.fixture
def page(server: RunningServer) -> Iterator[Page]:
    """In a browser of its own: a microphone plays its recording once."""
    with open_browser(*microphone_flags(QUESTION)) as browser, contextlib.closing(browser.new_page()) as opened:
        opened.goto(server.url)
        yield opened


@pytest.fixture(scope="module")
def deaf(recogniser: TranscriptionServer) -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


def test_what_is_said_is_shown_while_it_is_said_and_interrupts(page: Page) -> None:
    call(page)
    say(page, LONG_LINE)
    lines = page.locator(".line")
    expect(lines.nth(0).locator(".heard")).to_contain_text("rather long")
    page.get_by_role("button", name="Talk").click()
    talk = page.locator("#talk")
    expect(talk).to_have_attribute("data-state", "hearing")
    expect(lines.nth(0)).to_have_attribute("data-status", "cancelled")
    expect(lines.nth(0).locator(".unheard")).to_contain_text("its very last word.")
    expect(lines.nth(1)).to_have_attribute("data-status", "hearing")
    expect(lines.nth(1).locator(".question")).to_have_text("What time is it?")
    expect(lines.nth(1)).to_have_attribute("data-status", "completed")
    expect(lines.nth(1).locator(".line-text")).to_have_text("What time is it?")
    expect(talk).to_have_attribute("data-state", "listening")
    expect(lines).to_have_count(2)

    talk.click()
    expect(talk).to_have_text("Muted")
    talk.click()
    expect(talk).to_have_text("Listening")
    page.get_by_role("button", name="Hang up").click()
    expect(talk).to_have_text("Talk")


def test_space_is_held_to_talk_and_a_call_begins_with_it(page: Page) -> None:
    talk = page.locator("#talk")
    expect(talk).to_be_visible()
    page.keyboard.down("Space")
    expect(talk).to_have_attribute("data-state", re.compile("listening|hearing"))
    expect(page.locator(".question")).to_have_text("What time is it?")
    page.keyboard.up("Space")
    expect(talk).to_have_text("Muted")
    page.get_by_label("What should be said?").fill("a")
    page.keyboard.press("Space")
    expect(page.get_by_label("What should be said?")).to_have_value("a ")
    expect(talk).to_have_text("Muted")


@pytest.mark.parametrize(
    ("without", "words"),
    [
        (
            "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError'); };",
            "is not allowed",
        ),
        (
            "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotFoundError'); };",
            "There is no microphone",
        ),
        (
            "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotReadableError'); };",
            "another program",
        ),
        ("Object.defineProperty(navigator, 'mediaDevices', { value: undefined });", "by https"),
    ],
    ids=["not allowed", "none", "in use", "insecure"],
)
def test_why_there_is_no_microphone_is_said(deaf: Browser, server: RunningServer, without: str, words: str) -> None:
    with contextlib.closing(deaf.new_page()) as page:
        page.add_init_script(without)
        page.goto(server.url)
        page.get_by_role("button", name="Talk").click()
        expect(page.get_by_role("alert")).to_contain_text(words)
        expect(page.locator("#talk")).to_have_text("Talk")


def test_where_nobody_listens_there_is_no_button(deaf: Browser) -> None:
    with run_server() as server, contextlib.closing(deaf.new_page()) as page:
        page.goto(server.url)
        call(page)
        expect(page.locator("#talk")).to_be_hidden()
