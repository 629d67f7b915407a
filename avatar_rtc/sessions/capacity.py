"""How many calls a machine carries, as a value: learned from what calls took, without I/O and without a clock of its own.

With n calls the engine is busy for n r(n) of its time, where r(n) is its real-time factor while there are n; encoding and sending
cost ``CALL_FACTOR`` a call beside it. So many fit as keep the machine busy for no more than ``FULL`` of its time, and run dry no
more often than once in ``UNDERRUN_EVERY_S`` of a call. More than were said to fit last do so with ``MARGIN`` to spare: where what
is measured lies about the bound, the number would go up and down every few seconds.

What is expected of n calls is what is expected of n - 1, and as much more as one call more was seen to cost: they slow one
another down. Once n calls have been there, what happened counts, by how many seconds of media it was measured over, against
``PRIOR_S`` of expectation. The first expectation is the warm-up's. So a number of calls that turned out too many is not tried
again soon; half of what is known is forgotten in ``HALF_LIFE_S``, because machines and their neighbours change, and then it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

CALL_FACTOR = 0.03
"""What a call costs beside the engine, per second: encoding and sending."""
FULL = 0.9
"""So much of its time a machine may be busy with calls."""
MARGIN = 0.03
UNDERRUN_EVERY_S = 60.0
PRIOR_S = 10.0
"""Seconds of media that what was measured has to be of, to count as much as what was expected."""
RECENT_S = 120.0
"""Of so many seconds of media means are made: what is older weighs less."""
HALF_LIFE_S = 600.0


@dataclass(frozen=True)
class Totals:
    """What an engine has done so far; only grows.

    Attributes:
        made_s: seconds of media.
        busy_s: seconds of computing.
    """

    made_s: float = 0.0
    busy_s: float = 0.0


@dataclass
class _Evidence:
    """What was measured while there was one number of calls: means over ``media_s``, which were known at ``at_s``."""

    at_s: float
    media_s: float = 0.0
    factor: float = 0.0
    underruns: float = 0.0  # a second of media

    def weight_s(self, now_s: float) -> float:
        return self.media_s * math.pow(0.5, (now_s - self.at_s) / HALF_LIFE_S)

    def add(self, now_s: float, media_s: float, factor: float, underruns: float) -> None:
        total_s = self.weight_s(now_s) + media_s
        share = media_s / total_s
        self.factor += share * (factor - self.factor)
        self.underruns += share * (underruns - self.underruns)
        self.at_s, self.media_s = now_s, min(total_s, RECENT_S)


class Capacity:
    """How many calls fit, by what was measured."""

    def __init__(self) -> None:
        self._measured: dict[int, _Evidence] = {}
        self._calls: Mapping[str, int] = {}
        self._totals = Totals()
        self._num_said: int | None = None

    def look(self, now_s: float, calls: Mapping[str, int], totals: Totals) -> None:
        """Learn from what has happened since the last look, if the calls are still the same.

        Args:
            calls: those that are live, by their ids: how often each has run dry so far.
        """
        before, done = self._calls, self._totals
        self._calls, self._totals = dict(calls), totals
        media_s, busy_s = totals.made_s - done.made_s, totals.busy_s - done.busy_s
        if not calls or calls.keys() != before.keys() or media_s <= 0 or busy_s <= 0:
            return
        underruns = sum(calls.values()) - sum(before.values())
        evidence = self._measured.setdefault(len(calls), _Evidence(now_s))
        evidence.add(now_s, media_s, busy_s / media_s, underruns / media_s)

    def num_seats(self, now_s: float, warm_up: float) -> int:
        """So many calls are expected to keep real time together; one always.

        Args:
            warm_up: the real-time factor that is assumed as long as nothing was measured; 0 if nothing is known.
        """
        num_calls = 0
        for factor, underruns in self._expected(now_s, warm_up):
            is_more = self._num_said is not None and num_calls + 1 > self._num_said
            full = FULL - MARGIN if is_more else FULL
            is_kept_up = (num_calls + 1) * (factor + CALL_FACTOR) <= full and underruns * UNDERRUN_EVERY_S <= 1
            if not is_kept_up:
                break
            num_calls += 1
        self._num_said = max(1, num_calls)
        return self._num_said

    def _expected(self, now_s: float, warm_up: float) -> Iterator[tuple[float, float]]:
        """Real-time factor, and underruns a second of media, with 1, 2, 3, ... calls."""
        factor, growth, underruns, num_calls, follows_measured = warm_up, 0.0, 0.0, 0, False
        while True:
            num_calls += 1
            measured, before = self._measured.get(num_calls), factor
            factor += growth
            if measured is not None:
                weight_s = measured.weight_s(now_s)
                share = weight_s / (weight_s + PRIOR_S)
                factor += share * (measured.factor - factor)
                underruns += share * (measured.underruns - underruns)
                if follows_measured:
                    growth = max(0.0, factor - before)
            follows_measured = measured is not None
            yield factor, underruns
