"""Answers in calls: what the user says goes to a language model, and what it answers is spoken. The model is a script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from avatar_rtc.app import Server
from avatar_rtc.client import Call
from avatar_rtc.config import LlmConfig, ToolConfig
from avatar_rtc.event_log import EventLog
from avatar_rtc.logs import SessionLog
from avatar_rtc.mind.source import SPOKEN
from avatar_rtc.sessions import answering
from avatar_rtc.sessions.conversation import Conversation, Playhead
from signaling.vocabulary import (
    Error,
    EventError,
    FunctionCall,
    FunctionCallOutput,
    ItemAdded,
    ResponseCancel,
    ResponseCreate,
    ResponseCreated,
    ResponseDone,
    SessionCreated,
    SessionUpdate,
    SessionUpdated,
    Tool,
    TranscriptDelta,
    UserMessage,
)
from testkit.chat_server import ChatServer, Stream, chat_server
from tests.support.calls import calling, make_config, serving
from tests.support.instant_engine import InstantEngine


@asynccontextmanager
async def talking(engine: InstantEngine | None = None, **llm: Any) -> AsyncIterator[tuple[Server, Call, ChatServer]]:
    async with chat_server() as model:
        config = make_config().model_copy(update={"llm": LlmConfig(base_url=model.base_url, model="m", **llm)})
        async with serving(engine, config=config) as server, calling(server) as call:
            yield server, call, model


async def ended(call: Call, reply_id: str) -> ResponseDone:
    (done,) = await call.wait_for(lambda: call.received(ResponseDone, reply_id), 20, f"{reply_id} did not end")
    assert isinstance(done, ResponseDone)
    return done


async def test_an_answer_is_spoken_sentence_by_sentence_while_the_rest_is_made_up() -> None:
    rest = asyncio.Event()
    engine = InstantEngine()

    async def script(stream: Stream) -> None:
        await stream.say("It is noon. And ")
        await rest.wait()
        await stream.say("tea is ready.")

    async with talking(engine) as (_, call, model):
        model.then(script)
        assert call.received(SessionCreated)[0].llm
        call.send(UserMessage(text="What time is it?", id="r", event_id="e"))
        await call.wait_for(lambda: call.received(TranscriptDelta, "r"), 10, "nothing is said")
        assert engine.streams[0].pushed == ["It is noon."]
        assert model.num_open == 1
        rest.set()
        done = await ended(call, "r")
        assert (done.status, done.heard_text) == ("completed", "It is noon. And tea is ready.")
        told = [event for _, event in call.events if isinstance(event, ItemAdded | ResponseCreated)]
        assert told == [
            ItemAdded(text="What time is it?", response_id="r"),
            ResponseCreated(response_id="r", mode="replace", position=0, event_id="e"),
        ]


async def test_an_interruption_cuts_history_at_the_word_and_ends_the_request() -> None:
    async def endless(stream: Stream) -> None:
        await stream.say("This goes on and on. " * 1000, words_per_s=20)

    async with talking() as (_, call, model):
        model.then(endless, "Gladly.")
        call.send(ResponseCreate(input="Welcome to the call.", id="greeting"))
        await ended(call, "greeting")
        call.send(UserMessage(text="Tell me everything!", id="r"))
        await call.wait_for(lambda: len(call.received(TranscriptDelta, "r")) >= 3, 10, "nothing is said")
        call.send(UserMessage(text="Stop, say thanks.", id="s"))
        cut = await ended(call, "r")
        assert cut.status == "cancelled"
        assert cut.heard_text.split() == [delta.text for delta in call.received(TranscriptDelta, "r")]
        assert (await ended(call, "s")).heard_text == "Gladly."
        assert model.num_abandoned == 1
        assert model.messages() == [
            ("assistant", "Welcome to the call."),
            ("user", "Tell me everything!"),
            ("assistant", cut.heard_text),
            ("user", "Stop, say thanks."),
        ]


async def test_a_question_that_waits_is_answered_when_everything_before_it_was_heard() -> None:
    async with talking() as (_, call, model):
        model.then("Two.", "Three.")
        call.send(ResponseCreate(input="This is one.", id="a"))
        call.send(UserMessage(text="Second?", mode="queue", id="b"))
        call.send(UserMessage(text="Third?", mode="queue", id="c"))
        await ended(call, "c")
        assert [done.response_id for done in call.received(ResponseDone)] == ["a", "b", "c"]
        heard = [("assistant", "This is one."), ("user", "Second?"), ("assistant", "Two."), ("user", "Third?")]
        assert model.messages() == heard


async def test_an_answer_that_is_far_ahead_of_what_is_heard_waits_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "FULL_PAUSE_S", 0.0)
    refusals = [EventError("queue_full", "It is full."), EventError("queue_full", "It is full still."), None]
    taken = 0

    async def in_turn(change: Callable[[Playhead], None]) -> None:
        nonlocal taken
        if (refusal := refusals.pop(0)) is not None:
            raise refusal
        taken += 1

    conversation = Conversation(25, max_queued_replies=1, open_reply_timeout_s=1.0, voices={}, is_long=lambda length_s: False)
    await answering.Answering(conversation, EventLog(), in_turn, SessionLog(""), None, None).say("r", "A piece.")
    assert (taken, refusals) == (1, [])


async def test_a_failure_is_said_and_ends_the_answer_once() -> None:
    async def dies(stream: Stream) -> None:
        await stream.say("The answer is. And then")
        stream.break_off()

    async with talking() as (_, call, model):
        model.then(dies, 401, "", "<think>They ask again.</think>", "Better.")
        call.send(UserMessage(text="Hm?", id="r"))
        done = await ended(call, "r")
        assert (done.status, done.code) == ("failed", "llm_broken")
        assert done.heard_text == f"The answer is. And then {SPOKEN['llm_broken']}"
        call.send(UserMessage(text="Hm?", id="s"))
        done = await ended(call, "s")
        assert (done.status, done.code, done.heard_text) == ("failed", "llm_refused", SPOKEN["llm_refused"])
        assert "401" in str(done.message)
        for reply_id in ("empty", "silent"):
            call.send(UserMessage(text="Hm?", id=reply_id))
            done = await ended(call, reply_id)
            assert (done.status, done.code, done.heard_text) == ("failed", "llm_empty", SPOKEN["llm_empty"])
        call.send(UserMessage(text="Hm?", id="t"))
        assert (await ended(call, "t")).status == "completed"
        assert len(call.received(ResponseDone)) == 5
        assert not call.received(Error)


async def test_a_tool_is_run_by_a_program_over_http_or_by_the_data_channel() -> None:
    async def calls(stream: Stream) -> None:
        await stream.say("Let me look.")
        await stream.call("weather", {"place": "Oslo"}, f"call-{len(model.requests)}")

    async with talking(tools=(ToolConfig(name="weather"),)) as (server, call, model), aiohttp.ClientSession() as http:
        model.then(calls, "It rains.", calls, "Still rain.")
        url = f"{server.address}/v1/sessions/{call.session_id}/events"
        async with http.get(url) as events:
            question = {"type": "user.message", "text": "Weather?", "id": "r"}
            async with http.post(url, json=question) as response:
                assert response.status == 202
            async for line in events.content:
                if line.startswith(b"data:") and b"function_call" in line:
                    told = json.loads(line.removeprefix(b"data:"))
                    break
        assert (told["name"], json.loads(told["arguments"]), told["response_id"]) == ("weather", {"place": "Oslo"}, "r")
        output = {"type": "function_call.output", "call_id": told["call_id"], "output": "rain"}
        for status in (202, 404):  # the second one comes too late
            async with http.post(url, json=output) as response:
                assert response.status == status
        assert (await ended(call, "r")).heard_text == "Let me look. It rains."
        assert model.messages()[-1] == ("tool", "rain")

        call.send(UserMessage(text="Sure?", id="s"))
        await call.wait_for(lambda: len(call.received(TranscriptDelta, "s")) == 3, 10, "what was said before the call waits")
        assert len(model.requests) == 3
        call.send(FunctionCallOutput(call_id=call.received(FunctionCall, "s")[0].call_id, output="rain"))
        assert (await ended(call, "s")).heard_text == "Let me look. Still rain."


async def test_a_client_tells_the_model_who_it_is_and_has_it_begin() -> None:
    async with talking() as (server, call, model), aiohttp.ClientSession() as http:
        model.then("Ahoy there.")
        call.send(SessionUpdate(instructions="You are a pirate.", tools=[Tool(name="dice")], event_id="e"))
        (updated,) = await call.wait_for(lambda: call.received(SessionUpdated), 10, "no answer")
        assert updated.event_id == "e"
        call.send(UserMessage(text="", instructions="Say hello.", id="r"))
        assert (await ended(call, "r")).heard_text == "Ahoy there."
        assert not call.received(ItemAdded)
        assert [message["role"] for message in model.requests[0]["messages"]] == ["system"]
        assert model.requests[0]["messages"][0]["content"].endswith("\n\nYou are a pirate.\n\nSay hello.")
        call.send(SessionUpdate(instructions="x" * 16_001, scene="A man."))
        (error,) = await call.wait_for(lambda: call.received(Error), 10, "no error")
        assert error.code == "message_too_large"
        assert len(call.received(SessionUpdated)) == 1, "nothing of it was done"
        # Or from the session's beginning.
        wanted = {"instructions": "You are a cook.", "tools": [{"name": "oven"}]}
        async with http.post(f"{server.address}/v1/sessions", json={**wanted, "tools": [{"name": "oven"}] * 2}) as response:
            assert (response.status, (await response.json())["code"]) == (422, "bad_tools")
        async with http.post(f"{server.address}/v1/sessions", json=wanted) as response:
            assert response.status == 201
            session = await response.json()
        url = f"{server.address}/v1/sessions/{session['id']}/events"
        async with http.post(url, json={"type": "user.message", "text": "Who are you?"}) as response:
            assert response.status == 202
        await model.until(lambda: len(model.requests) == 2)
        assert model.requests[1]["messages"][0]["content"].endswith("\n\nYou are a cook.")
        assert [tool["function"]["name"] for tool in model.requests[1]["tools"]] == ["oven"]


async def test_a_stop_before_anything_has_come_ends_the_request() -> None:
    async def silent(stream: Stream) -> None:
        await asyncio.sleep(60)

    async with talking() as (_, call, model):
        model.then(silent)
        call.send(UserMessage(text="Hm?", id="r"))
        await model.until(lambda: model.num_open == 1)
        call.send(ResponseCancel())
        assert (await ended(call, "r")).status == "cancelled"
        await model.until(lambda: model.num_abandoned == 1)


async def test_without_a_language_model_what_the_user_says_is_refused_with_the_remedy() -> None:
    async with serving() as server, calling(server) as call:
        assert call.received(SessionCreated)[0].llm is None
        call.send(UserMessage(text="Hm?", id="r", event_id="e"))
        (error,) = await call.wait_for(lambda: call.received(Error), 10, "no error")
        assert (error.code, error.event_id) == ("no_llm", "e")
        assert not call.received(ResponseCreated)
        call.send(SessionUpdate(instructions="Be kind.", event_id="f"))
        await call.wait_for(lambda: call.received(Error)[1:], 10, "no second error")
        assert call.received(Error)[1].code == "no_llm"
