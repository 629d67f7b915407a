"""A mind alone: the real client against a server on this machine, and a speaker that writes down what it is to say."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from avatar_rtc.config import LlmConfig, ToolConfig
from avatar_rtc.errors import ServerConfigError
from avatar_rtc.logs import SessionLog
from avatar_rtc.mind.chat import ChatCompletions
from avatar_rtc.mind.history import History
from avatar_rtc.mind.mind import NO_OUTPUT, Mind, changed
from avatar_rtc.mind.source import SPOKEN, Brief, Said, SourceError, ToolCall, ToolUse
from signaling.vocabulary import EventError, FunctionCallOutput, ResponseDone, SessionUpdate, Timings, Tool, UserMessage
from testkit.chat_server import ChatServer, Stream, chat_server


class Notebook:
    """Implements ``Speaker``: every reply is the next one, and is heard when the test says so."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}
        self.ends: dict[str, list[SourceError | None]] = {}
        self.calls: list[ToolCall] = []

    def is_next(self, reply_id: str) -> bool:
        return True

    async def say(self, reply_id: str, piece: str) -> None:
        self.said[reply_id] = self.said.get(reply_id, "") + piece

    async def flush(self, reply_id: str) -> None:
        self.said[reply_id] = self.said.get(reply_id, "") + "|"

    async def finish(self, reply_id: str, error: SourceError | None) -> None:
        self.ends.setdefault(reply_id, []).append(error)

    def call_tool(self, reply_id: str, call: ToolCall) -> None:
        self.calls.append(call)


class Scene:
    """One mind, its server and its speaker."""

    def __init__(self, mind: Mind, server: ChatServer, speaker: Notebook) -> None:
        self.mind = mind
        self.server = server
        self.speaker = speaker

    def begin(self, reply_id: str, text: str, instructions: str | None = None) -> None:
        self.mind.ask(reply_id, UserMessage(text=text, instructions=instructions))

    async def ask(self, text: str, reply_id: str = "r", instructions: str | None = None) -> str:
        """Ask, and wait for the end of what is made up. Returns all of it."""
        self.begin(reply_id, text, instructions)
        await self.server.until(lambda: reply_id in self.speaker.ends)
        return self.speaker.said.get(reply_id, "")

    def heard(self, text: str, reply_id: str = "r", status: Any = "completed") -> None:
        timings = Timings(first_audio_ms=None, total_ms=0, underruns=0)
        self.mind.heard(ResponseDone(response_id=reply_id, status=status, heard_ms=0, heard_text=text, timings=timings))


@asynccontextmanager
async def scene(**config: Any) -> AsyncIterator[Scene]:
    async with chat_server() as server:
        settings = LlmConfig(**{"base_url": server.base_url, "model": "m", **config})
        source, speaker = ChatCompletions(settings), Notebook()
        mind = Mind(source, settings, speaker, SessionLog("test"))
        life = asyncio.create_task(mind.run())
        try:
            yield Scene(mind, server, speaker)
        finally:
            life.cancel()
            await asyncio.wait((life,))
            await source.close()
        assert life.cancelled(), life.exception()


async def test_what_comes_is_said_before_the_rest_is_there() -> None:
    rest = asyncio.Event()

    async def script(stream: Stream) -> None:
        await stream.say("Hello there. ")
        await rest.wait()
        await stream.say("And more.")

    async with scene(extra_body={"temperature": 0.5}, instructions="Be kind.") as at:
        at.server.then(script)
        at.begin("r", "Hi!")
        await at.server.until(lambda: at.speaker.said.get("r") == "Hello there. ")
        assert at.speaker.ends == {}
        rest.set()
        await at.server.until(lambda: at.speaker.ends)
        assert at.speaker.said["r"] == "Hello there. And more."
        assert at.server.requests == [
            {
                "model": "m",
                "stream": True,
                "temperature": 0.5,
                "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi!"}],
            }
        ]


async def test_history_is_what_was_heard_and_an_interruption_closes_the_request() -> None:
    async def endless(stream: Stream) -> None:
        await stream.say("One two three four. " * 10_000, words_per_s=1000)

    async with scene() as at:
        at.server.then(endless, "Fine.")
        at.heard("Welcome.", "a greeting that was typed")
        at.begin("r", "Count!")
        await at.server.until(lambda: "four" in at.speaker.said.get("r", ""))
        at.heard("One two", status="cancelled")
        await at.server.until(lambda: at.server.num_abandoned == 1)
        assert at.server.num_open == 0
        await at.ask("Stop. How are you?", "s")
        said = [("assistant", "Welcome."), ("user", "Count!"), ("assistant", "One two"), ("user", "Stop. How are you?")]
        assert at.server.messages() == said
        assert at.speaker.ends == {"s": [None]}


