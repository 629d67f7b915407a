"""The one vocabulary of commands and events: what a session understands, and what it says. A dialect writes them for a protocol.

Values only: frozen, without behaviour, and the same whoever speaks. Their names are those of the OpenAI Realtime events that they
resemble. Limits are annotations, which a dialect checks when it reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired

from annotated_types import Ge, Le, Len
from pydantic import StringConstraints
from typing_extensions import TypedDict

Mode = Literal["replace", "queue", "append"]
DoneStatus = Literal["completed", "cancelled", "failed"]
State = Literal["initializing", "idle", "listening", "thinking", "speaking"]
OutputKind = Literal["recording", "whip"]
OutputState = Literal["connecting", "waiting", "live", "ended", "failed"]
EventId = Annotated[str, Len(1, 128)]
ReplyId = Annotated[str, Len(1, 128)]
Number = Annotated[float | int, Ge(-(2**63)), Le(2**63)]
"""Neither NaN nor infinite, and not so long that it cannot be computed with."""
Milliseconds = Annotated[float | int, Ge(0), Le(86_400_000)]
MAX_TOOLS = 64
ToolName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Tool(TypedDict):
    """A tool that the language model may call. ``parameters`` is a JSON schema of its arguments."""

    name: ToolName
    description: NotRequired[str]
    parameters: NotRequired[dict[str, Any]]


class EventError(ValueError):
    """A command that cannot be carried out. ``code`` is stable; the message says what to do."""

    def __init__(self, code: str, message: str, event_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.event_id = event_id

    def as_event(self) -> Error:
        """What the client is told."""
        return Error(code=self.code, message=self.message, event_id=self.event_id)


# Commands: what a client wants. ``event_id`` makes repeating one safe.


@dataclass(frozen=True, kw_only=True)
class SessionUpdate:
    """Who is seen and heard, from the next block on. ``avatar`` is a preset of ``GET /v1/avatars``; the others override it.

    Attributes:
        image: JPEG or PNG in base64: what the stream begins with, where the model can. A new avatar or scene forgets it.
        instructions: for the language model, behind those of the server; from the next answer on, in place of earlier ones.
        tools: what it may call, besides those of the server; in place of earlier ones.
    """

    event_id: EventId | None = None
    avatar: str | None = None
    scene: str | None = None
    voice: str | None = None
    image: str | None = None
    instructions: str | None = None
    tools: Annotated[list[Tool], Len(0, MAX_TOOLS)] | None = None


@dataclass(frozen=True, kw_only=True)
class ResponseCreate:
    """Say this. ``more`` announces that further pieces of the same reply follow in mode ``append``."""

    event_id: EventId | None = None
    input: str
    mode: Mode = "replace"
    id: ReplyId | None = None
    more: bool = False


@dataclass(frozen=True, kw_only=True)
class UserMessage:
    """The user says this, and is answered by the language model. ``id`` names the answer.

    Attributes:
        text: empty where the user says nothing, and the model is to begin.
        instructions: for this answer alone, behind those of the session.
    """

    event_id: EventId | None = None
    text: str
    mode: Literal["replace", "queue"] = "replace"
    id: ReplyId | None = None
    instructions: str | None = None


@dataclass(frozen=True, kw_only=True)
class FunctionCallOutput:
    """What came of a ``FunctionCall``: text, often JSON, for the language model."""

    event_id: EventId | None = None
    call_id: Annotated[str, Len(1, 128)]
    output: str


@dataclass(frozen=True, kw_only=True)
class ResponseCancel:
    """Stop. Without ``id``: everything that is said or waits; with it: that reply alone."""

    event_id: EventId | None = None
    id: ReplyId | None = None


@dataclass(frozen=True, kw_only=True)
class Ping:
    """A sign of life, answered by ``Pong``."""

    event_id: EventId | None = None
    t: Number | None = None


@dataclass(frozen=True, kw_only=True)
class ClientStats:
    """What the client measured; all fields optional."""

    event_id: EventId | None = None
    first_frame_ms: Milliseconds | None = None
    freezes: Annotated[int, Ge(0), Le(2**31)] | None = None
    jitter_ms: Milliseconds | None = None
    rtt_ms: Milliseconds | None = None


Command = SessionUpdate | ResponseCreate | UserMessage | FunctionCallOutput | ResponseCancel | Ping | ClientStats


# Events: what became of it, and what is seen and heard.


@dataclass(frozen=True, kw_only=True)
class Limits:
    max_message_bytes: int
    max_prompt_chars: int
    max_queued_replies: int


@dataclass(frozen=True, kw_only=True)
class SessionCreated:
    """The first event that a viewer is told.

    Attributes:
        grace_ms: how long the session is held when nobody watches any more; within it ``POST /whep?session=ID`` resumes it.
        resumed: the viewer has joined a session that went on before.
        may_speak: commands of this viewer are carried out; else it watches.
        may_record: this viewer may begin and end recordings, and the server keeps them.
        llm: a language model answers what the user says (``UserMessage``).
        listens: this viewer is heard, if its offer lets it send sound.
        speed: seconds of speech that the machine makes a second.
        notice: for people, what that means, on a machine that does not keep up with real time.
    """

    protocol: Literal["avatar.v1"] = "avatar.v1"
    session_id: str
    model: str
    fps: int
    width: int
    height: int
    chunk_ms: int
    block_ms: int
    scene: str
    voice: str
    limits: Limits
    grace_ms: int
    resumed: bool | None = None
    may_speak: bool = True
    may_record: bool | None = None
    llm: bool | None = None
    listens: bool | None = None
    speed: float | None = None
    notice: str | None = None


@dataclass(frozen=True, kw_only=True)
class SessionUpdated:
    """What is for the language model alone is not told: not everybody who watches may know it."""

    scene: str
    voice: str
    event_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class SpeechStarted:
    """The user has begun to speak into the microphone. ``audio_start_ms`` counts from the first sound of that microphone."""

    item_id: str
    audio_start_ms: int


@dataclass(frozen=True, kw_only=True)
class SpeechStopped:
    """The user has ended a turn, from ``SpeechStarted`` on; what was said follows."""

    item_id: str
    audio_end_ms: int


@dataclass(frozen=True, kw_only=True)
class InputTranscriptUpdated:
    """What the user seems to have said so far. It takes the place of what was told of this turn before."""

    item_id: str
    text: str


@dataclass(frozen=True, kw_only=True)
class InputTranscript:
    """What the user has said in one turn; empty where that was no speech. Is told before it is answered."""

    item_id: str
    text: str


@dataclass(frozen=True, kw_only=True)
class InputTranscriptFailed:
    """What the user has said could not be recognised; it is not answered. ``message`` is for people."""

    item_id: str
    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class ItemAdded:
    """The user has said something, which ``response_id`` answers. ``item_id`` names the turn, where it was spoken."""

    role: Literal["user"] = "user"
    text: str
    response_id: str
    item_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class FunctionCall:
    """The language model calls a tool: whoever controls the session runs it and sends a ``FunctionCallOutput``.

    Attributes:
        arguments: JSON, as the model wrote it.
    """

    response_id: str
    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, kw_only=True)
class ResponseCreated:
    """A reply was accepted. ``position`` counts the replies that are said before it."""

    response_id: str
    mode: Mode
    position: int
    event_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class OutputText:
    """What of a reply is spoken next, told before it is heard: a sentence or more. ``more``: further text of it may follow."""

    response_id: str
    text: str
    more: bool


@dataclass(frozen=True, kw_only=True)
class AudioStarted:
    """The first voiced moment of a reply is being played; ``pts`` is its media time in ticks of 1/90000 s."""

    response_id: str
    pts: int


@dataclass(frozen=True, kw_only=True)
class TranscriptDelta:
    """A word is being played. Times count from the first voiced moment of its reply.

    Attributes:
        text: as it was written.
        spoken: how it is read, where that is not as it was written: "nine forty five" of "9:45".
    """

    response_id: str
    text: str
    start_ms: int
    end_ms: int
    spoken: str | None = None


@dataclass(frozen=True, kw_only=True)
class AudioCleared:
    """The voice was cut off."""

    response_id: str
    heard_ms: int


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Milliseconds since the reply was accepted; None where it did not come to that. ``underruns``: times nothing was there."""

    first_audio_ms: int | None
    total_ms: int
    underruns: int


