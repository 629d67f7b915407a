"""Say lines to a server as a caller would, record the call, and report what it was like."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import av
import numpy as np

from avatar_rtc.client import Call, Line
from avatar_rtc.errors import CallError, NotReadyError
from avatar_rtc.microphone import Microphone
from avatar_rtc.recording import Recorder
from model.evaluation.film import read_sound
from signaling import vocabulary as v

READY_EVERY_S = 0.5
FREEZE_S = 0.19
"""A picture that stands for longer is a freeze."""


@dataclass
class Summary:
    """What a call was like.

    Attributes:
        join_ms: from sending the offer to the first decoded picture.
        connected_ms: from sending the offer to an open data channel.
        freezes: pauses between pictures of more than 190 ms.
        underruns: times that the server had nothing new to show, as it says itself.
        packets_lost: as our own receivers count.
    """

    url: str
    join_ms: int = 0
    connected_ms: int = 0
    lines: list[Line] = field(default_factory=list)
    frames: int = 0
    width_px: int = 0
    height_px: int = 0
    duration_s: float = 0.0
    freezes: int = 0
    underruns: int = 0
    packets_lost: int = 0
    record: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def summary(self) -> str:
        """For people."""
        rows = [
            f"joined in {self.join_ms} ms, {self.frames} frames of {self.width_px}x{self.height_px} in {self.duration_s:.1f} s"
        ]
        for line in self.lines:
            voice, face = line.text_to_first_voiced_audio_ms, line.text_to_first_speaking_frame_ms
            rows.append(
                f"{line.status}: {line.heard_text!r} (voice after {voice} ms, face after {face} ms, {line.heard_ms} ms long)"
            )
        rows.append(f"freezes {self.freezes}, underruns {self.underruns}, packets lost {self.packets_lost}")
        if self.record is not None:
            rows.append(f"recorded to {self.record}")
        return "\n".join(rows)


async def say(
    url: str,
    lines: Sequence[str],
    record: Path | None = None,
    *,
    key: str | None = None,
    avatar: str | None = None,
    voice: str | None = None,
    ask: Sequence[Path] = (),
    on_caption: Callable[[str], None] = lambda text: None,
    on_wait: Callable[[str], None] = lambda text: None,
) -> Summary:
    """Call a server, say lines one after the other, then speak recordings into the microphone, and leave when all was heard.

    A server that is starting is waited for.

    Args:
        url: the server's address, such as ``http://127.0.0.1:8080``.
        record: an MP4 file to write.
        key: an API key, or a token, for a server that asks who calls.
        avatar: id of a look; the server's first one if None.
        voice: id or description of a voice; that of the look if None.
        ask: recordings of any format, each a turn that the server is to answer.
        on_caption: hears each line as it was heard.
        on_wait: hears what is waited for.

    Raises:
        CallError: the server cannot be reached or refuses, a line was not accepted or was cut off, or the call broke off.
        OSError: the recording cannot be written, or not to its end; or one that is to be asked cannot be read.
    """
    summary = Summary(url)
    questions = [_read_sound(path) for path in ask]
    if record is not None:
        summary.record = str(record)
    chosen = {name: value for name, value in (("avatar", avatar), ("voice", voice)) if value is not None}
    call = await _join(url, key, f"?{urlencode(chosen)}" if chosen else "", record, on_wait, has_microphone=bool(questions))
    call.on_event = lambda event: _tell_wait(event, on_wait)
    for hello in call.received(v.SessionCreated):
        _tell_wait(hello, on_wait)
    try:
        for text in lines:
            line = await call.speak(text)
            summary.lines.append(line)
            on_caption(line.heard_text)
            if line.status != "completed":
                why = call.lost or "somebody stopped it"
                raise CallError(f"the line {text!r:.80} was cut off after {line.heard_text!r:.80}: {why}")
        for question in questions:
            line = await call.ask(question)
            summary.lines.append(line)
            on_caption(f"{line.text} - {line.heard_text}")
        stats = await call.stats()
        summary.packets_lost = await call.packets_lost()
    finally:
        await call.close()
    gaps_s = np.diff(call.video.arrived_s)
    summary.join_ms, summary.connected_ms = call.join_ms, call.connected_ms
    summary.frames = len(call.video.pts)
    summary.width_px, summary.height_px = call.size_px
    summary.duration_s = round(float(gaps_s.sum()), 3)
    summary.freezes = int((gaps_s > FREEZE_S).sum())
    summary.underruns = int(stats.get("underruns", 0))
    return summary


def _read_sound(path: Path) -> np.ndarray:
    try:
        return read_sound(path)
    except (av.error.InvalidDataError, IndexError):
        raise OSError(f"{path} holds no sound that can be read: give a recording such as a WAV file") from None


def _tell_wait(event: v.Event, on_wait: Callable[[str], None]) -> None:
    """What the server says of answers that take their time."""
    if isinstance(event, v.SessionCreated) and event.notice is not None:
        on_wait(event.notice)
    elif isinstance(event, v.AvatarState) and event.ready_in_ms is not None:
        on_wait(f"The answer begins in about {max(1, round(event.ready_in_ms / 1000))} s.")


async def _join(
    url: str, key: str | None, query: str, record: Path | None, on_wait: Callable[[str], None], *, has_microphone: bool
) -> Call:
    """A connected call, as soon as the server can take one. Errors as in :func:`say`."""
    refused_s, told = float("inf"), ""
    while True:
        call = Call(url, key, microphone=Microphone() if has_microphone else None)
        try:
            if record is not None:
                call.recorder = Recorder(record)
            await call.connect(query)
            return call
        except NotReadyError as error:
            await call.close()
            refused_s = min(refused_s, time.monotonic())
            deadline_s = refused_s + error.patience_s
            if time.monotonic() >= deadline_s:
                raise
            if str(error) != told:
                told = str(error)
                on_wait(f"{told} Waiting for up to {error.patience_s:.0f} s.")
            await asyncio.sleep(READY_EVERY_S)
        except BaseException:
            await call.close()
            raise
