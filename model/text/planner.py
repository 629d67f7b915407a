"""From a line to a stream's time line: what is said when, and which word that is.

The planner holds a timeline of phonemes. A line goes after what is already planned, or right at the next block; everything else
is pause. Times are seconds since the stream began.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from model.chunk import Mark
from model.text.g2p import Sentence, pronounce
from model.text.track import PAUSE, TimedPhoneme, with_pauses

LEAD_S = 0.10
"""Silence between the start of a block and the first sound of a line that begins in it: lips have to part first."""
BETWEEN_SENTENCES_S = 0.22
TAIL_S = 0.10

Durations = Callable[[str], list[float]]
"""Seconds of each phoneme of a sentence, in the voice of the stream."""


@dataclass
class _Word:
    reply_id: str
    text: str
    spoken: str
    start_s: float
    end_s: float


@dataclass
class _Line:
    """A pushed line that is not over: its events, words, and what was already told of it."""

    reply_id: str
    start_s: float
    end_s: float
    events: list[TimedPhoneme]
    words: list[_Word]
    last: bool
    told: int = 0


class Planner:
    """See the module's text.

    Args:
        durations: asked once a sentence.
    """

    def __init__(self, durations: Durations) -> None:
        self._durations = durations
        self._lines: list[_Line] = []
        self._past: list[TimedPhoneme] = []
        self._begun: set[str] = set()  # replies that are heard and not over: pieces of one share a start

    def push(self, reply_id: str, text: str, now_s: float, *, last: bool) -> float:
        """Plan a line to begin at ``now_s``, the start of the next block, or after what is planned.

        Returns:
            Its length in seconds.

        Raises:
            model.errors.UnspeakableTextError: nothing is planned then.
        """
        sentences = pronounce(text)
        at_s = max(now_s + LEAD_S, self._lines[-1].end_s + BETWEEN_SENTENCES_S if self._lines else 0.0)
        events: list[TimedPhoneme] = []
        words: list[_Word] = []
        start_s = end_s = at_s
        for sentence in sentences:
            end_s = self._place(reply_id, sentence, at_s, events, words)
            at_s = end_s + BETWEEN_SENTENCES_S
        self._lines.append(_Line(reply_id, start_s, end_s, events, words, last))
        return end_s - start_s

    def _place(self, reply_id: str, sentence: Sentence, at_s: float, events: list[TimedPhoneme], words: list[_Word]) -> float:
        spoken: dict[int, _Word] = {}
        for symbol, index, duration_s in zip(
            sentence.phonemes, sentence.word_index, self._durations(sentence.phonemes), strict=True
        ):
            events.append((symbol, at_s, at_s + duration_s))
            if index >= 0:
                said = sentence.words[index]
                word = spoken.setdefault(index, _Word(reply_id, said.text, said.spoken, at_s, at_s))
                word.end_s = at_s + duration_s
            at_s += duration_s
        words += [w for w in spoken.values() if w.text]
        events.append((PAUSE, at_s, at_s + TAIL_S))
        return at_s + TAIL_S

    def cancel(self, now_s: float) -> None:
        """Forget everything from ``now_s`` on; what was said before stays in the past."""
        self._past = [(p, a, min(b, now_s)) for p, a, b in self._events() if a < now_s]
        self._lines = []
        self._begun.clear()

    def speaks(self, start_s: float, end_s: float) -> bool:
        """Whether a line is heard in the span."""
        return any(line.start_s < end_s and line.end_s > start_s for line in self._lines)

    def _events(self) -> list[TimedPhoneme]:
        return self._past + [e for line in self._lines for e in line.events]

    def visible(self, start_s: float, end_s: float) -> list[TimedPhoneme]:
        """All phonemes and pauses that touch a span, in order; the line's own past is silence before 0."""
        events = [(p, max(a, 0.0), b) for p, a, b in self._events() if b > start_s - 1 and a < end_s + 1]
        origin_s = max(0.0, min(start_s - 1, events[0][1] if events else start_s - 1))
        track = with_pauses(
            [(p, a - origin_s, b - origin_s) for p, a, b in events],
            max(end_s + 1 - origin_s, events[-1][2] - origin_s if events else 0),
        )
        return [(p, a + origin_s, b + origin_s) for p, a, b in track if b + origin_s > start_s and a + origin_s < end_s]

    def marks_between(self, start_s: float, end_s: float, sample_rate_hz: int) -> tuple[bool, list[Mark]]:
        """What happens in the block [start_s, end_s): whether a line is heard in it, and its marks.

        Lines that are over are dropped.
        """
        marks: list[Mark] = []
        speaking = False

        def sample(time_s: float) -> int:
            return max(0, round((time_s - start_s) * sample_rate_hz))

        limit = sample(end_s)
        for line in self._lines:
            if line.start_s >= end_s:
                break
            speaking = True
            if line.reply_id not in self._begun:
                self._begun.add(line.reply_id)
                marks.append(Mark(line.reply_id, "start", sample(line.start_s), sample(line.start_s)))
            while line.told < len(line.words) and line.words[line.told].start_s < end_s:
                word = line.words[line.told]
                marks.append(Mark(word.reply_id, "word", sample(word.start_s), sample(word.end_s), word.text, word.spoken))
                line.told += 1
            if line.end_s <= end_s and line.last:
                self._begun.discard(line.reply_id)
                marks.append(Mark(line.reply_id, "end", min(sample(line.end_s), limit), min(sample(line.end_s), limit)))
        over = [line for line in self._lines if line.end_s <= end_s]
        self._lines = self._lines[len(over) :]
        self._past = [e for e in self._past + [e for line in over for e in line.events] if e[2] > end_s - 4]
        return speaking, sorted(marks, key=lambda m: m.start_sample)
