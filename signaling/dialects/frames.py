"""What all dialects share: a frame is text, and an object of JSON in at most so many bytes."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any, NoReturn

from signaling.vocabulary import EventError

Json = dict[str, Any]

MAX_MESSAGE_BYTES = 64 * 1024
"""What a client may send at once."""
MAX_DEPTH = 32
"""Of lists and objects in one another."""
CUT = "…"
"""Ends a text that was cut to what the receiver takes."""


def well_formed(text: str) -> str:
    """The text with U+FFFD in the place of each lone surrogate, which JSON can express, but no encoding."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def all_well_formed(value: Any, max_depth: int = MAX_DEPTH) -> Any:
    """The same of all texts in a value of JSON, keys too. Raises ``ValueError`` where lists and objects are nested deeper."""
    if isinstance(value, str):
        return well_formed(value)
    if not isinstance(value, list | dict):
        return value
    if max_depth == 0:
        raise ValueError(f"lists and objects are nested more than {MAX_DEPTH} deep")
    if isinstance(value, list):
        return [all_well_formed(part, max_depth - 1) for part in value]
    return {well_formed(name): all_well_formed(part, max_depth - 1) for name, part in value.items()}


def read_text(frame: str | bytes) -> str:
    """The text of a frame.

    Raises:
        EventError: it is too large, or no text.
    """
    if isinstance(frame, str):
        frame = well_formed(frame).encode()
    if len(frame) > MAX_MESSAGE_BYTES:
        raise EventError(
            "message_too_large",
            f"The message has {len(frame)} bytes; the limit is {MAX_MESSAGE_BYTES}. Send long text in pieces (mode append).",
        )
    try:
        return frame.decode()
    except UnicodeDecodeError:
        raise EventError("not_text", "The message is not UTF-8 text. Send JSON events or plain text.") from None


def read_object(text: str | bytes) -> Json:
    """An object of JSON. Its texts may hold lone surrogates.

    Raises:
        EventError: it is none.
    """
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise EventError("invalid_json", f"The message is not JSON: {error}.") from None
    if not isinstance(data, dict):
        raise EventError("invalid_json", "An event is a JSON object with a type.")
    return data


def write_object(data: Json) -> str:
    """One line of JSON."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def write_within(data: Json, max_bytes: int, cuttable: Collection[str]) -> str | None:
    """The same in at most ``max_bytes`` of UTF-8: the longest texts are cut, and end with ``…``. None if that is not enough.

    Args:
        data: is changed.
        cuttable: names of the texts that may be cut, at any depth.
    """
    line = write_object(data)
    while (excess := len(line.encode()) - max_bytes) > 0:
        texts = [(holder, name) for holder, name in _texts(data, cuttable) if holder[name] not in ("", CUT)]
        if not texts:
            return None
        holder, name = max(texts, key=lambda text: len(text[0][text[1]].encode()))
        kept = holder[name].removesuffix(CUT).encode()[: -(excess + len(CUT.encode()))].decode(errors="ignore")
        holder[name] = f"{kept.rstrip()}{CUT}"
        line = write_object(data)
    return line


def _texts(data: Any, names: Collection[str]) -> Iterator[tuple[Json, str]]:
    """Where the texts of these names stand."""
    if isinstance(data, dict):
        yield from ((data, name) for name in names if isinstance(data.get(name), str))
    for part in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from _texts(part, names)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
