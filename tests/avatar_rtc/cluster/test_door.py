"""A front door before nodes of this process: who is led where, and what a lost node means. Ray has its own tests."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiortc import RTCPeerConnection

from avatar_rtc import client
from avatar_rtc.client import Call, come_back
from avatar_rtc.cluster.door import Door
from avatar_rtc.cluster.node import Node
from avatar_rtc.cluster.relay import NodeLostError
from avatar_rtc.cluster.table import NodeTable
from avatar_rtc.config import ServerConfig
from avatar_rtc.errors import CallError
from avatar_rtc.sessions import moving
from avatar_rtc.site import Site
from signaling.connections import Connections
from signaling.nodes import node_of
from signaling.vocabulary import ResponseCreate, ResponseCreated, ResponseDone, SessionCreated, TranscriptDelta
from tests.support.calls import make_config
from tests.support.instant_engine import InstantEngine

TIMEOUT_S = 30


@dataclass
class Cluster:
    """Nodes, and a front door that hears of them when ``look`` is called.

    Attributes:
        unheard: methods of nodes that are carried out once without their answer coming through.
        held: a node takes a session in when this is set.
    """

    table: NodeTable = field(default_factory=lambda: NodeTable(lambda: 0.0))  # nobody falls silent
    nodes: dict[str, Node] = field(default_factory=dict)
    address: str = ""
    unheard: list[str] = field(default_factory=list)
    held: asyncio.Event = field(default_factory=asyncio.Event)

    async def add(self, name: str, config: ServerConfig) -> str:
        node = Node(config, name, "127.0.0.1", lambda _: InstantEngine())
        await node.ready()
        state = await node.state()
        self.nodes[state.node] = node
        self.table.heard(state)
        return state.node

    async def look(self) -> None:
        for node in self.nodes.values():
            self.table.heard(await node.state())

    async def tell(self, node: str, method: str, *arguments: Any) -> Any:
        """What Ray does, with what goes from process to process."""
        if method == "take":
            await self.held.wait()
        answer = await getattr(self.nodes[node], method)(*pickle.loads(pickle.dumps(arguments)))
        if method in self.unheard:
            self.unheard.remove(method)
            raise NodeLostError(f"{node}: {method}")
        return answer

    async def kill(self, name: str) -> None:
        await self.nodes.pop(name).close()


@asynccontextmanager
async def cluster(*names: str, **changes: dict[str, Any]) -> AsyncIterator[Cluster]:
    made = Cluster()
    made.held.set()
    for name in names:
        await made.add(name, make_config(**changes))
    connections = Connections()
    site = Site(Door(made.table, ["*"], connections, made.tell).app, connections)
    made.address = await site.start("127.0.0.1", 0)
    try:
        yield made
    finally:
        await site.close()
        for node in made.nodes.values():
            await node.close()


async def offer_of_a_player() -> str:
    peer = RTCPeerConnection()
    for kind in ("video", "audio"):
        peer.addTransceiver(kind, direction="recvonly")
    await peer.setLocalDescription(await peer.createOffer())
    sdp = peer.localDescription.sdp
    await peer.close()
    return sdp


SDP = {"Content-Type": "application/sdp"}


async def test_a_call_through_the_door_is_one_with_a_node_and_all_that_names_it_finds_it() -> None:
    async with cluster("a", "b") as made, aiohttp.ClientSession(made.address) as http:
        call = Call(made.address)
        await call.connect("?avatar=adam")
        home = node_of(call.session_id)
        assert home in made.nodes
        assert node_of(call.resource.rpartition("/")[2]) == home
        assert (await call.speak("One two.")).heard_text == "One two."
        place = f"/v1/sessions/{call.session_id}"
        async with http.get(f"{place}/events?after=0") as events:  # a stream, which goes on
            assert events.headers["Content-Type"].startswith("text/event-stream")
            assert b"response.created" in await events.content.readuntil(b"response.created")
        async with http.post(f"{place}/events", data="Three four.") as response:
            assert response.status == 202
        await call.wait_for(lambda: any(d.text == "four." for d in call.received(TranscriptDelta)), TIMEOUT_S, "not said")
        async with http.ws_connect(f"/v1/realtime?call_id={call.session_id}") as sideband:
            assert json.loads(await sideband.receive_str())["type"] == "session.created"
        watcher = Call(made.address)
        await watcher.connect(f"?session={call.session_id}&role=watch")
        assert watcher.session_id == call.session_id
        await watcher.close()
        async with http.get("/v1/sessions") as response:
            assert [session["id"] for session in (await response.json())["sessions"]] == [call.session_id]
        async with http.get("/v1/sessions/nobody/stats") as response:
            assert (response.status, (await response.json(content_type=None))["code"]) == (404, "unknown_session")
        async with http.get("/v1/realtime?call_id=nobody") as response:
            assert (await response.json())["error"]["code"] == "unknown_session"
        async with http.get("/") as response:
            assert (await response.text()).startswith("<!doctype html>")
        await call.close()
        await made.look()
        assert sum(state.free for state in made.table.fresh) == sum(state.seats for state in made.table.fresh)


async def test_seats_are_given_where_there_are_and_none_twice() -> None:
    """The door believes for a while what it heard last, so that it asks nodes that have no seat any more."""
    async with cluster("a", "b", limits={"max_sessions": 2}) as made, aiohttp.ClientSession(made.address) as http:
        sdp = await offer_of_a_player()

        async def ask(**headers: str) -> tuple[int, str, dict[str, Any]]:
            async with http.post("/whep", data=sdp, headers=SDP | headers) as response:
                text = await response.text()
                return response.status, response.headers.get("Location", ""), {} if response.status == 201 else json.loads(text)

        answers = await asyncio.gather(*(ask() for _ in range(7)))
        given = [place for status, place, _ in answers if status == 201]
        assert len(given) == 4
        assert sorted(str(node_of(place.rpartition("/")[2])) for place in given) == sorted(2 * list(made.nodes))
        refused = [problem["code"] for status, _, problem in answers if status == 503]
        assert refused == 3 * ["full"]
        async with http.get("/v1/capacity") as response:
            told = await response.json()
        assert (told["seats"], told["free"], len(told["nodes"]), told["models"]) == (4, 0, 2, ["fake"])
        async with http.get("/metrics") as response:
            text = await response.text()
        for node in made.nodes:
            assert f'avatar_rtc_seats{{node="{node}",state="taken"}} 2.0' in text
        assert "avatar_rtc_door_own_seconds_count 4.0" in text

        # Who waits does so in one place, and has a seat as soon as one is free there.
        status, _, problem = await ask(Prefer="wait=0")
        assert (status, problem["place"]) == (503, 1)
        waits_at = node_of(problem["ticket"])
        waits = SDP | {"Prefer": "wait=20"}
        waiting = asyncio.create_task(http.post(f"/whep?ticket={problem['ticket']}", data=sdp, headers=waits))
        await made.look()
        while not any(state.waiting for state in made.table.fresh):
            await made.look()
        async with http.delete("/" + next(place for place in given if node_of(place.rpartition("/")[2]) == waits_at)) as response:
            assert response.status == 200
        async with await waiting as response:
            assert response.status == 201
            assert node_of(response.headers["Location"].rpartition("/")[2]) == waits_at


async def test_a_node_that_is_lost_says_so_through_the_door_and_its_callers_call_again() -> None:
    async with cluster("a", "b") as made, aiohttp.ClientSession(made.address) as http:
        call = Call(made.address)
        await call.connect()
        home, session_id = str(node_of(call.session_id)), call.session_id
        await made.kill(home)
        async with http.get(f"/v1/sessions/{session_id}/stats", headers={"Origin": "http://page.example"}) as response:
            assert (response.status, (await response.json(content_type=None))["code"]) == (404, "node_lost")
            assert response.headers["Access-Control-Allow-Origin"] == "*"
        async with http.post("/v1/realtime/calls/" + session_id + "/hangup") as response:
            assert (response.status, (await response.json())["error"]["code"]) == (404, "node_lost")
        with pytest.raises(CallError) as refused:
            await call.resume()
        assert refused.value.code == "node_lost"
        assert not await come_back(call)
        assert node_of(call.session_id) in made.nodes
        assert (await call.speak("Here again.")).status == "completed"
        await call.close()
        (last,) = made.nodes
        await made.kill(last)
        async with http.post("/whep", data="", headers=SDP) as response:
            assert (response.status, (await response.json(content_type=None))["code"]) == (503, "no_nodes")
        async with http.get("/readyz") as response:
            assert response.status == 503


async def test_a_node_hears_nobody_but_its_doors() -> None:
    async with cluster("a") as made, aiohttp.ClientSession() as http:
        (state,) = made.table.fresh
        async with http.get(f"{state.address}/v1/sessions") as response:
            assert (response.status, (await response.json(content_type=None))["code"]) == (403, "not_a_door")


async def test_a_call_goes_on_at_another_node_when_its_own_is_drained() -> None:
    """With what was said, under the numbers that it knows; it is told nothing twice, and says nothing twice."""
    async with cluster("a", "b") as made, aiohttp.ClientSession(made.address) as http:
        call = Call(made.address)
        await call.connect("?avatar=adam")
        home, former = str(node_of(call.session_id)), call.session_id
        first = ResponseCreate(event_id="e1", id="r1", input="One two.")
        call.send(first)
        await call.wait_for(lambda: call.received(ResponseDone, "r1"), TIMEOUT_S, "not said")
        call.send(ResponseCreate(event_id="e2", id="r2", input="Three four five."))
        await call.wait_for(lambda: call.received(ResponseCreated, "r2"), TIMEOUT_S, "not taken")
        drained = asyncio.create_task(made.nodes[home].drain())
        while not call.lost:
            await made.tell(home, "let_go", 1)
            await asyncio.sleep(0.1)
        seq = call.last_seq
        async with http.get(f"/v1/sessions/{former}/stats") as response:
            assert (response.status, (await response.json(content_type=None))["code"]) == (503, "session_moves")
        await made.look()
        assert await come_back(call)
        await asyncio.wait_for(drained, TIMEOUT_S)
        await call.wait_for(lambda: call.received(ResponseDone, "r2"), TIMEOUT_S, "not said")
        created = call.received(SessionCreated)
        assert (len(created), created[1].resumed, created[1].scene) == (2, True, created[0].scene)
        assert node_of(call.session_id) not in (home, None)
        assert call.last_seq >= seq
        call.send(first)  # once more, as who was not sure
        assert (await call.speak("Six.")).heard_text == "Six."
        assert [done.heard_text for done in call.received(ResponseDone)] == ["One two.", "Three four five.", "Six."]
        for name in (former, call.session_id):
            async with http.get(f"/v1/sessions/{name}/stats") as response:
                assert (await response.json())["replies"] == 3
        await call.close()


async def test_what_waits_to_be_said_goes_along() -> None:
    lines = ("One two three.", "Four five six.", "Seven eight nine.")
    async with cluster("a", "b") as made:
        call = Call(made.address)
        await call.connect()
        home = str(node_of(call.session_id))
        for number, line in enumerate(lines):
            call.send(ResponseCreate(id=f"r{number}", event_id=f"e{number}", input=line, mode="queue"))
        await call.wait_for(lambda: call.received(TranscriptDelta, "r0"), TIMEOUT_S, "not said")
        drained = asyncio.create_task(made.nodes[home].drain())
        while not call.lost:
            await made.tell(home, "let_go", 1)
            await asyncio.sleep(0.1)
        assert len(call.received(ResponseDone)) < len(lines), "it goes between two replies"
        await made.look()
        assert await come_back(call)
        await call.wait_for(lambda: call.received(ResponseDone, "r2"), TIMEOUT_S, "not said")
        await asyncio.wait_for(drained, TIMEOUT_S)
        assert tuple(done.heard_text for done in call.received(ResponseDone)) == lines
        assert " ".join(word.text for word in call.received(TranscriptDelta)) == " ".join(lines), "each word once"
        await call.close()


async def let_go(made: Cluster) -> tuple[Call, asyncio.Task[None]]:
    """A call whose node is drained, so that it is nowhere now; and what ends with that node."""
    call = Call(made.address)
    await call.connect()
    await call.speak("One two.")
    home = str(node_of(call.session_id))
    drained = asyncio.create_task(made.nodes[home].drain())
    while not call.lost:
        await made.tell(home, "let_go", 1)
        await asyncio.sleep(0.1)
    await made.look()
    return call, drained


async def goes_on_once(made: Cluster, call: Call, drained: asyncio.Task[None]) -> None:
    assert await come_back(call), "it is the same session"
    assert (await call.speak("Three.")).heard_text == "Three."
    async with aiohttp.ClientSession(made.address) as http, http.get("/v1/sessions") as response:
        assert [session["id"] for session in (await response.json())["sessions"]] == [call.session_id]
    await asyncio.wait_for(drained, TIMEOUT_S)
    await call.close()


async def test_a_session_that_moves_is_not_lost_where_nodes_answer_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "LEND_S", 0.0)
    async with cluster("a", "b") as made:
        call, drained = await let_go(made)
        for made.unheard in (["release"], ["take", "moved"]):
            with pytest.raises(CallError) as refused:
                await call.resume()
            assert (refused.value.code, made.unheard) == ("session_moves", [])
        await goes_on_once(made, call, drained)


async def test_a_session_that_moves_is_not_lost_where_its_caller_gives_up_and_asks_again() -> None:
    async with cluster("a", "b") as made, aiohttp.ClientSession(made.address) as http:
        call, drained = await let_go(made)
        made.held.clear()
        place = f"/whep?session={call.session_id}"
        with pytest.raises(TimeoutError):
            await http.post(place, data=await offer_of_a_player(), headers=SDP, timeout=aiohttp.ClientTimeout(total=1))
        with pytest.raises(CallError) as refused:
            await call.resume()
        assert refused.value.code == "session_moves", "meanwhile"
        made.held.set()
        await goes_on_once(made, call, drained)


async def test_who_did_not_get_through_to_the_new_node_comes_back_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise CallError("UDP is blocked")

    async with cluster("a", "b") as made:
        call, drained = await let_go(made)
        home = str(node_of(call.session_id))
        monkeypatch.setattr(client, "RTCSessionDescription", fail)
        with pytest.raises(CallError, match="blocked"):
            await call.resume()
        monkeypatch.undo()
        await asyncio.wait_for(drained, TIMEOUT_S)
        await made.kill(home)
        await goes_on_once(made, call, drained)


async def test_a_node_of_which_the_door_has_not_heard_yet_is_waited_for() -> None:
    async with cluster() as made, aiohttp.ClientSession(made.address) as http:
        name = await made.add("a", make_config())
        (node,) = made.table.fresh
        made.table._known.clear()
        asking = asyncio.create_task(http.get(f"/v1/sessions/{name}.{32 * '0'}/stats"))
        await asyncio.sleep(0.3)
        assert not asking.done()
        made.table.heard(node)
        async with await asking as response:
            assert (await response.json(content_type=None))["code"] == "unknown_session", "says the node"
