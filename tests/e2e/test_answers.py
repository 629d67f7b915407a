"""The page in real Chromium where a language model answers; the model is a script."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from testkit.browser import NO_CHROMIUM, call, chromium_path, open_browser, run_server
from testkit.chat_server import ChatServer, Script, Stream, chat_server
from testkit.threads import in_a_thread

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(chromium_path() is None, reason=NO_CHROMIUM)]

expect.set_options(timeout=20_000)  # a safety net: a busy machine may take its time


@contextlib.asynccontextmanager
async def model(*scripts: Script | int | str) -> AsyncIterator[ChatServer]:
    async with chat_server() as server:
        server.then(*scripts)
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


def ask(page: Page, text: str) -> None:
    page.get_by_label("What do you want to say?").fill(text)
    page.keyboard.press("Enter")


async def endless(stream: Stream) -> None:
    await stream.say("This story goes on and on. " * 200, words_per_s=20)


def test_what_is_typed_is_answered_and_both_sides_are_shown(browser: Browser) -> None:
    with (
        in_a_thread(model("Hello to you, too.", endless, "<b>Gladly.</b>", 500)) as asked,
        run_server(llm={"base_url": asked.base_url, "model": "m"}) as server,
        contextlib.closing(browser.new_page()) as page,
    ):
        page.goto(server.url)
        expect(page.locator("#welcome-title")).to_have_text("Ask something, hear the answer.")
        call(page)
        lines, questions = page.locator(".line"), page.locator(".question")
        ask(page, "Hello!")
        expect(page.get_by_label("Captions")).to_have_text("Hello to you, too.")
        expect(lines.nth(0)).to_have_attribute("data-status", "completed")
        expect(questions.nth(0)).to_have_text("Hello!")
        expect(lines.nth(0).locator(".line-text")).to_have_text("Hello to you, too.")

        ask(page, "Tell me a story.")
        expect(lines.nth(1).locator(".heard")).to_contain_text("story goes")
        page.keyboard.press("Escape")
        expect(lines.nth(1)).to_have_attribute("data-status", "cancelled")
        heard = lines.nth(1).locator(".heard").inner_text()

        ask(page, "Say thanks.")
        expect(lines.nth(2)).to_have_attribute("data-status", "completed")
        assert asked.messages(2)[-3:] == [("user", "Tell me a story."), ("assistant", heard), ("user", "Say thanks.")]

        ask(page, "Fail.")
        expect(page.get_by_role("alert")).to_contain_text("failed (HTTP 500)")
        expect(lines.nth(3)).to_have_attribute("data-status", "failed")
        expect(lines.nth(3).locator(".line-text")).to_contain_text("my language model does not answer")

        with contextlib.closing(browser.new_page()) as watcher:
            session = page.locator("#stage").get_attribute("data-session")
            watcher.goto(f"{server.url}/?session={session}&watch")
            call_button = watcher.get_by_role("button", name="Watch")
            call_button.click()
            expect(watcher.get_by_role("status")).to_have_text("Listening")
            lines.nth(0).get_by_role("button", name="Ask it again").click()
            expect(watcher.locator(".question")).to_have_text("Hello!")
