"""What the server tells of a conversation of the OpenAI Realtime API: its events, its items, and replies as responses."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from signaling.dialects.frames import Json
from signaling.vocabulary import EventError, FunctionCall, ResponseDone

MAX_ITEMS = 128
"""So many are remembered."""


class Ids:
    """Names for one client: no other client's are the same."""

    def __init__(self) -> None:
        self._client = secrets.token_hex(6)
        self._count = 0

    def new(self, kind: str) -> str:
        """Another id, such as ``item_...``."""
        self._count += 1
        return f"{kind}_{self._client}{self._count}"

    def of_command(self, event_id: str | None) -> str | None:
        """An id for the command that an event asks for: clients use the same ids again, and not to repeat themselves."""
        return None if event_id is None else f"{self.new('command')}:{event_id}"

    def of_event(self, command_id: str | None) -> str | None:
        """The id of the event that has asked for a command; None where it was another client's."""
        start, _, event_id = (command_id or "").partition(":")
        return event_id if start.startswith(f"command_{self._client}") else None

    def event(self, kind: str, /, **fields: Any) -> Json:
        """A server event; each has an id of its own."""
        return {"type": kind, "event_id": self.new("event"), **fields}


def message(item_id: str, role: str, status: str, content: list[Json]) -> Json:
    """An item that is said."""
    return {"id": item_id, "object": "realtime.item", "type": "message", "role": role, "status": status, "content": content}


@dataclass
class _Item:
    data: Json
    previous_id: str | None
    heard_ms: int | None = None


