"""When the next chunk is asked for: late, so that new text is spoken soon, and early enough, so that nothing runs dry."""

from __future__ import annotations

from avatar_rtc.pace import Pace

MARGIN_S = 0.06
DECAY = 0.98
"""By this what is needed is forgotten with each chunk."""
PACE_OVER_S = 3.0
"""Over so much media the real-time factor is looked at."""


class Demand:
    """How much media must be left when a chunk is asked for.

    At least ``low_water_s``; more where chunks took longer of late: an engine that has several sessions, or that had to begin a
    block again, must not run dry each time. After it did, a whole block more, so that a slow engine works without a break.

    An engine that is slower than real time cannot catch up with a reply that is being played. So much of it has to be there
    before it begins that the rest comes in time: see :meth:`prefill_s` and :attr:`refill_s`.

    Args:
        low_water_s: as configured.
        block_s: duration of a chunk.
        pace: of this stream; it is kept here.
        max_prefill_s: as configured.
    """

    def __init__(self, low_water_s: float, block_s: float, pace: Pace, max_prefill_s: float) -> None:
        self.pace = pace
        self._low_water_s = low_water_s
        self._most_s = low_water_s + block_s
        self._max_prefill_s = max_prefill_s
        self._needed_s = 0.0
        self._num_underruns = 0

    def on_chunk(self, took_s: float, media_s: float, num_underruns: int) -> float | None:
        """A chunk of ``media_s`` came ``took_s`` after it was asked for; the buffer ran dry ``num_underruns`` times so far.

        Returns:
            The real-time factor of the block that it completes, if it does.
        """
        needed_s = self._most_s if num_underruns > self._num_underruns else took_s + MARGIN_S
        self._num_underruns = num_underruns
        self._needed_s = min(max(needed_s, self._needed_s * DECAY), self._most_s)
        return self.pace.add(took_s, media_s)

    def on_line(self) -> None:
        """A line was given to the engine, or taken back: a block may be made once more, and takes longer than the others do."""
        self.pace.skip()

    def prefill_s(self, reply_s: float) -> float:
        """How much of a reply that lasts ``reply_s`` must be there before it begins; 0 where the engine keeps up with real time.

        While L seconds are played, an engine with factor r makes L / r. The other L (1 - 1 / r) come first, and a low-water
        mark of them on top, because chunks come in blocks.
        """
        factor = self.pace.recent(PACE_OVER_S)
        if factor <= 1.0:
            return 0.0
        return min(reply_s * (1 - 1 / factor) + self._low_water_s, self._max_prefill_s)

    @property
    def refill_s(self) -> float:
        """How much must be there before playing goes on, once the buffer ran dry. 0 where the engine keeps up with real time:
        what delayed it is over. A slower one makes a pause now and then, and not a gap in every word."""
        return self._low_water_s if self.pace.recent(PACE_OVER_S) > 1.0 else 0.0

    def spare_s(self, buffered_s: float, prefill_s: float = 0.0) -> float:
        """How long from now the next chunk is asked for; at 0 or below, now.

        Args:
            prefill_s: of the reply that is being made. Below it the engine does not rest.
        """
        return buffered_s - max(self._low_water_s, self._needed_s, prefill_s)