@dataclass(frozen=True, kw_only=True)
class ResponseDone:
    """The one terminal event of a reply. ``code`` and ``message`` say why it failed."""

    response_id: str
    status: DoneStatus
    heard_ms: int
    heard_text: str
    timings: Timings
    code: str | None = None
    message: str | None = None


@dataclass(frozen=True, kw_only=True)
class AvatarState:
    """``ready_in_ms``: a line was accepted, and its voice will begin in about so long. Left out where that is soon."""

    state: State
    ready_in_ms: int | None = None


@dataclass(frozen=True, kw_only=True)
class OutputStarted:
    """The stream goes somewhere else, too, besides to its viewers."""

    output_id: str
    kind: OutputKind


@dataclass(frozen=True, kw_only=True)
class OutputUpdated:
    """``connecting`` to a receiver; ``waiting`` for the first picture, or until a receiver is tried again; ``live``: it arrives.

    Attributes:
        message: why it waits.
        file_url: of a recording: where it is downloaded, also while it grows.
    """

    output_id: str
    kind: OutputKind
    state: OutputState
    message: str | None = None
    file_url: str | None = None


@dataclass(frozen=True, kw_only=True)
class OutputEnded:
    """``failed``: nobody wanted it to end, and ``message`` says why it did.

    Attributes:
        file_url: of a recording: where it is downloaded.
    """

    output_id: str
    kind: OutputKind
    state: OutputState
    message: str | None = None
    file_url: str | None = None


@dataclass(frozen=True, kw_only=True)
class Pong:
    t: Number | None = None


@dataclass(frozen=True, kw_only=True)
class SessionClosing:
    """The server is about to end the session."""

    reason: str
    in_ms: int


@dataclass(frozen=True, kw_only=True)
class Error:
    """A command could not be carried out; the session goes on."""

    code: str
    message: str
    event_id: str | None = None


Event = (
    SessionCreated
    | SessionUpdated
    | SpeechStarted
    | SpeechStopped
    | InputTranscriptUpdated
    | InputTranscript
    | InputTranscriptFailed
    | ItemAdded
    | FunctionCall
    | ResponseCreated
    | OutputText
    | AudioStarted
    | TranscriptDelta
    | AudioCleared
    | ResponseDone
    | AvatarState
    | OutputStarted
    | OutputUpdated
    | OutputEnded
    | Pong
    | SessionClosing
    | Error
)
