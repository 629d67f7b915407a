"""The front door: HTTP that leads each request to its node, and keeps nothing of it.

A request that names a session goes to the node with whose name the session's id begins; one that wants a seat, to a node that
has one; what is asked of all, to all; the rest to any.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Any

import aiohttp
from aiohttp import hdrs, web

from avatar_rtc.cluster import merging, relay
from avatar_rtc.cluster.relay import NodeLostError
from avatar_rtc.cluster.table import NodeState, NodeTable
from avatar_rtc.metrics import DoorMetrics
from avatar_rtc.sessions.moving import Memory
from signaling.bodies import read_bytes
from signaling.connections import Connections
from signaling.errors import NodeLost, Unavailable
from signaling.http import MAX_BODY_BYTES, cors, problems
from signaling.nodes import node_of
from signaling.waiting import wait_of, while_connected

logger = logging.getLogger(__name__)

SEATS = frozenset({"/whep", "/v1/sessions", "/v1/realtime/calls", "/start", "/api/offer"})
"""Where a POST that names no session wants a seat."""
WAITS = "Prefer"
TRY_S = 4.0
"""So long a node may take over an offer."""
NO_NODES_RETRY_S = 2
HEARSAY_S = 2.0
"""A node of which nothing was heard yet is waited for so long. Pages wait 3 s for an answer when they come back."""
LOOK_EVERY_S = 0.1

Tell = Callable[..., Awaitable[Any]]
"""Has a node, by its name, carry out a method of :class:`avatar_rtc.cluster.node.Node`, by its name."""
Told = tuple[NodeState, int, bytes]
"""A node, the status of its answer, and its body."""


class Door:
    """The application of a front door.

    Args:
        table: the nodes.
        allowed_origins: whose pages may read what the door says itself; nodes see to what they say.
        connections: is told which of them are being answered.
        tell: moves sessions from node to node.

    Attributes:
        is_leaving: it is about to end: balancers are to go elsewhere.
    """

    def __init__(self, table: NodeTable, allowed_origins: Collection[str], connections: Connections, tell: Tell) -> None:
        self.is_leaving = False
        self._table = table
        self._tell = tell
        self._metrics = DoorMetrics()
        self._moves: set[asyncio.Task[str | None]] = set()
        self._client: aiohttp.ClientSession | None = None
        self.app = app = web.Application(
            middlewares=[connections.middleware(), cors(allowed_origins), problems], client_max_size=MAX_BODY_BYTES
        )
        app.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._all_metrics),
                web.get("/v1/capacity", self._capacity),
                web.get("/v1/sessions", self._sessions),
                web.post("/v1/drain", self._drain),
                web.route(hdrs.METH_ANY, "/{path:.*}", self._lead),
            ]
        )
        app.cleanup_ctx.append(self._with_client)

    async def _with_client(self, app: web.Application) -> AsyncIterator[None]:
        async with relay.make_client() as self._client:
            yield

    @property
    def client(self) -> aiohttp.ClientSession:
        """What asks nodes."""
        assert self._client is not None
        return self._client

    # -- one node ------------------------------------------------------------------------------------------------------------

    async def _lead(self, request: web.Request) -> web.StreamResponse:
        body = await read_bytes(request) if request.body_exists else b""
        named = _named(request, body)
        if named is not None:
            return await while_connected(request, self._ask_node(request, body, named))
        if request.method == hdrs.METH_POST and request.path.rstrip("/") in SEATS:
            return await while_connected(request, self._place(request, body))
        return await while_connected(request, self._ask_any(request, body))

    async def _ask_node(self, request: web.Request, body: bytes, name: str) -> web.StreamResponse:
        """What is asked of a session, of its node."""
        if (node := await self._find(name)) is None:
            raise NodeLost
        try:
            if relay.is_socket(request) and (joined := await relay.pass_socket(self.client, node, request)) is not None:
                return joined
            async with relay.asked(self.client, node, request, body) as answer:
                if answer.status != 503:
                    return await relay.pass_on(request, answer)
                refusal = await _kept(answer)
        except NodeLostError as error:
            self._lost(node, error)
            raise NodeLost from None
        home = await self._moved_to(node, request, refusal)
        if home is None or await self._find(home) is None:
            return refusal
        return await self._ask_node(request, body, home)

    async def _find(self, name: str) -> NodeState | None:
        """The node of that name. One that is unknown may be new, or this door may be: it is lost if it is not heard of soon."""
        end_s = time.monotonic() + HEARSAY_S
        while (  # noqa: ASYNC110 - the table tells nobody
            (node := self._table.find(name)) is None and not self._table.is_gone(name) and time.monotonic() < end_s
        ):
            await asyncio.sleep(LOOK_EVERY_S)
        return node

    async def _moved_to(self, node: NodeState, request: web.Request, refusal: web.Response) -> str | None:
        """Where a session is that leaves its node. Who comes back to it makes it go."""
        try:
            problem = json.loads(refusal.body if isinstance(refusal.body, bytes) else b"")
        except ValueError:
            return None
        if problem.get("code") != "session_moves":
            return None
        home: str | None = problem.get("node")
        session_id = request.query.get("session")
        if home is not None or request.method != hdrs.METH_POST or session_id is None:
            return home
        move = asyncio.create_task(self._move(node.node, session_id))
        self._moves.add(move)
        move.add_done_callback(self._moves.discard)
        return await asyncio.shield(move)  # a caller that gives up and asks again finds it moved

    async def _move(self, node: str, session_id: str) -> str | None:
        """Have a session taken in elsewhere. Returns where; None: nobody did, it is moved already, or somebody is too slow."""
        try:
            memory = await self._tell(node, "release", session_id)
            if memory is None:
                return None
            for other in self._table.to_ask():
                if other.node != node and await self._takes(other.node, memory):
                    await self._tell(node, "moved", memory.session_id, other.node)
                    return other.node
            await self._tell(node, "keep", memory.session_id)
        except NodeLostError as error:  # it is lent for a while, and can be moved after that
            logger.warning("a session does not move: %s", error)
        return None

    async def _takes(self, node: str, memory: Memory) -> bool:
        with contextlib.suppress(NodeLostError):
            return bool(await self._tell(node, "take", memory))
        return False

    async def _ask_any(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """What every node knows. It is asked again elsewhere only where that changes nothing."""
        for node in self._table.fresh:
            try:
                async with relay.asked(self.client, node, request, body) as answer:
                    return await relay.pass_on(request, answer)
            except NodeLostError as error:
                self._lost(node, error)
                if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS):
                    break
        raise _no_nodes()

    async def _place(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """A seat, at the first node that gives one. The last one that is asked lets the caller wait, if that is what it wants."""
        began_s, theirs_s = time.monotonic(), 0.0
        candidates = self._table.to_ask(node_of(request.query.get("ticket", "")))
        refusal: web.Response | None = None
        for number, node in enumerate(candidates):
            is_last = number == len(candidates) - 1
            self._table.promise(node.node)
            asked_s = time.monotonic()
            timeout_s = TRY_S + ((wait_of(request) or 0.0) if is_last else 0.0)
            try:
                asking = relay.asked(self.client, node, request, body, without=() if is_last else (WAITS,), timeout_s=timeout_s)
                async with asking as answer:
                    theirs_s += time.monotonic() - asked_s
                    if answer.status != 503:
                        response = await relay.pass_on(request, answer)
                        self._metrics.own_s.observe(max(0.0, time.monotonic() - began_s - theirs_s))
                        return response
                    refusal = await _kept(answer)
            except NodeLostError as error:
                theirs_s += time.monotonic() - asked_s
                self._lost(node, error)
            self._metrics.retries.inc(not is_last)
        if refusal is None:
            raise _no_nodes()
        return refusal

    def _lost(self, node: NodeState, error: NodeLostError) -> None:
        logger.warning("no answer of a node: %s", error)
        if error.is_gone:
            self._table.gone(node.node)  # if it lives all the same, it is heard of again within a second

    # -- all nodes -----------------------------------------------------------------------------------------------------------

    async def _livez(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        if self.is_leaving:
            raise Unavailable("This front door is shutting down.", code="draining", retry_after_s=NO_NODES_RETRY_S)
        told = await self._ask_all(request, b"")
        _, status, body = min(told, key=lambda one: one[1])
        return _as_json(body, status)

    async def _capacity(self, request: web.Request) -> web.Response:
        return self._merged(await self._ask_all(request, b""), merging.capacity)

    async def _drain(self, request: web.Request) -> web.Response:
        return self._merged(await self._ask_all(request, await read_bytes(request)), merging.capacity)

    async def _sessions(self, request: web.Request) -> web.Response:
        return self._merged(await self._ask_all(request, b""), merging.sessions)

    async def _all_metrics(self, request: web.Request) -> web.Response:
        told = await self._ask_all(request, b"")
        if (refused := _refused(told)) is not None:
            return refused
        self._metrics.nodes.set(len(self._table.fresh))
        texts = {node.node: body.decode() for node, _, body in told}
        body, content_type = merging.metrics(texts, self._metrics)
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})

    def _merged(self, told: Sequence[Told], merge: Callable[[dict[str, Any]], dict[str, Any]]) -> web.Response:
        if (refused := _refused(told)) is not None:
            return refused
        merged = merge({node.node: json.loads(body) for node, _, body in told})
        return web.json_response(merged, status=told[0][1], headers={hdrs.CACHE_CONTROL: "no-store"})

    async def _ask_all(self, request: web.Request, body: bytes) -> list[Told]:
        """What all nodes answer, without those that do not."""

        async def ask(node: NodeState) -> Told | None:
            try:
                async with relay.asked(self.client, node, request, body, timeout_s=TRY_S) as answer:
                    return node, answer.status, await answer.read()
            except (NodeLostError, aiohttp.ClientError):
                return None

        told = await asyncio.gather(*(ask(node) for node in self._table.fresh))
        answered = [one for one in told if one is not None]
        if not answered:
            raise _no_nodes()
        return answered


def _named(request: web.Request, body: bytes) -> str | None:
    """The node of the session that a request is about."""
    query = request.query
    texts = [*request.path.split("/"), query.get("session", ""), query.get("call_id", "")]
    if request.path.endswith("/api/offer") and b"pc_id" in body:
        with contextlib.suppress(ValueError, LookupError, TypeError):  # the node says what is wrong with it
            texts.append(str(json.loads(body)["pc_id"]))
    return next(filter(None, map(node_of, texts)), None)


async def _kept(answer: aiohttp.ClientResponse) -> web.Response:
    """A refusal, to be given if nobody else says yes."""
    headers = [(name, value) for name, value in answer.headers.items() if name.lower() not in relay.HOP_BY_HOP]
    response = web.Response(body=await answer.read(), status=answer.status)
    response.headers.clear()
    response.headers.extend(headers)
    return response


def _refused(told: Sequence[Told]) -> web.Response | None:
    """The answer of a node that refuses, as all do for the same reasons: whoever asks may not."""
    return next((_as_json(body, status) for _, status, body in told if status >= 400), None)


def _as_json(body: bytes, status: int) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json" if status < 400 else "application/problem+json")


def _no_nodes() -> Unavailable:
    return Unavailable(
        f"No node of this cluster serves now. Try again in {NO_NODES_RETRY_S} s.", code="no_nodes", retry_after_s=NO_NODES_RETRY_S
    )
