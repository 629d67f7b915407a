"""A stand-in for the hub's HTTP interface: what it says of a repository, and its files, piecewise and with broken connections."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

REVISION = "0123456789abcdef0123456789abcdef01234567"
LARGE_BYTES = 1000
"""Files from this size on are kept apart, under their SHA-256; others in Git."""
PIECE_BYTES = 1 << 14


@dataclass
class Hub:
    """Attributes may be changed at any time.

    Attributes:
        repositories: contents of files by repository and path.
        licences: what repositories state.
        break_after_bytes: an answer with contents ends in the middle, after so much.
        gated: repositories whose terms want accepting.
        status: the answer to everything, where it is not None.
        fetched: paths and first bytes of all contents that were asked for.
    """

    repositories: dict[str, dict[str, bytes]]
    licences: dict[str, str] = field(default_factory=dict)
    break_after_bytes: int | None = None
    gated: set[str] = field(default_factory=set)
    status: int | None = None
    address: str = ""
    fetched: list[tuple[str, int]] = field(default_factory=list)

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/api/models/{owner}/{name}", self._model)
        application.router.add_get("/{owner}/{name}/resolve/{revision}/{path:.+}", self._resolve)
        application.router.add_get("/store/{owner}/{name}/{path:.+}", self._contents)
        return application

    def _refusal(self, request: web.Request) -> web.Response | None:
        repository = f"{request.match_info['owner']}/{request.match_info['name']}"
        if self.status is not None:
            return web.Response(status=self.status)
        if repository in self.gated:
            return web.Response(status=403, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "Accept the terms."})
        if repository not in self.repositories:
            return web.Response(status=404, headers={"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found."})
        return None

    async def _model(self, request: web.Request) -> web.Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        repository = f"{request.match_info['owner']}/{request.match_info['name']}"
        siblings = [sibling(path, content) for path, content in self.repositories[repository].items()]
        card = {"license": self.licences[repository]} if repository in self.licences else {}
        return web.json_response({"id": repository, "sha": REVISION, "siblings": siblings, "cardData": card})

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        parts = request.match_info
        if len(self.repositories[f"{parts['owner']}/{parts['name']}"][parts["path"]]) < LARGE_BYTES:
            return await self._contents(request)
        raise web.HTTPFound(f"{self.address}/store/{parts['owner']}/{parts['name']}/{parts['path']}")

    async def _contents(self, request: web.Request) -> web.StreamResponse:
        parts = request.match_info
        content = self.repositories[f"{parts['owner']}/{parts['name']}"][parts["path"]]
        start = request.http_range.start or 0
        self.fetched.append((parts["path"], start))
        response = web.StreamResponse(status=206 if start else 200)
        response.content_length = len(content) - start
        if start:
            response.headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        await response.prepare(request)
        end = len(content) if self.break_after_bytes is None else min(start + self.break_after_bytes, len(content))
        for at in range(start, end, PIECE_BYTES):
            await response.write(content[at : min(at + PIECE_BYTES, end)])
        if end < len(content):
            assert request.transport is not None
            request.transport.close()
        return response


def sibling(path: str, content: bytes) -> dict[str, Any]:
    """What the hub says of a file."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    said: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": blob}
    if len(content) >= LARGE_BYTES:
        said["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return said


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub at ``hub.address``, in a thread of its own: the client under test is not asynchronous."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(hub.application())

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        hub.address = f"http://127.0.0.1:{runner.addresses[0][1]}"

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield hub
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
