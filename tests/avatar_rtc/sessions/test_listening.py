"""Calls in which the user speaks. What is heard in it a server of transcriptions is told beforehand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from avatar_rtc.app import Server
from avatar_rtc.client import Call
from avatar_rtc.config import ListenConfig, LlmConfig
from avatar_rtc.errors import CallError
from avatar_rtc.microphone import Microphone
from avatar_rtc.say import say
from model.evaluation.film import read_sound
from signaling.vocabulary import (
    AudioCleared,
    InputTranscript,
    InputTranscriptFailed,
    InputTranscriptUpdated,
    ItemAdded,
    ResponseCreate,
    ResponseCreated,
    ResponseDone,
    SessionCreated,
    SpeechStarted,
    SpeechStopped,
    TranscriptDelta,
)
from testkit.chat_server import chat_server
from testkit.transcription_server import TranscriptionServer, transcription_server
from tests.support.calls import make_config, serving

pytest.importorskip("silero_vad")

DATA = Path(__file__).parents[2] / "data"
LONG = "This is a rather long line that goes on and on, unless somebody speaks before its very last word is said."


@asynccontextmanager
async def hearing(
    *answers: str | int, llm: LlmConfig | None = None, query: str = "", **listen: Any
) -> AsyncIterator[tuple[Server, Call, Microphone, TranscriptionServer]]:
    async with transcription_server(*answers) as recogniser:
        config = make_config().model_copy(update={"listen": ListenConfig(recognizer=recogniser.base_url, **listen), "llm": llm})
        microphone = Microphone()
        async with serving(config=config) as server:
            call = Call(server.address, microphone=microphone)
            try:
                await call.connect(query)
                yield server, call, microphone, recogniser
            finally:
                await call.close()


async def first(call: Call, kind: type[Any]) -> Any:
    return (await call.wait_for(lambda: call.received(kind), 30, f"there is no {kind.__name__}"))[0]


async def ask(microphone: Microphone, name: str = "question") -> None:
    await microphone.say(read_sound(DATA / f"{name}.wav"))


async def test_what_is_said_is_recognised_and_repeated_where_nobody_answers() -> None:
    async with hearing("What", "What time", "What time is it?") as (_, call, microphone, recogniser):
        assert call.received(SessionCreated)[0].listens
        await ask(microphone)
        done = await first(call, ResponseDone)
        assert (done.status, done.heard_text) == ("completed", "What time is it?")
        heard = SpeechStarted | SpeechStopped | InputTranscriptUpdated | InputTranscript | ItemAdded | ResponseCreated
        told = [event for _, event in call.events if isinstance(event, heard)]
        item_id = call.received(SpeechStarted)[0].item_id
        assert [type(event) for event in told if not isinstance(event, InputTranscriptUpdated)] == [
            SpeechStarted,
            SpeechStopped,
            InputTranscript,
            ItemAdded,
            ResponseCreated,
        ]
        assert call.received(InputTranscriptUpdated)[0] == InputTranscriptUpdated(item_id=item_id, text="What")
        assert told[-2] == ItemAdded(text="What time is it?", response_id=done.response_id, item_id=item_id)
        length_ms = told[0].audio_start_ms, call.received(SpeechStopped)[0].audio_end_ms
        assert 1200 < length_ms[1] - length_ms[0] < 3500
        assert recogniser.recordings[-1].duration_s > 1.5


async def test_what_is_said_is_answered_by_a_language_model_which_is_told_what_was_heard() -> None:
    async with chat_server() as model:
        model.then("It is noon.")
        llm = LlmConfig(base_url=model.base_url, model="m")
        async with hearing("What time is it?", llm=llm) as (_, call, microphone, _):
            await ask(microphone)
            done = await first(call, ResponseDone)
            assert done.heard_text == "It is noon."
            assert call.received(ItemAdded)[0].item_id == call.received(InputTranscript)[0].item_id
            assert model.messages() == [("user", "What time is it?")]


async def test_a_language_model_is_asked_in_a_pause_and_heard_when_the_turn_is_over() -> None:
    async with chat_server() as model:
        model.then("It is noon.")
        llm = LlmConfig(base_url=model.base_url, model="m")
        async with hearing("What time is it?", llm=llm, end_of_turn_ms=3000) as (_, call, microphone, _):
            asking = asyncio.create_task(ask(microphone))
            await model.until(lambda: model.requests)
            assert not call.received(SpeechStopped)
            assert not call.received(ResponseCreated)
            await asking
            assert (await first(call, ResponseDone)).heard_text == "It is noon."
            assert len(model.requests) == 1


@pytest.mark.parametrize("barge_in", ["voice", "words"])
async def test_the_avatar_falls_silent_when_somebody_speaks(barge_in: str) -> None:
    async with hearing("Excuse me.", barge_in=barge_in) as (_, call, microphone, _):
        call.send(ResponseCreate(input=LONG, id="long"))
        await call.wait_for(lambda: len(call.received(TranscriptDelta, "long")) >= 2, 20, "nothing is said")
        await ask(microphone, "interruption")
        await first(call, AudioCleared)
        (cut,) = call.received(ResponseDone, "long")
        assert cut.status == "cancelled"
        assert cut.heard_text.split() == [delta.text for delta in call.received(TranscriptDelta, "long")]
        await call.wait_for(lambda: len(call.received(ResponseDone)) == 2, 20, "what was said is not repeated")
        kinds = [type(event) for _, event in call.events]
        cause = SpeechStarted if barge_in == "voice" else InputTranscriptUpdated
        assert kinds.index(cause) < kinds.index(AudioCleared) < kinds.index(InputTranscript)
        assert call.received(ResponseDone)[1].heard_text == "Excuse me."


async def test_who_may_not_interrupt_is_answered_behind_what_is_said() -> None:
    async with hearing("Excuse me.", barge_in="off") as (_, call, microphone, _):
        call.send(ResponseCreate(input="This line is said to its end.", id="line"))
        await call.wait_for(lambda: call.received(TranscriptDelta, "line"), 20, "nothing is said")
        await ask(microphone, "interruption")
        await call.wait_for(lambda: len(call.received(ResponseDone)) == 2, 20, "not both were said")
        assert [done.heard_text for done in call.received(ResponseDone)] == ["This line is said to its end.", "Excuse me."]


async def test_what_cannot_be_recognised_is_told_and_the_call_goes_on() -> None:
    async with hearing(500, "And now?", partials=False) as (_, call, microphone, _):
        await ask(microphone)
        failed = await first(call, InputTranscriptFailed)
        assert failed.code == "recognizer_unreachable"
        assert failed.item_id == call.received(SpeechStarted)[0].item_id
        await ask(microphone)
        assert (await first(call, ResponseDone)).heard_text == "And now?"


async def test_who_hangs_up_in_the_middle_of_a_word_leaves_nothing_behind() -> None:
    async with hearing("What") as (server, call, microphone, recogniser):
        recogniser.waits.clear()
        asking = asyncio.create_task(ask(microphone))
        await first(call, SpeechStarted)
        await call.close()
        asking.cancel()
        for session in server.registry.live:
            await session.finished()
        names = [repr(task.get_coro()) for task in asyncio.all_tasks()]
        assert not [name for name in names if "listen" in name.lower() or "recognize" in name], names


async def test_only_who_may_speak_is_listened_to() -> None:
    async with hearing("What?") as (server, call, _, _):
        async with aiohttp.ClientSession() as http, http.get(f"{server.address}/v1/models") as response:
            assert (await response.json())["listens"] is True
        watcher = Call(server.address, microphone=Microphone())
        try:
            await watcher.connect(f"?session={call.session_id}&role=watch")
            assert watcher.received(SessionCreated)[0].listens is None
            directions = [t.currentDirection for t in watcher.peer.getTransceivers() if t.kind == "audio"]
            assert directions == ["recvonly"]
            assert [t.currentDirection for t in call.peer.getTransceivers() if t.kind == "audio"] == ["sendrecv"]
        finally:
            await watcher.close()


async def test_say_asks_a_recording_and_reports_the_answer() -> None:
    async with hearing("What time is it?") as (server, _, _, _):
        heard: list[str] = []
        summary = await say(server.address, [], ask=[DATA / "question.wav"], on_caption=heard.append)
        (line,) = summary.lines
        assert (line.text, line.heard_text) == ("What time is it?", "What time is it?")
        assert line.text_to_first_voiced_audio_ms is not None
        assert heard == ["What time is it? - What time is it?"]
    async with serving() as server:
        with pytest.raises(CallError, match="does not listen: start it with"):
            await say(server.address, [], ask=[DATA / "question.wav"])
    with pytest.raises(OSError, match="holds no sound"):
        await say(server.address, [], ask=[Path(__file__)])


async def test_without_listening_a_microphone_is_not_asked_for() -> None:
    async with serving() as server:
        call = Call(server.address, microphone=Microphone())
        try:
            await call.connect()
            assert call.received(SessionCreated)[0].listens is None
            assert [t.currentDirection for t in call.peer.getTransceivers() if t.kind == "audio"] == ["recvonly"]
        finally:
            await call.close()
