"""Pipecat's clients in real Chromium, unmodified: the page of docs/rtvi.md, and a real server with the deterministic engine."""

from __future__ import annotations

import contextlib
import re
import signal
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from testkit.browser import FAKE_MICROPHONE, NO_CHROMIUM, RunningServer, chromium_path, eventually, open_browser, run_server
from testkit.clients import NO_CLIENTS, bundle, has_clients
from testkit.threads import in_a_thread
from testkit.transcription_server import transcription_server

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(chromium_path() is None, reason=NO_CHROMIUM),
    pytest.mark.skipif(not has_clients(), reason=NO_CLIENTS),
]

DOCS = (Path(__file__).parent.parent.parent / "docs" / "rtvi.md").read_text()
QUESTION = Path(__file__).parents[1] / "data" / "question.wav"
LONG_LINE = "This is a rather long line that would go on and on and on, unless somebody stopped it before its very last word."
WATCH = """
import { RTVIEvent } from "@pipecat-ai/client-js";
window.client = client;
window.heard = [];
for (const name of Object.values(RTVIEvent)) client.on(name, (data) => window.heard.push([name, data?.kind ?? data ?? null]));
"""
"""Keeps all that the client tells its page."""
PICTURE = """() => {
    const video = document.querySelector("video");
    const context = new OffscreenCanvas(video.videoWidth || 1, video.videoHeight || 1).getContext("2d");
    context.drawImage(video, 0, 0);
    const shades = new Set(context.getImageData(0, 0, context.canvas.width, context.canvas.height).data);
    return [video.videoWidth, video.getVideoPlaybackQuality().totalVideoFrames, shades.size];
}"""

expect.set_options(timeout=20_000)  # a safety net: a busy machine may take its time


