"""The data channels of one call: which of them is told events, what waits while there is none, and how large an event may be."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from aiortc import RTCDataChannel

from avatar_rtc.logs import SessionLog
from avatar_rtc.media.transport import max_message_bytes
from avatar_rtc.metrics import Metrics
from signaling import messages as wire

MAX_WAITING_EVENTS = 256
MAX_UNSENT_BYTES = 1 << 20


class EventChannels:
    """Events go to the oldest channel that is open, and from it, when it closes, to the next; messages are taken from all.

    Args:
        hello: what a channel is told first.
        on_message: hears each message.
    """

    def __init__(
        self,
        hello: Callable[[], Sequence[wire.ServerEvent]],
        on_message: Callable[[str | bytes], None],
        metrics: Metrics,
        log: SessionLog,
    ) -> None:
        self._hello = hello
        self._on_message = on_message
        self._metrics = metrics
        self._log = log
        self._channels: list[RTCDataChannel] = []
        self._told: RTCDataChannel | None = None
        self._waiting: deque[wire.ServerEvent] = deque(maxlen=MAX_WAITING_EVENTS)

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

    def send(self, event: wire.ServerEvent) -> None:
        """Tell the client. Never raises: who tells is a track or the transport, which an exception would end for good.

        Without a channel the event waits for one, but for what ``hello`` says anyway.
        """
        self._choose()
        if self._told is None:
            if not isinstance(event, wire.AvatarState | wire.SessionUpdated):
                self._waiting.append(event)
            return
        self._transmit(self._told, event)

    def _choose(self) -> None:
        if self.is_open:
            return
        self._told = next((channel for channel in self._channels if channel.readyState == "open"), None)
        if self._told is None:
            return
        earlier = list(self._waiting)
        self._waiting.clear()
        for event in (*self._hello(), *earlier):
            self._transmit(self._told, event)

    def _transmit(self, channel: RTCDataChannel, event: wire.ServerEvent) -> None:
        """Bounded: a client that does not read loses events, and by its silence soon its seat."""
        result = "dropped"
        try:
            message = wire.dump_within(event, max_message_bytes(channel))
            if message is None:
                result = "too_large"
            elif channel.readyState == "open" and channel.bufferedAmount <= MAX_UNSENT_BYTES:
                channel.send(message)
                result = "ok"
        except Exception:
            result = "failed"
            self._log.exception("%s cannot be told", event.type)
        self._metrics.messages.labels("out", event.type, result).inc()