async def test_turns_wait_for_each_other_and_who_is_stopped_before_its_turn_is_never_asked() -> None:
    gate = asyncio.Event()

    async def slow(stream: Stream) -> None:
        await gate.wait()
        await stream.say("First.")

    async with scene() as at:
        at.server.then(slow, "Third.")
        for reply_id in ("a", "b", "c"):
            at.begin(reply_id, f"Question {reply_id}.")
        await at.server.until(lambda: at.server.num_open)
        at.heard("", "b", "cancelled")
        gate.set()
        await at.server.until(lambda: "c" in at.speaker.ends)
        assert at.speaker.said == {"a": "First.", "c": "Third."}
        assert len(at.server.requests) == 2
        assert at.server.messages() == [("user", "Question a.\nQuestion c.")]  # nothing was heard between them


async def test_an_answer_that_was_expected_is_on_its_way_and_one_that_nobody_wants_is_given_up() -> None:
    async def endless(stream: Stream) -> None:
        await stream.say("One two three four. " * 10_000, words_per_s=1000)

    async with scene() as at:
        at.server.then(endless, "It is noon.", "Nobody hears this.", "I said noon.")
        at.mind.expect("What time")
        await at.server.until(lambda: at.server.num_open == 1)
        at.mind.expect("What time is it?")
        await at.server.until(lambda: at.server.num_abandoned == 1 and len(at.server.requests) == 2)
        assert at.speaker.said == {}, "nothing is said before it is asked"
        assert await at.ask("What time is it?") == "It is noon."
        assert len(at.server.requests) == 2
        at.heard("It is noon.")
        assert at.server.messages() == [("user", "What time is it?")]

        at.mind.expect("And now?")
        await at.server.until(lambda: len(at.server.requests) == 3)
        assert await at.ask("And now, sorry?", "s") == "I said noon."
        assert at.server.messages()[-1] == ("user", "And now, sorry?")


async def test_what_goes_wrong_with_an_answer_that_was_expected_is_said_when_it_is_asked() -> None:
    async with scene() as at:
        at.server.then(500)
        at.mind.expect("Hello?")
        await at.server.until(lambda: len(at.server.requests) == 1)
        await at.ask("Hello?")
        (error,) = at.speaker.ends["r"]
        assert error is not None
        assert error.code == "llm_unreachable"


async def broken_off(stream: Stream) -> None:
    await stream.send(content="I think that")
    stream.break_off()


async def stalled(stream: Stream) -> None:
    await stream.send(content="Let me see.")
    await asyncio.sleep(60)


async def not_even_begun(stream: Stream) -> None:
    await asyncio.sleep(60)


def sending(*lines: str | bytes) -> Callable[[Stream], Any]:
    async def script(stream: Stream) -> None:
        for line in lines:
            await stream.data(line)

    return script


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (401, "llm_refused"),
        (404, "llm_refused"),
        (429, "llm_busy"),
        (500, "llm_unreachable"),
        (not_even_begun, "llm_timeout"),
        (stalled, "llm_timeout"),
        (broken_off, "llm_broken"),
        (sending("{not json"), "llm_broken"),
        (sending(b'{"choices": [{"index": 0, "delta": {"content": "\xff\xfe"}}]}'), "llm_broken"),
        (sending("5"), "llm_broken"),
        (sending('["a"]'), "llm_broken"),
        (sending('{"choices": 3}'), "llm_broken"),
        (sending('{"choices": [{"delta": {"content": {"a": 1}}}]}'), "llm_broken"),
        (sending('{"choices": [{"delta": {"tool_calls": [3]}}]}'), "llm_broken"),
        (sending('{"error": {"message": "out of memory"}}'), "llm_broken"),
    ],
)
async def test_every_failure_is_told_once_and_the_next_question_is_answered(script: Any, code: str) -> None:
    async with scene(token_timeout_s=1.0 if code == "llm_timeout" else 20.0) as at:
        at.server.then(script, "All good.")
        await at.ask("Well?")
        (error,) = at.speaker.ends["r"]
        assert error is not None
        assert error.code == code
        assert error.spoken == SPOKEN[code]
        assert await at.ask("And now?", "s") == "All good."
        await asyncio.sleep(0)
        assert at.speaker.ends == {"r": [error], "s": [None]}


