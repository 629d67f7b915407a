"""The events of a session over HTTP, as server-sent events: for whoever has no data channel."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from aiohttp import hdrs, web

from signaling.dialects.avatar import dump, name_of
from signaling.vocabulary import Event

SIGN_OF_LIFE_S = 15.0
"""Proxies close what is silent."""
PATIENCE_S = 30.0
"""A reader whose buffers are full, and who reads nothing for so long, is let go."""


async def send_events(request: web.Request, events: AsyncIterator[tuple[Event, int]]) -> web.StreamResponse:
    """Answer with the events and their numbers, to their end or to that of the reader."""
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "text/event-stream", hdrs.CACHE_CONTROL: "no-store"})
    await response.prepare(request)
    try:
        async with contextlib.aclosing(_with_signs_of_life(events)) as items:
            async for item in items:
                async with asyncio.timeout(PATIENCE_S):
                    await response.write(b": alive\n\n" if item is None else _written(*item))
    except ConnectionResetError:
        pass  # the reader has gone
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    return response


def _written(event: Event, seq: int) -> bytes:
    return f"id: {seq}\nevent: {name_of(event)}\ndata: {dump(event, seq)}\n\n".encode()


async def _with_signs_of_life(events: AsyncIterator[tuple[Event, int]]) -> AsyncGenerator[tuple[Event, int] | None]:
    """The events, and None where none came for a while."""
    nothing = object()
    while True:
        coming = asyncio.ensure_future(anext(events, nothing))
        try:
            while not (await asyncio.wait((coming,), timeout=SIGN_OF_LIFE_S))[0]:
                yield None
            item = coming.result()
        finally:
            coming.cancel()
        if item is nothing:
            return
        yield item  # type: ignore[misc]
