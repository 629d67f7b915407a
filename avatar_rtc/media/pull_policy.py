"""When the next chunk is asked for: late, so that new text is spoken soon, and early enough, so that nothing runs dry."""

from __future__ import annotations

from avatar_rtc.rtf import RtfMeter, needed_s, wait_s

MARGIN_S = 0.06
DECAY = 0.98
"""By this what is needed is forgotten with each chunk."""
RTF_OVER_S = 4.0
"""Over so much media the real-time factor is looked at."""


class PullPolicy:
    """How much media must be left when a chunk is asked for.

    At least ``low_water_s``; more where chunks took longer of late: an engine that has several sessions, or that had to begin a
    block again, must not run dry each time. After it did, a chunk more, so that a slow engine works without a break.

    An engine that is slower than real time cannot catch up with a line that is being played. So much of it has to be there
    before it begins that the rest comes in time: see :meth:`needed_s`.

    Args:
        low_water_s: as configured.
        chunk_s: duration of a chunk.
        rtf: the meter of this stream; it is kept here.
    """

    def __init__(self, low_water_s: float, chunk_s: float, rtf: RtfMeter) -> None:
        self.rtf = rtf
        self._low_water_s = low_water_s
        self._chunk_s = chunk_s
        self._most_s = low_water_s + chunk_s
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
        return self.rtf.add(took_s, media_s)

    @property
    def hurried_s(self) -> float:
        """How much is left while a line is awaited and nothing is said: what a chunk takes, at least half of what is usual."""
        return max(self._low_water_s / 2, self._needed_s)

    def on_line(self) -> None:
        """A line was given to the engine, or taken back: a block may be made once more, and takes longer than the others do."""
        self.rtf.skip()

    def needed_s(self, left_s: float) -> float:
        """How much of a line must be there before it begins, if ``left_s`` of it are still to be made; 0 on an engine that keeps
        up. See :func:`avatar_rtc.rtf.needed_s`."""
        return needed_s(self._whole_s(left_s), self.rtf.bound(RTF_OVER_S, left_s), self._low_water_s)

    def wait_s(self, left_s: float, there_s: float, *, started: bool) -> float:
        """How long it takes until a line can begin, of which ``there_s`` are there and ``left_s`` are not.

        Args:
            started: whether its first chunk is there. Else what is in work is made again for it.
        """
        factor, bound = self.rtf.recent(RTF_OVER_S), self.rtf.bound(RTF_OVER_S, left_s + there_s)
        again_s = 0.0 if started else factor * self._chunk_s
        return again_s + wait_s(self._whole_s(left_s), factor, self._low_water_s, there_s, bound)

    def _whole_s(self, left_s: float) -> float:
        """What has to be made for ``left_s`` at most: the last chunk comes as a whole."""
        return left_s + self._chunk_s if left_s > 0 else 0.0

    def is_behind(self, left_s: float) -> bool:
        """Whether ``left_s`` may take longer to be made than to be played."""
        return self.rtf.bound(RTF_OVER_S, left_s) > 1.0

    def spare_s(self, buffered_s: float) -> float:
        """How long from now the next chunk is asked for; at 0 or below, now."""
        return buffered_s - max(self._low_water_s, self._needed_s)
