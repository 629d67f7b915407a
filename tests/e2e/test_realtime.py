"""OpenAI's own library for browsers in real Chromium, unmodified: the page of docs/realtime.md, and a real server."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from testkit.browser import (
    FAKE_MICROPHONE,
    NO_CHROMIUM,
    RunningServer,
    chromium_path,
    eventually,
    open_browser,
    run_server,
)
from testkit.chat_server import Stream
from testkit.clients import NO_CLIENTS, bundle, has_clients
from testkit.threads import in_a_thread
from tests.e2e.test_answers import model

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(chromium_path() is None, reason=NO_CHROMIUM),
    pytest.mark.skipif(not has_clients(), reason=NO_CLIENTS),
]

DOCS = (Path(__file__).parent.parent.parent / "docs" / "realtime.md").read_text()
LINE = "Hello, nice to meet you."
VOICE_DB = -45
LONG_LINE = "This is a rather long line that would go on and on and on, unless somebody stopped it before its very last word."
WATCH = """
Object.assign(window, { session, transport, told: [], understood: {}, loudestDb: -200 });
const understood = (event) => (window.understood[event.type] = (window.understood[event.type] ?? 0) + 1);
const types = new Set();
transport.on("*", (event) => {
  window.told.push(event);
  if (!types.has(event.type)) transport.on(event.type, understood);
  types.add(event.type);
});
video.onplaying = () => {
  const context = new AudioContext();
  const analyser = new AnalyserNode(context, { fftSize: 8192, smoothingTimeConstant: 0 });
  context.createMediaStreamSource(video.srcObject).connect(analyser);
  const levels = new Float32Array(Math.round((1500 / context.sampleRate) * analyser.fftSize));
  setInterval(() => {
    analyser.getFloatFrequencyData(levels);
    window.loudestDb = Math.max(window.loudestDb, ...levels);
  }, 20);
};
"""
"""Keeps what the library is told, and what of it fits its schemas: only that is handed on under its own name. And how loud it was
in the stream of the picture, below the beep of the deterministic engine."""
PICTURE = """() => {
    const video = document.querySelector("video");
    const context = new OffscreenCanvas(video.videoWidth || 1, video.videoHeight || 1).getContext("2d");
    context.drawImage(video, 0, 0);
    const shades = new Set(context.getImageData(0, 0, context.canvas.width, context.canvas.height).data);
    return [video.videoWidth, video.getVideoPlaybackQuality().totalVideoFrames, shades.size];
}"""
TOOL = """
import { tool } from "@openai/agents-realtime";
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false };
const weather = ({ city }) => `It rains in ${city}.`;
const tools = [tool({ name: "weather", description: "The weather.", parameters, strict: true, execute: weather })];
"""

expect.set_options(timeout=20_000)  # a safety net: a busy machine may take its time


def example(tag: str) -> str:
    return re.findall(rf"```{tag}\n(.*?)```", DOCS, re.DOTALL)[0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser(*FAKE_MICROPHONE) as opened:
        yield opened


def build(site: Path, script: str) -> None:
    """A page with this script, which is watched."""
    (site / "index.html").write_text(example("html index.html"))
    bundle(script + WATCH, site / "page.js")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    build(site, example("js page"))
    (site / "elsewhere.html").write_text(example("html index.html").replace("page.js", "elsewhere.js"))
    bundle(example("js page").replace("location)", "`http://127.0.0.1:${location.port}`)") + WATCH, site / "elsewhere.js")
    return site


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[RunningServer]:
    with run_server(
        http={"static_dir": str(site), "allowed_origins": ["*"]}, limits={"max_sessions": 1, "retry_after_s": 1}
    ) as running:
        yield running


@pytest.fixture
def page(browser: Browser, server: RunningServer) -> Iterator[Page]:
    with contextlib.closing(browser.new_page()) as opened:
        opened.goto(server.url)
        yield opened
        hang_up(opened)


def call(page: Page) -> None:
    page.get_by_role("button", name="Call").click()
    eventually(page, lambda: page.evaluate(PICTURE), lambda seen: seen[0] == 256 and seen[1] > 5 and seen[2] > 8, "a picture")


def hang_up(page: Page) -> None:
    """The library tells the server by its connection alone."""
    page.evaluate("session.close()")
    metrics = f"{page.url}metrics"
    eventually(page, lambda: page.request.get(metrics).text(), lambda text: 'seats{state="taken"} 0.0' in text, "a free seat")


def say(page: Page, text: str) -> None:
    page.get_by_role("textbox").fill(text)
    page.keyboard.press("Enter")


def told(page: Page, kind: str) -> list[dict[str, Any]]:
    """The events of a type so far."""
    events: list[dict[str, Any]] = page.evaluate("kind => told.filter((event) => event.type === kind)", kind)
    return events


def wait_for(page: Page, kind: str, count: int = 1) -> list[dict[str, Any]]:
    return eventually(page, lambda: told(page, kind), lambda events: len(events) >= count, kind)


def said(page: Page) -> list[tuple[str, str, str]]:
    """The history that the library keeps: who, how it stands, what."""
    history = page.evaluate("session.history.filter((item) => item.type === 'message')")
    return [(i["role"], i["status"], i["content"][0].get("text") or i["content"][0].get("transcript")) for i in history]


def test_text_is_spoken_by_a_face_and_each_event_is_understood(page: Page) -> None:
    call(page)
    assert page.evaluate("loudestDb") < VOICE_DB
    say(page, LINE)
    wait_for(page, "output_audio_buffer.stopped")
    expect(page.locator("p")).to_have_text(LINE)
    assert said(page) == [("user", "completed", LINE), ("assistant", "completed", LINE)]
    eventually(page, lambda: page.evaluate("loudestDb"), lambda level: level > VOICE_DB, "a voice")
    kinds = Counter(event["type"] for event in page.evaluate("told"))
    assert kinds <= Counter(page.evaluate("understood")), "what does not fit the library's schemas is not understood"
    assert told(page, "error") == []


def test_a_line_interrupts_and_history_keeps_what_was_heard(page: Page) -> None:
    call(page)
    say(page, LONG_LINE)
    wait_for(page, "response.output_audio_transcript.delta", 3)
    say(page, "Stop it.")
    first, second = (event["response"] for event in wait_for(page, "response.done", 2))
    assert (first["status"], second["status"]) == ("cancelled", "completed")
    wait_for(page, "conversation.item.retrieved")
    (_, cut, line), (_, whole, answer) = (entry for entry in said(page) if entry[0] == "assistant")
    assert (cut, whole, answer) == ("incomplete", "completed", "Stop it.")
    assert LONG_LINE.startswith(line)
    assert line != LONG_LINE
    (truncated,) = told(page, "conversation.item.truncated")
    assert 0 < truncated["audio_end_ms"] < 10_000


def test_a_page_of_another_origin_calls_and_is_told_why_it_cannot(page: Page, browser: Browser) -> None:
    call(page)
    with contextlib.closing(browser.new_page()) as other:
        other.goto(page.url.replace("127.0.0.1", "localhost") + "elsewhere.html")
        other.get_by_role("button", name="Call").click()
        expect(other.locator("p")).to_have_text(re.compile("status 503: The only seat is taken. Try again in 1 s."))
        hang_up(page)
        call(other)
        say(other, "Here.")
        wait_for(other, "response.done")
        other.evaluate("session.close()")


def test_a_page_chooses_who_is_seen_and_its_tool_is_called(browser: Browser, tmp_path: Path) -> None:
    async def asks_the_page(stream: Stream) -> None:
        await stream.call("weather", {"city": "Oslo"}, "call-1")

    agent = 'name: "Clara", instructions: "You know the weather.", tools'
    script = example("js page").replace('name: "Clara"', agent).replace("{ transport }", example("js look"))
    build(tmp_path, TOOL + script)
    with (
        in_a_thread(model(asks_the_page, "It does.", "You are welcome.")) as asked,
        run_server(
            http={"static_dir": str(tmp_path)},
            llm={"base_url": asked.base_url, "model": "m"},
        ) as server,
        contextlib.closing(browser.new_page()) as page,
    ):
        page.goto(server.url)
        call(page)
        known = page.request.get(f"{page.url}v1/avatars").json()
        (scene,) = [avatar["scene"] for avatar in known["avatars"] if avatar["id"] == "adam"]
        (voice,) = [voice["voice"] for voice in known["voices"] if voice["id"] == "firm-male"]

        def seen() -> list[tuple[str, str]]:
            sessions = [event["session"] for event in told(page, "session.updated")]
            return [(session["avatar"]["scene"], session["audio"]["output"]["voice"]) for session in sessions]

        eventually(page, seen, lambda looks: (scene, voice) in looks, "another look and voice")
        say(page, "Does it rain in Oslo?")
        wait_for(page, "response.done", 2)
        say(page, "Thanks.")
        wait_for(page, "output_audio_buffer.stopped", 2)
        assert asked.requests[0]["messages"][0]["content"].endswith("You know the weather.")
        assert asked.requests[1]["messages"][-1]["content"] == "It rains in Oslo."
        answers = [text for role, _, text in said(page) if role == "assistant"]
        assert answers == ["It does.", "You are welcome."]
        assert told(page, "error") == []