def example(tag: str) -> str:
    return re.findall(rf"```{tag}\n(.*?)```", DOCS, re.DOTALL)[0]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Its microphone asks a question, and pauses, again and again; this is heard where the server listens."""
    asked = tmp_path_factory.mktemp("microphone") / "question.wav"
    with wave.open(str(QUESTION)) as question, wave.open(str(asked), "wb") as loop:
        loop.setparams(question.getparams())
        loop.writeframes(question.readframes(question.getnframes()))
        loop.writeframes(bytes(4 * question.getframerate() * question.getsampwidth()))
    with open_browser(*FAKE_MICROPHONE, f"--use-file-for-fake-audio-capture={asked}") as opened:
        yield opened


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    (site / "index.html").write_text(example("html index.html"))
    bundle(example("js page") + WATCH, site / "page.js")
    return site


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[RunningServer]:
    with run_server(http={"static_dir": str(site)}, limits={"max_sessions": 1, "retry_after_s": 1}) as running:
        yield running


@pytest.fixture
def page(browser: Browser, server: RunningServer) -> Iterator[Page]:
    with contextlib.closing(browser.new_page()) as opened:
        opened.goto(server.url)
        yield opened
        hang_up(opened)


def call(page: Page) -> None:
    page.get_by_role("button", name="Call").click()
    wait_for(page, lambda heard: "botReady" in heard)


def hang_up(page: Page) -> None:
    page.evaluate("window.client.disconnect()")
    eventually(page, lambda: seats_taken(page), lambda taken: taken == 0, "a free seat")


def say(page: Page, text: str) -> None:
    page.get_by_role("textbox").fill(text)
    page.keyboard.press("Enter")


def told(page: Page) -> list[tuple[str, Any]]:
    """What the client has told its page, in order."""
    return [(name, data) for name, data in page.evaluate("window.heard")]


def wait_for(page: Page, holds: Callable[[list[str]], bool]) -> None:
    eventually(page, lambda: [name for name, _ in told(page)], holds, "what the client tells its page")


def seats_taken(page: Page) -> int:
    response = page.request.get(page.url + "metrics")
    return round(float(re.findall(r'seats{state="taken"} (\S+)', response.text())[0]))


def test_text_is_spoken_by_a_face_and_told_as_it_is_heard(page: Page) -> None:
    call(page)
    eventually(page, lambda: page.evaluate(PICTURE), lambda seen: seen[0] == 256 and seen[1] > 10 and seen[2] > 8, "a picture")
    say(page, "Hello, nice to meet you.")
    wait_for(page, lambda heard: "botStoppedSpeaking" in heard)
    expect(page.locator("p")).to_have_text("Hello, nice to meet you.")
    seen = told(page)
    names = [name for name, _ in seen if name.startswith("bot") and name != "botOutput"]
    assert names[names.index("botReady") + 1 :] == [
        *("botLlmStarted", "botLlmText", "botTranscript", "botLlmStopped", "botTtsStarted", "botStartedSpeaking"),
        *["botTtsText"] * 5,
        *("botStoppedSpeaking", "botTtsStopped"),
    ]
    assert [data["text"] for name, data in seen if name == "botTtsText"] == ["Hello,", "nice", "to", "meet", "you."]
    outputs = [data for name, data in seen if name == "botOutput"]
    assert [output["spoken_status"] for output in outputs] == ["new", *["in-progress"] * 5, "completed"]
    assert outputs[1]["spoken_progress"] == {"accumulated_text": "Hello,", "remaining_text": " nice to meet you."}
    ready = next(data for name, data in seen if name == "botReady")
    assert (ready["version"], ready["about"]["model"]) == ("2.1.0", "fake")
    assert {data for name, data in seen if name == "trackStarted"} >= {"audio", "video"}


def test_a_line_interrupts_and_a_ping_is_not_spoken(page: Page) -> None:
    call(page)
    say(page, LONG_LINE)
    wait_for(page, lambda heard: heard.count("botTtsText") > 2)
    say(page, "Stop it.")
    wait_for(page, lambda heard: heard.count("botStoppedSpeaking") == 2)
    spoken = [data["text"] for name, data in told(page) if name == "botTtsText"]
    assert spoken[-2:] == ["Stop", "it."]
    assert spoken[:-2] == LONG_LINE.split()[: len(spoken) - 2], "nothing else was said, and no ping"
    assert len(spoken) - 2 < len(LONG_LINE.split())


def test_an_application_chooses_who_is_seen_and_is_told_what_is_wrong(page: Page) -> None:
    call(page)
    ask = "([t, d]) => window.client.sendClientRequest(t, d).catch((refused) => refused.data)"
    updated = page.evaluate(ask, ["avatar.update", {"scene": "A man in a red shirt."}])
    assert updated["scene"] == "A man in a red shirt."
    spoken = page.evaluate(ask, ["avatar.speak", {"input": "Good evening.", "id": "r7"}])
    assert spoken == {"response_id": "r7", "position": 0}
    wait_for(page, lambda heard: "botStoppedSpeaking" in heard)
    assert page.evaluate(ask, ["avatar.interrupt", {}]) == {}
    for verb, fields, says in (("avatar.update", {"avatar": "nobody"}, "There is no avatar"), ("dance", {}, "avatar.speak")):
        assert says in page.evaluate(ask, [verb, fields])["error"]


def test_hanging_up_frees_the_seat_and_a_full_server_says_so(page: Page, browser: Browser) -> None:
    call(page)
    assert seats_taken(page) == 1
    with contextlib.closing(browser.new_page()) as other:
        other.goto(page.url)
        other.get_by_role("button", name="Call").click()
        expect(other.locator("p")).to_have_text(re.compile("^The only seat is taken. Try again in .* s.$"))
    hang_up(page)
    page.reload()
    call(page)


def test_a_client_that_loses_its_connection_comes_back_to_its_session(page: Page) -> None:
    call(page)
    session_id = page.evaluate("window.heard.find(([name]) => name === 'botReady')[1].about.session_id")
    page.evaluate("window.client.transport.attemptReconnection(true)")
    wait_for(page, lambda heard: heard.count("serverMessage") >= 2)
    created = "window.heard.filter(([name, data]) => name === 'serverMessage' && data.type === 'session.created')"
    eventually(page, lambda: page.evaluate(f"{created}.length"), lambda times: times == 2, "the session is told again")
    assert {each[1]["session_id"] for each in page.evaluate(created)} == {session_id}
    say(page, "Here again.")
    wait_for(page, lambda heard: "botStoppedSpeaking" in heard)
    expect(page.locator("p")).to_have_text("Here again.")
    assert seats_taken(page) == 1


def test_what_the_microphone_hears_is_told_and_repeated(browser: Browser, site: Path) -> None:
    pytest.importorskip("silero_vad")
    with (
        in_a_thread(transcription_server("What time is it?")) as recogniser,
        run_server(http={"static_dir": str(site)}, listen={"recognizer": recogniser.base_url}) as server,
        contextlib.closing(browser.new_page()) as page,
    ):
        page.goto(server.url)
        call(page)
        wait_for(page, lambda heard: {"userLlmText", "botTtsText"} <= set(heard))
        seen = told(page)
        names = [name for name, _ in seen]
        turn = [names.index(name) for name in ("userStartedSpeaking", "userStoppedSpeaking", "userLlmText", "botTtsText")]
        assert turn == sorted(turn)
        assert next(data for name, data in seen if name == "userLlmText") == {"text": "What time is it?"}
        final = next(data for name, data in seen if name == "userTranscript" and data["final"])
        assert (final["text"], final["user_id"]) == ("What time is it?", "user")


def test_who_is_in_a_session_that_is_ended_over_http_is_told(page: Page) -> None:
    call(page)
    session_id = page.evaluate("window.heard.find(([name]) => name === 'botReady')[1].about.session_id")
    assert page.request.delete(f"{page.url}v1/sessions/{session_id}").status == 204
    wait_for(page, lambda heard: "botDisconnected" in heard and "disconnected" in heard)


def test_a_server_that_ends_says_so(browser: Browser, site: Path) -> None:
    with run_server(http={"static_dir": str(site)}) as server, contextlib.closing(browser.new_page()) as page:
        page.goto(server.url)
        call(page)
        server.process.send_signal(signal.SIGINT)
        wait_for(page, lambda heard: "botDisconnected" in heard and "disconnected" in heard)
