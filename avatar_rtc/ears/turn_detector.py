"""When somebody begins to speak, and when a turn is over: a value without I/O or clock, which is told block after block."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

VOICED = 0.5
"""From this probability on a block counts as speech."""
STILL_VOICED = 0.35
"""Within a turn this is enough: the ends of words are soft."""
MIN_SPEECH_MS = 190
"""So much speech begins a turn. What is shorter is a cough, or a key."""
MAX_GAP_MS = 130
"""Silence that does not end what may become a turn: a plosive."""
PRE_ROLL_MS = 300
"""So much before the first voiced block belongs to a turn: what was too soft to be noticed."""
UNFINISHED = 2
"""So many times as much silence ends what is no whole sentence."""
MAX_TURN_MS = 30_000
"""A turn ends then, whatever is said: it is as much as recognisers take at once."""


@dataclass(frozen=True)
class Started:
    """A turn has begun; ``block`` is its first one."""

    block: int


@dataclass(frozen=True)
class Stopped:
    """The turn is over; ``block`` is the first one behind its speech."""

    block: int


class TurnDetector:
    """Probabilities of speech in, a block each; beginnings and ends of turns out.

    Args:
        block_ms: length of a block.
        end_of_turn_ms: so much silence ends a turn.

    Attributes:
        num_blocks: told so far.
        in_turn: somebody speaks, or pauses.
        end_of_speech: index behind the last voiced block.
        num_voiced: blocks of speech in the turn, or in what may become one.
    """

    def __init__(self, block_ms: int, end_of_turn_ms: int) -> None:
        self.num_blocks = 0
        self.in_turn = False
        self.end_of_speech = 0
        self.num_voiced = 0
        self._min_voiced = ceil(MIN_SPEECH_MS / block_ms)
        self._max_gap = MAX_GAP_MS // block_ms
        self._pre_roll = ceil(PRE_ROLL_MS / block_ms)
        self._end_of_turn = ceil(end_of_turn_ms / block_ms)
        self._max_turn = MAX_TURN_MS // block_ms
        self._start = 0

    @property
    def num_silent(self) -> int:
        """Blocks since the last voiced one."""
        return self.num_blocks - self.end_of_speech

    def hear(self, probability: float, *, is_unfinished: bool = False) -> Started | Stopped | None:
        """The next block is speech with this probability. Returns what has changed.

        Args:
            is_unfinished: what was said so far ends in the middle of a sentence.
        """
        self.num_blocks += 1
        if probability >= (STILL_VOICED if self.in_turn else VOICED):
            if not self.in_turn and self.num_voiced == 0:
                self._start = max(self.end_of_speech, self.num_blocks - 1 - self._pre_roll)
            self.num_voiced += 1
            self.end_of_speech = self.num_blocks
        if self.in_turn:
            end_of_turn = self._end_of_turn * (UNFINISHED if is_unfinished else 1)
            if self.num_silent < end_of_turn and self.num_blocks - self._start < self._max_turn:
                return None
            self.in_turn, self.num_voiced = False, 0
            return Stopped(self.end_of_speech)
        if self.num_silent > self._max_gap:
            self.num_voiced = 0
        if self.num_voiced < self._min_voiced:
            return None
        self.in_turn = True
        return Started(self._start)
