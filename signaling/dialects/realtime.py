"""The events of the OpenAI Realtime API (GA), on its data channel and its sideband. docs/realtime.md shows what is understood.

A reply of ours is a response of theirs, with one item that is spoken; its deltas are words as they are heard.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from signaling import vocabulary as v
from signaling.dialects import realtime_events as client
from signaling.dialects.dialect import Message
from signaling.dialects.frames import MAX_MESSAGE_BYTES, Json, read_object, read_text, write_within
from signaling.dialects.realtime_items import MAX_ITEMS, Ids, Items, Reply, message
from signaling.vocabulary import EventError

MAX_WANTED = 64
"""Replies that were asked for and have not begun: more cannot wait."""
SERVER_CODES = ("internal_error", "engine_failed")
"""Of errors that are not the client's."""
_CUTTABLE = ("transcript", "text", "delta", "message", "scene", "voice", "arguments", "output")
_TRANSCRIPTION = "conversation.item.input_audio_transcription"

E = TypeVar("E", bound=BaseModel)


@dataclass
class _Turn:
    """Something that the user says into the microphone.

    Attributes:
        length_s: None while it goes on.
        told: what was told so far of its transcript.
    """

    start_ms: int
    length_s: float | None = None
    told: str = ""


class RealtimeDialect:
    """One client of the Realtime API.

    Args:
        mode: who makes up what is said; None: the language model, where there is one.
        voices: ids of the presets.
    """

    def __init__(self, mode: client.Mode | None = None, voices: Collection[str] = ()) -> None:
        self._mode = mode
        self._voices = voices
        self._has_llm = False
        self._session: Json = {}
        self._turn_detection: Json | None = None
        self._ids = Ids()
        self._items = Items(self._ids)
        self._unanswered: OrderedDict[str, client.Item] = OrderedDict()
        self._gave_output = False
        self._wanted: OrderedDict[str, Reply] = OrderedDict()
        self._replies: dict[str, Reply] = {}
        self._turns: dict[str, _Turn] = {}
        self._readers: dict[str, Callable[[Json], Message]] = {
            "session.update": self._update,
            "conversation.item.create": self._create_item,
            "conversation.item.retrieve": self._retrieve,
            "conversation.item.delete": self._delete,
            "conversation.item.truncate": self._truncate,
            "response.create": self._create_response,
            "response.cancel": self._cancel,
            "output_audio_buffer.clear": self._clear_output,
            "input_audio_buffer.clear": self._clear_input,
        }

    # What the client sends.

    def read(self, frame: str | bytes) -> Message:
        data = read_object(read_text(frame))
        name, event_id = data.get("type"), data.get("event_id")
        reader = self._readers.get(name) if isinstance(name, str) else None
        try:
            if reader is None:
                known = ", ".join(sorted(self._readers))
                raise EventError("unknown_type", f"Events of type {name!r:.80} are not taken here. Known: {known}.")
            return reader(data)
        except EventError as error:
            cause = self._ids.of_command(event_id) if isinstance(event_id, str) else None
            raise EventError(error.code, error.message, cause) from None

    def _update(self, data: Json) -> Message:
        event = _parse(client.SessionUpdate, data)
        avatar = event.session.avatar or client.AvatarWanted()
        if avatar.mode == "llm" and not self._has_llm:
            raise EventError("no_llm", "This server has no language model: session.avatar.mode can only be verbatim.")
        self._mode = avatar.mode or self._mode
        update = v.SessionUpdate(
            event_id=self._ids.of_command(event.event_id),
            avatar=avatar.look,
            scene=avatar.scene,
            voice=event.session.voice_of(self._voices),
            # Clients send these to every server; one without a language model has no use for them.
            instructions=event.session.instructions if self._has_llm else None,
            tools=event.session.functions if self._has_llm else None,
        )
        if update != v.SessionUpdate(event_id=update.event_id):
            return Message([update])
        return _answer(self._told_session("session.updated"))

    def _create_item(self, data: Json) -> Message:
        event = _parse(client.ItemCreate, data)
        item = event.item
        told: Json = {"id": item.id or self._ids.new("item"), "object": "realtime.item", "type": item.type, "status": "completed"}
        commands: list[v.Command] = []
        if item.type == "function_call_output" and item.call_id is not None:
            told |= {"call_id": item.call_id, "output": item.output}
            self._gave_output = True
            event_id = self._ids.of_command(event.event_id)
            commands.append(v.FunctionCallOutput(event_id=event_id, call_id=item.call_id, output=item.output))
        elif item.type == "message" and item.text.strip():
            kind = "output_text" if item.role == "assistant" else "input_text"
            told |= {"role": item.role, "content": [{"type": kind, "text": item.text}]}
            if item.role == "user":
                self._unanswered[told["id"]] = item
                if len(self._unanswered) > MAX_ITEMS:
                    self._unanswered.popitem(last=False)
        else:
            raise EventError(
                "unsupported_item",
                f"An item of type {item.type:.80} cannot be taken so: send a message with a text, or a function_call_output with "
                "its call_id. Sound comes over the connection's microphone.",
            )
        previous_id = None if event.previous_item_id == "root" else event.previous_item_id
        return _answer(self._items.added(told, previous_id), self._items.done(told), commands=commands)

    def _retrieve(self, data: Json) -> Message:
        item = self._items.get(_parse(client.ItemNamed, data).item_id)
        return _answer(self._ids.event("conversation.item.retrieved", item=item))

    def _delete(self, data: Json) -> Message:
        item_id = _parse(client.ItemNamed, data).item_id
        self._items.delete(item_id)
        self._unanswered.pop(item_id, None)
        return _answer(self._ids.event("conversation.item.deleted", item_id=item_id))

    def _truncate(self, data: Json) -> Message:
        """How much was heard is known here; what the client says counts only while it is being spoken."""
        event = _parse(client.ItemNamed, data)
        heard_ms = self._items.heard_ms(event.item_id)
        return _answer(self._items.truncated(event.item_id, event.audio_end_ms if heard_ms is None else heard_ms))

    def _create_response(self, data: Json) -> Message:
        event = _parse(client.ResponseCreate, data)
        wanted = event.response or client.ResponseWanted()
        is_in_conversation = wanted.conversation != "none"
        reply = Reply(self._ids.new("resp"), self._ids, self._items, wanted.metadata, is_in_conversation)
        command = self._line(wanted, reply.reply_id, self._ids.of_command(event.event_id))
        if command is None:
            return self._go_on(reply)
        self._wanted[reply.reply_id] = reply
        if len(self._wanted) > MAX_WANTED:
            self._wanted.popitem(last=False)
        return Message([command])

    def _line(self, wanted: client.ResponseWanted, reply_id: str, event_id: str | None) -> v.Command | None:
        """What is to be answered, or said: what comes with the request, else what the user has said since the last one."""
        is_answered = self._has_llm and self._mode != "verbatim"
        if wanted.input is None:
            items = list(self._unanswered.values())
            self._unanswered.clear()
            items = items if is_answered else items[-1:]
        else:
            items = [self._referred(item) for item in wanted.input]
        asked = "\n".join(item.text for item in items if item.role == "user" and item.text)
        instructions = wanted.instructions.strip() or None
        if is_answered and (asked.strip() or (instructions and not items)):
            return v.UserMessage(event_id=event_id, text=asked, mode="queue", id=reply_id, instructions=instructions)
        lines = "\n".join(item.text for item in items if item.role != "system" and item.text)
        return v.ResponseCreate(event_id=event_id, input=lines, mode="queue", id=reply_id) if lines.strip() else None

    def _referred(self, item: client.Item) -> client.Item:
        is_reference = item.type == "item_reference" and item.id is not None
        return _parse(client.Item, self._items.get(item.id or "")) if is_reference else item

    def _go_on(self, empty: Reply) -> Message:
        """A response without anything new to say: after a tool was called the reply goes on by itself, or has done so."""
        waiting = next((reply for reply in self._replies.values() if not reply.is_open), None)
        if waiting is None and not self._gave_output:
            raise EventError(
                "nothing_to_answer",
                "There is nothing to say: create an item with input_text before response.create, or give it as response.input.",
            )
        self._gave_output = False
        return _answer(*(empty.pass_by() if waiting is None else waiting.begin()))

    def _cancel(self, data: Json) -> Message:
        event = _parse(client.ResponseCancel, data)
        wanted = event.response_id
        reply_id = next((reply.reply_id for reply in self._replies.values() if reply.response_id == wanted), wanted)
        return Message([v.ResponseCancel(event_id=self._ids.of_command(event.event_id), id=reply_id)])

    def _clear_output(self, data: Json) -> Message:
        return Message([v.ResponseCancel(event_id=self._ids.of_command(_parse(client.Bare, data).event_id))])

    def _clear_input(self, data: Json) -> Message:
        return _answer(self._ids.event("input_audio_buffer.cleared"))

    # What the client is told.

    def write(self, event: v.Event, seq: int | None, max_bytes: int) -> Sequence[str]:
        return _written(self._tell(event), max_bytes)

    def _tell(self, event: v.Event) -> list[Json]:
        match event:
            case v.SessionCreated():
                self._has_llm = bool(event.llm)
                self._session = {"id": event.session_id, "model": event.model, "scene": event.scene, "voice": event.voice}
                self._session |= {"width": event.width, "height": event.height, "fps": event.fps}
                self._turn_detection = {"type": "server_vad"} if event.listens else None
                return [self._told_session("session.created")]
            case v.SessionUpdated():
                self._session |= {"scene": event.scene, "voice": event.voice}
                return [self._told_session("session.updated")]
            case v.Error():
                kind = "server_error" if event.code in SERVER_CODES else "invalid_request_error"
                error = {"type": kind, "code": event.code, "message": event.message, "param": None}
                return [self._ids.event("error", error={**error, "event_id": self._ids.of_event(event.event_id)})]
            case v.ItemAdded():
                return self._user_said(event)
            case v.ResponseCreated():
                return self._reply(event.response_id).begin()
            case v.AudioStarted():
                return self._reply(event.response_id).start_audio()
            case v.TranscriptDelta():
                return self._reply(event.response_id).hear(event.text)
            case v.FunctionCall():
                return self._reply(event.response_id).call(event)
            case v.AudioCleared():
                return self._reply(event.response_id).clear_audio()
            case v.ResponseDone():
                reply = self._reply(event.response_id)
                del self._replies[event.response_id]
                return reply.end(event, by_voice=any(turn.length_s is None for turn in self._turns.values()))
            case _:
                return self._tell_of_microphone(event)

    def _tell_of_microphone(self, event: v.Event) -> list[Json]:
        match event:
            case v.SpeechStarted():
                self._turns[event.item_id] = _Turn(event.audio_start_ms)
                start = {"item_id": event.item_id, "audio_start_ms": event.audio_start_ms}
                return [self._ids.event("input_audio_buffer.speech_started", **start)]
            case v.SpeechStopped():
                turn = self._turns.setdefault(event.item_id, _Turn(event.audio_end_ms))
                turn.length_s = (event.audio_end_ms - turn.start_ms) / 1000
                stop = {"item_id": event.item_id, "audio_end_ms": event.audio_end_ms}
                committed = {"item_id": event.item_id, "previous_item_id": self._items.last_id}
                item = message(event.item_id, "user", "completed", [{"type": "input_audio", "transcript": None}])
                return [
                    self._ids.event("input_audio_buffer.speech_stopped", **stop),
                    self._ids.event("input_audio_buffer.committed", **committed),
                    self._items.added(item),
                    self._items.done(item),
                ]
            case v.InputTranscriptUpdated():
                turn = self._turns.setdefault(event.item_id, _Turn(0))
                if not event.text.startswith(turn.told):
                    return []  # what was told cannot be taken back; the whole follows
                delta, turn.told = event.text.removeprefix(turn.told), event.text
                return [self._ids.event(f"{_TRANSCRIPTION}.delta", item_id=event.item_id, content_index=0, delta=delta)]
            case v.InputTranscript():
                turn = self._turns.pop(event.item_id, _Turn(0))
                self._items.change(event.item_id, content=[{"type": "input_audio", "transcript": event.text}])
                said = {"transcript": event.text, "usage": {"type": "duration", "seconds": turn.length_s or 0.0}}
                return [self._ids.event(f"{_TRANSCRIPTION}.completed", item_id=event.item_id, content_index=0, **said)]
            case v.InputTranscriptFailed():
                self._turns.pop(event.item_id, None)
                error = {"type": "server_error", "code": event.code, "message": event.message}
                return [self._ids.event(f"{_TRANSCRIPTION}.failed", item_id=event.item_id, content_index=0, error=error)]
            case _:
                return []  # it has no word for that

    def _user_said(self, event: v.ItemAdded) -> list[Json]:
        if event.response_id in self._wanted or event.item_id in self._items:
            return []  # this client has made the item, or was told when the user had spoken
        item_id = event.item_id or f"item_{event.response_id}_user"
        item = message(item_id, "user", "completed", [{"type": "input_text", "text": event.text}])
        return [self._items.added(item), self._items.done(item)]

    def _reply(self, reply_id: str) -> Reply:
        """A reply, also one that had begun before this client came."""
        if reply_id not in self._replies:
            self._replies[reply_id] = self._wanted.pop(reply_id, Reply(reply_id, self._ids, self._items))
        return self._replies[reply_id]

    def _told_session(self, kind: str) -> Json:
        mode = "verbatim" if self._mode == "verbatim" or not self._has_llm else "llm"
        about = dict(self._session)
        session = {
            "type": "realtime",
            "object": "realtime.session",
            "id": about.pop("id", ""),
            "model": about.pop("model", ""),
            "output_modalities": ["audio"],
            "audio": {"input": {"turn_detection": self._turn_detection}, "output": {"voice": about.pop("voice", "")}},
            "tracing": None,
            "avatar": {**about, "mode": mode},
        }
        return self._ids.event(kind, session=session)


def _answer(*frames: Json, commands: Sequence[v.Command] = ()) -> Message:
    return Message(commands, _written(frames, MAX_MESSAGE_BYTES))


def _written(frames: Iterable[Json], max_bytes: int) -> list[str]:
    lines = (write_within(copy.deepcopy(frame), max_bytes, _CUTTABLE) for frame in frames)
    return [line for line in lines if line is not None]


def _parse(model: type[E], data: Json) -> E:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "event"
        raise EventError("invalid_event", f"{data.get('type', 'item')!s:.80}: {where:.80}: {first['msg']}.") from None
