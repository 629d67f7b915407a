"""What is read and told in the events of the OpenAI Realtime API. All that is told must fit the types of OpenAI's own library."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

from signaling import vocabulary as v
from signaling.dialects.frames import MAX_MESSAGE_BYTES
from signaling.dialects.realtime import RealtimeDialect
from signaling.dialects.realtime_events import Mode

SERVER_EVENTS: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
LIMITS = v.Limits(max_message_bytes=1, max_prompt_chars=1, max_queued_replies=1)
HELLO = v.SessionCreated(
    session_id="s1",
    model="pocket",
    fps=25,
    width=256,
    height=256,
    chunk_ms=320,
    block_ms=320,
    scene="A woman.",
    voice="a warm voice",
    limits=LIMITS,
    grace_ms=1,
)
Json = dict[str, Any]
KINDS = ("session.update", "conversation.item.create", "conversation.item.truncate", "response.create", "response.cancel")
FIELDS = "audio avatar content conversation event_id id input item item_id metadata output response role scene session text voice"
PART = ["response.output_item.added", "conversation.item.added", "response.content_part.added"]
PART_END = [
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "response.output_item.done",
    "conversation.item.done",
]
ITEM = ["conversation.item.added", "conversation.item.done"]


class Client:
    """One client: what it sends, and what it was told."""

    def __init__(self, *, llm: bool = False, mode: Mode | None = None) -> None:
        self.dialect = RealtimeDialect(mode, ["warm-female"])
        self.told: list[Json] = []
        self.hear(v.SessionCreated(**{**vars(HELLO), "llm": llm}))

    def hear(self, *events: v.Event, max_bytes: int = 1 << 20) -> list[Json]:
        """What these events are in its protocol."""
        return self._take([line for event in events for line in self.dialect.write(event, 1, max_bytes)])

    def send(self, kind: str, **fields: Any) -> list[v.Command]:
        """What it asks for by an event; its answers are the last that it was told."""
        try:
            message = self.dialect.read(json.dumps({"type": kind, **fields}))
        except v.EventError as error:
            self.hear(error.as_event())
            return []
        self.answers = self._take(list(message.answers))
        return list(message.commands)

    def say(self, text: str, role: str = "user") -> str:
        """Make an item with a text. Returns its id."""
        item = {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}
        assert self.send("conversation.item.create", item=item) == []
        return str(self.answers[-1]["item"]["id"])

    @property
    def error(self) -> Json:
        """What went wrong just now."""
        assert self.told[-1]["type"] == "error"
        error: Json = self.told[-1]["error"]
        return error

    def _take(self, lines: list[str]) -> list[Json]:
        frames = [json.loads(line) for line in lines]
        for frame in frames:
            SERVER_EVENTS.validate_python(frame)
        self.told += frames
        assert max(Counter(frame["event_id"] for frame in self.told).values(), default=1) == 1
        return frames


def kinds(frames: list[Json]) -> list[str]:
    return [frame["type"] for frame in frames]


def delta(reply_id: str, word: str) -> v.TranscriptDelta:
    return v.TranscriptDelta(response_id=reply_id, text=word, start_ms=0, end_ms=1)


def created(reply_id: str) -> v.ResponseCreated:
    return v.ResponseCreated(response_id=reply_id, mode="queue", position=0)


def done(reply_id: str, status: v.DoneStatus = "completed", heard: str = "", **fields: Any) -> v.ResponseDone:
    timings = v.Timings(first_audio_ms=1, total_ms=2, underruns=0)
    return v.ResponseDone(response_id=reply_id, status=status, heard_ms=700, heard_text=heard, timings=timings, **fields)


def test_a_reply_is_told_as_a_response_with_one_item_whose_deltas_are_the_words_heard() -> None:
    client = Client()
    client.say("Hi there.")
    (command,) = client.send("response.create", event_id="agents_js_response_create_1", response={"metadata": {"a": "b"}})
    assert isinstance(command, v.ResponseCreate)
    assert (command.input, command.mode) == ("Hi there.", "queue")
    reply = str(command.id)
    frames = client.hear(created(reply), v.AudioStarted(response_id=reply, pts=0), delta(reply, "Hi"), delta(reply, "there."))
    word = "response.output_audio_transcript.delta"
    assert kinds(frames) == ["response.created", *PART, "output_audio_buffer.started", word, word]
    assert "".join(frame["delta"] for frame in frames[-2:]) == "Hi there."
    assert frames[0]["response"]["metadata"] == {"a": "b"}
    end = client.hear(done(reply, heard="Hi there."))
    assert kinds(end) == [*PART_END, "response.done", "output_audio_buffer.stopped"]
    response = end[-2]["response"]
    assert (response["id"], response["status"], response["object"]) == (reply, "completed", "realtime.response")
    assert response["output"][0]["content"] == [{"type": "output_audio", "transcript": "Hi there."}]
    user, assistant = (frame["item"]["id"] for frame in client.told if frame["type"] == "conversation.item.done")
    assert [frame["previous_item_id"] for frame in client.told if frame["type"] == "conversation.item.added"] == [None, user]
    assert assistant == response["output"][0]["id"]


def test_what_was_cut_off_is_told_by_what_was_heard() -> None:
    client = Client()
    item = "item_r"
    client.hear(created("r"), v.AudioStarted(response_id="r", pts=0), delta("r", "Well,"))
    client.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=321)
    assert client.answers[0]["audio_end_ms"] == 321, "nobody knows better yet"
    frames = client.hear(v.AudioCleared(response_id="r", heard_ms=700), done("r", "cancelled", "Well,"))
    assert kinds(frames) == ["output_audio_buffer.cleared", *PART_END, "conversation.item.truncated", "response.done"]
    assert frames[-1]["response"]["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
    client.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=5000)
    assert client.answers[0]["audio_end_ms"] == 700
    client.send("conversation.item.retrieve", item_id=item)
    assert client.answers[0]["item"]["content"] == [{"type": "output_audio", "transcript": "Well,"}]
    assert client.answers[0]["item"]["status"] == "incomplete"
    client.send("conversation.item.delete", item_id=item)
    assert kinds(client.answers) == ["conversation.item.deleted"]
    client.send("conversation.item.retrieve", item_id=item, event_id="e")
    assert (client.error["code"], client.error["event_id"]) == ("item_not_found", "e")


def test_a_reply_that_fails_or_never_sounds_ends_once() -> None:
    client = Client()
    client.hear(created("r"))
    frames = client.hear(done("r", "failed", code="engine_failed", message="It stopped."))
    assert kinds(frames) == ["response.done"]
    error = {"type": "server_error", "code": "engine_failed", "message": "It stopped."}
    assert frames[0]["response"]["status_details"] == {"type": "failed", "error": error}
    # A client that has come in the middle is told of the response all the same.
    assert kinds(client.hear(delta("late", "end."))) == ["response.created", *PART, "response.output_audio_transcript.delta"]
    assert client.hear(done("late", heard="The whole end."))[1]["transcript"] == "The whole end."


def test_session_update_is_always_answered_and_carries_look_and_voice() -> None:
    client = Client()
    audio = {"input": {"turn_detection": {"type": "semantic_vad"}, "noise_reduction": None}, "output": {"speed": 1}}
    stock = {"type": "realtime", "model": "gpt", "instructions": "x", "audio": audio, "tools": [], "tracing": "auto"}
    assert client.send("session.update", session=stock) == []
    assert kinds(client.answers) == ["session.updated"]
    assert client.answers[0]["session"]["audio"]["input"] == {"turn_detection": None}, "this server does not listen"
    assert client.answers[0]["session"]["avatar"] == {
        "scene": "A woman.",
        "width": 256,
        "height": 256,
        "fps": 25,
        "mode": "verbatim",
    }
    voice = {"audio": {"output": {"voice": "alloy"}}}
    assert client.send("session.update", session=voice) == [], "names of OpenAI's voices leave ours"
    wanted = {"avatar": {"look": "tom", "scene": "A man."}, "audio": {"output": {"voice": {"id": "warm-female"}}}}
    (update,) = client.send("session.update", session=wanted)
    assert update == v.SessionUpdate(avatar="tom", scene="A man.", voice="warm-female")
    frames = client.hear(v.SessionUpdated(scene="A man.", voice="a deep voice"))
    assert frames[0]["session"]["audio"]["output"]["voice"] == "a deep voice"
    assert client.send("session.update", session={"avatar": {"looks": "tom"}}, event_id="e") == []
    assert client.error["event_id"] == "e"
    assert "looks" in client.error["message"]


def test_instructions_and_tools_are_for_the_language_model() -> None:
    client = Client(llm=True)
    tool = {"type": "function", "name": "dice", "description": "Roll.", "parameters": {"type": "object"}, "strict": True}
    session = {"type": "realtime", "instructions": "Be brief.", "tools": [tool, {"type": "mcp", "server_label": "x"}]}
    (update,) = client.send("session.update", session=session)
    function = v.Tool(name="dice", description="Roll.", parameters={"type": "object"})
    assert update == v.SessionUpdate(instructions="Be brief.", tools=[function])
    assert client.send("session.update", session={"tools": [{"type": "function", "name": "no name"}]}) == []
    assert client.error["code"] == "invalid_event"
    deep: Json = {}
    for _ in range(100):
        deep = {"x": deep}
    assert client.send("session.update", session={"tools": [{**tool, "parameters": deep}]}) == []
    assert "nested" in client.error["message"]
    # Some for one response, which nobody has to ask for.
    (greeting,) = client.send("response.create", response={"instructions": "Say hello."})
    assert isinstance(greeting, v.UserMessage)
    assert (greeting.text, greeting.instructions) == ("", "Say hello.")
    verbatim = Client()
    assert verbatim.send("session.update", session=session) == []
    assert verbatim.send("response.create", response={"instructions": "Say hello."}) == []
    assert verbatim.error["code"] == "nothing_to_answer"


def test_who_makes_up_what_is_said() -> None:
    verbatim, llm = Client(), Client(llm=True)
    for client in (verbatim, llm):
        client.say("One.")
        client.say("Be kind.", role="system")
        client.say("Two.")
        client.say("Said long ago.", role="assistant")
    (spoken,), (asked,) = verbatim.send("response.create"), llm.send("response.create")
    assert isinstance(spoken, v.ResponseCreate)
    assert spoken.input == "Two."
    assert isinstance(asked, v.UserMessage)
    assert (asked.text, asked.mode) == ("One.\nTwo.", "queue")
    for client in (verbatim, llm):
        assert client.send("response.create", event_id="e") == []
        assert (client.error["code"], client.error["event_id"]) == ("nothing_to_answer", "e")
    # What the assistant says is spoken as it is, whoever answers the user.
    line = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Welcome."}]}
    (spoken,) = llm.send("response.create", response={"conversation": "none", "input": [line]})
    assert isinstance(spoken, v.ResponseCreate)
    assert spoken.input == "Welcome."
    reply = str(spoken.id)
    frames = llm.hear(created(reply), delta(reply, "Welcome."), done(reply, heard="Welcome."))
    assert not any(kind.startswith("conversation.item") for kind in kinds(frames)), "it is out of the conversation"
    assert llm.send("session.update", session={"avatar": {"mode": "verbatim"}}) == []
    reference = {"type": "item_reference", "id": llm.say("Three.")}
    (spoken,) = llm.send("response.create", response={"input": [reference]})
    assert isinstance(spoken, v.ResponseCreate)
    assert spoken.input == "Three."
    verbatim.send("session.update", session={"avatar": {"mode": "llm"}})
    assert verbatim.error["code"] == "no_llm"


def test_a_call_of_a_tool_ends_a_response_and_its_output_begins_the_next() -> None:
    client = Client(llm=True)
    client.say("The weather?")
    (asked,) = client.send("response.create")
    assert isinstance(asked, v.UserMessage)
    reply = str(asked.id)
    assert client.hear(v.ItemAdded(text="The weather?", response_id=reply)) == [], "it has made the item itself"
    client.hear(created(reply))
    arguments = '{"city":"Oslo"}'
    frames = client.hear(v.FunctionCall(response_id=reply, call_id="c1", name="weather", arguments=arguments))
    call = [PART[0], ITEM[0], "response.function_call_arguments.done", "response.output_item.done", ITEM[1], "response.done"]
    assert kinds(frames) == call
    (item,) = frames[-1]["response"]["output"]
    assert (item["type"], item["call_id"], item["name"], item["arguments"]) == ("function_call", "c1", "weather", arguments)
    output = {"type": "function_call_output", "call_id": "c1", "output": "rain"}
    assert client.send("conversation.item.create", item=output) == [v.FunctionCallOutput(call_id="c1", output="rain")]
    assert kinds(client.answers) == ITEM
    assert client.send("response.create") == []
    assert kinds(client.answers) == ["response.created"]
    assert client.answers[0]["response"]["id"] == f"{reply}_2"
    assert client.send("response.cancel", response_id=f"{reply}_2") == [v.ResponseCancel(id=reply)]
    frames = client.hear(v.AudioStarted(response_id=reply, pts=0), delta(reply, "Rain."), done(reply, heard="Rain."))
    assert [frame["response"]["id"] for frame in frames if frame["type"] == "response.done"] == [f"{reply}_2"]
    # A response that is asked for when the reply is over already is an empty one, so that nobody waits for it.
    client.send("conversation.item.create", item=output)
    client.send("response.create")
    assert kinds(client.answers) == ["response.created", "response.done"]


def test_what_others_say_and_what_the_microphone_hears_are_items() -> None:
    client = Client(llm=True)
    assert kinds(client.hear(v.ItemAdded(text="Typed elsewhere.", response_id="r"))) == ITEM
    frames = client.hear(v.SpeechStarted(item_id="u", audio_start_ms=100), v.SpeechStopped(item_id="u", audio_end_ms=1100))
    buffer = "input_audio_buffer"
    assert kinds(frames) == [f"{buffer}.speech_started", f"{buffer}.speech_stopped", f"{buffer}.committed", *ITEM]
    texts = ("How", "How are", "Who are")
    frames = client.hear(*(v.InputTranscriptUpdated(item_id="u", text=text) for text in texts))
    assert [frame["delta"] for frame in frames] == ["How", " are"], "what was told is not taken back"
    (frame,) = client.hear(v.InputTranscript(item_id="u", text="How are you?"))
    assert (frame["transcript"], frame["usage"]["seconds"]) == ("How are you?", 1.0)
    client.send("conversation.item.retrieve", item_id="u")
    assert client.answers[0]["item"]["content"] == [{"type": "input_audio", "transcript": "How are you?"}]
    assert client.hear(v.ItemAdded(text="How are you?", response_id="r", item_id="u")) == []
    (frame,) = client.hear(v.InputTranscriptFailed(item_id="u", code="x", message="It failed."))
    assert frame["error"] == {"type": "server_error", "code": "x", "message": "It failed."}
    # Who falls silent because the user speaks was not cancelled by the client.
    client.hear(created("r"), v.SpeechStarted(item_id="u2", audio_start_ms=5))
    (frame,) = client.hear(done("r", "cancelled"))
    assert frame["response"]["status_details"]["reason"] == "turn_detected"


def test_repeated_ids_of_two_clients_are_not_the_same_command() -> None:
    clients = Client(), Client()
    ids = [client.send("output_audio_buffer.clear", event_id="e1")[0].event_id for client in (*clients, clients[0])]
    assert len(set(ids)) == 3
    error = v.Error(code="queue_full", message="Wait.", event_id=ids[0])
    assert [client.hear(error)[0]["error"]["event_id"] for client in clients] == ["e1", None]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("ping", "invalid_json"),
        ("[]", "invalid_json"),
        ('{"type":"dance"}', "unknown_type"),
        ('{"type":["x"]}', "unknown_type"),
        ('{"type":"conversation.item.create"}', "invalid_event"),
        (
            '{"type":"conversation.item.create","item":{"content":[{"type":"input_audio","audio":"AA"}]}}',
            "unsupported_item",
        ),
        ('{"type":"conversation.item.create","item":{"type":"function_call_output","output":"4"}}', "unsupported_item"),
        ('{"type":"conversation.item.create","item":{"type":"mcp_call"}}', "unsupported_item"),
        ('{"type":"response.create","response":{"input":[{"type":"item_reference","id":"x"}]}}', "item_not_found"),
        ('{"type":"response.create","response":{"metadata":{"a":1}}}', "invalid_event"),
        ('{"type":"input_audio_buffer.append","audio":"AA"}', "unknown_type"),
        (b"\xff", "not_text"),
        ("x" * (MAX_MESSAGE_BYTES + 1), "message_too_large"),
    ],
)
def test_what_cannot_be_taken_says_so(frame: str | bytes, code: str) -> None:
    client = Client()
    with pytest.raises(v.EventError) as caught:
        client.dialect.read(frame)
    assert caught.value.code == code
    client.hear(caught.value.as_event())
    assert len(client.error["message"]) < 600


def test_texts_are_made_valid_and_long_ones_are_cut_to_what_is_taken() -> None:
    client = Client()
    client.dialect.read('{"type":"conversation.item.create","item":{"content":[{"type":"input_text","text":"half \\ud83d"}]}}')
    (command,) = client.send("response.create")
    assert isinstance(command, v.ResponseCreate)
    assert command.input == "half \ufffd"
    reply = str(command.id)
    client.hear(created(reply), delta(reply, "word"))
    frames = client.hear(done(reply, heard="word " * 2000), max_bytes=1000)
    assert kinds(frames) == [*PART_END, "response.done"]
    assert all(len(json.dumps(frame, ensure_ascii=False).encode()) < 1100 for frame in frames)
    assert frames[-1]["response"]["output"][0]["content"][0]["transcript"].endswith("…")


TEXTS = st.text(st.characters(exclude_categories=()), max_size=8)  # halves of surrogate pairs, too
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["message", "item_reference", "none", "user"]) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(FIELDS.split()), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(FIELDS.split()), VALUES, max_size=4))
def test_whatever_comes_is_taken_or_refused_in_words(kind: str, fields: dict[str, Any]) -> None:
    client = Client(llm=True)
    for command in client.send(kind, **fields):
        json.dumps(vars(command), ensure_ascii=False).encode()
