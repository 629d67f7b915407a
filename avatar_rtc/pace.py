"""The real-time factor: seconds spent a second of media."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

RECENT_WINDOWS = 256


@dataclass
class _Window:
    spent_s: float = 0.0
    media_s: float = 0.0
    num_chunks: int = 0
    counts: bool = True

    @property
    def factor(self) -> float:
        return self.spent_s / self.media_s


class Pace:
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
        total = _Window()
        for block in reversed(self._blocks):
            total.spent_s += block.spent_s
            total.media_s += block.media_s
            if total.media_s >= media_s:
                break
        return total.factor if total.media_s else self._prior
