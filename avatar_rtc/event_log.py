"""The events of one session, numbered: who joins late or was away is told what came meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from signaling.vocabulary import Event

MAX_REMEMBERED = 1024

Listener = Callable[[Event, int], None]


class EventLog:
    """Numbers events from 1, remembers the latest, and tells its listeners.

    Attributes:
        last_seq: number of the latest event; 0 before the first.
    """

    def __init__(self) -> None:
        self.last_seq = 0
        self._events: deque[tuple[Event, int]] = deque(maxlen=MAX_REMEMBERED)
        self._listeners: list[Listener] = []

    def append(self, event: Event) -> None:
        """An event has happened. Listeners must not raise."""
        self.last_seq += 1
        self._events.append((event, self.last_seq))
        for listener in list(self._listeners):
            listener(event, self.last_seq)

    def recall(self, events: Iterable[tuple[Event, int]], last_seq: int) -> None:
        """Go on after events that happened elsewhere."""
        self._events.extend(events)
        self.last_seq = last_seq

    def since(self, seq: int) -> list[tuple[Event, int]]:
        """The events after that number that are remembered, with theirs."""
        return [(event, number) for event, number in self._events if number > seq]

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have ``listener`` told each event from now on. Returns what ends that; idempotent."""
        self._listeners.append(listener)

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop
