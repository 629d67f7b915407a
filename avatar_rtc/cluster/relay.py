"""One request to a node, and its answer back, as they are: bodies are passed on, media never come here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import ClientTimeout, WSMsgType, hdrs, web
from yarl import URL

from avatar_rtc.cluster.table import NodeState
from signaling.nodes import CALLER_HEADER, KEY_HEADER

CONNECT_S = 2.0
"""A node that cannot be reached within this time is lost."""
IDLE_S = 5.0
"""Connections to nodes are kept for so long; nodes close theirs later, so that no request meets one that is being closed."""
PIECE_BYTES = 1 << 16
HOP_BY_HOP = frozenset({"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"})
"""Headers of one connection (RFC 9110, section 7.6.1)."""
OURS = frozenset({hdrs.HOST.lower(), hdrs.CONTENT_LENGTH.lower(), KEY_HEADER.lower(), CALLER_HEADER.lower()})
HANDSHAKE = "sec-websocket-"

Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


class NodeLostError(Exception):
    """The node does not answer.

    Args:
        is_gone: nobody is at its address any more; else it may be only slow.
    """

    def __init__(self, message: str, *, is_gone: bool = False) -> None:
        super().__init__(message)
        self.is_gone = is_gone


def make_client() -> aiohttp.ClientSession:
    """What asks nodes. Answers are passed on as they come."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S),
        timeout=ClientTimeout(total=None, sock_connect=CONNECT_S),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


@asynccontextmanager
async def asked(
    client: aiohttp.ClientSession,
    node: NodeState,
    request: web.Request,
    body: bytes,
    *,
    without: Collection[str] = (),
    timeout_s: float | None = None,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The node's answer to a request; its body is still to be read.

    Args:
        without: headers that the node is not told.
        timeout_s: until the answer begins.

    Raises:
        NodeLostError: there is none.
    """
    try:
        async with asyncio.timeout(timeout_s):
            response = await client.request(
                request.method,
                _url(node, request),
                headers=_headers(node, request, without),
                data=body or None,
                allow_redirects=False,
            )
    except TimeoutError:
        raise NodeLostError(f"{node.node} takes too long") from None
    except aiohttp.ClientError as error:
        raise NodeLostError(f"{node.node}: {error}", is_gone=True) from None
    try:
        yield response
    finally:
        response.release()


async def pass_on(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    """Give an answer to whoever asked, piece by piece; what breaks off at the node breaks off there."""
    response = web.StreamResponse(status=answer.status, reason=answer.reason)
    for name, value in answer.headers.items():
        if name.lower() not in HOP_BY_HOP:
            response.headers.add(name, value)
    await response.prepare(request)
    try:
        async for piece in answer.content.iter_chunked(PIECE_BYTES):
            await response.write(piece)
    except aiohttp.ClientError:
        response.force_close()
        if request.transport is not None:
            request.transport.abort()
        return response
    await response.write_eof()
    return response


def is_socket(request: web.Request) -> bool:
    """Whether a WebSocket is wanted."""
    return request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"


async def pass_socket(client: aiohttp.ClientSession, node: NodeState, request: web.Request) -> web.WebSocketResponse | None:
    """Join a caller's WebSocket with one to the node. None: the node refuses one; asked without an upgrade, it says why.

    Raises:
        NodeLostError: the node does not answer.
    """
    protocols = [text.strip() for text in request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(",") if text.strip()]
    headers = _headers(node, request, ())
    try:
        far = await client.ws_connect(_url(node, request), headers=headers, protocols=protocols, max_msg_size=0)
    except aiohttp.WSServerHandshakeError:
        return None
    except (aiohttp.ClientError, TimeoutError) as error:
        raise NodeLostError(f"{node.node}: {error}") from None
    async with far:
        near = web.WebSocketResponse(protocols=[far.protocol] if far.protocol else [], max_msg_size=0, compress=False)
        await near.prepare(request)
        ways = [asyncio.ensure_future(_copy(near, far)), asyncio.ensure_future(_copy(far, near))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)
        await near.close(code=far.close_code or aiohttp.WSCloseCode.GOING_AWAY)
    return near


async def _copy(source: Socket, target: Socket) -> None:
    async for message in source:
        try:
            if message.type is WSMsgType.TEXT:
                await target.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await target.send_bytes(message.data)
        except ConnectionError:
            return


def _url(node: NodeState, request: web.Request) -> URL:
    return URL(node.address + request.rel_url.raw_path_qs, encoded=True)


def _headers(node: NodeState, request: web.Request, without: Collection[str]) -> list[tuple[str, str]]:
    """Those of the caller, and who that is."""
    left_out = HOP_BY_HOP | OURS | {name.lower() for name in without}
    kept = [(n, v) for n, v in request.headers.items() if n.lower() not in left_out and not n.lower().startswith(HANDSHAKE)]
    return [*kept, (KEY_HEADER, node.key), (CALLER_HEADER, request.remote or "")]
