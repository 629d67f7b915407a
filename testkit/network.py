"""A network in user space, between clients and a server: HTTP passes, and of the datagrams some are lost, others late."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import hdrs, web
from aioice.ice import get_host_addresses

HOP_BY_HOP = {"host", "connection", "keep-alive", "transfer-encoding", "content-length"}


class Network:
    """Stands in front of a server. Descriptions that pass are rewritten, so that both sides know of one address only: ours.

    Args:
        server: its address, such as ``http://127.0.0.1:8080``.
        loss: share of the datagrams that are lost, of both directions.
        jitter_s: each of the others is late by 0 to so much, so that they overtake one another.

    Attributes:
        url: the address for clients; known once ``open_network`` has opened it.
        is_cut: no datagram passes; HTTP does.
        num_carried, num_lost: datagrams, of both directions.
    """

    def __init__(self, server: str, *, loss: float = 0.0, jitter_s: float = 0.0, seed: int = 0) -> None:
        self.url = ""
        self.is_cut = False
        self.num_carried = self.num_lost = 0
        self._server = server
        self._loss = loss
        self._jitter_s = jitter_s
        self._random = random.Random(seed)
        self._host = get_host_addresses(use_ipv4=True, use_ipv6=False)[0]
        self._ends: list[_End] = []
        self._http: aiohttp.ClientSession | None = None

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        """A request to the server, and what it answers to the client."""
        body = await request.read()
        is_offer = request.method == hdrs.METH_POST and request.content_type == "application/sdp"
        if is_offer:
            near, far = await self._new_end(), await self._new_end()
            near.other, far.other = far, near
            body = self._rewritten(body, far.port)
        elif request.content_type == "application/trickle-ice-sdpfrag":
            body = self._rewritten(body, None)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        assert self._http is not None
        async with self._http.request(
            request.method, self._server + request.path_qs, data=body, headers=headers, allow_redirects=False
        ) as answer:
            headers = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
            if is_offer and answer.status == 201:
                described = await answer.read()
                far.address = _address(described)
                return web.Response(status=201, body=self._rewritten(described, near.port), headers=headers)
            response = web.StreamResponse(status=answer.status, headers=headers)
            with contextlib.suppress(ConnectionResetError):  # the client has gone
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
            return response

    def carry(self, data: bytes, end: _End) -> None:
        """A datagram that is to leave at an end."""
        if self.is_cut or self._random.random() < self._loss:
            self.num_lost += 1
            return
        self.num_carried += 1
        asyncio.get_running_loop().call_later(self._random.uniform(0, self._jitter_s), end.send, data)

    async def open(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http, self.url = http, url

    def close(self) -> None:
        for end in self._ends:
            end.close()

    async def _new_end(self) -> _End:
        end = _End(self)
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: end, local_addr=(self._host, 0))
        self._ends.append(end)
        return end

    def _rewritten(self, described: bytes, port: int | None) -> bytes:
        """A description, or a part of one, with one address in place of all: of the first section, which is the transport's."""
        lines: list[str] = []
        for line in described.decode().splitlines():
            if not line.startswith(("a=candidate:", "a=end-of-candidates")):
                lines.append(line)
            if line.startswith("a=mid:") and port is not None:
                lines += [f"a=candidate:1 1 udp 2130706431 {self._host} {port} typ host", "a=end-of-candidates"]
                port = None
        return "\r\n".join([*lines, ""]).encode()


class _End(asyncio.DatagramProtocol):
    """One of the two sockets of a connection: what comes here leaves at the other one.

    Attributes:
        address: who is on this side.
    """

    def __init__(self, network: Network) -> None:
        self.address: tuple[str, int] | None = None
        self.other: _End
        self.port = 0
        self._network = network
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.address = addr
        self._network.carry(data, self.other)

    def error_received(self, exc: Exception) -> None:
        """Nobody is there; as on any network, nobody is told."""

    def send(self, data: bytes) -> None:
        if self.address is not None and not self._transport.is_closing():
            self._transport.sendto(data, self.address)

    def close(self) -> None:
        self._transport.close()


def _address(answer: bytes) -> tuple[str, int]:
    """The first one of IPv4."""
    for line in answer.decode().splitlines():
        if line.startswith("a=candidate:"):
            host, port = line.split()[4:6]
            if ":" not in host:
                return host, int(port)
    raise ValueError("the server names no address")


@asynccontextmanager
async def open_network(server: str, *, loss: float = 0.0, jitter_s: float = 0.0, seed: int = 0) -> AsyncIterator[Network]:
    """A network in front of a server, while the context is open; arguments as of :class:`Network`."""
    network = Network(server, loss=loss, jitter_s=jitter_s, seed=seed)
    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", network.pass_on)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    async with aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None)) as http:
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            await network.open(http, f"http://127.0.0.1:{runner.addresses[0][1]}")
            yield network
        finally:
            await runner.cleanup()
            network.close()
