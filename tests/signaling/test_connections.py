"""Requests that never end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest
from aiohttp.test_utils import TestServer

from signaling import bodies
from signaling.connections import Connections
from signaling.http import make_app
from signaling.service import SessionService
from tests.signaling.test_http import OPEN, FakeService


async def test_half_a_request_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bodies, "BODY_TIMEOUT_S", 0.3)
    connections = Connections(timeout_s=0.5)
    service = cast(SessionService, FakeService())
    (tmp_path / "index.html").write_text("page")
    app = make_app(service, static_dir=tmp_path, allowed_origins=[], **OPEN | {"connections": connections})
    async with TestServer(app) as server:
        assert server.runner.server is not None
        watch = asyncio.create_task(connections.watch(server.runner.server))

        async def answer(request: bytes) -> bytes:
            reader, writer = await asyncio.open_connection(server.host, server.port)
            writer.write(request)
            async with asyncio.timeout(20):
                everything = await reader.read()
            writer.close()
            return everything

        head = b"POST /whep HTTP/1.1\r\nHost: x\r\nContent-Type: application/sdp\r\n"
        answers = await asyncio.gather(
            answer(b""),
            answer(head),
            answer(head + b"Content-Length: 100\r\n\r\nv=0"),
            answer(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        )
        watch.cancel()
    assert answers[0] == answers[1] == b""
    assert answers[2].startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in answers[2]
    assert answers[3].endswith(b"page"), "answered, and closed when nothing followed"
