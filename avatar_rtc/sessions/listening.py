"""The microphones of a session: what is said into them becomes events, interrupts what is spoken, and is answered."""

from __future__ import annotations

import asyncio

import numpy as np
from aiortc import MediaStreamTrack

from avatar_rtc.ears.ears import Ears
from avatar_rtc.ears.echo import is_echo
from avatar_rtc.ears.listener import Heard, Paused
from avatar_rtc.ears.microphone import blocks_of
from avatar_rtc.event_log import EventLog
from avatar_rtc.logs import SessionLog
from avatar_rtc.sessions.performance import Performance
from signaling.vocabulary import InputTranscript, InputTranscriptUpdated, SpeechStarted


class Listening:
    """Listens to who may speak.

    Args:
        ears: None: to nobody.
    """

    def __init__(self, ears: Ears | None, performance: Performance, events: EventLog, log: SessionLog) -> None:
        self._ears = ears
        self._performance = performance
        self._events = events
        self._log = log
        self._microphones: dict[str, asyncio.Task[None]] = {}
        self._interrupting = ""

    def begin(self, viewer_id: str, track: MediaStreamTrack) -> None:
        """Listen to a viewer's microphone, until it ends or ``end`` is called."""
        microphone = asyncio.create_task(self._listen(track))
        self._microphones[viewer_id] = microphone
        microphone.add_done_callback(lambda done: self._microphones.pop(viewer_id, None))

    def end(self, viewer_id: str) -> None:
        """A viewer has gone."""
        if (microphone := self._microphones.get(viewer_id)) is not None:
            microphone.cancel()

    async def close(self) -> None:
        """Listen to nobody any more."""
        microphones = list(self._microphones.values())
        for microphone in microphones:
            microphone.cancel()
        await asyncio.gather(*microphones, return_exceptions=True)

    async def _listen(self, track: MediaStreamTrack) -> None:
        assert self._ears is not None
        try:
            await self._ears.listener(self._is_echo, self._hear, self._log).listen(blocks_of(track))
        except Exception:
            self._log.exception("listening failed")

    def _is_echo(self, heard: np.ndarray) -> bool:
        playout = self._performance.playout
        return is_echo(heard, playout.buffer.recent_samples(), playout.info.sample_rate_hz)

    def _hear(self, heard: Heard) -> None:
        assert self._ears is not None
        if isinstance(heard, Paused):
            return self._performance.expect_spoken(heard.text)
        self._events.append(heard)
        if isinstance(heard, InputTranscriptUpdated):
            self._performance.expect_spoken("")  # it goes on
        barge_in = self._ears.config.barge_in
        begins = {"voice": SpeechStarted, "words": InputTranscriptUpdated}.get(barge_in)
        if begins is not None and isinstance(heard, begins) and heard.item_id != self._interrupting:
            self._interrupting = heard.item_id  # what is said during this turn may go on
            self._performance.interrupt()
        elif isinstance(heard, InputTranscript) and heard.text:
            self._performance.answer_spoken(heard.text, heard.item_id, "queue" if barge_in == "off" else "replace")
