"""Where this server may send to because a client says so: to public addresses, and what its config adds."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from signaling.errors import Unprocessable

LOOK_UP_TIMEOUT_S = 3.0

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def check_target(text: str, allowed: Sequence[Network]) -> URL:
    """The address of a receiver, as it may be asked for.

    What a name leads to is not asked here: ``check_host`` does, and ``PublicResolver`` again whenever it is connected to.

    Args:
        allowed: networks that are not public, and may be pushed to even so.

    Raises:
        signaling.errors.Unprocessable: it may not; the message says what may.
    """
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise Unprocessable("The url of a WHIP receiver begins with https:// or http://.", code="bad_whip_url")
    if url.user is not None or url.password is not None:
        raise Unprocessable("The url must not hold a user or a password. Give a token.", code="bad_whip_url")
    try:
        address = ipaddress.ip_address(url.host)
    except ValueError:
        is_refused = url.host.rstrip(".").rpartition(".")[2] == "localhost" and not _is_allowed("127.0.0.1", allowed)
    else:
        is_refused = not _is_allowed(str(address), allowed)
    if is_refused:
        raise _not_allowed(f"{url.host:.80} is no public address.")
    return url


async def check_host(url: URL, allowed: Sequence[Network]) -> None:
    """Whether the name in an address leads to where may be pushed. One that leads nowhere now may do so later.

    Raises:
        signaling.errors.Unprocessable: it leads elsewhere.
    """
    assert url.host is not None
    resolver = PublicResolver(allowed)
    try:
        async with asyncio.timeout(LOOK_UP_TIMEOUT_S):
            await resolver.resolve(url.host, url.port or 0)
    except NotPublicError:
        raise _not_allowed(f"{url.host:.80} leads to no public address.") from None
    except OSError:  # and its kind TimeoutError
        pass
    finally:
        await resolver.close()


def _not_allowed(what: str) -> Unprocessable:
    remedy = "List its network under whip.allow in the server's config to push there."
    return Unprocessable(f"{what} {remedy}", code="whip_not_allowed")


def _is_allowed(host: str, allowed: Sequence[Network]) -> bool:
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return (address.is_global and not address.is_multicast) or any(address in network for network in allowed)


class NotPublicError(OSError):
    """A name leads to where nothing may be sent."""


class PublicResolver(AbstractResolver):
    """Looks names up, and keeps what may be connected to."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = allowed
        self._resolver: AbstractResolver = aiohttp.DefaultResolver()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        kept = [result for result in found if _is_allowed(result["host"], self._allowed)]
        if not kept:
            raise NotPublicError(f"{host} has no public address")
        return kept

    async def close(self) -> None:
        await self._resolver.close()
