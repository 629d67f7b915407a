"""When the next chunk is asked for: late, so that new text is spoken soon, and early enough, so that nothing runs dry."""

from __future__ import annotations

MARGIN_S = 0.06
DECAY = 0.98
"""By this what is needed is forgotten with each chunk."""


class Demand:
    """How much media must be left when a chunk is asked for.

    At least ``low_water_s``; more where chunks took longer of late: an engine that has several sessions, or that had to begin a
    block again, must not run dry each time. After it did, a whole block more, so that a slow engine works without a break.

    Args:
        low_water_s: as configured.
        block_s: duration of a chunk.
    """

    def __init__(self, low_water_s: float, block_s: float) -> None:
        self._low_water_s = low_water_s
        self._most_s = low_water_s + block_s
        self._needed_s = 0.0
        self._num_underruns = 0

    def on_chunk(self, took_s: float, num_underruns: int) -> None:
        """A chunk came ``took_s`` after it was asked for; the buffer ran dry ``num_underruns`` times so far."""
        needed_s = self._most_s if num_underruns > self._num_underruns else took_s + MARGIN_S
        self._num_underruns = num_underruns
        self._needed_s = min(max(needed_s, self._needed_s * DECAY), self._most_s)

    def spare_s(self, buffered_s: float) -> float:
        """How long from now the next chunk is asked for; at 0 or below, now."""
        return buffered_s - max(self._low_water_s, self._needed_s)
