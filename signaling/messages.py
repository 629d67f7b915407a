"""The events of the data channel: one frozen type each, strict parsing, and nothing else.

Client events arrive as JSON objects with a ``type``; a text frame that does not start with ``{`` is the short form of
``response.create`` in mode ``replace``. The same JSON is accepted over HTTP. docs/protocol.md shows each event.

Text is made valid here, when it comes in, and nowhere else: what ``parse_client`` returns can be encoded.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, NoReturn, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

PROTOCOL = "avatar.v1"
MAX_MESSAGE_BYTES = 64 * 1024

Mode = Literal["replace", "queue", "append"]
DoneStatus = Literal["completed", "cancelled", "failed"]
State = Literal["initializing", "idle", "listening", "thinking", "speaking"]
EventId = Annotated[str, Field(min_length=1, max_length=128)]
ReplyId = Annotated[str, Field(min_length=1, max_length=128)]
Number = Annotated[float | int, Field(ge=-(2**63), le=2**63)]
"""Neither NaN nor infinite, and not so long that it cannot be computed with."""
Milliseconds = Annotated[float | int, Field(ge=0, le=86_400_000)]
CUT = "…"
"""Ends a text that was cut to what the receiver takes."""
_CUTTABLE = ("heard_text", "scene", "voice", "message", "text")
"""Fields of server events that may be cut."""


class EventError(ValueError):
    """A client event that cannot be carried out. ``code`` is stable; the message says what to do."""

    def __init__(self, code: str, message: str, event_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.event_id = event_id

    def as_event(self) -> Error:
        """What the client is told."""
        return Error(code=self.code, message=self.message, event_id=self.event_id)


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _ClientEvent(_Event):
    event_id: EventId | None = None


class SessionUpdate(_ClientEvent):
    """Who is seen and heard, from the next block on. ``avatar`` is a preset of ``GET /v1/avatars``; the others override it.

    Attributes:
        image: JPEG or PNG in base64: what the stream begins with, where the model can. A new avatar or scene forgets it.
    """

    type: Literal["session.update"] = "session.update"
    avatar: str | None = None
    scene: str | None = None
    voice: str | None = None
    image: str | None = None


class ResponseCreate(_ClientEvent):
    """Say this. ``more`` announces that further pieces of the same reply follow in mode ``append``."""

    type: Literal["response.create"] = "response.create"
    input: str
    mode: Mode = "replace"
    id: ReplyId | None = None
    more: bool = False


class ResponseCancel(_ClientEvent):
    """Stop. Without ``id``: everything that is said or waits; with it: that reply alone."""

    type: Literal["response.cancel", "output_audio_buffer.clear"] = "response.cancel"
    id: ReplyId | None = None


class Ping(_ClientEvent):
    type: Literal["ping"] = "ping"
    t: Number | None = None


class ClientStats(_ClientEvent):
    """What the client measured; all fields optional."""

    type: Literal["client.stats"] = "client.stats"
    first_frame_ms: Milliseconds | None = None
    freezes: int | None = Field(default=None, ge=0, le=2**31)
    jitter_ms: Milliseconds | None = None
    rtt_ms: Milliseconds | None = None


ClientEvent = SessionUpdate | ResponseCreate | ResponseCancel | Ping | ClientStats


class Limits(_Event):
    max_message_bytes: int
    max_prompt_chars: int
    max_queued_replies: int


class SessionCreated(_Event):
    """The first event of every session.

    Attributes:
        speed: seconds of speech that the machine makes a second.
        notice: for people, what that means, on a machine that does not keep up with real time.
    """

    type: Literal["session.created"] = "session.created"
    protocol: Literal["avatar.v1"] = "avatar.v1"
    session_id: str
    model: str
    fps: int
    width: int
    height: int
    block_ms: int
    scene: str
    voice: str
    limits: Limits
    speed: float | None = None
    notice: str | None = None


class SessionUpdated(_Event):
    type: Literal["session.updated"] = "session.updated"
    scene: str
    voice: str
    event_id: str | None = None


class ResponseCreated(_Event):
    """A reply was accepted. ``position`` counts the replies that are said before it."""

    type: Literal["response.created"] = "response.created"
    response_id: str
    mode: Mode
    position: int
    event_id: str | None = None


class AudioStarted(_Event):
    """The first voiced moment of a reply is being played; ``pts`` is its media time in ticks of 1/90000 s."""

    type: Literal["output_audio_buffer.started"] = "output_audio_buffer.started"
    response_id: str
    pts: int


class TranscriptDelta(_Event):
    """A word is being played. Times count from the first voiced moment of its reply."""

    type: Literal["response.output_audio_transcript.delta"] = "response.output_audio_transcript.delta"
    response_id: str
    text: str
    start_ms: int
    end_ms: int


class AudioCleared(_Event):
    """The voice was cut off."""

    type: Literal["output_audio_buffer.cleared"] = "output_audio_buffer.cleared"
    response_id: str
    heard_ms: int


class Timings(_Event):
    """Milliseconds since the reply was accepted; ``null`` where it did not come to that. ``underruns``: held pictures."""

    first_audio_ms: int | None
    total_ms: int
    underruns: int


class ResponseDone(_Event):
    """The one terminal event of a reply. ``code`` and ``message`` say why it failed."""

    type: Literal["response.done"] = "response.done"
    response_id: str
    status: DoneStatus
    heard_ms: int
    heard_text: str
    timings: Timings
    code: str | None = None
    message: str | None = None


class AvatarState(_Event):
    """``ready_in_ms``: a line was accepted, and its voice will begin in about so long. Left out where that is soon."""

    type: Literal["avatar.state"] = "avatar.state"
    state: State
    ready_in_ms: int | None = None


class Pong(_Event):
    type: Literal["pong"] = "pong"
    t: Number | None = None


class SessionClosing(_Event):
    """The server is about to end the session."""

    type: Literal["session.closing"] = "session.closing"
    reason: str
    in_ms: int


class Error(_Event):
    """An event could not be carried out; the session goes on."""

    type: Literal["error"] = "error"
    code: str
    message: str
    event_id: str | None = None


ServerEvent = (
    SessionCreated
    | SessionUpdated
    | ResponseCreated
    | AudioStarted
    | TranscriptDelta
    | AudioCleared
    | ResponseDone
    | AvatarState
    | Pong
    | SessionClosing
    | Error
)


def _types(union: Any) -> dict[str, type[_Event]]:
    """Each ``type`` value of a union, with the class that carries it."""
    return {name: cls for cls in get_args(union) for name in get_args(cls.model_fields["type"].annotation)}


CLIENT_TYPES = _types(ClientEvent)
SERVER_TYPES = _types(ServerEvent)


def parse_client(frame: str | bytes) -> ClientEvent:
    """A data channel frame or an HTTP body as an event.

    Raises:
        EventError: too large, not text, not JSON, an unknown type, or fields that do not fit.
    """
    if isinstance(frame, str):
        frame = well_formed(frame)
    size = len(frame.encode() if isinstance(frame, str) else frame)
    if size > MAX_MESSAGE_BYTES:
        raise EventError(
            "message_too_large",
            f"The message has {size} bytes; the limit is {MAX_MESSAGE_BYTES}. Send long text in pieces (mode append).",
        )
    if isinstance(frame, bytes):
        try:
            frame = frame.decode()
        except UnicodeDecodeError:
            raise EventError("not_text", "The message is not UTF-8 text. Send JSON events or plain text.") from None
    if not frame.lstrip().startswith("{"):
        event: ClientEvent = ResponseCreate(input=frame)
    else:
        event = _parse(frame, CLIENT_TYPES)  # type: ignore[assignment]
    # A piece may be white space, or nothing: only together with the others it is known to be.
    if isinstance(event, ResponseCreate) and not event.input.strip() and event.mode != "append" and not event.more:
        raise EventError("empty_text", "The input is empty. Send the text that is to be said.", event.event_id)
    return event


def parse_server(frame: str | bytes) -> ServerEvent:
    """What a client receives. Raises ``EventError`` as ``parse_client`` does."""
    return _parse(frame, SERVER_TYPES)  # type: ignore[return-value]


def dump(event: ClientEvent | ServerEvent) -> str:
    """One line of JSON; fields that are ``None`` are left out, except where ``null`` is an answer (``timings``)."""
    return _to_json(event.model_dump())


def dump_within(event: ServerEvent, max_bytes: int) -> str | None:
    """The same in at most ``max_bytes`` of UTF-8: the longest texts are cut, and end with ``…``. None if that is not enough."""
    data = event.model_dump()
    line = _to_json(data)
    while (excess := len(line.encode()) - max_bytes) > 0:
        texts = [name for name in _CUTTABLE if data.get(name) not in (None, "", CUT)]
        if not texts:
            return None
        longest = max(texts, key=lambda name: len(data[name].encode()))
        kept = data[longest].removesuffix(CUT).encode()[: -(excess + len(CUT.encode()))].decode(errors="ignore")
        data[longest] = f"{kept.rstrip()}{CUT}"
        line = _to_json(data)
    return line


def well_formed(text: str) -> str:
    """The text with U+FFFD in the place of each lone surrogate, which JSON can express, but no encoding."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _to_json(data: dict[str, Any]) -> str:
    fields = {name: value for name, value in data.items() if value is not None}
    return json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _parse(frame: str | bytes, types: dict[str, type[_Event]]) -> _Event:
    try:
        data = json.loads(frame, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise EventError("invalid_json", f"The message starts with '{{' but is not JSON: {error}.") from None
    if not isinstance(data, dict):
        raise EventError("invalid_json", "An event is a JSON object with a type.")
    # No event has fields inside of fields: what is deeper is refused anyway.
    typed, data = data, {well_formed(name): well_formed(v) if isinstance(v, str) else v for name, v in data.items()}
    event_id = data.get("event_id") if isinstance(data.get("event_id"), str) else None
    for field in ("event_id", "id"):
        # Two of them could become the same, and the second event would be taken for a repeated one.
        if typed.get(field) != data.get(field):
            raise EventError("invalid_event", f"The {field} is not valid text: it holds half of a surrogate pair.", event_id)
    name = data.get("type")
    cls = types.get(name) if isinstance(name, str) else None
    if cls is None:
        raise EventError("unknown_type", f"Unknown event type {name!r:.80}. Known: {', '.join(sorted(types))}.", event_id)
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "event"
        if first["type"] == "extra_forbidden":
            known = ", ".join(name for name in cls.model_fields if name != "type")
            message = f"{name} has no field {where!r:.80}. Its fields: {known}."
        else:
            message = f"{name}: {where}: {first['msg']}."
        raise EventError("invalid_event", message, event_id) from None
