"""What PyAV gives, read by tests."""

from __future__ import annotations

from typing import Any

import av


def time_of(frame: av.VideoFrame | av.AudioFrame | av.Packet[Any]) -> float:
    """Its time stamp in seconds."""
    assert frame.pts is not None
    assert frame.time_base is not None
    return float(frame.pts * frame.time_base)