async def test_a_server_that_is_down() -> None:
    async with scene(base_url="http://127.0.0.1:9/v1") as at:
        await at.ask("Anybody?")
        (error,) = at.speaker.ends["r"]
        assert error is not None
        assert error.code == "llm_unreachable"


async def test_the_key_is_sent_and_told_nobody(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("A_KEY", "sk-secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another")
    caplog.set_level(logging.DEBUG)
    async with scene(api_key_env="A_KEY") as at:
        at.server.then(401)  # it says the key that it was sent
        await at.ask("Hm?")
        (error,) = at.speaker.ends["r"]
        assert error is not None
        assert at.server.keys == ["Bearer sk-secret"]
        assert "refused Bearer ***" in error.detail
        assert "secret" not in f"{error.detail} {error.message}"
    assert "sk-secret" not in caplog.text
    async with scene() as at:
        at.server.then("Fine.")
        await at.ask("Hm?")
        assert at.server.keys == ["Bearer none"]


def test_a_key_that_is_missing_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("A_KEY", raising=False)
    with pytest.raises(ServerConfigError, match="set the environment variable A_KEY"):
        ChatCompletions(LlmConfig(base_url="http://127.0.0.1:9/v1", model="m", api_key_env="A_KEY"))


WEATHER = ToolConfig(name="weather", description="The weather of a place.")


async def calls_weather(stream: Stream) -> None:
    await stream.say("Let me look. ")
    await stream.call("weather", {"place": "Oslo"}, "call-1")


async def test_a_tool_is_called_and_its_output_ends_in_the_next_turn_of_the_model() -> None:
    async with scene(tools=(WEATHER,)) as at:
        at.server.then(calls_weather, "It rains.", "You are welcome.")
        at.begin("r", "How is the weather in Oslo?")
        await at.server.until(lambda: at.speaker.calls)
        assert at.speaker.calls == [ToolCall("call-1", "weather", '{"place": "Oslo"}')]
        with pytest.raises(EventError, match="'call-2'"):
            at.mind.take_output(FunctionCallOutput(call_id="call-2", output="?"))
        at.mind.take_output(FunctionCallOutput(call_id="call-1", output="rain"))
        with pytest.raises(EventError, match="not any more"):
            at.mind.take_output(FunctionCallOutput(call_id="call-1", output="sun"))
        await at.server.until(lambda: at.speaker.ends)
        assert at.speaker.said == {"r": "Let me look. |It rains."}
        assert at.server.requests[0]["tools"][0]["function"]["name"] == "weather"
        assert at.server.messages()[1:] == [("assistant", "Let me look. "), ("tool", "rain")]
        (call,) = at.server.requests[1]["messages"][2]["tool_calls"]
        assert call == {"id": "call-1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Oslo"}'}}
        at.heard("Let me look. It rains.")
        await at.ask("Thanks.", "s")
        heard = [("assistant", None), ("tool", "rain"), ("assistant", "Let me look. It rains."), ("user", "Thanks.")]
        assert at.server.messages()[1:] == heard


async def test_a_tool_that_nobody_runs_is_told_to_the_model_and_one_that_is_interrupted_is_forgotten() -> None:
    async with scene(tools=(WEATHER,), tool_timeout_s=0.2) as at:
        at.server.then(calls_weather, "I do not know.", calls_weather, "Fine.")
        assert await at.ask("Weather?") == "Let me look. |I do not know."
        assert at.server.messages()[-1] == ("tool", NO_OUTPUT)
        at.heard("Let me look.")
        at.begin("s", "Again?")
        await at.server.until(lambda: len(at.speaker.calls) == 2)
        at.heard("", "s", "cancelled")
        await asyncio.sleep(0.01)
        with pytest.raises(EventError, match="not any more"):
            at.mind.take_output(FunctionCallOutput(call_id="call-1", output="late"))
        await at.ask("Never mind.", "t")
        assert at.server.messages()[-2:] == [("assistant", "Let me look."), ("user", "Again?\nNever mind.")]


async def test_clients_add_instructions_and_tools_behind_those_of_the_server() -> None:
    async with scene(instructions="Be kind.", tools=(WEATHER,)) as at:
        at.server.then("Aye.")
        tools = [Tool(name="dice", parameters={"type": "object"}), Tool(name="weather", description="Another one.")]
        at.mind.take_brief(at.mind.brief_of(SessionUpdate(instructions=" Talk like a pirate. ", tools=tools)))
        await at.ask("Hm?")
        assert at.server.requests[0]["messages"][0]["content"] == "Be kind.\n\nTalk like a pirate."
        functions = [tool["function"] for tool in at.server.requests[0]["tools"]]
        assert functions == [WEATHER.model_dump(), tools[0]]
        # Some for one answer alone, before anybody has said anything to it.
        await at.ask("", "s", "Say hello.")
        assert at.server.requests[1]["messages"][0]["content"] == "Be kind.\n\nTalk like a pirate.\n\nSay hello."
        assert at.server.messages(1) == at.server.messages(0)
        at.mind.take_brief(at.mind.brief_of(SessionUpdate(tools=[])))
        await at.ask("And now?", "t")
        assert at.server.requests[2]["messages"][0]["content"] == "Be kind.\n\nTalk like a pirate."
        assert len(at.server.requests[2]["tools"]) == 1


async def test_what_was_expected_is_asked_anew_when_the_instructions_have_changed() -> None:
    async def slow(stream: Stream) -> None:
        await asyncio.sleep(60)

    async with scene() as at:
        at.server.then(slow, "Aye.")
        at.mind.expect("Hm?")
        await at.server.until(lambda: at.server.num_open == 1)
        at.mind.take_brief(Brief("Talk like a pirate."))
        assert await at.ask("Hm?") == "Aye."
        assert at.server.num_abandoned == 1


@pytest.mark.parametrize(
    ("instructions", "tools", "code"),
    [
        ("x" * 101, None, "message_too_large"),
        (None, [Tool(name="t", description="x" * 101)], "message_too_large"),
        (None, [Tool(name="t"), Tool(name="t")], "bad_tools"),
    ],
)
def test_what_clients_may_not_add(instructions: str | None, tools: list[Tool] | None, code: str) -> None:
    config = LlmConfig(base_url="http://127.0.0.1:9", model="m", max_history_chars=100)
    with pytest.raises(EventError) as raised:
        changed(Brief(), instructions, tools, config)
    assert raised.value.code == code


async def test_a_model_that_calls_tools_for_ever_is_stopped() -> None:
    async with scene(tools=(WEATHER,), tool_timeout_s=0.01) as at:
        at.server.then(calls_weather)
        await at.ask("Weather?")
        (error,) = at.speaker.ends["r"]
        assert error is not None
        assert error.code == "llm_broken"
        assert len(at.server.requests) == 9


async def test_an_answer_ends_with_the_sentence_that_reaches_its_limit() -> None:
    async def long(stream: Stream) -> None:
        await stream.say("Ten words are in this sentence, and it is short. " * 10)
        await asyncio.sleep(60)

    async with scene(max_answer_chars=100) as at:
        at.server.then(long)
        answer = await at.ask("Talk!")
        assert answer.rstrip() == ("Ten words are in this sentence, and it is short. " * 3).rstrip()
        await at.server.until(lambda: at.server.num_abandoned == 1)
        at.server.scripts.clear()
        at.server.then("word " * 10_000)
        assert 100 <= len(await at.ask("Talk!", "s")) <= 500
        assert at.speaker.ends == {"r": [None], "s": [None]}


async def test_instructions_of_100_kb_are_sent_and_a_message_beyond_the_history_is_refused() -> None:
    async with scene(instructions="Be kind. " * 12_000) as at:
        at.server.then("Yes.")
        assert await at.ask("Hm?") == "Yes."
        assert len(at.server.requests[0]["messages"][0]["content"]) == 108_000
        with pytest.raises(EventError, match="16001 characters") as raised:
            at.mind.check(UserMessage(text="x" * 16_001))
        assert raised.value.code == "message_too_large"


def test_history_forgets_whole_exchanges_but_never_what_the_user_says_now() -> None:
    history = History(max_chars=20)
    for number in range(3):
        history.add_user(f"question {number}")
        history.add_tool_use(ToolUse((ToolCall("c", "t", "{}"),), ("out",), "text"))
        history.end_turn()
        history.add_heard("answer")
    assert history.messages[0] == Said("user", "question 2")
    assert history.messages[-1] == Said("assistant", "answer")
    history.add_user("q" * 100)
    assert history.messages == (Said("user", "q" * 100),)
