"""A server and its callers in one process, on the instant engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import av
import numpy as np

from avatar_rtc import resources
from avatar_rtc.app import Server
from avatar_rtc.client import Call
from avatar_rtc.config import ServerConfig, load_config
from tests.support.instant_engine import InstantEngine


def make_config(**changes: dict[str, Any]) -> ServerConfig:
    """The shipped config on a free port, with sections changed: ``limits={"max_sessions": 1}``."""
    config = load_config(resources.server_config("pocket"))
    changes = {"http": {"port": 0}, **changes}
    sections = {name: getattr(config, name).model_copy(update=update) for name, update in changes.items()}
    return config.model_copy(update=sections)


@asynccontextmanager
async def serving(
    engine: InstantEngine | None = None, *, config: ServerConfig | None = None, **changes: dict[str, Any]
) -> AsyncIterator[Server]:
    server = Server(config or make_config(**changes), engine or InstantEngine())
    await server.start()
    try:
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def calling(server: Server, query: str = "") -> AsyncIterator[Call]:
    call = Call(server.address)
    try:
        await call.connect(query)
        yield call
    finally:
        await call.close()


class Ear:
    """Keeps what a call hears from now on, 48 kHz, mono: each packet at the place that its time stamp says."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._packets: list[tuple[int, np.ndarray]] = []
        call.on_sound = self._hear

    def _hear(self, frame: av.AudioFrame) -> None:
        assert frame.pts is not None
        self._packets.append((frame.pts, frame.to_ndarray().reshape(-1, 2)[:, 0].copy()))

    @property
    def start_s(self) -> float:
        """Media time of the first sample, by the sender reports."""
        return (self._call.audio.ntp_at_zero_s or 0.0) + self._packets[0][0] / 48_000

    @property
    def samples(self) -> np.ndarray:
        """int16 [S]; what was lost on the way is silent."""
        if not self._packets:
            return np.empty(0, np.int16)
        start = self._packets[0][0]
        samples = np.zeros(max(pts + len(sound) for pts, sound in self._packets) - start, np.int16)
        for pts, sound in self._packets:
            samples[pts - start : pts - start + len(sound)] = sound
        return samples
