"""A stand-in for a recogniser: a server of transcriptions on this machine, which hears what it is told to."""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Recording:
    """What was to be recognised."""

    duration_s: float
    fields: dict[str, str]
    key: str | None


@dataclass
class TranscriptionServer:
    """What came, and what is heard in it.

    Attributes:
        base_url: for the client.
        recordings: so far.
        answers: to the next ones, in their order: words; a status, which refuses one; or another body. The last is for all that
            follow.
        waits: each answer waits until this is set.
    """

    base_url: str = ""
    recordings: list[Recording] = field(default_factory=list)
    answers: list[str | int | dict[str, Any]] = field(default_factory=list)
    waits: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        file = form["file"]
        assert isinstance(file, web.FileField)
        with wave.open(io.BytesIO(file.file.read())) as sound:
            assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (16_000, 1, 2)
            duration_s = sound.getnframes() / 16_000
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        self.recordings.append(Recording(duration_s, fields, request.headers.get("Authorization")))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await self.waits.wait()
        if isinstance(answer, int):
            return web.json_response({"error": {"message": "refused", "code": "x"}}, status=answer)
        return web.json_response({"text": answer} if isinstance(answer, str) else answer)


@asynccontextmanager
async def transcription_server(*answers: str | int | dict[str, Any]) -> AsyncIterator[TranscriptionServer]:
    """A server on a free port of this machine."""
    server = TranscriptionServer(answers=list(answers))
    server.waits.set()
    app = web.Application(client_max_size=2**22)
    app.add_routes([web.post("/v1/audio/transcriptions", server.answer)])
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()
