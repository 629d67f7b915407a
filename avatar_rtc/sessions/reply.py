"""A reply: what is spoken for one request, how far it has come, and what of it is heard. Values, without I/O or clock."""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from avatar_rtc.media.buffer import MarkReached
from avatar_rtc.mind.source import SourceError
from model.errors import ModelError, PromptError
from model.text.prompt import MAX_PROMPT_CHARS, parse_prompt
from model.text.sentences import TextStream
from signaling.vocabulary import EventError, TranscriptDelta

MAX_REMEMBERED_IDS = 1024
WORDS_PER_S = 2.5
"""Usual speech, by which it is guessed how long a reply will last that the engine does not have yet."""


@dataclass(frozen=True)
class Line:
    """What goes to the engine at once. ``scene`` and ``voice`` are None where they stay as they are."""

    text: str
    scene: str | None = None
    voice: str | None = None
    event_id: str | None = None


class ReplyIds:
    """The ids of replies, which are used once: the latest are remembered."""

    def __init__(self) -> None:
        self._used: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, reply_id: object) -> bool:
        return reply_id in self._used

    def __iter__(self) -> Iterator[str]:
        return iter(self._used)

    def recall(self, reply_ids: Iterable[str]) -> None:
        """These were used elsewhere."""
        self._used.update(dict.fromkeys(reply_ids))

    def new(self, wanted: str | None) -> str:
        """The id that is wanted, or one of ours. Raises ``EventError`` for one that was used."""
        if wanted in self._used:
            raise EventError("duplicate_reply", f"The id {wanted!r} was used before. Give each reply its own.")
        reply_id = wanted or f"reply-{secrets.token_hex(4)}"
        self._used[reply_id] = None
        if len(self._used) > MAX_REMEMBERED_IDS:
            self._used.popitem(last=False)
        return reply_id


@dataclass
class Hearing:
    """What of a reply is heard: which words, and for how long. Pictures that stand still come with silence, which does not count.

    Attributes:
        words: as they were typed.
        start_media_s: media time of its first voiced moment.
    """

    words: list[str] = field(default_factory=list)
    start_media_s: float | None = None
    _start_held_frames: int = field(default=0, init=False)
    _end_media_s: float = field(default=0.0, init=False)
    _end_held_frames: int = field(default=0, init=False)

    def start(self, media_s: float, held_frames: int) -> None:
        """Its voice begins; ``held_frames`` are those that stood still so far."""
        self.start_media_s, self._start_held_frames = media_s, held_frames
        self.reach(media_s, held_frames)

    def reach(self, media_s: float, held_frames: int) -> None:
        """It is heard up to here."""
        self._end_media_s, self._end_held_frames = media_s, held_frames

    def word(self, reached: MarkReached, reply_id: str) -> TranscriptDelta:
        """A word begins to be heard. Returns its caption."""
        assert self.start_media_s is not None
        self.words.append(reached.mark.text)
        return TranscriptDelta(
            response_id=reply_id,
            text=reached.mark.text,
            spoken=reached.mark.spoken or None,
            start_ms=round((reached.media_s - self.start_media_s) * 1000),
            end_ms=round((reached.end_media_s - self.start_media_s) * 1000),
        )

    def length_ms(self, fps: int) -> int:
        """For how long it was heard; 0 before its voice began."""
        if self.start_media_s is None:
            return 0
        held_s = (self._end_held_frames - self._start_held_frames) / fps
        return max(0, round((self._end_media_s - held_s - self.start_media_s) * 1000))


