"""The data channels of one viewer: which of them is told events, and how large an event may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aiortc import RTCDataChannel

from avatar_rtc.event_log import EventLog
from avatar_rtc.logs import SessionLog
from avatar_rtc.metrics import Metrics
from avatar_rtc.outputs.aiortc_patches import max_message_bytes
from signaling.dialects.avatar import name_of
from signaling.dialects.dialect import Dialect
from signaling.vocabulary import AvatarState, Event, SessionUpdated

MAX_UNSENT_BYTES = 1 << 20


class EventChannels:
    """Events go to the oldest channel that is open, and from it, when it closes, to the next; messages are taken from all.

    A channel is told first how things stand, and then what has happened since the last event that this viewer was told.

    Args:
        events: of the session.
        dialect: of the viewer.
        after: number of the last event that the viewer knows.
        hello: how things stand, for a channel that was just opened.
        on_message: hears each message.
    """

    def __init__(
        self,
        events: EventLog,
        dialect: Dialect,
        after: int,
        hello: Callable[[], Sequence[Event]],
        on_message: Callable[[str | bytes], None],
        metrics: Metrics,
        log: SessionLog,
    ) -> None:
        self._events = events
        self._dialect = dialect
        self._told_seq = after
        self._hello = hello
        self._on_message = on_message
        self._metrics = metrics
        self._log = log
        self._channels: list[RTCDataChannel] = []
        self._told: RTCDataChannel | None = None
        self._stop_listening = events.listen(self._on_event)

    @property
    def is_open(self) -> bool:
        """Whether anybody is told what happens."""
        return self._told is not None and self._told.readyState == "open"

    def add(self, channel: RTCDataChannel) -> None:
        """A channel that the client has opened."""
        self._channels.append(channel)

        def on_message(frame: str | bytes) -> None:
            self._on_message(frame)

        def on_close() -> None:
            self._channels.remove(channel)
            self._choose()

        channel.on("message", on_message)
        channel.on("close", on_close)
        self._choose()

    def send(self, event: Event) -> None:
        """Tell this viewer alone. Never raises: who tells is the transport, which an exception would end for good."""
        self._choose()
        if self._told is not None:
            self._transmit(self._told, event, None)

    def answer(self, frames: Sequence[str]) -> None:
        """Send frames to this viewer alone. Never raises."""
        self._choose()
        if self._told is not None:
            self._put(self._told, "answer", lambda: frames)

    def close(self) -> None:
        self._stop_listening()

    def _on_event(self, event: Event, seq: int) -> None:
        self._choose()
        if self._told is not None and seq > self._told_seq:
            self._told_seq = seq
            self._transmit(self._told, event, seq)

    def _choose(self) -> None:
        if self.is_open:
            return
        self._told = next((channel for channel in self._channels if channel.readyState == "open"), None)
        if self._told is None:
            return
        for event in self._hello():
            self._transmit(self._told, event, None)
        for event, seq in self._events.since(self._told_seq):
            # How things stand was just said.
            if not isinstance(event, AvatarState | SessionUpdated):
                self._transmit(self._told, event, seq)
        self._told_seq = self._events.last_seq

    def _transmit(self, channel: RTCDataChannel, event: Event, seq: int | None) -> None:
        self._put(channel, name_of(event), lambda: self._dialect.write(event, seq, max_message_bytes(channel)))

    def _put(self, channel: RTCDataChannel, name: str, written: Callable[[], Sequence[str]]) -> None:
        """Bounded: a client that does not read loses events, and by its silence soon its place."""
        result = "dropped"
        try:
            frames = written()
            if not frames:
                result = "untold"  # too large, or there is no word for it
            elif channel.readyState == "open" and channel.bufferedAmount <= MAX_UNSENT_BYTES:
                for frame in frames:
                    channel.send(frame)
                result = "ok"
        except Exception:
            result = "failed"
            self._log.exception("%s cannot be told", name)
        self._metrics.messages.labels("out", name, result).inc()
