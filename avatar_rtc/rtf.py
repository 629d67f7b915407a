"""The real-time factor: seconds spent a second of media; and what it means for who waits for an answer."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

RECENT_WINDOWS = 256
REAL_TIME = 0.95
"""Up to this factor of the engine alone a machine keeps up with a call: pictures are encoded and sent beside it."""
USUAL_LINE_S, USUAL_SPARE_S, USUAL_BLOCK_S = 4.0, 0.4, 0.32
"""What is spoken of where it is said how late answers begin: ten words, and pocket's usual settings."""
SURE = 2.0
"""Standard deviations of a mean, by which work is guessed to be slower than it has been lately."""


@dataclass
class _Window:
    spent_s: float = 0.0
    media_s: float = 0.0
    num_chunks: int = 0
    counts: bool = True

    @property
    def factor(self) -> float:
        return self.spent_s / self.media_s


class RtfMeter:
    """What chunks took, block by block. A model may make several chunks at once: of such, one alone says nothing.

    Args:
        chunks_per_block: see :class:`model.chunk.StreamInfo`.
        prior: the factor that is assumed before the first block; 0 if nothing is known.
    """

    def __init__(self, chunks_per_block: int, prior: float = 0.0) -> None:
        self._chunks_per_block = chunks_per_block
        self._prior = prior
        self._open = _Window()
        self._blocks: deque[_Window] = deque(maxlen=RECENT_WINDOWS)

    def add(self, spent_s: float, media_s: float) -> float | None:
        """A chunk took ``spent_s``. Returns the factor of the block that it completes."""
        block = self._open
        block.spent_s += spent_s
        block.media_s += media_s
        block.num_chunks += 1
        if block.num_chunks < self._chunks_per_block:
            return None
        if block.counts:
            self._blocks.append(block)
        self._open = _Window()
        return block.factor

    def skip(self) -> None:
        """Leave the block in work out of what follows."""
        self._open.counts = False

    def percentile(self, percent: int) -> float:
        """Over the latest blocks."""
        ordered = sorted(block.factor for block in self._blocks)
        return ordered[(len(ordered) - 1) * percent // 100] if ordered else self._prior

    def recent(self, media_s: float) -> float:
        """Over those of the latest blocks that make up ``media_s`` together."""
        blocks = self._latest(media_s)
        return sum(block.spent_s for block in blocks) / sum(block.media_s for block in blocks) if blocks else self._prior

    def bound(self, recent_s: float, media_s: float) -> float:
        """The factor that ``media_s`` to come will hardly exceed, by the latest blocks, which make up ``recent_s`` together.

        Blocks differ, most of all on a machine that others use too. Of many the mean differs less.
        """
        blocks = self._latest(recent_s)
        mean = self.recent(recent_s)
        if len(blocks) < 2 or media_s <= 0:
            return mean
        variance = sum((block.factor - mean) ** 2 for block in blocks) / (len(blocks) - 1)
        num_to_come = max(1.0, media_s / blocks[0].media_s)
        return mean + SURE * math.sqrt(variance / num_to_come)

    def _latest(self, media_s: float) -> list[_Window]:
        blocks: list[_Window] = []
        total_s = 0.0
        for block in reversed(self._blocks):
            blocks.append(block)
            total_s += block.media_s
            if total_s >= media_s:
                break
        return blocks


def keeps_up(factor: float) -> bool:
    """Whether an engine with this real-time factor serves a call in real time."""
    return factor <= REAL_TIME


def in_words(factor: float) -> str:
    """What a real-time factor means, in one sentence; empty where none was measured."""
    if factor <= 0:
        return ""
    speed = 1 / factor
    figure = f"{speed:.0f}" if speed >= 10 else f"{speed:.1f}" if speed >= 1.05 else f"{speed:.2f}"
    makes = f"This machine makes {figure} s of speech a second"
    if keeps_up(factor):
        return f"{makes}: it keeps up with real time."
    late_s = factor * USUAL_BLOCK_S + wait_s(USUAL_LINE_S, factor, USUAL_SPARE_S)
    return f"{makes}: answers begin about {max(1, round(late_s))} s late."


def needed_s(left_s: float, factor: float, spare_s: float) -> float:
    """How much must be there before playing begins, where ``left_s`` more have to be made: then the rest comes in time.

    While L seconds are made at factor r, r L are played: the difference must be there, and something to spare on top, because
    chunks come in blocks. 0 where nothing is left to be made, or is made in real time.
    """
    return left_s * (factor - 1) + spare_s if left_s > 0 and factor > 1 else 0.0


def wait_s(left_s: float, factor: float, spare_s: float, there_s: float = 0.0, bound: float = 0.0) -> float:
    """How long it takes until so much is there as :func:`needed_s` asks for.

    Args:
        left_s: seconds of media that have to be made still.
        factor: real-time factor by which they will be made.
        spare_s: see :func:`needed_s`.
        there_s: seconds that are there.
        bound: the factor that is reckoned with when it is decided whether enough is there; ``factor`` if it is lower.
    """
    bound = max(bound, factor)
    if bound <= 1:
        return 0.0
    # With x more made, there_s + x must be needed_s(left_s - x).
    more_s = (left_s * (bound - 1) + spare_s - there_s) / bound
    return factor * min(max(0.0, more_s), left_s)