@dataclass
class Reply:
    """What is spoken for one request. Each line of it goes to the engine as a reply of its own, so that it may grow.

    Attributes:
        waiting: lines that the engine does not have.
        closed: its last piece has come.
        last_append_s: when its latest piece came.
        has_paused: nothing has come since for so long that what ended with it was taken for whole.
        num_pushed, num_generated, num_played: lines so far.
        may_grow: further text of it was announced with the latest line.
        error: why a line of it cannot be spoken.
        is_answer: it is made up here, for what the user has said.
        failure: code and message, where it has failed although it is spoken to its end.
        given: lines that the engine has, or had, by their ids.
    """

    reply_id: str
    accepted_s: float
    underruns_before: int
    last_append_s: float
    waiting: deque[Line] = field(default_factory=deque)
    closed: bool = True
    pushed: bool = False
    num_pushed: int = 0
    num_generated: int = 0
    num_played: int = 0
    has_paused: bool = False
    may_grow: bool = False
    first_audio_ms: int | None = None
    hearing: Hearing = field(default_factory=Hearing)
    error: ModelError | None = None
    is_answer: bool = False
    failure: tuple[str, str] | None = None
    given: dict[str, Line] = field(default_factory=dict)
    _text: TextStream = field(default_factory=TextStream, init=False)

    @property
    def generated(self) -> bool:
        """Whether nothing more will come out of the engine for it."""
        return self.closed and not self.waiting and self.num_generated >= self.num_pushed

    @property
    def played(self) -> bool:
        return self.closed and not self.waiting and self.num_played >= self.num_pushed

    @property
    def may_move(self) -> bool:
        """Whether all of it could be said elsewhere: it is whole, and nothing of it was heard."""
        return self.closed and not self.is_answer and self.failure is None and self.hearing.start_media_s is None

    def give(self) -> tuple[str, Line]:
        """The line that goes to the engine next, after its id."""
        line_id, line = f"{self.reply_id}#{self.num_pushed}", self.waiting.popleft()
        self.given[line_id] = line
        self.pushed = True
        self.num_pushed += 1
        self.may_grow = not self.closed or bool(self.waiting)
        return line_id, line

    def refuse(self, line_id: str, error: ModelError) -> None:
        """The engine cannot speak a line: it is left out."""
        del self.given[line_id]
        self.num_pushed -= 1
        self.error = error

    def append(self, piece: str, now_s: float, *, more: bool) -> None:
        """A further piece of its text; whole sentences of it become lines that wait.

        Raises:
            EventError: with the sentence that it goes on with the piece is too long, and nothing has changed.
        """
        check_piece(self._text.pending + piece)
        self.waiting.extend(map(Line, self._text.feed(piece)))
        self.last_append_s = now_s
        self.has_paused = False
        if not more:
            self.close()

    def pause(self) -> bool:
        """The next piece does not come: a sentence that waits for it is a line, unless it may go on. Returns whether one is."""
        self.has_paused = True
        ended = self._text.pause()
        self.waiting.extend(map(Line, ended))
        return bool(ended)

    def close(self) -> None:
        """Its last piece has come: what is left of its text is a line, too."""
        self.closed = True
        self.flush()

    def flush(self) -> None:
        """What has come is whole, though more may follow: none of it waits for that."""
        self.waiting.extend(map(Line, self._text.finish()))

    def end_answer(self, error: SourceError | None) -> None:
        """Nothing more comes of an answer. With an error, or empty, it says so in the end, and has failed then."""
        self.close()
        if error is None and not self.waiting and self.num_pushed == 0:
            error = SourceError("llm_empty", "The language model gave an empty answer.")
        if error is not None:
            self.waiting.append(Line(error.spoken))
            self.failure = error.code, error.message


def lines_of_prompt(
    text: str, event_id: str | None, *, voices: Mapping[str, str], is_long: Callable[[float], bool]
) -> list[Line]:
    """The lines of a prompt; sentence by sentence where it would have to wait for too long before it plays through.

    Args:
        voices: presets, id to words.
        is_long: whether so many seconds of speech would have to wait for too long.

    Raises:
        EventError: it is no prompt.
    """
    try:
        prompt = parse_prompt(text)
    except PromptError as error:
        raise EventError(error.code, str(error)) from None
    first, *others = prompt.lines
    voice = voices.get(prompt.voice, prompt.voice) if prompt.voice else None
    lines = [Line(first, prompt.scene, voice, event_id), *(Line(line) for line in others)]
    if not is_long(sum(len(line.text.split()) for line in lines) / WORDS_PER_S):
        return lines
    return [
        replace(line, text=text) if index == 0 else Line(text)
        for line in lines
        for index, text in enumerate(_sentences(line.text))
    ]


def _sentences(text: str) -> list[str]:
    """The sentences of a text, each to be spoken by itself."""
    stream = TextStream()
    return [*stream.feed(text), *stream.finish()]


def check_piece(text: str) -> None:
    """Raises ``EventError`` for a piece that is too long."""
    if len(text) > MAX_PROMPT_CHARS:
        raise EventError(
            "bad_prompt",
            f"A piece and the sentence that it goes on with have {MAX_PROMPT_CHARS} characters at most. Send less at once.",
        )
