"""A lost datagram of the data channel costs a round trip, not a second, and one that is late is not sent again and again."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from functools import partial
from types import SimpleNamespace
from typing import Any

import aiohttp
import aioice.ice
import pytest
from aiortc import RTCCertificate, RTCDtlsTransport, RTCPeerConnection
from aiortc.jitterbuffer import JitterBuffer
from aiortc.rtcsctptransport import CookieAckChunk, DataChunk

from avatar_rtc.outputs import aiortc_patches
from signaling.vocabulary import Ping, Pong
from tests.support.calls import calling, serving
from tests.support.lateness import lateness


async def test_a_lost_message_comes_within_a_fraction_of_a_second() -> None:
    async with serving() as server, calling(server) as call, lateness() as late:
        await call.speak("Round trips are measured.")
        sctp: Any = call.peer.sctp
        send, to_lose = sctp._send_chunk, 2

        async def send_with_loss(chunk: object) -> None:
            nonlocal to_lose
            if to_lose and isinstance(chunk, DataChunk):
                to_lose -= 1
                return
            await send(chunk)

        sctp._send_chunk = send_with_loss
        sent_s = time.monotonic()
        call.send(Ping(t=sent_s))
        await call.wait_for(lambda: any(pong.t == sent_s for pong in call.received(Pong)), 20, "the ping was lost for good")
        assert not to_lose
        # Losing two in a row costs 3 s where a second is the least.
        assert time.monotonic() - sent_s - late.total_s(sent_s) < 0.8


async def test_the_wait_for_a_lone_message_grows_only_after_some_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiortc_patches, "MAX_THIN_PACKETS", 1000)  # the client's signs of life are under way, too
    async with serving() as server, calling(server) as call:
        await call.speak("Round trips are measured.")
        sctp: Any = call.peer.sctp
        waits_s, send = list[float](), sctp._send_chunk

        async def lose(chunk: object) -> None:
            if isinstance(chunk, DataChunk):
                waits_s.append(sctp._rto)

        sctp._send_chunk = lose
        call.send(Ping(t=1))
        async with asyncio.timeout(20):
            while waits_s.count(waits_s[-1] if waits_s else 0) == len(waits_s):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        sctp._send_chunk = send
        *same_s, longer_s = waits_s
        assert len(same_s) >= 1 + aiortc_patches.MAX_LINEAR_RETRANSMITS
        assert longer_s == pytest.approx(2 * same_s[0])
        await call.wait_for(lambda: any(pong.t == 1 for pong in call.received(Pong)), 20, "it never came")


async def test_a_round_trip_that_has_become_longer_is_waited_for() -> None:
    """Else packets are sent five times each from then on, and on a busy machine that alone keeps the round trip long."""
    async with serving() as server, calling(server) as call:
        await call.speak("Round trips are measured.")
        sctp: Any = call.peer.sctp
        send = sctp._send_chunk
        num_sent: Counter[int] = Counter()

        async def send_late(chunk: object) -> None:
            if isinstance(chunk, DataChunk):
                num_sent[chunk.tsn] += 1
                asyncio.get_running_loop().call_later(0.5, lambda: asyncio.ensure_future(send(chunk)))
            else:
                await send(chunk)

        def is_answered(number: int) -> bool:
            return any(pong.t == number for pong in call.received(Pong))

        sctp._send_chunk = send_late
        for number in range(4):
            call.send(Ping(t=number))
            await call.wait_for(partial(is_answered, number), 20, "no answer")
        assert num_sent.total() < 3 * len(num_sent)  # five times each where the wait does not grow


class Wire:
    """In the place of ICE: what one end sends, the other one receives, in the order in which ``deliver`` is called."""

    def __init__(self, role: str) -> None:
        self.role, self.state, self.other = role, "completed", self
        self.kept: list[bytes] | None = None
        self._came = asyncio.Queue[bytes]()

    async def _send(self, data: bytes) -> None:
        """What ends the handshake (from ChangeCipherSpec on) is kept back where ``kept`` is a list."""
        if self.kept is not None and data[0] == 20:
            self.kept.append(data)
        else:
            self.other._came.put_nowait(data)

    async def _recv(self) -> bytes:
        return await self._came.get()

    def let_go(self) -> None:
        kept, self.kept = self.kept or [], None
        for data in kept:
            self.other._came.put_nowait(data)


async def test_messages_that_overtake_the_handshakes_end_delay_none_that_follow() -> None:
    """A network that loses or overtakes does so once in twenty calls, and all that was sent there came seconds late."""

    class Reader:
        def __init__(self) -> None:
            self.messages, self.news = list[bytes](), asyncio.Event()

        async def _handle_data(self, data: bytes) -> None:
            self.messages.append(data)
            self.news.set()

    ends = Wire("controlling"), Wire("controlled")
    ends[0].other, ends[1].other = ends[1], ends[0]
    wires: tuple[Any, Any] = ends
    near, far = (RTCDtlsTransport(wire, [RTCCertificate.generateCertificate()]) for wire in wires)
    near._set_role("client")
    far._set_role("server")
    reader = Reader()
    near._register_data_receiver(reader)
    aiortc_patches.read_all_that_came(near)
    ends[1].kept = []
    started = asyncio.gather(near.start(far.getLocalParameters()), far.start(near.getLocalParameters()))
    async with asyncio.timeout(20):
        while far.state != "connected":  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        early = [b"one", b"two", b"three"]
        for message in early:
            await far._send_data(message)
        await asyncio.sleep(0)
        ends[1].let_go()
        await started
        await far._send_data(b"four")
        while reader.messages != [*early, b"four"]:
            reader.news.clear()
            await reader.news.wait()
    await asyncio.gather(near.stop(), far.stop())


async def test_a_peer_that_answers_late_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # Six checks, a tenth of a second apart instead of five, each answered later than aioice waits for.
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", 0.1)
    monkeypatch.setattr(aiortc_patches, "CONSENT_EVERY_S", 0.1)
    async with serving() as server, calling(server) as call:
        insides: Any = call.peer.getTransceivers()[0].receiver.transport.transport._connection
        receive, num_late = insides.request_received, 0

        def receive_late(*request: object) -> None:
            nonlocal num_late
            num_late += 1
            asyncio.get_running_loop().call_later(0.7, receive, *request)

        insides.request_received = receive_late
        async with asyncio.timeout(20):
            while num_late < 8:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.05)
        assert (await call.speak("Still here.")).status == "completed"


async def test_after_an_outage_a_message_is_sent_again_within_seconds() -> None:
    async with serving() as server, calling(server) as call:
        await call.speak("Round trips are measured.")
        sctp: Any = call.peer.sctp
        for _ in range(20):
            sctp._t3_expired()
        assert sctp._rto == aiortc_patches.MAX_RETRANSMIT_S
        sctp._update_rto(30.0)
        assert sctp._rto == aiortc_patches.MAX_RETRANSMIT_S


async def test_what_waits_at_a_socket_is_read_at_once_and_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    class Protocol(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.received: list[bytes] = []

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.received.append(data)

    monkeypatch.setattr(aiortc_patches, "MAX_DATAGRAMS", 6)
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Protocol, ("127.0.0.1", 0))
    received = protocol.received
    ice: Any = SimpleNamespace(_connection=SimpleNamespace(_protocols=[protocol, SimpleNamespace(transport=object())]))
    aiortc_patches.take_what_waits(ice)
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        for number in range(10):
            other.sendto(bytes([number]), transport.get_extra_info("sockname"))
    lengths = set[int]()
    while len(received) < 10:
        await asyncio.sleep(0)
        lengths.add(len(received))
    assert lengths - {0} == {6, 10}
    assert b"".join(received) == bytes(range(10))
    transport.close()


async def test_of_many_addresses_some_are_taken() -> None:
    """With all of them the server would be busy for minutes, and so with all calls."""
    fragment = "m=video 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n"
    fragment += "".join(f"a=candidate:{i} 1 udp 1 127.0.0.1 {1024 + i} typ host\r\n" for i in range(900))
    headers = {"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": "*"}
    async with serving() as server, calling(server) as call, aiohttp.ClientSession() as http:
        async with http.patch(call.resource, data=fragment, headers=headers) as response:
            assert response.status == 204
        (session,) = server.registry.live
        (viewer,) = session.audience.viewers.values()
        (ice,) = viewer._transports()
        assert len(ice.getRemoteCandidates()) == aiortc_patches.MAX_REMOTE_CANDIDATES
        assert (await call.speak("The call goes on.")).status == "completed"


async def test_what_comes_too_late_is_lost_without_a_word() -> None:
    async with serving() as server, calling(server):
        (session,) = server.registry.live
        (viewer,) = session.audience.viewers.values()
        sctp: Any = viewer._peer.sctp

        async def not_connected(data: bytes) -> None:
            raise ConnectionError("Cannot send encrypted data, not connected")

        sctp.transport._send_data = not_connected
        await sctp._send_chunk(CookieAckChunk())


async def test_sound_that_comes_faster_than_it_lasts_is_lost_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Receiver:
        def __init__(self) -> None:
            self.num_packets = 0

        async def _handle_rtp_packet(self, packet: object, arrival_time_ms: int) -> None:
            self.num_packets += 1

    now_s = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    steady: Any = Receiver()
    flooded: Any = Receiver()
    for receiver in (steady, flooded):
        aiortc_patches.bound_receiving(receiver)
    for _ in range(500):  # ten seconds of pieces of 20 ms
        now_s += 0.02
        await steady._handle_rtp_packet(None, 0)
        for _ in range(20):
            await flooded._handle_rtp_packet(None, 0)
    assert steady.num_packets == 500
    assert flooded.num_packets <= 10 * aiortc_patches.MAX_PACKETS_PER_S + aiortc_patches.BURST_PACKETS


async def test_sound_is_decoded_as_it_comes_whatever_is_lost() -> None:
    peer = RTCPeerConnection()
    receiver: Any = peer.addTransceiver("audio").receiver
    assert isinstance(receiver._RTCRtpReceiver__jitter_buffer, JitterBuffer)
    aiortc_patches.hear_at_once(receiver)
    buffer: Any = receiver._RTCRtpReceiver__jitter_buffer

    def heard(*numbers: int, data: bytes = b"piece") -> list[int]:
        """Those of the packets with these numbers that are decoded, each when it comes."""
        packets = [SimpleNamespace(sequence_number=number, timestamp=number, _data=data) for number in numbers]
        return [frame.timestamp for packet in packets if (frame := buffer.add(packet)[1]) is not None]

    assert heard(65_534, 65_535, 0, 1) == [65_534, 65_535, 0, 1]
    assert heard(4, 3, 4, 5) == [4, 5], "neither the past nor the same again"
    assert heard(6, data=b"") == [], "nothing is in it"
    assert heard(40_000, 30_000, 30_001) == [40_000, 30_000, 30_001], "whoever sends has begun anew"
    await peer.close()
