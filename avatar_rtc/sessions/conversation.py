"""Conversation: what is said in a session, as a value with neither I/O nor clock.

Commands and what happens to the stream go in; actions for the engine and events for the clients come out. Whoever drives it
carries the actions out in their order, and tells what became of them. Each method is told where playing is (``Playhead``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from avatar_rtc.media.buffer import MarkReached
from avatar_rtc.sessions.reply import Reply, ReplyIds, check_piece, lines_of_prompt
from model.errors import ModelError
from signaling.vocabulary import (
    AudioCleared,
    AudioStarted,
    AvatarState,
    DoneStatus,
    Error,
    Event,
    EventError,
    ItemAdded,
    OutputText,
    ResponseCancel,
    ResponseCreate,
    ResponseCreated,
    ResponseDone,
    State,
    Timings,
    UserMessage,
)

PTS_CLOCK_HZ = 90_000
RETELL_S = 0.5
RETELL_SHARE = 0.2
"""A wait is told again if it turned out to be off by so much, and by such a share of what is left of it."""
PAUSE_S = 0.2
"""A sentence that has ended waits for so long for the next piece of its reply, which may say that it goes on."""
MAX_WAITING_LINES = 256
MAX_PUSHED_LINES = 32
"""So many lines of a reply the engine has at once; what comes faster than it is said waits here, where it is counted."""
ENGINE_FAILED = "The engine stopped and is being restarted. Send the text again."


@dataclass(frozen=True)
class Playhead:
    """Where playing is at a moment.

    Attributes:
        now_s: of the monotonic clock.
        media_s: media time of what is being played.
        held_frames: pictures so far that showed nothing new.
        underruns: times so far that nothing was there to be played.
        is_waiting: the next line stands at its gate, or has not come.
    """

    now_s: float
    media_s: float = 0.0
    held_frames: int = 0
    underruns: int = 0
    is_waiting: bool = False


@dataclass(frozen=True)
class Push:
    """Give the engine a line. ``scene`` and ``voice`` are None where they stay as they are."""

    line_id: str
    text: str
    scene: str | None = None
    voice: str | None = None
    event_id: str | None = None


@dataclass(frozen=True)
class Silence:
    """Fade the voice out now, and have nothing more of it from the engine."""


Action = Push | Silence


@dataclass(frozen=True)
class _Said:
    """What the user has said, which a reply is about; ``is_answered`` by a mind, which fills the reply."""

    text: str
    item_id: str | None
    is_answered: bool


class Conversation:
    """The replies of one session: those that wait, that the engine has, and that are heard.

    Args:
        fps: pictures a second; by them it is reckoned how long the picture stood still.
        max_queued_replies: that may wait behind the first one.
        open_reply_timeout_s: a reply whose last piece does not come is closed.
        voices: presets, id to words.
        is_long: whether so many seconds of speech would have to wait for too long before they play through.

    Attributes:
        state: what the avatar does.
        num_replies: accepted so far.
        ids: of replies.
    """

    def __init__(
        self,
        fps: int,
        *,
        max_queued_replies: int,
        open_reply_timeout_s: float,
        voices: Mapping[str, str],
        is_long: Callable[[float], bool],
    ) -> None:
        self.state: State = "initializing"
        self.num_replies = 0
        self._fps = fps
        self._max_queued_replies = max_queued_replies
        self._open_reply_timeout_s = open_reply_timeout_s
        self._lines_of = partial(lines_of_prompt, voices=voices, is_long=is_long)
        self._replies: deque[Reply] = deque()
        self._by_line: dict[str, Reply] = {}
        self.ids = ReplyIds()
        self._events: list[Event] = []
        self._forgotten: list[str] = []
        self._must_silence = False
        self._current: Reply | None = None
        self._told_ready_s: float | None = None

    @property
    def is_busy(self) -> bool:
        """Whether something is said, or waits to be."""
        return bool(self._replies)

    @property
    def replies(self) -> Sequence[Reply]:
        """Those that are said, or wait."""
        return tuple(self._replies)

    def recall(self, replies: Iterable[Reply]) -> None:
        """These were accepted elsewhere, and are still to be said."""
        self._replies.extend(replies)

    # What comes out.

    def take_events(self) -> list[Event]:
        """What clients are to be told, in order; each once."""
        events, self._events = self._events, []
        return events

    def take_forgotten(self) -> list[str]:
        """Lines that were played to their end or are not to be heard any more; each once."""
        forgotten, self._forgotten = self._forgotten, []
        return forgotten

    def next_action(self, *, can_push: bool) -> Action | None:
        """What is to be carried out next; None if nothing is.

        A line may go to the engine as soon as nothing is left to be generated of the replies before its own.

        Args:
            can_push: the engine is there; else lines go on waiting.
        """
        if self._must_silence:
            self._must_silence = False
            return Silence()
        reply = next((r for r in self._replies if not r.generated), None)
        if not can_push or reply is None or not reply.waiting or reply.num_pushed - reply.num_generated >= MAX_PUSHED_LINES:
            return None
        line_id, line = reply.give()
        self._by_line[line_id] = reply
        self._events.append(OutputText(response_id=reply.reply_id, text=line.text, more=reply.may_grow))
        return Push(line_id, line.text, line.scene, line.voice, line.event_id)

    # Commands.

    def receive(self, command: ResponseCreate | ResponseCancel, at: Playhead) -> None:
        """Take a command; its actions are due then, and after them ``settle``.

        Raises:
            EventError: it cannot be carried out, and nothing has changed.
        """
        match command:
            case ResponseCreate(mode="append"):
                self._append(command, at)
            case ResponseCreate():
                self._create(command, at)
            case ResponseCancel():
                self._cancel(command, at)

    def answer(self, message: UserMessage, at: Playhead, item_id: str | None = None) -> str:
        """Open a reply to what the user says, to be filled by ``receive`` in mode ``append`` and ended by ``change_answer``.

        Returns its id; raises as ``receive`` does.

        Args:
            item_id: of the turn, where it was spoken.
        """
        opening = ResponseCreate(input="", mode=message.mode, id=message.id, more=True, event_id=message.event_id)
        self._create(opening, at, _Said(message.text, item_id, is_answered=True))
        return self._replies[-1].reply_id

    def echo(self, message: UserMessage, at: Playhead, item_id: str) -> None:
        """Say what the user has said; arguments and errors as of ``answer``."""
        self._create(ResponseCreate(input=message.text, mode=message.mode), at, _Said(message.text, item_id, is_answered=False))

    def change_answer(self, reply_id: str, change: Callable[[Reply], None], at: Playhead) -> None:
        """``change`` an answer, if it has not ended."""
        for reply in [reply for reply in self._replies if reply.reply_id == reply_id]:
            change(reply)
            self._go_on(reply, at)

    def is_next(self, reply_id: str) -> bool:
        """Whether nothing is said before this reply any more."""
        return bool(self._replies) and self._replies[0].reply_id == reply_id

    def settle(self) -> None:
        """The actions of the latest command are carried out.

        Raises:
            EventError: a line of it cannot be spoken. Of an answer it is left out.
        """
        reply, self._current = self._current, None
        if reply is not None and reply.error is not None and not reply.is_answer:
            raise EventError(reply.error.code, str(reply.error))

    def refused(self, push: Push, error: ModelError, at: Playhead) -> None:
        """The engine cannot speak a line: it is left out; a reply without any line that can be spoken is failed."""
        reply = self._by_line.pop(push.line_id)
        self._forgotten.append(push.line_id)
        reply.refuse(push.line_id, error)
        if reply is not self._current:
            self._events.append(Error(code=error.code, message=str(error), event_id=push.event_id))
        self._finish_if_played(reply, at)

    def expire(self, at: Playhead) -> bool:
        """Let no sentence wait for the next piece for too long, and close replies whose last piece has not come for far too long.
        Returns whether there are actions now."""
        open_replies = [r for r in self._replies if not r.closed]
        paused = [r.pause() for r in open_replies if not r.has_paused and at.now_s - r.last_append_s >= PAUSE_S]
        # Whoever makes up an answer ends it.
        late = [r for r in open_replies if not r.is_answer and at.now_s - r.last_append_s > self._open_reply_timeout_s]
        for reply in late:
            reply.close()
            self._tell_if_whole(reply)
            self._finish_if_played(reply, at)
        return bool(late) or any(paused)

    def close(self, at: Playhead) -> None:
        """The session ends: so do all replies."""
        for reply in list(self._replies):
            self._finish(reply, at, "cancelled")

    # What happens to the stream.

    def knows(self, line_id: str) -> bool:
        """Whether a line is with the engine and wanted still."""
        return line_id in self._by_line

    def generated(self, line_id: str) -> None:
        """The end of a line has come out of the engine."""
        if (reply := self._by_line.get(line_id)) is not None:
            reply.num_generated += 1

    def came(self) -> None:
        """Pictures come: the first ones, or again after the engine was away."""
        if self.state in ("initializing", "idle"):
            self._set_state("thinking" if self._replies else "listening")

    def reached(self, played: MarkReached, at: Playhead) -> None:
        """A moment of a line is being played."""
        mark = played.mark
        reply = self._by_line.get(mark.reply_id)
        if reply is None:
            return
        reply.hearing.reach(played.media_s, at.held_frames)
        if mark.kind in ("start", "word") and reply.hearing.start_media_s is None:
            reply.hearing.start(played.media_s, at.held_frames)
            reply.first_audio_ms = round((at.now_s - reply.accepted_s) * 1000)
            self._events.append(AudioStarted(response_id=reply.reply_id, pts=round(played.media_s * PTS_CLOCK_HZ)))
        if mark.kind == "end":
            self._forget(mark.reply_id)
            reply.num_played += 1
            if reply.played:
                self._finish_if_played(reply, at)
            elif at.is_waiting or (not reply.waiting and reply.num_played >= reply.num_pushed):
                self._set_state("thinking")
            return
        self._set_state("speaking")
        if mark.kind == "word":
            self._events.append(reply.hearing.word(played, reply.reply_id))

    def waits(self, wait_s: float | None, now_s: float) -> None:
        """The next line begins in about so long, None if at once. Told where that takes its time; again if it was wrong."""
        if wait_s is None or self.state != "thinking":
            return
        ready_s = now_s + wait_s
        if self._told_ready_s is None or abs(ready_s - self._told_ready_s) > max(RETELL_S, RETELL_SHARE * wait_s):
            self._told_ready_s = ready_s
            self._events.append(AvatarState(state="thinking", ready_in_ms=round(wait_s * 1000)))

    def stream_lost(self, at: Playhead) -> None:
        """The engine died: replies that it had end as failed; those that wait go on waiting."""
        for reply in [reply for reply in self._replies if reply.pushed]:
            self._finish(reply, at, "failed", "engine_failed", ENGINE_FAILED)
        self._set_state("idle")

    # Inside.

    def _create(self, command: ResponseCreate, at: Playhead, said: _Said | None = None) -> None:
        if command.more:
            check_piece(command.input)
        lines = [] if command.more else self._lines_of(command.input, command.event_id)
        if command.mode != "replace" and len(self._replies) > self._max_queued_replies:
            raise EventError("queue_full", f"{len(self._replies)} replies wait already. Wait for one to end, or use replace.")
        reply_id = self.ids.new(command.id)
        if command.mode == "replace":
            self._stop(list(self._replies), at)
        reply = Reply(reply_id, at.now_s, at.underruns, at.now_s, is_answer=said is not None and said.is_answered)
        if said is not None and said.text.strip():
            self._events.append(ItemAdded(text=said.text, response_id=reply_id, item_id=said.item_id))
        self._events.append(
            ResponseCreated(response_id=reply_id, mode=command.mode, position=len(self._replies), event_id=command.event_id)
        )
        self._replies.append(reply)
        self.num_replies += 1
        if self.state == "listening":
            self._set_state("thinking")
        reply.waiting.extend(lines)
        reply.closed = not command.more
        if command.more:
            reply.append(command.input, at.now_s, more=True)
        self._go_on(reply, at)

    def _append(self, command: ResponseCreate, at: Playhead) -> None:
        """A further piece, or the first one of a reply behind all others."""
        if command.id:
            reply = next((r for r in self._replies if r.reply_id == command.id), None)
        else:
            reply = next((r for r in self._replies if not r.closed), None)
        if reply is None:
            if command.id in self.ids:
                raise EventError("reply_closed", f"Reply {command.id!r} has ended. Start another one.")
            if not command.input.strip() and not command.more:
                raise EventError("unknown_reply", "There is no open reply to end. Start one with text.")
            self._create(command, at)
            return
        if reply.closed:
            raise EventError("reply_closed", f"Reply {reply.reply_id!r} had its last piece. Start another one.")
        if len(reply.waiting) >= MAX_WAITING_LINES:
            raise EventError("queue_full", f"{len(reply.waiting)} sentences wait already. Send the rest when some were heard.")
        reply.append(command.input, at.now_s, more=command.more)
        self._go_on(reply, at)

    def _go_on(self, reply: Reply, at: Playhead) -> None:
        """A reply has more text, or its last."""
        if not reply.is_answer:
            reply.error = None
        self._current = reply
        self._tell_if_whole(reply)
        self._finish_if_played(reply, at)

    def _tell_if_whole(self, reply: Reply) -> None:
        """Of a reply whose latest line was told as one that others may follow, that none does."""
        if reply.may_grow and reply.closed and not reply.waiting:
            reply.may_grow = False
            self._events.append(OutputText(response_id=reply.reply_id, text="", more=False))

    def _cancel(self, command: ResponseCancel, at: Playhead) -> None:
        if command.id is None:
            self._stop(list(self._replies), at)
            return
        reply = next((r for r in self._replies if r.reply_id == command.id), None)
        if reply is not None:
            self._stop([reply], at)
        elif command.id not in self.ids:  # else it ended by itself meanwhile
            raise EventError("unknown_reply", f"There is no reply {command.id!r}. Leave out the id to stop everything.")

    def _stop(self, replies: list[Reply], at: Playhead) -> None:
        """End replies. If one of them is with the engine, all that are with it are cut: their sound is one stream."""
        if any(reply.pushed for reply in replies):
            replies = [reply for reply in self._replies if reply in replies or reply.pushed]
            self._must_silence = True
        for reply in replies:
            self._finish(reply, at, "cancelled")

    def _forget(self, line_id: str) -> None:
        del self._by_line[line_id]
        self._forgotten.append(line_id)

    def _set_state(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self._told_ready_s = None
            self._events.append(AvatarState(state=state))

    def _finish_if_played(self, reply: Reply, at: Playhead) -> None:
        if not reply.played or reply not in self._replies:
            return
        if reply.num_played == 0 and reply.error is not None:
            self._finish(reply, at, "failed", reply.error.code, str(reply.error))
        elif reply.failure is not None:
            self._finish(reply, at, "failed", *reply.failure)
        else:
            self._finish(reply, at, "completed")

    def _finish(
        self, reply: Reply, at: Playhead, status: DoneStatus, code: str | None = None, message: str | None = None
    ) -> None:
        """The one place where a reply ends; it leaves ``_replies``, so it cannot end twice."""
        self._replies.remove(reply)
        for line_id in [line_id for line_id, owner in self._by_line.items() if owner is reply]:
            self._forget(line_id)
        if status != "completed":
            reply.hearing.reach(at.media_s, at.held_frames)
        heard_ms = reply.hearing.length_ms(self._fps)
        if not reply.played and reply.hearing.start_media_s is not None:
            self._events.append(AudioCleared(response_id=reply.reply_id, heard_ms=heard_ms))
        self._events.append(
            ResponseDone(
                response_id=reply.reply_id,
                status=status,
                heard_ms=heard_ms,
                heard_text=" ".join(reply.hearing.words),
                timings=Timings(
                    first_audio_ms=reply.first_audio_ms,
                    total_ms=round((at.now_s - reply.accepted_s) * 1000),
                    underruns=at.underruns - reply.underruns_before,
                ),
                code=code,
                message=message,
            )
        )
        if self.state in ("speaking", "thinking"):
            self._set_state("thinking" if self._replies else "listening")
