"""RTVI, as the clients of Pipecat speak it on the data channel of SmallWebRTC. docs/rtvi.md says what becomes of each message.

Protocol 2.1, and 1.x for clients that say so; facts from @pipecat-ai/client-js 1.13 and small-webrtc-transport 1.10. Each message
becomes a command of avatar.v1, and is read as one; what RTVI has no word for is told as a ``server-message`` of avatar.v1.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from signaling import vocabulary as v
from signaling.dialects.avatar import command_of, fields_of
from signaling.dialects.dialect import Message
from signaling.dialects.frames import Json, read_object, read_text, well_formed, write_object, write_within
from signaling.vocabulary import Event, EventError

VERSION = "2.1.0"
LABEL = "rtvi-ai"
VERBS = {"avatar.update": "session.update", "avatar.speak": "response.create", "avatar.interrupt": "response.cancel"}
"""What a ``client-message`` may ask for, and the command of avatar.v1 whose fields it has."""
MESSAGES = ("client-ready", "send-text", "append-to-context", "client-message", "llm-function-call-result", "disconnect-bot")
LEAVES_WITHIN_MS = 1000
"""Of a server that is about to end. One that says so earlier goes on until it says so again."""
CUTTABLE = ("text", "accumulated_text", "remaining_text", "error", "message", "scene")
MAX_REMEMBERED = 1024
"""Requests whose outcome is awaited, and events since the last sign of life."""


@dataclass
class _Segment:
    """Text of a reply that is spoken in one go, and how much of it was heard."""

    segment_id: int
    text: str
    num_heard: int = 0
    is_over: bool = False


@dataclass
class _Reply:
    """What this client knows of a reply."""

    is_begun: bool = False
    is_whole: bool = False
    is_heard: bool = False
    segments: list[_Segment] = field(default_factory=list)


class RtviDialect:
    """What one client has said and was told.

    Attributes:
        known_seq: number of the last event that it surely knows: what was told before its latest sign of life.
    """

    def __init__(self) -> None:
        self.known_seq = 0
        self._told_seq = 0
        self._told: OrderedDict[int, Sequence[str]] = OrderedDict()  # since the last sign of life
        self._is_old = False
        self._session: v.SessionCreated | None = None
        self._asked: OrderedDict[str, str | None] = OrderedDict()  # the verb, where the outcome is answered
        self._replies: dict[str, _Reply] = {}
        self._num_segments = 0

    # What comes from the client.

    def read(self, frame: str | bytes) -> Message:
        self.known_seq = self._told_seq
        self._told.clear()
        text = read_text(frame)
        if text.startswith("ping"):
            return Message()  # each second, as a sign of life
        data = read_object(text)
        if data.get("label") != LABEL:
            return Message()  # the transport's own: which of its tracks the client has muted
        kind, message_id, fields = data.get("type"), data.get("id"), data.get("data")
        if not isinstance(message_id, str) or message_id != well_formed(message_id):
            raise EventError("invalid_event", "A message needs an id, a string of valid text.")
        self._ask(message_id)
        try:
            return self._take(kind, message_id, fields if isinstance(fields, dict) else {})
        except EventError as error:
            raise EventError(error.code, error.message, message_id) from None

    def _take(self, kind: object, message_id: str, fields: Json) -> Message:
        match kind:
            case "client-ready":
                return Message(answers=[self._ready(message_id, fields.get("version"))])
            case "send-text":
                return self._say(kind, message_id, fields.get("content"), _options(fields).get("run_immediately", True))
            case "append-to-context" if fields.get("role") == "user":
                return self._say(kind, message_id, fields.get("content"), fields.get("run_immediately", False))
            case "append-to-context":
                raise EventError("invalid_event", "Only what the user says can be appended. The avatar has said what was heard.")
            case "client-message":
                return self._obey(message_id, fields.get("t"), fields.get("d"))
            case "llm-function-call-result":
                return self._return(message_id, fields)
            case "disconnect-bot":
                return Message([v.ResponseCancel()], [_line(_peer_left())])
        raise EventError("unknown_type", f"Unknown message type {kind!r:.80}. Known: {', '.join(MESSAGES)}.")

    def _ready(self, message_id: str, version: object) -> str:
        known = re.fullmatch(r"([0-9]{1,4})(\.[0-9]{1,4}){1,2}", version) if isinstance(version, str) else None
        self._is_old = known is not None and int(known[1]) < int(VERSION.split(".")[0])
        about: Json = {"library": "avatar-rtc"}
        if self._session is not None:
            session = fields_of(self._session)
            told = ("session_id", "model", "width", "height", "fps", "scene", "voice", "llm", "listens", "speed", "notice")
            about |= {name: session[name] for name in told if name in session}
        return _line(_message("bot-ready", {"version": version if self._is_old else VERSION, "about": about}, message_id))

    def _say(self, kind: str, message_id: str, content: object, run_immediately: object) -> Message:
        """What the user has written: answered where a language model does, else spoken as it is."""
        if not isinstance(content, str):
            raise EventError("invalid_event", f"{kind} needs its content, a string.")
        is_answered = self._session is not None and bool(self._session.llm)
        said = {"type": "user.message", "text": content} if is_answered else {"type": "response.create", "input": content}
        mode = "queue" if run_immediately is False else "replace"
        return Message([command_of({**said, "mode": mode, "event_id": message_id})])

    def _obey(self, message_id: str, verb: object, fields: object) -> Message:
        if not isinstance(verb, str) or verb not in VERBS:
            raise EventError("unknown_type", f"Unknown t {verb!r:.80}. Known: {', '.join(VERBS)}.")
        if not isinstance(fields, dict | None):
            raise EventError("invalid_event", f"The d of {verb} is an object.")
        command = command_of({**(fields or {}), "type": VERBS[verb], "event_id": message_id})
        if isinstance(command, v.ResponseCancel):
            return Message([command], [_line(_message("server-response", {"t": verb, "d": {}}, message_id))])
        self._asked[message_id] = verb
        return Message([command])

    def _return(self, message_id: str, fields: Json) -> Message:
        result = fields.get("result")
        output = result if isinstance(result, str) else json.dumps(result)
        call = {"call_id": fields.get("tool_call_id"), "output": output}
        command = command_of({**call, "type": "function_call.output", "event_id": message_id})
        stopped = {"function_name": fields.get("function_name"), "tool_call_id": call["call_id"], "cancelled": False}
        return Message([command], [_line(_message("llm-function-call-stopped", stopped))])

    def _ask(self, message_id: str) -> None:
        self._asked[message_id] = None
        if len(self._asked) > MAX_REMEMBERED:
            self._asked.popitem(last=False)

    # What it is told.

    def write(self, event: Event, seq: int | None, max_bytes: int) -> Sequence[str]:
        if seq is not None and seq in self._told:
            return self._told[seq]  # in the same words to a client that comes back
        written = (write_within(message, max_bytes, CUTTABLE) for message in self._messages(event))
        frames = [frame for frame in written if frame is not None]
        if seq is not None:
            self._told_seq = seq
            self._told[seq] = frames
            if len(self._told) > MAX_REMEMBERED:
                self._told.popitem(last=False)
        return frames

    def _messages(self, event: Event) -> Iterator[Json]:
        match event:
            case v.SpeechStarted():
                yield _message("user-started-speaking")
            case v.SpeechStopped():
                yield _message("user-stopped-speaking")
            case v.InputTranscriptUpdated() | v.InputTranscript():
                if event.text:
                    yield _message("user-transcription", _transcript(event.text, is_final=isinstance(event, v.InputTranscript)))
            case v.InputTranscriptFailed():
                yield _message("error", _error(event.message, event.code))
            case v.ItemAdded():
                yield _message("user-llm-text", {"text": event.text})
            case v.FunctionCall():
                yield from self._call(event)
            case v.ResponseCreated():
                yield from self._respond(event.event_id, {"response_id": event.response_id, "position": event.position})
                if event.position == 0:
                    yield from self._begin(self._reply(event.response_id))
            case v.OutputText():
                yield from self._tell_text(self._reply(event.response_id), event)
            case v.AudioStarted():
                self._reply(event.response_id).is_heard = True
                yield _message("bot-tts-started")
                yield _message("bot-started-speaking")
            case v.TranscriptDelta():
                yield from self._tell_word(self._reply(event.response_id), event.text)
            case v.ResponseDone():
                yield from self._end(self._replies.pop(event.response_id, _Reply()), event)
            case v.SessionUpdated() if self._asked.get(event.event_id or ""):
                yield from self._respond(event.event_id, {"scene": event.scene, "voice": event.voice})
            case v.SessionClosing() if event.in_ms <= LEAVES_WITHIN_MS:
                yield _peer_left()
            case v.Error():
                is_answer = event.event_id is not None and event.event_id in self._asked
                kind, message_id = ("error-response", event.event_id) if is_answer else ("error", None)
                yield _message(kind, _error(event.message, event.code), message_id)
            case v.AudioCleared() | v.Pong():
                pass
            case _:
                if isinstance(event, v.SessionCreated):
                    self._session = event
                yield _message("server-message", fields_of(event))

    def _reply(self, reply_id: str) -> _Reply:
        return self._replies.setdefault(reply_id, _Reply())

    def _respond(self, event_id: str | None, outcome: Json) -> Iterator[Json]:
        """To whoever has asked by a verb, that it is done."""
        verb = None if event_id is None else self._asked.pop(event_id, None)
        if verb is not None:
            yield _message("server-response", {"t": verb, "d": outcome}, event_id)

    def _begin(self, reply: _Reply) -> Iterator[Json]:
        if not reply.is_begun:
            reply.is_begun = True
            yield _message("bot-llm-started")

    def _tell_text(self, reply: _Reply, told: v.OutputText) -> Iterator[Json]:
        yield from self._begin(reply)
        if told.text:
            # Clients join these pieces as they come.
            yield _message("bot-llm-text", {"text": f" {told.text}" if reply.segments else told.text})
            segment = _Segment(self._num_segments, told.text)
            self._num_segments += 1
            reply.segments.append(segment)
            yield _message("bot-transcription", {"text": told.text})
            yield self._output(segment, "new")
        if not told.more:
            reply.is_whole = True
            yield _message("bot-llm-stopped")

    def _tell_word(self, reply: _Reply, word: str) -> Iterator[Json]:
        if not word:
            return
        yield _message("bot-tts-text", {"text": word})
        if self._is_old:
            yield _message("bot-output", {"text": word, "spoken": True, "aggregated_by": "word"})
            return
        waiting = [segment for segment in reply.segments if not segment.is_over]
        place = next((i for i, segment in enumerate(waiting) if word in segment.text[segment.num_heard :]), None)
        if place is None:
            return
        for segment in waiting[:place]:
            yield from self._complete(segment)
        current = waiting[place]
        current.num_heard = current.text.index(word, current.num_heard) + len(word)
        yield self._output(current, "in-progress")

    def _complete(self, segment: _Segment) -> Iterator[Json]:
        segment.num_heard, segment.is_over = len(segment.text), True
        yield self._output(segment, "completed")

    def _output(self, segment: _Segment, status: str) -> Json:
        output: Json = {"text": segment.text, "aggregated_by": "sentence"}
        if self._is_old:
            return _message("bot-output", {**output, "spoken": False})
        output |= {"segment_id": segment.segment_id, "will_be_spoken": True, "spoken_status": status}
        heard, rest = segment.text[: segment.num_heard], segment.text[segment.num_heard :]
        return _message("bot-output", {**output, "spoken_progress": {"accumulated_text": heard, "remaining_text": rest}})

    def _end(self, reply: _Reply, done: v.ResponseDone) -> Iterator[Json]:
        if reply.is_begun and not reply.is_whole:
            yield _message("bot-llm-stopped")
        if reply.is_heard:
            if done.status == "completed" and not self._is_old:
                for segment in reply.segments:
                    if not segment.is_over:
                        yield from self._complete(segment)
            yield _message("bot-stopped-speaking")
            yield _message("bot-tts-stopped")
        if done.status == "failed":
            yield _message("error", _error(done.message or "The reply failed.", done.code))

    def _call(self, call: v.FunctionCall) -> Iterator[Json]:
        try:
            arguments = json.loads(call.arguments)
        except ValueError:
            arguments = None
        called = {"function_name": call.name, "tool_call_id": call.call_id}
        arguments = arguments if isinstance(arguments, dict) else {}
        if self._is_old:
            yield _message("llm-function-call", {**called, "args": arguments})
            return
        yield _message("llm-function-call-started", {"function_name": call.name})
        yield _message("llm-function-call-in-progress", {**called, "arguments": arguments})


def _options(fields: Json) -> Json:
    options = fields.get("options")
    return options if isinstance(options, dict) else {}


def _message(kind: str, data: Any = None, message_id: str | None = None) -> Json:
    message: Json = {"label": LABEL, "type": kind}
    if message_id is not None:
        message["id"] = message_id
    if data is not None:
        message["data"] = data
    return message


def _line(message: Json) -> str:
    """One frame. What comes back to a client as it has sent it may hold halves of surrogate pairs."""
    return well_formed(write_object(message))


def _error(message: str, code: str | None) -> Json:
    """The documentation has ``message``, the client ``error``: both are there."""
    return {"error": message, "message": message, "fatal": False, "code": code}


def _transcript(text: str, *, is_final: bool) -> Json:
    timestamp = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"text": text, "final": is_final, "timestamp": timestamp, "user_id": "user"}


def _peer_left() -> Json:
    return {"type": "signalling", "message": {"type": "peerLeft"}}
