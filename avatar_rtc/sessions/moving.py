"""Sessions that go on at another node: a node that is drained lets go of them, and another one takes them in.

What of a session goes along is its memory: who is seen, what has happened and was heard, what waits to be said, and by which
names what was done. The model's state does not, so a session moves when nothing is said, or between two replies.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from avatar_rtc.mind.source import Brief, Message
from avatar_rtc.sessions.registry import MAX_ENDED, Registry
from avatar_rtc.sessions.reply import Line, Reply
from avatar_rtc.sessions.session import MOVED, Session
from avatar_rtc.sessions.turns import Outcome
from model.chunk import StreamSettings
from signaling.errors import SessionMoves, Unavailable
from signaling.service import NewSession
from signaling.vocabulary import Event, ResponseDone, SessionClosing

LOOK_EVERY_S = 0.2
QUIET_S = 0.6
"""A session moves when nothing was said in it for so long: what was said last has been told by then."""
LEND_S = 10.0
"""So long somebody may take to have a session taken in elsewhere, before somebody else may try."""
STAY_S = 2.0
"""A node stays so long after a session has moved: a client that gave up before it heard of that asks once more."""


@dataclass(frozen=True)
class Memory:
    """What of a session goes along.

    Attributes:
        session_id: by which its clients know it.
        last_seq: number of its latest event; ``events`` are those that are remembered, with theirs.
        reply_ids, outcomes: what was asked for under which ids, so that it is not done twice.
        messages, brief: what a language model is told of the conversation, and besides.
        replies: what waits to be said: ids, for how long, and lines.
    """

    session_id: str
    owner: str
    age_s: float
    settings: StreamSettings
    last_seq: int
    events: Sequence[tuple[Event, int]]
    num_replies: int
    reply_ids: Sequence[str]
    outcomes: Sequence[Outcome]
    messages: Sequence[Message]
    brief: Brief
    replies: Sequence[tuple[str, float, Sequence[Line]]]

    @classmethod
    def of(cls, session: Session) -> Memory:
        """That of a session in which nothing is heard now."""
        performance, log, now_s = session.performance, session.events, session.clock.now()
        return cls(
            session.session_id,
            session.owner,
            session.age_s,
            performance.settings,
            log.last_seq,
            # That this node ends is no news where it goes.
            [(event, seq) for event, seq in log.since(0) if not isinstance(event, SessionClosing)],
            performance.conversation.num_replies,
            list(performance.conversation.ids),
            performance.turns.outcomes,
            performance.answering.messages,
            performance.answering.brief,
            [(r.reply_id, now_s - r.accepted_s, [*r.given.values(), *r.waiting]) for r in performance.conversation.replies],
        )

    def give_to(self, session: Session) -> None:
        """Have a new session, which does not run yet, go on with it."""
        performance = session.performance
        session.phase = "held"
        session.born_s -= self.age_s
        session.events.recall(self.events, self.last_seq)
        performance.conversation.num_replies = self.num_replies
        performance.conversation.ids.recall(self.reply_ids)
        performance.turns.recall(self.outcomes)
        performance.answering.recall(self.messages, self.brief)
        now_s = session.clock.now()
        performance.conversation.recall(
            Reply(reply_id, now_s - age_s, 0, now_s, waiting=deque(lines)) for reply_id, age_s, lines in self.replies
        )


@dataclass
class _Leaving:
    """A session that is nowhere: until when it may be taken in elsewhere, and until when somebody sees to that."""

    memory: Memory
    until_s: float
    lent_until_s: float = 0.0


class NodeRegistry(Registry):
    """Seats of a node of a cluster, whose sessions may come from others and go to others.

    One that goes is kept here until it is heard to be at its new place: who sees to that may be cut off at any moment.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._leaving: dict[str, _Leaving] = {}
        self._moved: OrderedDict[str, str] = OrderedDict()  # and the nodes at which they are
        self._quiet_s: dict[str, float] = {}  # since when nothing is said
        self._num_seats = 0
        self._stays_until_s = 0.0
        self._heard: dict[str, Callable[[], None]] = {}  # ends what is done with the events of sessions that are to move

    async def emptied(self) -> None:
        """Wait until the last session has ended, or is at another node, and those that ask for it have been sent there."""
        await super().emptied()
        while self._leaving or time.monotonic() < self._stays_until_s:
            await asyncio.sleep(LOOK_EVERY_S)
            self._forget_late()

    async def close(self) -> None:
        self._leaving.clear()
        self._stays_until_s = 0.0
        await super().close()

    async def end(self, session_id: str) -> None:
        name = self._session_id(session_id)
        if name in self._moved:
            raise SessionMoves(self._moved[name])
        self._leaving.pop(name, None)
        await super().end(session_id)

    def let_go(self, num_seats: int) -> None:
        """Let sessions go in which nothing is said, and from now on each that comes to the end of a reply, as long as there are
        seats for them. To be called often.

        Args:
            num_seats: that are free elsewhere.
        """
        now_s = time.monotonic()
        self._forget_late()
        self._num_seats = num_seats
        self._quiet_s = {
            one.session_id: self._quiet_s.get(one.session_id, now_s) for one in self.live if one.performance.is_quiet
        }
        for session in self.live:
            if now_s - self._quiet_s.get(session.session_id, now_s) >= QUIET_S or session.performance.is_between:
                self._move(session)
            elif session.session_id not in self._heard:
                self._heard[session.session_id] = session.events.listen(partial(self._on_event, session))

    def _on_event(self, session: Session, event: Event, seq: int) -> None:
        if isinstance(event, ResponseDone):
            # When what else has happened with it is told, too, and before the next one is heard.
            asyncio.get_running_loop().call_soon(self._move_if_between, session)

    def _move_if_between(self, session: Session) -> None:
        if session.performance.is_between:
            self._move(session)

    def _move(self, session: Session) -> None:
        if session.may_move and len(self._leaving) < self._num_seats:
            if (stop := self._heard.pop(session.session_id, None)) is not None:
                stop()
            self._leaving[session.session_id] = _Leaving(Memory.of(session), time.monotonic() + self._config.limits.grace_s)
            session.performance.playout.hold()  # nothing more of it is heard here
            session.end(MOVED)
            for viewer in list(session.audience.viewers.values()):
                session.audience.leave(viewer, "deleted")  # first, so that they come back at once

    def release(self, session_id: str) -> Memory | None:
        """Lend a session that may go elsewhere, until ``moved`` or ``keep`` is called, or for a while. None: there is none."""
        leaving, now_s = self._leaving.get(self._session_id(session_id)), time.monotonic()
        if leaving is None or now_s < leaving.lent_until_s:
            return None
        leaving.lent_until_s = now_s + LEND_S
        return leaving.memory

    def keep(self, session_id: str) -> None:
        """It was not taken in: somebody else may try."""
        if (leaving := self._leaving.get(session_id)) is not None:
            leaving.until_s, leaving.lent_until_s = time.monotonic() + self._config.limits.grace_s, 0.0

    def moved(self, session_id: str, node: str) -> None:
        """It is at another node now: who asks for it is sent there, as long as this one is there."""
        self._leaving.pop(session_id, None)
        self._stays_until_s = time.monotonic() + STAY_S
        self._moved[session_id] = node
        if len(self._moved) > MAX_ENDED:
            self._moved.popitem(last=False)

    def take(self, memory: Memory) -> bool:
        """Take a session in, under a new id; the former one leads to it, too. Returns whether it is here now: there may be no
        seat, and it may have been taken in before, and the answer not have been heard."""
        if self._session_id(memory.session_id) in self._sessions:
            return True
        try:
            self._admission.check()
        except Unavailable:
            return False
        session = self._make(memory.settings, NewSession(memory.owner), is_named=False, brief=memory.brief)
        memory.give_to(session)
        self._viewers[memory.session_id] = session.session_id, False
        return True

    def _forget_late(self) -> None:
        now_s = time.monotonic()
        self._leaving = {name: left for name, left in self._leaving.items() if max(left.until_s, left.lent_until_s) > now_s}

    def _session(self, session_id: str, *, ending: bool = False) -> Session:
        name = self._session_id(session_id)
        if name in self._leaving or name in self._moved:
            raise SessionMoves(self._moved.get(name))
        return super()._session(session_id, ending=ending)