class Items:
    """The latest items, in the order in which this client was told of them."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._items: OrderedDict[str, _Item] = OrderedDict()

    def __contains__(self, item_id: str | None) -> bool:
        return item_id in self._items

    @property
    def last_id(self) -> str | None:
        return next(reversed(self._items), None)

    def get(self, item_id: str) -> Json:
        """An item as it is. Raises ``EventError`` where there is none."""
        return self._find(item_id).data

    def heard_ms(self, item_id: str) -> int | None:
        """For how long an item was heard; None while it is spoken, and for what was never spoken. Raises as ``get``."""
        return self._find(item_id).heard_ms

    def change(self, item_id: str, **fields: Any) -> None:
        """Change an item, if it is remembered."""
        if item_id in self._items:
            self._items[item_id].data |= fields

    def delete(self, item_id: str) -> None:
        """Raises as ``get``."""
        self._find(item_id)
        del self._items[item_id]

    def added(self, data: Json, previous_id: str | None = None) -> Json:
        """A further item. ``previous_id`` says behind which other one it is told to stand; None: behind all."""
        if data["id"] not in self._items:
            self._items[data["id"]] = _Item(data, previous_id or self.last_id)
            if len(self._items) > MAX_ITEMS:
                self._items.popitem(last=False)
        return self._told("added", data)

    def done(self, data: Json) -> Json:
        """An item that does not change any more."""
        return self._told("done", data)

    def truncated(self, item_id: str, heard_ms: int) -> Json:
        """So much of it was heard."""
        return self._ids.event("conversation.item.truncated", item_id=item_id, content_index=0, audio_end_ms=heard_ms)

    def ended(self, item_id: str, heard_ms: int) -> None:
        """An item was spoken, and heard for so long."""
        if item_id in self._items:
            self._items[item_id].heard_ms = heard_ms

    def _told(self, what: str, data: Json) -> Json:
        known = self._items.get(data["id"])
        previous_id = None if known is None else known.previous_id
        return self._ids.event(f"conversation.item.{what}", previous_item_id=previous_id, item=dict(data))

    def _find(self, item_id: str) -> _Item:
        item = self._items.get(item_id)
        if item is None:
            raise EventError("item_not_found", f"There is no item {item_id!r:.80}, or not any more.")
        return item


@dataclass
class Reply:
    """A reply of ours, told as one response, or as several: where the language model calls a tool, clients expect an end.

    Attributes:
        metadata: given back to whoever asked for it.
        is_in_conversation: its items are told as the conversation's.
        is_open: the latest response of it has not ended.
        is_audible: its voice has begun and was not cut off.
        was_cut: its voice was cut off.
    """

    reply_id: str
    ids: Ids
    items: Items
    metadata: Mapping[str, str] | None = None
    is_in_conversation: bool = True
    is_open: bool = False
    is_audible: bool = False
    was_cut: bool = False
    _num_responses: int = 0
    _output: list[Json] = field(default_factory=list)
    _spoken: Json | None = None
    _words: list[str] = field(default_factory=list)

    @property
    def response_id(self) -> str:
        """Of its latest response."""
        return self.reply_id if self._num_responses < 2 else f"{self.reply_id}_{self._num_responses}"

    def begin(self) -> list[Json]:
        """Begin a response, if none goes on."""
        if self.is_open:
            return []
        self.is_open = True
        self._num_responses += 1
        self._output = []
        return [self.ids.event("response.created", response=self._response("in_progress"))]

    def start_audio(self) -> list[Json]:
        """Its voice begins."""
        self.is_audible = True
        frames = [*self.begin(), *self._speak()]
        return [*frames, self.ids.event("output_audio_buffer.started", response_id=self.response_id)]

    def clear_audio(self) -> list[Json]:
        """Its voice is cut off."""
        self.is_audible, self.was_cut = False, True
        return [self.ids.event("output_audio_buffer.cleared", response_id=self.response_id)]

    def hear(self, word: str) -> list[Json]:
        """A word of it is heard."""
        frames = [*self.begin(), *self._speak()]
        delta = f" {word}" if self._words else word
        self._words.append(word)
        return [*frames, self.ids.event("response.output_audio_transcript.delta", **self._place, delta=delta)]

    def call(self, call: FunctionCall) -> list[Json]:
        """A tool is called, and with that a response ends."""
        frames = [*self.begin(), *self._fall_silent("completed", " ".join(self._words))]
        item: Json = {"id": f"item_{call.call_id}", "object": "realtime.item", "type": "function_call", "status": "in_progress"}
        item |= {"call_id": call.call_id, "name": call.name, "arguments": ""}
        frames += self._add(item)
        item |= {"status": "completed", "arguments": call.arguments}
        place = {"response_id": self.response_id, "item_id": item["id"], "output_index": self._output.index(item)}
        said = {"call_id": call.call_id, "name": call.name, "arguments": call.arguments}
        frames += [self.ids.event("response.function_call_arguments.done", **place, **said), *self._finish(item)]
        return [*frames, *self._close("completed")]

    def end(self, done: ResponseDone, *, by_voice: bool) -> list[Json]:
        """It is over. ``by_voice``: the user was speaking."""
        frames = self.begin()
        spoken = self._spoken
        transcript = done.heard_text if self._num_responses == 1 else " ".join(self._words)
        frames += self._fall_silent("completed" if done.status == "completed" else "incomplete", transcript)
        if spoken is not None and self.is_in_conversation:
            self.items.ended(spoken["id"], done.heard_ms)
            if self.was_cut:
                frames.append(self.items.truncated(spoken["id"], done.heard_ms))
        details: Json = {"type": done.status}
        if done.status == "cancelled":
            details["reason"] = "turn_detected" if by_voice else "client_cancelled"
        elif done.status == "failed":
            details["error"] = {"type": "server_error", "code": done.code, "message": done.message}
        frames += self._close(done.status, details)
        if self.is_audible:
            frames.append(self.ids.event("output_audio_buffer.stopped", response_id=self.response_id))
        return frames

    def pass_by(self) -> list[Json]:
        """A response without anything."""
        return [*self.begin(), *self._close("completed")]

    @property
    def _place(self) -> Json:
        """Where the item that is heard stands."""
        assert self._spoken is not None
        place = {"response_id": self.response_id, "item_id": self._spoken["id"]}
        return {**place, "output_index": self._output.index(self._spoken), "content_index": 0}

    def _speak(self) -> list[Json]:
        """Begin the item that is heard, if there is none."""
        if self._spoken is not None:
            return []
        self._spoken = message(f"item_{self.response_id}", "assistant", "in_progress", [])
        self._words = []
        frames = self._add(self._spoken)
        part = {"type": "audio", "transcript": ""}
        return [*frames, self.ids.event("response.content_part.added", **self._place, part=part)]

    def _fall_silent(self, status: str, transcript: str) -> list[Json]:
        """End the item that is heard, if there is one."""
        if self._spoken is None:
            return []
        self._spoken |= {"status": status, "content": [{"type": "output_audio", "transcript": transcript}]}
        part = {"type": "audio", "transcript": transcript}
        frames = [
            self.ids.event("response.output_audio.done", **self._place),
            self.ids.event("response.output_audio_transcript.done", **self._place, transcript=transcript),
            self.ids.event("response.content_part.done", **self._place, part=part),
            *self._finish(self._spoken),
        ]
        self._spoken = None
        return frames

    def _add(self, item: Json) -> list[Json]:
        self._output.append(item)
        frames = [self._told_of(item, "added")]
        return [*frames, self.items.added(item)] if self.is_in_conversation else frames

    def _finish(self, item: Json) -> list[Json]:
        frames = [self._told_of(item, "done")]
        return [*frames, self.items.done(item)] if self.is_in_conversation else frames

    def _told_of(self, item: Json, what: str) -> Json:
        place = {"response_id": self.response_id, "output_index": self._output.index(item)}
        return self.ids.event(f"response.output_item.{what}", **place, item=dict(item))

    def _close(self, status: str, details: Json | None = None) -> list[Json]:
        self.is_open = False
        return [self.ids.event("response.done", response=self._response(status, details))]

    def _response(self, status: str, details: Json | None = None) -> Json:
        return {
            "object": "realtime.response",
            "id": self.response_id,
            "status": status,
            "status_details": details,
            "output": list(self._output),
            "output_modalities": ["audio"],
            "conversation_id": "conversation" if self.is_in_conversation else None,
            "metadata": self.metadata,
        }
