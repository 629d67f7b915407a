"""avatar.v1: the vocabulary as JSON objects with a ``type``, on the data channel and over HTTP. docs/protocol.md shows each.

A text frame that does not start with ``{`` is the short form of ``response.create`` in mode ``replace``. Reading is strict. Text
is made valid here, when it comes in, and nowhere else: what ``parse_command`` returns can be encoded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from signaling import vocabulary as v
from signaling.dialects.dialect import Message
from signaling.dialects.frames import Json, all_well_formed, read_object, read_text, write_object, write_within
from signaling.vocabulary import Command, Event, EventError

COMMANDS: dict[str, type[Command]] = {
    "session.update": v.SessionUpdate,
    "response.create": v.ResponseCreate,
    "user.message": v.UserMessage,
    "function_call.output": v.FunctionCallOutput,
    "response.cancel": v.ResponseCancel,
    "output_audio_buffer.clear": v.ResponseCancel,
    "ping": v.Ping,
    "client.stats": v.ClientStats,
}
EVENTS: dict[str, type[Event]] = {
    "session.created": v.SessionCreated,
    "session.updated": v.SessionUpdated,
    "input_audio_buffer.speech_started": v.SpeechStarted,
    "input_audio_buffer.speech_stopped": v.SpeechStopped,
    "conversation.item.input_audio_transcription.updated": v.InputTranscriptUpdated,
    "conversation.item.input_audio_transcription.completed": v.InputTranscript,
    "conversation.item.input_audio_transcription.failed": v.InputTranscriptFailed,
    "conversation.item.added": v.ItemAdded,
    "response.function_call_arguments.done": v.FunctionCall,
    "response.created": v.ResponseCreated,
    "response.output_text.delta": v.OutputText,
    "output_audio_buffer.started": v.AudioStarted,
    "response.output_audio_transcript.delta": v.TranscriptDelta,
    "output_audio_buffer.cleared": v.AudioCleared,
    "response.done": v.ResponseDone,
    "avatar.state": v.AvatarState,
    "output.started": v.OutputStarted,
    "output.updated": v.OutputUpdated,
    "output.ended": v.OutputEnded,
    "pong": v.Pong,
    "session.closing": v.SessionClosing,
    "error": v.Error,
}
_CUTTABLE = ("heard_text", "scene", "voice", "message", "text", "spoken")
"""Fields of events that may be cut."""


class AvatarDialect:
    """avatar.v1, of our own page and client."""

    def read(self, frame: str | bytes) -> Message:
        return Message([parse_command(frame)])

    def write(self, event: Event, seq: int | None, max_bytes: int) -> Sequence[str]:
        line = dump_within(event, max_bytes, seq)
        return () if line is None else (line,)


def _models(types: dict[str, type[Any]], *, strict: bool) -> dict[type[Any], type[BaseModel]]:
    """A model for each type, with its fields, that reads it from JSON."""
    config = ConfigDict(extra="forbid", strict=strict)
    models: dict[type[Any], type[BaseModel]] = {}
    for cls in types.values():
        hints = get_type_hints(cls, include_extras=True)
        fields: dict[str, Any] = {
            field.name: (hints[field.name], ... if field.default is dataclasses.MISSING else field.default)
            for field in dataclasses.fields(cls)
        }
        models[cls] = create_model(cls.__name__, __config__=config, **fields)
    return models


_MODELS = _models(COMMANDS, strict=True) | _models(EVENTS, strict=False)
_NAMES: dict[type[Any], str] = {cls: name for name, cls in reversed([*COMMANDS.items(), *EVENTS.items()])}


def name_of(message: Command | Event) -> str:
    """The ``type`` of a command or an event."""
    return _NAMES[type(message)]


def parse_command(frame: str | bytes) -> Command:
    """A data channel frame or an HTTP body as a command.

    Raises:
        EventError: too large, not text, not JSON, an unknown type, or fields that do not fit.
    """
    text = read_text(frame)
    is_object = text.lstrip().startswith("{")
    return command_of(read_object(text) if is_object else {"type": "response.create", "input": text})


def command_of(fields: Json) -> Command:
    """The command that an object is. Raises ``EventError`` for an unknown type, and for fields that do not fit."""
    command: Command = _parse(fields, COMMANDS)
    # A piece may be white space, or nothing: only together with the others it is known to be.
    if isinstance(command, v.ResponseCreate) and not command.input.strip() and command.mode != "append" and not command.more:
        raise EventError("empty_text", "The input is empty. Send the text that is to be said.", command.event_id)
    if isinstance(command, v.UserMessage) and not command.text.strip() and not (command.instructions or "").strip():
        raise EventError("empty_text", "The message is empty. Send what the user says.", command.event_id)
    return command


def parse_event(frame: str | bytes) -> tuple[Event, int | None]:
    """What a client receives: the event, and its number if it has one. Raises ``EventError`` as ``parse_command`` does."""
    data = read_object(frame)
    seq = data.pop("seq", None)
    event: Event = _parse(data, EVENTS)
    return event, seq if isinstance(seq, int) else None


def dump(message: Command | Event, seq: int | None = None) -> str:
    """One line of JSON; see ``fields_of``."""
    return write_object(fields_of(message, seq))


def dump_within(event: Event, max_bytes: int, seq: int | None = None) -> str | None:
    """The same in at most ``max_bytes`` of UTF-8: the longest texts are cut, and end with ``…``. None if that is not enough."""
    return write_within(fields_of(event, seq), max_bytes, _CUTTABLE)


def fields_of(message: Command | Event, seq: int | None = None) -> Json:
    """The object that a command or an event is, without fields that are ``None``; inside of ``timings`` these stay, as an answer.

    Args:
        seq: number of an event of the session.
    """
    data = {"type": name_of(message), "seq": seq, **dataclasses.asdict(message)}
    return {name: value for name, value in data.items() if value is not None}


def _parse(typed: Json, types: dict[str, Any]) -> Any:
    try:
        data = all_well_formed(typed)
    except ValueError as error:
        raise EventError("invalid_event", f"The event cannot be read: {error}.") from None
    event_id = data.get("event_id") if isinstance(data.get("event_id"), str) else None
    for field in ("event_id", "id"):
        # Two of them could become the same, and the second event would be taken for a repeated one.
        if typed.get(field) != data.get(field):
            raise EventError("invalid_event", f"The {field} is not valid text: it holds half of a surrogate pair.", event_id)
    name = data.pop("type", None)
    cls = types.get(name) if isinstance(name, str) else None
    if cls is None:
        raise EventError("unknown_type", f"Unknown event type {name!r:.80}. Known: {', '.join(sorted(types))}.", event_id)
    model = _MODELS[cls]
    try:
        read = model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "event"
        if first["type"] == "extra_forbidden":
            known = ", ".join(model.model_fields)
            message = f"{name} has no field {where!r:.80}. Its fields: {known}."
        else:
            message = f"{name}: {where}: {first['msg']}."
        raise EventError("invalid_event", message, event_id) from None
    return cls(**{field: getattr(read, field) for field in model.model_fields})
