"""Calls that may wait for a seat: for how long (``Prefer: wait``, RFC 7240), and that they end when their client has gone."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiohttp import web

from signaling.dialects.dialect import Dialect
from signaling.service import Answer, NewSession, Rights, SessionService

T = TypeVar("T")

MAX_WAIT_S = 30.0
"""Proxies give up on a request that is not answered, many after a minute."""
LOOK_EVERY_S = 0.25


def wait_of(request: web.Request) -> float | None:
    """So many seconds a client prefers to wait; None if it says nothing of it. What cannot be read is no preference."""
    preferences = (part.strip() for header in request.headers.getall("Prefer", []) for part in header.split(","))
    waits = (re.fullmatch(r'wait\s*=\s*"?(\d{1,6})"?(\s*;.*)?', part, re.IGNORECASE) for part in preferences)
    return next((min(MAX_WAIT_S, float(wait[1])) for wait in waits if wait is not None), None)


async def call(
    request: web.Request, service: SessionService, offer: str, wanted: NewSession, rights: Rights, dialect: Dialect
) -> Answer:
    """``service.call``, which waits for a seat for as long as the client prefers, in the place of its ``ticket``."""
    wait_s = wait_of(request)
    if wait_s is None:
        return await service.call(offer, wanted, rights, dialect)
    wanted = dataclasses.replace(wanted, wait_s=wait_s, ticket=request.query.get("ticket"))
    return await while_connected(request, service.call(offer, wanted, rights, dialect))


async def while_connected(request: web.Request, work: Coroutine[Any, Any, T]) -> T:
    """Await something that may take long; it is cancelled when the client has gone, which aiohttp does not do by itself."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait((task,), timeout=LOOK_EVERY_S)
            if request.transport is None or request.transport.is_closing():
                task.cancel()
        return await task
    finally:
        task.cancel()
