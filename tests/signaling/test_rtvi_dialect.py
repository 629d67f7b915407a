"""RTVI as a table: what a client sends as commands, and events as what it is told."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.dialects.avatar import dump
from signaling.dialects.rtvi import MESSAGES, VERBS, VERSION, RtviDialect
from signaling.vocabulary import (
    AudioCleared,
    AudioStarted,
    AvatarState,
    Command,
    DoneStatus,
    Error,
    Event,
    EventError,
    FunctionCall,
    FunctionCallOutput,
    InputTranscript,
    InputTranscriptFailed,
    InputTranscriptUpdated,
    ItemAdded,
    Limits,
    OutputText,
    Pong,
    ResponseCancel,
    ResponseCreate,
    ResponseCreated,
    ResponseDone,
    SessionClosing,
    SessionCreated,
    SessionUpdate,
    SessionUpdated,
    SpeechStarted,
    SpeechStopped,
    Timings,
    TranscriptDelta,
    UserMessage,
)

LARGE = 1 << 20


def hello(*, llm: bool | None = None) -> SessionCreated:
    size: dict[str, Any] = {"fps": 25, "width": 256, "height": 256, "chunk_ms": 320, "block_ms": 320}
    limits = Limits(max_message_bytes=65536, max_prompt_chars=4000, max_queued_replies=8)
    return SessionCreated(
        session_id="s1", model="fake", scene="A man.", voice="deep", limits=limits, grace_ms=10, llm=llm, **size
    )


def done(reply_id: str = "r", status: DoneStatus = "completed", **why: str) -> ResponseDone:
    timings = Timings(first_audio_ms=1, total_ms=2, underruns=0)
    return ResponseDone(response_id=reply_id, status=status, heard_ms=1, heard_text="", timings=timings, **why)


def created(reply_id: str = "r", position: int = 0, event_id: str | None = None) -> ResponseCreated:
    return ResponseCreated(response_id=reply_id, mode="queue", position=position, event_id=event_id)


def text(text: str, more: bool = False, reply_id: str = "r") -> OutputText:
    return OutputText(response_id=reply_id, text=text, more=more)


def word(word: str, reply_id: str = "r") -> TranscriptDelta:
    return TranscriptDelta(response_id=reply_id, text=word, start_ms=0, end_ms=1)


STARTED = AudioStarted(response_id="r", pts=0)


class Client:
    """One client of a server with or without a language model."""

    def __init__(self, version: str = VERSION, *, llm: bool | None = None) -> None:
        self.dialect = RtviDialect()
        self.tell(hello(llm=llm))
        (ready,) = self.send("client-ready", {"version": version, "about": {}}, "m0")[1]
        self.ready = ready["data"]
        self.seq = 0

    def send(self, kind: str, data: Any = None, message_id: str = "m1") -> tuple[list[Command], list[dict[str, Any]]]:
        message = self.dialect.read(json.dumps({"id": message_id, "label": "rtvi-ai", "type": kind, "data": data}))
        return list(message.commands), [json.loads(answer) for answer in message.answers]

    def tell(self, event: Event, seq: int | None = None) -> list[dict[str, Any]]:
        return [json.loads(frame) for frame in self.dialect.write(event, seq, LARGE)]

    def told(self, *events: Event) -> list[dict[str, Any]]:
        return [message for event in events for message in self.tell(event)]


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    return [message["type"] for message in messages]


def outputs(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message["data"] for message in messages if message["type"] == "bot-output"]


@pytest.mark.parametrize(
    ("version", "answered"),
    [
        ("2.1.0", "2.1.0"),
        ("2.0.0", "2.1.0"),
        ("1.4.0", "1.4.0"),
        ("0.3", "0.3"),
        ("3.0.0", "2.1.0"),
        ("new", "2.1.0"),
        (None, "2.1.0"),
    ],
)
def test_a_client_is_answered_with_a_version_that_it_knows(version: Any, answered: str) -> None:
    ready = Client(version).ready
    assert ready["version"] == answered
    assert ready["about"].items() >= {"library": "avatar-rtc", "session_id": "s1", "model": "fake", "width": 256}.items()


@pytest.mark.parametrize(
    "frame", ["ping: 1712345678901", '{"type":"signalling","message":{"type":"trackStatus"}}', '{"type":"x"}']
)
def test_signs_of_life_say_nothing(frame: str) -> None:
    message = Client().dialect.read(frame)
    assert (message.commands, message.answers) == ((), ())


CALL = {"function_name": "weather", "tool_call_id": "c1"}
SENT: list[tuple[bool, str, Any, Command]] = [
    (False, "send-text", {"content": "Hi."}, ResponseCreate(input="Hi.", event_id="m1")),
    (False, "send-text", {"content": "Hi.", "options": {}}, ResponseCreate(input="Hi.", event_id="m1")),
    (
        False,
        "send-text",
        {"content": "Hi.", "options": {"run_immediately": False, "audio_response": False}},
        ResponseCreate(input="Hi.", mode="queue", event_id="m1"),
    ),
    (True, "send-text", {"content": "Hi."}, UserMessage(text="Hi.", event_id="m1")),
    (True, "send-text", {"content": "\ud83d Hi."}, UserMessage(text="\ufffd Hi.", event_id="m1")),
    (True, "append-to-context", {"role": "user", "content": "Hi."}, UserMessage(text="Hi.", mode="queue", event_id="m1")),
    (
        True,
        "append-to-context",
        {"role": "user", "content": "Hi.", "run_immediately": True},
        UserMessage(text="Hi.", event_id="m1"),
    ),
    (False, "client-message", {"t": "avatar.update", "d": {"avatar": "maya"}}, SessionUpdate(avatar="maya", event_id="m1")),
    (
        True,
        "client-message",
        {"t": "avatar.speak", "d": {"input": "Hi.", "mode": "append", "id": "r"}},
        ResponseCreate(input="Hi.", mode="append", id="r", event_id="m1"),
    ),
    (False, "client-message", {"t": "avatar.interrupt"}, ResponseCancel(event_id="m1")),
    (
        True,
        "llm-function-call-result",
        {**CALL, "arguments": {}, "result": {"sky": "blue"}},
        FunctionCallOutput(call_id="c1", output='{"sky": "blue"}', event_id="m1"),
    ),
    (
        True,
        "llm-function-call-result",
        {**CALL, "result": "Blue."},
        FunctionCallOutput(call_id="c1", output="Blue.", event_id="m1"),
    ),
    (True, "disconnect-bot", {}, ResponseCancel()),
]


@pytest.mark.parametrize(("llm", "kind", "data", "command"), SENT)
def test_what_a_client_sends_is_a_command(llm: bool, kind: str, data: Any, command: Command) -> None:
    assert Client(llm=llm).send(kind, data)[0] == [command]


@pytest.mark.parametrize(
    ("kind", "data", "code", "says"),
    [
        ("send-text", {"content": " "}, "empty_text", "Send"),
        ("send-text", {"content": ["Hi."]}, "invalid_event", "a string"),
        ("send-text", None, "invalid_event", "a string"),
        ("append-to-context", {"role": "assistant", "content": "I said so."}, "invalid_event", "the user"),
        ("client-message", {"t": "dance"}, "unknown_type", "avatar.update"),
        ("client-message", {"t": ["avatar.update"]}, "unknown_type", "avatar.update"),
        ("client-message", {"t": "avatar.update", "d": []}, "invalid_event", "object"),
        ("client-message", {"t": "avatar.update", "d": {"hat": "red"}}, "invalid_event", "avatar, scene"),
        ("llm-function-call-result", {"result": 1}, "invalid_event", "call_id"),
        ("dtmf", {"buttons": ["1"]}, "unknown_type", "send-text"),
    ],
)
def test_what_cannot_be_done_is_answered_by_its_id(kind: str, data: Any, code: str, says: str) -> None:
    client = Client()
    with pytest.raises(EventError) as caught:
        client.send(kind, data)
    assert (caught.value.code, caught.value.event_id) == (code, "m1")
    (answer,) = client.tell(caught.value.as_event())
    assert (answer["type"], answer["id"], answer["data"]["fatal"]) == ("error-response", "m1", False)
    assert says in answer["data"]["error"]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("Say this.", "invalid_json"),
        ("{oops", "invalid_json"),
        (b"\xff", "not_text"),
        ('{"label":"rtvi-ai","type":"send-text","data":{"content":"Hi."}}', "invalid_event"),
        ("x" * 70_000, "message_too_large"),
    ],
)
def test_what_is_no_message_is_an_error(frame: str | bytes, code: str) -> None:
    with pytest.raises(EventError) as caught:
        Client().dialect.read(frame)
    assert caught.value.code == code


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda part: st.lists(part, max_size=2))
FIELDS = ["content", "options", "run_immediately", "role", "t", "d", "tool_call_id", "result", "version", "input", "scene"]


@given(st.sampled_from(MESSAGES), st.dictionaries(st.sampled_from(FIELDS), JSON | st.sampled_from(list(VERBS)), max_size=5))
def test_whatever_a_message_holds_is_read_or_refused(kind: str, data: dict[str, Any]) -> None:
    client = Client(llm=True)
    with contextlib.suppress(EventError):
        commands, _ = client.send(kind, data)
        assert all(dump(command).encode() for command in commands)


def test_who_has_asked_hears_the_outcome_and_nobody_else() -> None:
    asking, other = Client(), Client()
    asking.send("client-message", {"t": "avatar.update", "d": {"scene": "B"}})
    updated = SessionUpdated(scene="B", voice="deep", event_id="m1")
    answer = {"label": "rtvi-ai", "type": "server-response", "id": "m1"}
    assert asking.tell(updated) == [{**answer, "data": {"t": "avatar.update", "d": {"scene": "B", "voice": "deep"}}}]
    (told,) = other.tell(updated)
    assert (told["type"], told["data"]["type"]) == ("server-message", "session.updated")

    asking.send("client-message", {"t": "avatar.speak", "d": {"input": "Hi."}}, "m2")
    response = asking.tell(created(event_id="m2"))[0]
    assert (response["id"], response["data"]["d"]) == ("m2", {"response_id": "r", "position": 0})
    assert asking.send("client-message", {"t": "avatar.interrupt"}, "m3")[1] == [
        {**answer, "id": "m3", "data": {"t": "avatar.interrupt", "d": {}}}
    ]
    asking.send("send-text", {"content": "?"}, "m4")
    refused = Error(code="unspeakable_text", message="Nothing can be spoken.", event_id="m4")
    assert (kinds(asking.tell(refused)), kinds(other.tell(refused))) == (["error-response"], ["error"])


def test_a_reply_from_its_text_to_its_end() -> None:
    told = Client().told(
        created(), text("Hello, you.", more=True), STARTED, word("Hello,"), text("Bye."), word("you."), word("Bye."), done()
    )
    assert kinds(told) == [
        *("bot-llm-started", "bot-llm-text", "bot-transcription", "bot-output", "bot-tts-started", "bot-started-speaking"),
        *("bot-tts-text", "bot-output", "bot-llm-text", "bot-transcription", "bot-output", "bot-llm-stopped"),
        *("bot-tts-text", "bot-output", "bot-tts-text", "bot-output", "bot-output", "bot-output"),
        *("bot-stopped-speaking", "bot-tts-stopped"),
    ]
    assert "".join(message["data"]["text"] for message in told if message["type"] == "bot-llm-text") == "Hello, you. Bye."
    seen = [(o["segment_id"], o["spoken_status"], *o["spoken_progress"].values()) for o in outputs(told)]
    assert seen == [
        (0, "new", "", "Hello, you."),
        (0, "in-progress", "Hello,", " you."),
        (1, "new", "", "Bye."),
        (0, "in-progress", "Hello, you.", ""),
        (0, "completed", "Hello, you.", ""),
        (1, "in-progress", "Bye.", ""),
        (1, "completed", "Bye.", ""),
    ]


def test_an_old_client_is_told_words_as_it_knows_them() -> None:
    told = Client("1.4.0").told(created(), text("Hello, you."), STARTED, word("Hello,"), word("you."), done())
    assert outputs(told) == [
        {"text": "Hello, you.", "aggregated_by": "sentence", "spoken": False},
        {"text": "Hello,", "aggregated_by": "word", "spoken": True},
        {"text": "you.", "aggregated_by": "word", "spoken": True},
    ]


def test_what_was_cut_off_stays_at_its_last_word() -> None:
    cleared = AudioCleared(response_id="r", heard_ms=1)
    told = Client().told(created(), text("One two.", more=True), STARTED, word("One"), cleared, done(status="cancelled"))
    assert outputs(told)[-1]["spoken_progress"] == {"accumulated_text": "One", "remaining_text": " two."}
    assert kinds(told)[-3:] == ["bot-llm-stopped", "bot-stopped-speaking", "bot-tts-stopped"]


def test_replies_that_wait_begin_with_their_text_and_one_that_failed_says_why() -> None:
    client = Client()
    assert client.told(created(position=1), done(status="cancelled")) == []
    told = client.told(
        created(position=1), text("Sorry."), STARTED, done(status="failed", code="llm_timeout", message="It was late.")
    )
    assert kinds(told)[:1] + kinds(told)[-1:] == ["bot-llm-started", "error"]
    assert told[-1]["data"] == {"error": "It was late.", "message": "It was late.", "fatal": False, "code": "llm_timeout"}


def test_texts_that_are_not_all_spoken_and_words_that_come_again() -> None:
    client = Client()
    told = client.told(created(), text("the dog ```the code```", more=True), text("the the end"), STARTED)
    told += client.told(*map(word, ("the", "dog", "", "the", "the", "end", "unknown")), done())
    heard = [o["spoken_progress"]["accumulated_text"] for o in outputs(told) if o["spoken_status"] == "in-progress"]
    assert heard[:2] == ["the", "the dog"]
    assert heard[-1] == "the the end"


EVENTS: list[tuple[Event, list[str]]] = [
    (SpeechStarted(item_id="i", audio_start_ms=0), ["user-started-speaking"]),
    (SpeechStopped(item_id="i", audio_end_ms=1), ["user-stopped-speaking"]),
    (InputTranscriptUpdated(item_id="i", text="How"), ["user-transcription"]),
    (InputTranscript(item_id="i", text="How?"), ["user-transcription"]),
    (InputTranscript(item_id="i", text=""), []),
    (InputTranscriptFailed(item_id="i", code="c", message="No."), ["error"]),
    (ItemAdded(text="How?", response_id="r"), ["user-llm-text"]),
    (
        FunctionCall(response_id="r", call_id="c1", name="weather", arguments='{"place": "Oslo"}'),
        ["llm-function-call-started", "llm-function-call-in-progress"],
    ),
    (
        FunctionCall(response_id="r", call_id="c1", name="weather", arguments="{"),
        ["llm-function-call-started", "llm-function-call-in-progress"],
    ),
    (AvatarState(state="speaking"), ["server-message"]),
    (SessionClosing(reason="shutdown", in_ms=200), ["signalling"]),
    (SessionClosing(reason="shutdown", in_ms=60_000), ["server-message"]),
    (Error(code="queue_full", message="Too many."), ["error"]),
    (Pong(t=1), []),
]


@pytest.mark.parametrize(("event", "expected"), EVENTS)
def test_events_by_their_names(event: Event, expected: list[str]) -> None:
    assert kinds(Client(llm=True).tell(event)) == expected


def test_what_they_hold() -> None:
    client = Client(llm=True)
    (partial,) = client.tell(InputTranscriptUpdated(item_id="i", text="How"))
    (final,) = client.tell(InputTranscript(item_id="i", text="How?"))
    assert (partial["data"]["final"], final["data"]["final"], final["data"]["text"]) == (False, True, "How?")
    call = FunctionCall(response_id="r", call_id="c1", name="weather", arguments='{"place": "Oslo"}')
    assert client.tell(call)[1]["data"] == {**CALL, "arguments": {"place": "Oslo"}}
    (old,) = Client("1.0.0", llm=True).tell(call)
    assert (old["type"], old["data"]) == ("llm-function-call", {**CALL, "args": {"place": "Oslo"}})
    (state,) = client.tell(AvatarState(state="thinking", ready_in_ms=900))
    assert state["data"] == {"type": "avatar.state", "state": "thinking", "ready_in_ms": 900}
    assert client.tell(SessionClosing(reason="shutdown", in_ms=1)) == [{"type": "signalling", "message": {"type": "peerLeft"}}]
    assert client.send("disconnect-bot")[1] == [{"type": "signalling", "message": {"type": "peerLeft"}}]


def test_who_comes_back_is_told_in_the_same_words_what_it_may_have_missed() -> None:
    client = Client()
    events: list[Event] = [created(), text("One two."), STARTED, word("One"), word("two."), done()]
    told = {seq: client.tell(event, seq) for seq, event in enumerate(events[:4], start=1)}
    assert client.dialect.known_seq == 0
    client.dialect.read("ping: 1")
    assert client.dialect.known_seq == 4
    told |= {seq: client.tell(event, seq) for seq, event in enumerate(events[4:], start=5)}
    again = {seq: client.tell(events[seq - 1], seq) for seq in (5, 6)}
    assert again == {5: told[5], 6: told[6]}
    assert [o["spoken_status"] for o in outputs(told[5] + told[6])] == ["in-progress", "completed"]


def test_what_is_too_large_is_cut() -> None:
    frames = Client().dialect.write(text("word " * 800), 1, 1000)
    assert all(len(frame.encode()) <= 1000 for frame in frames)
    told = [json.loads(frame) for frame in frames]
    assert kinds(told) == ["bot-llm-started", "bot-llm-text", "bot-transcription", "bot-output", "bot-llm-stopped"]
