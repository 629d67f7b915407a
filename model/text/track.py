"""What is said when: phonemes on a stream's time line, silence included.

Silence is spelled out as pauses of at most ``PAUSE_S``, so that a mouth is told to rest rather than left without words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

PAUSE = "_"
PAUSE_S = 0.32

TimedPhoneme = tuple[str, float, float]
"""Symbol, start and end in seconds."""


def pauses(start_s: float, end_s: float) -> list[TimedPhoneme]:
    """Equal pauses, none longer than ``PAUSE_S``, that fill a span; nothing for less than a millisecond."""
    if end_s - start_s < 1e-3:
        return []
    count = math.ceil((end_s - start_s) / PAUSE_S - 1e-6)
    step_s = (end_s - start_s) / count
    return [(PAUSE, start_s + i * step_s, start_s + (i + 1) * step_s) for i in range(count)]


def with_pauses(events: Sequence[TimedPhoneme], duration_s: float) -> list[TimedPhoneme]:
    """Events in order with every gap, and every long pause among them, filled by pauses up to ``duration_s``."""
    track: list[TimedPhoneme] = []
    at_s = 0.0
    for symbol, start_s, end_s in events:
        track += pauses(at_s, start_s)
        track += pauses(start_s, end_s) if symbol == PAUSE else [(symbol, start_s, end_s)]
        at_s = end_s
    return track + pauses(at_s, duration_s)
