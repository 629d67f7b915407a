"""The same page where the server listens: the library's microphone plays a recording; what is heard in it is a script."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

import pytest

from testkit.browser import NO_CHROMIUM, chromium_path, microphone_flags, open_browser, run_server
from testkit.clients import NO_CLIENTS, has_clients
from testkit.threads import in_a_thread
from testkit.transcription_server import transcription_server
from tests.e2e.test_answers import model
from tests.e2e.test_realtime import build, call, example, said, wait_for

pytest.importorskip("silero_vad")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(chromium_path() is None, reason=NO_CHROMIUM),
    pytest.mark.skipif(not has_clients(), reason=NO_CLIENTS),
]

QUESTION = Path(__file__).parents[1] / "data" / "question.wav"


def test_what_is_said_is_an_item_of_the_librarys_history_and_answered(tmp_path: Path) -> None:
    build(tmp_path, example("js page"))
    with (
        in_a_thread(transcription_server("What time is it?")) as recogniser,
        in_a_thread(model("It is noon.")) as asked,
        run_server(
            http={"static_dir": str(tmp_path)},
            llm={"base_url": asked.base_url, "model": "m"},
            listen={"recognizer": recogniser.base_url},
        ) as server,
        open_browser(*microphone_flags(QUESTION)) as browser,
        contextlib.closing(browser.new_page()) as page,
    ):
        page.goto(server.url)
        call(page)
        wait_for(page, "response.done")
        assert said(page) == [("user", "completed", "What time is it?"), ("assistant", "completed", "It is noon.")]
        kinds = [event["type"] for event in page.evaluate("told")]
        assert kinds.index("input_audio_buffer.speech_started") < kinds.index("input_audio_buffer.committed")
        assert Counter(kinds) <= Counter(page.evaluate("understood"))
