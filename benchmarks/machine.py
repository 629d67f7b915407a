"""The machine that figures were measured on. Every table says it, and every file of figures holds it under "machine"."""

from __future__ import annotations

import os
from typing import Any

from avatar_rtc import processor
from avatar_rtc.processor import headline

__all__ = ["describe", "headline"]

_LOAD = round(os.getloadavg()[0], 1)
"""Of the last minute before the benchmark began: how much else ran."""


def describe(num_threads: int) -> dict[str, Any]:
    """What :func:`avatar_rtc.processor.describe` finds, and how much else runs."""
    return {**processor.describe(num_threads), "load": _LOAD}
