"""What a model says that reads whole prompts, a few seconds each: text cut to that length, and roughly when each word is heard.

The published model was trained on clips of 4.8 s with one or two short sentences. A reply is therefore said in *utterances*, each
with a prompt of its own and a whole number of blocks. The model does not tell when it says which word, so words are placed by a
usual pace; they serve captions.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from model.chunk import Mark, MarkKind
from model.errors import UnspeakableTextError
from model.text.normalize import Script, drop_markup
from model.text.sentences import sentence_spans

WORDS_PER_S = 2.5
LEAD_S = 0.25
"""From the start of an utterance to its first word."""
BETWEEN_SENTENCES_S = 0.25
TAIL_S = 0.4
EPSILON_S = 1e-6
"""From the last word to the end of the utterance, at least."""

_CLAUSE = re.compile(r"[^;]+;*[\"')\]]*\s*")


@dataclass(frozen=True)
class TimedMark:
    """A mark in seconds: of an utterance from its start, of a stream from the stream's; see :class:`model.chunk.Mark`."""

    kind: MarkKind
    reply_id: str
    start_s: float
    end_s: float
    text: str = ""


@dataclass(frozen=True)
class Utterance:
    """What one prompt says.

    Attributes:
        lines: its sentences.
        num_blocks: how long the model gets for them.
        marks: in order of time.
    """

    lines: tuple[str, ...]
    num_blocks: int
    marks: tuple[TimedMark, ...]


@dataclass(frozen=True)
class _Piece:
    """A sentence, or as much of one as fits an utterance; ``last`` ends its reply."""

    reply_id: str
    words: tuple[str, ...]
    last: bool

    @property
    def duration_s(self) -> float:
        return len(self.words) / WORDS_PER_S


def _sentences(text: str) -> Iterator[str]:
    """The sentences of a text, without marks of markdown and tags; this model reads words as they are written."""
    for start, end in sentence_spans(text):
        script = Script.of(text[start:end])
        drop_markup(script)
        yield script.text


class Utterances:
    """The lines that are still to be said.

    Args:
        block_s: length of a block.
        max_blocks: of an utterance.
    """

    def __init__(self, block_s: float, max_blocks: int) -> None:
        self._block_s, self._max_blocks = block_s, max_blocks
        self._room_s = block_s * max_blocks - LEAD_S - TAIL_S
        self._pieces: deque[_Piece] = deque()
        self._begun: set[str] = set()

    def push(self, reply_id: str, text: str, *, last: bool) -> float:
        """Append a line. Returns how long it will be heard at a usual pace, in seconds.

        Raises:
            UnspeakableTextError: there is no letter or digit in it; nothing has changed.
        """
        if not any(c.isalnum() for c in text):
            raise UnspeakableTextError("There is nothing to say in this text. Send words.")
        longest = max(1, int(self._room_s * WORDS_PER_S))
        parts = [
            tuple(words[i : i + longest])
            for words in (found.group().split() for sentence in _sentences(text) for found in _CLAUSE.finditer(sentence))
            for i in range(0, len(words), longest)
        ]
        pieces = [_Piece(reply_id, words, last and i == len(parts) - 1) for i, words in enumerate(parts)]
        self._pieces.extend(pieces)
        voiced_s = sum(piece.duration_s + BETWEEN_SENTENCES_S for piece in pieces) - BETWEEN_SENTENCES_S
        return voiced_s + (LEAD_S + TAIL_S) * int(voiced_s / self._room_s)

    def cancel(self) -> None:
        """Forget all of them."""
        self._pieces.clear()
        self._begun.clear()

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def next_utterance(self) -> Utterance | None:
        """The next utterance: as many sentences of one reply as fit; None when there is nothing to say."""
        lines: list[str] = []
        marks: list[TimedMark] = []
        at_s, reply_id = LEAD_S, self._pieces[0].reply_id if self._pieces else ""
        while self._pieces and self._pieces[0].reply_id == reply_id:
            piece = self._pieces[0]
            pause_s = BETWEEN_SENTENCES_S if lines else 0.0
            if lines and at_s + pause_s + piece.duration_s > LEAD_S + self._room_s:
                break
            self._pieces.popleft()
            at_s += pause_s
            if reply_id not in self._begun:
                self._begun.add(reply_id)
                marks.append(TimedMark("start", reply_id, at_s, at_s))
            for word in piece.words:
                marks.append(TimedMark("word", reply_id, at_s, at_s + 1 / WORDS_PER_S, word))
                at_s += 1 / WORDS_PER_S
            lines.append(" ".join(piece.words))
            if piece.last:
                self._begun.discard(reply_id)
                marks.append(TimedMark("end", reply_id, at_s, at_s))
        if not lines:
            return None
        num_blocks = min(self._max_blocks, max(1, -(-int(1000 * (at_s + TAIL_S)) // int(1000 * self._block_s))))
        return Utterance(tuple(lines), num_blocks, tuple(marks))


class MarkTrack:
    """Marks of a stream, told chunk by chunk."""

    def __init__(self) -> None:
        self._marks: deque[TimedMark] = deque()
        self._spans: deque[tuple[float, float]] = deque()

    def add(self, utterance: Utterance, start_s: float, end_s: float) -> None:
        """Place an utterance on the stream's time line; what would come after ``end_s`` comes just before it."""
        self._spans.append((start_s, end_s))
        for mark in utterance.marks:
            first_s, stop_s = (min(start_s + at_s, end_s - 1e-3) for at_s in (mark.start_s, mark.end_s))
            self._marks.append(TimedMark(mark.kind, mark.reply_id, first_s, stop_s, mark.text))

    def cancel(self) -> None:
        self._marks.clear()
        self._spans.clear()

    def marks_between(self, start_s: float, end_s: float, sample_rate_hz: int) -> tuple[bool, tuple[Mark, ...]]:
        """Whether [start_s, end_s) belongs to a reply, and its marks, which are then over."""
        # Both are sums of a chunk's length, and may be off in their last digit.
        speaking = any(a < end_s - EPSILON_S and b > start_s + EPSILON_S for a, b in self._spans)
        while self._spans and self._spans[0][1] <= end_s + EPSILON_S:
            self._spans.popleft()
        told: list[Mark] = []
        while self._marks and self._marks[0].start_s < end_s:
            mark = self._marks.popleft()
            first, stop = (max(0, round((at_s - start_s) * sample_rate_hz)) for at_s in (mark.start_s, mark.end_s))
            told.append(Mark(mark.reply_id, mark.kind, first, stop, mark.text))
        return speaking, tuple(told)
