"""A server of asyncio's beside what is not asynchronous, such as a browser that is driven."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

T = TypeVar("T")

START_TIMEOUT_S = 20


@contextmanager
def in_a_thread(server: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """What it gives, while it lives on an event loop in a thread of its own."""
    started, stop = threading.Event(), threading.Event()
    given: list[T] = []

    async def life() -> None:
        async with server as value:
            given.append(value)
            started.set()
            while not stop.is_set():  # noqa: ASYNC110 - it is set by another thread
                await asyncio.sleep(0.05)

    thread = threading.Thread(target=lambda: asyncio.run(life()))
    thread.start()
    try:
        assert started.wait(START_TIMEOUT_S)
        yield given[0]
    finally:
        stop.set()
        thread.join()
