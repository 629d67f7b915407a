"""How often one principal, or one address, may ask for what costs something."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from signaling.auth import ANYONE, principal_of
from signaling.errors import TooManyRequests

METHODS = (hdrs.METH_POST, hdrs.METH_PATCH)
MAX_REMEMBERED = 4096
"""Who has not asked for longest is forgotten first."""


class RateLimit:
    """Token buckets: each starts full, a request takes one out, and they fill up within a minute.

    Args:
        per_minute: what a bucket holds; None does not count.
        clock: seconds, monotonic.
    """

    def __init__(self, per_minute: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def middleware(self) -> Middleware:
        """Counts POST and PATCH, after the middleware that knows who asks.

        Raises:
            signaling.errors.TooManyRequests: it was too many.
        """

        @web.middleware
        async def count(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            if request.method in METHODS:
                wait_s = max((self.take(who) for who in _who(request)), default=0.0)
                if wait_s:
                    retry_after_s = math.ceil(wait_s)
                    raise TooManyRequests(
                        f"More than {self._per_minute} requests a minute. Try again in {retry_after_s} s.",
                        retry_after_s=retry_after_s,
                    )
            return await handler(request)

        return count

    def take(self, who: str) -> float:
        """Count a request; 0, or the seconds until there would be one left."""
        if self._per_minute is None:
            return 0.0
        now_s = self._clock()
        left, at_s = self._buckets.pop(who, (float(self._per_minute), now_s))
        left = min(self._per_minute, left + (now_s - at_s) * self._per_minute / 60)
        is_over = left < 1
        self._buckets[who] = (left if is_over else left - 1, now_s)
        if len(self._buckets) > MAX_REMEMBERED:
            self._buckets.popitem(last=False)
        return (1 - left) * 60 / self._per_minute if is_over else 0.0


def _who(request: web.Request) -> list[str]:
    """Whose buckets a request is taken from. Those on this machine, a proxy's callers among them, share an address."""
    principal = principal_of(request)
    who = [] if principal is ANYONE else [f"principal {principal.id}"]
    try:
        is_here = ipaddress.ip_address(request.remote or "").is_loopback
    except ValueError:
        is_here = True  # a socket without an address
    return who if is_here else [*who, f"address {request.remote}"]
