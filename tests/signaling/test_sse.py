"""Readers of events that do not read."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp.test_utils import TestServer

from signaling import sse
from signaling.http import make_app
from signaling.vocabulary import Event, TranscriptDelta
from tests.signaling.test_http import OPEN, FakeService


async def test_who_reads_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "PATIENCE_S", 0.2)
    over = asyncio.Event()

    class Talkative(FakeService):
        async def events(self, session_id: str, after: int | None) -> AsyncIterator[tuple[Event, int]]:
            try:
                for seq in range(1 << 20):
                    yield TranscriptDelta(response_id="r", text="word " * 2000, start_ms=0, end_ms=1), seq
            finally:
                over.set()

    app = make_app(Talkative(), static_dir=None, allowed_origins=[], **OPEN)
    async with TestServer(app) as server:
        with socket.create_connection((server.host, server.port)) as reader:
            reader.sendall(b"GET /v1/sessions/s1/events HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(20):
                await over.wait()
            while await asyncio.to_thread(reader.recv, 1 << 20):
                pass  # what was under way, and then the end
