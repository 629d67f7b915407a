from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.dialects.avatar import dump, name_of, parse_command, parse_event
from signaling.dialects.frames import MAX_MESSAGE_BYTES
from signaling.vocabulary import EventError, Ping, ResponseCreate, ResponseDone, SessionUpdate, Timings


def test_a_bare_text_frame_means_say_this() -> None:
    assert parse_command("Hello, you.") == ResponseCreate(input="Hello, you.", mode="replace")
    assert parse_command("[1, 2] is a list") == ResponseCreate(input="[1, 2] is a list")
    assert parse_command("Grüß dich".encode()) == ResponseCreate(input="Grüß dich")


@pytest.mark.parametrize(
    ("frame", "code", "says"),
    [
        ("", "empty_text", "Send the text"),
        ("   \n", "empty_text", "Send the text"),
        ('{"type": "response.create", "input": " "}', "empty_text", "Send the text"),
        ("{oops", "invalid_json", "not JSON"),
        ('{"type": "dance"}', "unknown_type", "response.create"),
        ("{}", "unknown_type", "Known"),
        ('{"type": ["ping"]}', "unknown_type", "Known"),
        ('{"type": "response.create"}', "invalid_event", "input"),
        ('{"type": "response.create", "input": 3}', "invalid_event", "input"),
        ('{"type": "response.create", "input": "x", "mode": "shout"}', "invalid_event", "mode"),
        ('{"type": "response.create", "input": "x", "speed": 2}', "invalid_event", "Its fields: event_id, input"),
        ("x" * (MAX_MESSAGE_BYTES + 1), "message_too_large", "pieces"),
        (b"\xff\xfe\x00", "not_text", "UTF-8"),
        ("{" * 20_000, "invalid_json", "not JSON"),
        ('{"type": "ping", "event_id": ""}', "invalid_event", "event_id"),
    ],
)
def test_a_bad_frame_is_a_structured_error(frame: str | bytes, code: str, says: str) -> None:
    with pytest.raises(EventError) as caught:
        parse_command(frame)
    assert caught.value.code == code
    assert says in caught.value.message
    assert len(caught.value.message) < 400


def test_the_event_id_survives_into_the_error() -> None:
    with pytest.raises(EventError) as caught:
        parse_command('{"type": "response.create", "event_id": "e7"}')
    assert caught.value.event_id == "e7"


def test_the_last_piece_may_be_empty() -> None:
    assert parse_command('{"type": "response.create", "mode": "append", "id": "r", "input": ""}') == ResponseCreate(
        input="", mode="append", id="r"
    )


@given(st.text(max_size=200))
def test_any_text_frame_is_an_event_or_an_event_error(frame: str) -> None:
    with contextlib.suppress(EventError):
        assert name_of(parse_command(frame))


@pytest.mark.parametrize(
    "event",
    [
        ResponseCreate(input="“Hi” — \n é 你好", mode="queue", id="r", event_id="e"),
        SessionUpdate(scene="A man."),
        SessionUpdate(instructions="Be brief.", tools=[{"name": "t", "parameters": {"type": "object", "x": [1, {"é": "ü"}]}}]),
        Ping(t=1.5),
    ],
)
def test_client_events_survive_the_wire(event: ResponseCreate | SessionUpdate | Ping) -> None:
    assert parse_command(dump(event)) == event


@pytest.mark.parametrize("tools", [{}, [{}], [{"name": "a tool"}], [{"name": "t", "parameters": "x"}], [{"name": "t"}] * 65])
def test_tools_that_are_none_are_refused(tools: object) -> None:
    with pytest.raises(EventError, match=r"session\.update: tools"):
        parse_command(json.dumps({"type": "session.update", "tools": tools}))


def test_what_is_nested_too_deep_is_refused() -> None:
    deep = '{"x":' * 500 + "1" + "}" * 500
    with pytest.raises(EventError, match="nested more than 32 deep"):
        parse_command('{"type": "session.update", "tools": [{"name": "t", "parameters": ' + deep + "}]}")


def test_texts_are_made_valid_however_deep_they_are() -> None:
    frame = '{"type": "session.update", "tools": [{"name": "t", "parameters": {"\\ud800": ["\\udc00"]}}]}'
    assert parse_command(frame) == SessionUpdate(tools=[{"name": "t", "parameters": {"\ufffd": ["\ufffd"]}}])


def test_null_stays_where_it_is_an_answer() -> None:
    done = ResponseDone(
        response_id="r",
        status="cancelled",
        heard_ms=0,
        heard_text="",
        timings=Timings(first_audio_ms=None, total_ms=3, underruns=0),
    )
    data = json.loads(dump(done))
    assert data["timings"]["first_audio_ms"] is None
    assert "code" not in data
    assert parse_event(dump(done, 12)) == (done, 12)
