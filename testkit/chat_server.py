"""A stand-in for a language model: a server of chat completions on this machine, which answers as it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

from aiohttp import web

Json = dict[str, Any]


class Stream:
    """One answer that is being streamed."""

    def __init__(self, response: web.StreamResponse) -> None:
        self._response = response

    async def send(self, **delta: Any) -> None:
        """A chunk with this delta, such as ``content="Hello"``."""
        await self.data(json.dumps({"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]}))

    async def say(self, text: str, *, words_per_s: float | None = None) -> None:
        """A chunk for each word, with the space before it."""
        for index, word in enumerate(text.split(" ")):
            await self.send(content=word if index == 0 else f" {word}")
            if words_per_s is not None:
                await asyncio.sleep(1 / words_per_s)

    async def call(self, name: str, arguments: Json, call_id: str) -> None:
        """Call a tool; its arguments come in two pieces."""
        text = json.dumps(arguments)
        head = {"index": 0, "id": call_id, "type": "function", "function": {"name": name, "arguments": text[:3]}}
        await self.send(tool_calls=[head])
        await self.send(tool_calls=[{"index": 0, "function": {"arguments": text[3:]}}])

    async def data(self, line: str | bytes) -> None:
        """Whatever comes as an event's data."""
        await self._response.write(b"data: " + (line.encode() if isinstance(line, str) else line) + b"\n\n")

    def break_off(self) -> NoReturn:
        """The connection is gone in the middle."""
        raise ConnectionResetError


Script = Callable[[Stream], Awaitable[None]]
"""How one request is answered."""


@dataclass
class ChatServer:
    """What was asked, and what is answered.

    Attributes:
        base_url: for the client.
        requests: bodies so far.
        keys: their ``Authorization`` headers.
        scripts: of the next requests, in their order; a status refuses one. The last of them is for all that follow.
        num_open: requests that are being answered.
        num_abandoned: connections that the client closed in the middle.
    """

    base_url: str = ""
    requests: list[Json] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    scripts: list[Script | int] = field(default_factory=list)
    num_open: int = 0
    num_abandoned: int = 0

    def then(self, *scripts: Script | int | str) -> None:
        """Answer the next requests so: a script, a status of HTTP, or words."""
        self.scripts += [_saying(script) if isinstance(script, str) else script for script in scripts]

    def messages(self, index: int = -1) -> list[tuple[str, str | None]]:
        """Roles and contents of a request, without the system's."""
        return [(message["role"], message["content"]) for message in self.requests[index]["messages"][1:]]

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until something is so, at most ten seconds."""
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(await request.json())
        self.keys.append(request.headers.get("Authorization"))
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        if isinstance(script, int):
            return web.json_response({"error": {"message": f"refused {self.keys[-1]}", "code": "x"}}, status=script)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.num_open += 1
        try:
            await script(Stream(response))
            await response.write(b"data: [DONE]\n\n")
        except asyncio.CancelledError:
            self.num_abandoned += 1
            raise
        except ConnectionResetError:
            if request.transport is None or request.transport.is_closing():
                self.num_abandoned += 1
            else:
                request.transport.abort()
        finally:
            self.num_open -= 1
        return response


def _saying(text: str) -> Script:
    async def script(stream: Stream) -> None:
        await stream.say(text)

    return script


@asynccontextmanager
async def chat_server(port: int = 0) -> AsyncIterator[ChatServer]:
    """A server on a port of this machine, 0 for any."""
    server = ChatServer()
    app = web.Application(client_max_size=2**22)
    app.add_routes([web.post("/v1/chat/completions", server.answer)])
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()
