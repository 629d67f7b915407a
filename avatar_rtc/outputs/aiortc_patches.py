"""What aiortc must do otherwise, for one call at a time. Everything that touches its insides is in this file, on instances, never
on modules.

Of transports: bounded gathering, a port range, bounded candidates, datagrams read as fast as they come, signs of life, quick
retransmission, and messages that neither raise nor get lost nor lie about.
Of receivers: bounded sound, which is heard as it comes; and nothing decoded where nobody looks.
Of senders: pictures and sound that are encoded already, and sender reports from the media clock. aiortc writes the time of
sending into RTCP sender reports. A receiver uses them to line up lips and voice, so pictures that leave late would be shown late.
Ours say which media time belongs to which RTP time stamp.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import random
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aioice import Candidate, stun
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import StunProtocol
from aiortc import (
    MediaStreamTrack,
    RTCDataChannel,
    RTCDataChannelParameters,
    RTCDtlsTransport,
    RTCIceGatherer,
    RTCIceTransport,
    RTCRtpReceiver,
    RTCRtpSender,
    RTCRtpTransceiver,
    RTCSctpTransport,
)
from aiortc.codecs.base import Encoder
from aiortc.jitterbuffer import MAX_MISORDER, JitterFrame
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcsctptransport import DATA_CHANNEL_OPEN, WEBRTC_BINARY, WEBRTC_DCEP, WEBRTC_STRING
from aiortc.rtp import RtcpSrPacket
from OpenSSL import SSL

from avatar_rtc.media.broadcast import Reader, ReaderClosed
from avatar_rtc.media.clock import MediaClock
from avatar_rtc.media.encode import Encoded
from signaling.dialects.frames import MAX_MESSAGE_BYTES

GATHER_TIMEOUT_S = 1
RECEIVE_BUFFER_BYTES = 1 << 20
CONSENT_EVERY_S = 5.0
CONSENT_RETRANSMISSIONS = 5
"""At 0.5, 1, 2, 4, 8 and 16 s each: 31.5 s in all."""
MAX_REMOTE_CANDIDATES = 50
"""Twice that are checked with two addresses of ours, which RFC 8445 (section 6.1.2.5) takes for enough."""
MIN_RETRANSMIT_S = 0.1
INITIAL_RETRANSMIT_S = 0.5
MAX_RETRANSMIT_S = 3.0
"""Chromium's bound, for its reason: after an outage what could get through is not to wait for as long again."""
MAX_LINEAR_RETRANSMITS = 3
MAX_THIN_PACKETS = 4
MAX_STREAM_ID = 65534
MAX_DATAGRAM_BYTES = 1500
MAX_DATAGRAMS = 32
"""Read from one socket at a time, before others have their turn."""
SOCKET_BYTES = 1 << 16
MAX_PACKETS_PER_S = 125
"""Of a microphone: browsers send 50, and 100 where they are set to pieces of 10 ms."""
BURST_PACKETS = 100


def bound_gathering(gatherer: RTCIceGatherer, port_range: tuple[int, int] | None) -> None:
    """Let a gatherer wait at most one second for STUN and TURN, and take host ports from ``port_range`` (both ends included)."""
    connection: Any = gatherer._connection
    gather = connection.get_component_candidates

    async def get_component_candidates(component: int, addresses: list[str], **_: Any) -> list[Candidate]:
        if port_range is None:
            return list(await gather(component, addresses, timeout=GATHER_TIMEOUT_S))
        hosts = [candidate for a in addresses if (candidate := await _bind(connection, component, a, port_range)) is not None]
        # Without addresses of its own it asks the TURN server only.
        return hosts + list(await gather(component, [], timeout=GATHER_TIMEOUT_S))

    connection.get_component_candidates = get_component_candidates


def bound_candidates(gatherer: RTCIceGatherer) -> None:
    """Take so many addresses of the peer, and pass over the others. To be called before the first one is known.

    With each of them all pairs are sorted anew and each pair is checked: with a few thousand nothing else would ever be done.
    """
    connection: Any = gatherer._connection
    add = connection.add_remote_candidate

    async def add_remote_candidate(candidate: Candidate | None) -> None:
        if candidate is None or len(connection.remote_candidates) < MAX_REMOTE_CANDIDATES:
            await add(candidate)

    connection.add_remote_candidate = add_remote_candidate


def be_patient(gatherer: RTCIceGatherer) -> None:
    """Give up a peer only if one and the same check of its consent (RFC 7675) has no answer within half a minute.

    aioice sends each check once and takes an answer after half a second for none; six such, and a call on a busy machine is over.
    """
    connection: Any = gatherer._connection

    async def query_consent() -> None:
        while True:
            await asyncio.sleep(CONSENT_EVERY_S * random.uniform(0.8, 1.2))
            if connection._nominated and not await _answers(connection, CONSENT_RETRANSMISSIONS):
                connection._query_consent_task = None  # it is this one, and not to be cancelled by closing
                await connection.close()
                return

    connection.query_consent = query_consent


def quicken_retransmission(sctp: RTCSctpTransport) -> None:
    """Resend lost data channel packets after the round trip, not after a second (RFC 9260 allows other minimums).

    Each time that nothing is answered the wait doubles (section 6.3.3, rule E2, which aiortc leaves out). Of packets that were
    sent again no round trip is measured, so a wait that has become too short would stay so: all would be sent many times, and
    on a busy machine that alone keeps round trips long. The first few times it does not double while so little is under way as
    cannot fill a network, as TCP does for thin streams: that is a lost prompt, and a person waits.
    """
    insides: Any = sctp
    insides._rto = INITIAL_RETRANSMIT_S
    update, expire = sctp._update_rto, sctp._t3_expired
    num_unanswered = 0

    def update_rto(round_trip_s: float) -> None:
        nonlocal num_unanswered
        num_unanswered = 0
        update(round_trip_s)
        insides._rto = min(insides._rto, MAX_RETRANSMIT_S, max(MIN_RETRANSMIT_S, insides._srtt + 4 * insides._rttvar))

    def t3_expired() -> None:
        nonlocal num_unanswered
        num_unanswered += 1
        if num_unanswered > MAX_LINEAR_RETRANSMITS or len(insides._sent_queue) > MAX_THIN_PACKETS:
            insides._rto = min(2 * insides._rto, MAX_RETRANSMIT_S)
        expire()

    insides._update_rto, insides._t3_expired = update_rto, t3_expired


def read_all_that_came(dtls: RTCDtlsTransport) -> None:
    """Read each message as it comes. To be called before the handshake.

    aiortc reads one message a datagram. Those that overtake the handshake's end, or come when that was lost, OpenSSL keeps until
    it can read them; so from then on each datagram brings the message of an earlier one, and the last ones wait until something
    else is sent, for as long as the connection lives.
    """
    insides: Any = dtls
    receive = insides._recv_next

    async def receive_all() -> None:
        await receive()
        while insides._data_receiver is not None:
            try:
                data = insides._ssl.recv(MAX_DATAGRAM_BYTES)
            except SSL.Error:  # there is nothing, or it was closed, which the next datagram shows
                break
            await insides._data_receiver._handle_data(data)

    insides._recv_next = receive_all


def take_what_waits(ice: RTCIceTransport) -> None:
    """Read all datagrams that wait at a socket when it has its turn. To be called when candidates are gathered.

    asyncio reads one each time around. Of a process with many calls, or with little time, which is around twenty times a second,
    each call would get as many datagrams and no more: others wait in the kernel for seconds, or are lost there, and with them
    what acknowledges messages.
    """
    connection: Any = ice._connection
    for protocol in connection._protocols:
        transport = protocol.transport
        if not isinstance(transport, asyncio.BaseTransport):
            continue  # a relay's: what waits at its socket is not for this protocol
        received, waiting = protocol.datagram_received, transport.get_extra_info("socket")._sock

        def datagram_received(data: bytes, addr: tuple[Any, ...], received: Any = received, waiting: Any = waiting) -> None:
            received(data, addr)
            with contextlib.suppress(OSError):  # no more wait, or it was closed meanwhile
                for _ in range(MAX_DATAGRAMS - 1):
                    received(*waiting.recvfrom(SOCKET_BYTES))

        protocol.datagram_received = datagram_received


def hear(ice: RTCIceTransport, on_heard: Callable[[], None]) -> None:
    """Have each datagram of the peer told, whatever is in it. To be called when candidates are gathered."""
    connection: Any = ice._connection
    for protocol in connection._protocols:
        received = protocol.datagram_received

        def datagram_received(data: bytes, addr: tuple[Any, ...], received: Any = received) -> None:
            if any(pair.remote_addr == (addr[0], addr[1]) for pair in connection._nominated.values()):
                on_heard()
            received(data, addr)

        protocol.datagram_received = datagram_received


def probe(ice: RTCIceTransport) -> None:
    """Ask the peer whether it lives, by a check of its consent (RFC 7675), which it answers also where there is nothing to
    report."""
    connection: Any = ice._connection
    for pair in list(connection._nominated.values()):
        request = connection.build_request(pair, nominate=False)
        request.add_message_integrity(connection.remote_password.encode())
        with contextlib.suppress(OSError):
            pair.protocol.send_stun(request, pair.remote_addr)


async def _answers(connection: Any, retransmissions: int) -> bool:
    for pair in list(connection._nominated.values()):
        request = connection.build_request(pair, nominate=False)
        key = connection.remote_password.encode()
        with contextlib.suppress(stun.TransactionError):
            await pair.protocol.request(request, pair.remote_addr, integrity_key=key, retransmissions=retransmissions)
            return True
    return False


def lose_what_comes_too_late(sctp: RTCSctpTransport) -> None:
    """Let what is to be sent over a connection that has just closed be lost without a word; aiortc logs a traceback for each."""
    insides: Any = sctp
    send_chunk = sctp._send_chunk

    async def send_or_lose(chunk: Any) -> None:
        with contextlib.suppress(ConnectionError):
            await send_chunk(chunk)

    insides._send_chunk = send_or_lose


def take_every_message(sctp: RTCSctpTransport) -> None:
    """Let nothing that a client sends raise inside the transport, which would end the connection, and lose no message.

    A message on a stream without a channel belongs to one that is ``negotiated``: both sides were to create it, so it is created
    now. Text that is not UTF-8 is taken as bytes. A channel that is opened twice, or whose label is not text, is left as it is.
    """
    insides: Any = sctp
    receive = sctp._data_channel_receive

    async def data_channel_receive(stream_id: int, pp_id: int, data: bytes) -> None:
        is_known = stream_id in insides._data_channels
        if pp_id == WEBRTC_DCEP:
            is_opening = data[:1] == bytes([DATA_CHANNEL_OPEN])
            if is_opening != is_known:
                with contextlib.suppress(UnicodeDecodeError):
                    await receive(stream_id, pp_id, data)
            return
        if not is_known and stream_id <= MAX_STREAM_ID:
            channel = RTCDataChannel(sctp, RTCDataChannelParameters(negotiated=True, id=stream_id))
            sctp.emit("datachannel", channel)
        if pp_id == WEBRTC_STRING and not _is_text(data):
            pp_id = WEBRTC_BINARY
        await receive(stream_id, pp_id, data)

    insides._data_channel_receive = data_channel_receive


def max_message_bytes(channel: RTCDataChannel) -> int:
    """The largest message that is sent: what the peer takes by its ``max-message-size`` (0: any), and at most 64 KiB."""
    peer_bytes = int(channel.transport._remote_max_message_size)
    return min(peer_bytes or MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


async def _bind(connection: Any, component: int, address: str, port_range: tuple[int, int]) -> Candidate | None:
    """A host candidate on the first free port, starting at a random one; None if all are taken or the address cannot be used."""
    first, last = port_range
    ports = list(range(first, last + 1))
    start = random.randrange(len(ports))
    loop = asyncio.get_running_loop()
    for port in ports[start:] + ports[:start]:
        try:
            transport, protocol = await loop.create_datagram_endpoint(
                lambda: StunProtocol(connection), local_addr=(address, port)
            )
        except OSError:
            continue
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        host = transport.get_extra_info("sockname")[0]
        protocol.local_candidate = Candidate(
            foundation=candidate_foundation("host", "udp", host),
            component=component,
            transport="udp",
            priority=candidate_priority(component, "host"),
            host=host,
            port=port,
            type="host",
        )
        connection._protocols.append(protocol)
        return protocol.local_candidate
    return None


def codec_name(transceiver: RTCRtpTransceiver) -> str:
    """The codec that was negotiated, by its name in SDP."""
    return str(transceiver._codecs[0].name)


class _Packer(Encoder):
    """Stands where aiortc has an encoder: what comes is packetised already. It remembers the last time stamp that it gave out."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.last_timestamp: int | None = None

    @property
    def target_bitrate(self) -> int:
        return self._reader.estimate_bps or 0

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        self._reader.report_estimate(bitrate)

    def encode(self, frame: Any, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        raise TypeError("a viewer's track gives what is encoded already")

    def pack(self, packet: Any) -> tuple[list[bytes], int]:
        assert isinstance(packet, Encoded)
        self.last_timestamp = packet.timestamp
        return list(packet.payloads), packet.timestamp


class ReaderTrack(MediaStreamTrack):
    """A track of aiortc's that gives what a reader of a broadcast gets."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.reader: Reader | None = None

    async def recv(self) -> Any:
        if self.readyState != "live" or self.reader is None:
            raise MediaStreamError
        try:
            return await self.reader.get()
        except ReaderClosed:
            raise MediaStreamError from None


def media_clock_report(report: RtcpSrPacket, origin: int, clock: MediaClock, clock_hz: int) -> None:
    """Rewrite a sender report: its RTP time stamp stays, its NTP time becomes the media time of that time stamp.

    Args:
        origin: RTP time stamp of media time 0.
    """
    elapsed = (report.sender_info.rtp_timestamp - origin) & 0xFFFFFFFF
    # The time stamp wraps after 13 h of video; the clock says in which round we are.
    rounds = round((clock.media_s() * clock_hz - elapsed) / (1 << 32))
    report.sender_info.ntp_timestamp = clock.ntp((elapsed + rounds * (1 << 32)) / clock_hz)


def prepare_sender(sender: RTCRtpSender, reader: Reader, clock: MediaClock, clock_hz: int) -> None:
    """Make a sender send what ``reader`` gets, and report the media clock. To be called between negotiation and the first
    packet."""
    packer = _Packer(reader)
    insides: Any = sender
    insides._RTCRtpSender__encoder = packer
    insides._send_keyframe = reader.request_keyframe
    origin: int | None = None
    next_encoded_frame: Callable[[Any], Awaitable[Any]] = sender._next_encoded_frame
    send_rtcp: Callable[[list[Any]], Awaitable[None]] = sender._send_rtcp

    async def next_encoded_frame_learning_origin(codec: Any) -> Any:
        # The sender adds a random origin that it keeps to itself. aiortc asks for the next frame when all packets of the one
        # before are sent.
        nonlocal origin
        if origin is None and packer.last_timestamp is not None and insides._RTCRtpSender__packet_count:
            origin = (insides._RTCRtpSender__rtp_timestamp - packer.last_timestamp) & 0xFFFFFFFF
        return await next_encoded_frame(codec)

    async def send_rtcp_of_media_clock(packets: list[Any]) -> None:
        for packet in packets:
            if isinstance(packet, RtcpSrPacket):
                if origin is None:
                    return  # nothing was sent yet, so there is nothing to report
                media_clock_report(packet, origin, clock, clock_hz)
                # Receivers echo the middle of the NTP time; the sender must know it again to measure round trips.
                insides._RTCRtpSender__lsr = (packet.sender_info.ntp_timestamp >> 16) & 0xFFFFFFFF
        await send_rtcp(packets)

    insides._next_encoded_frame = next_encoded_frame_learning_origin
    insides._send_rtcp = send_rtcp_of_media_clock


def bound_receiving(receiver: RTCRtpReceiver) -> None:
    """Lose packets of sound that come faster than sound lasts, before they are decoded: what waits for that is unbounded."""
    insides: Any = receiver
    handle = receiver._handle_rtp_packet
    allowed, counted_s = float(BURST_PACKETS), time.monotonic()

    async def handle_rtp_packet(packet: Any, arrival_time_ms: int) -> None:
        nonlocal allowed, counted_s
        now_s = time.monotonic()
        allowed = min(BURST_PACKETS, allowed + (now_s - counted_s) * MAX_PACKETS_PER_S)
        counted_s = now_s
        if allowed >= 1:
            allowed -= 1
            await handle(packet, arrival_time_ms)

    insides._handle_rtp_packet = handle_rtp_packet


class _NoDelay:
    """In the place of aiortc's buffer of received sound, which holds four pieces (80 ms) back and steadies nothing by it; where
    one is lost it loses four more, and holds 14 back (0.28 s) for good. Each piece goes on as it comes, in order: one that comes
    behind a later one is left out, like one that is lost. A recogniser does not mind, and whoever speaks waits for less."""

    def __init__(self) -> None:
        self._latest: int | None = None

    def add(self, packet: Any) -> tuple[bool, JitterFrame | None]:
        number: int = packet.sequence_number
        is_late = self._latest is not None and (self._latest - number) % (1 << 16) < MAX_MISORDER
        if is_late or not packet._data:
            return False, None
        self._latest = number
        return False, JitterFrame(packet._data, packet.timestamp)


def hear_at_once(receiver: RTCRtpReceiver) -> None:
    """Decode each piece of sound as it comes."""
    insides: Any = receiver
    insides._RTCRtpReceiver__jitter_buffer = _NoDelay()


class _Undecoded(queue.Queue[Any]):
    """In the place of the queue of a decoder: nothing gets to it but that it is to end."""

    def __init__(self, on_piece: Callable[[int], None]) -> None:
        super().__init__()
        self._on_piece = on_piece

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if item is None:
            super().put(item, block, timeout)
        else:
            self._on_piece(item[1].timestamp)


def leave_undecoded(receiver: RTCRtpReceiver, on_piece: Callable[[int], None]) -> None:
    """Have each picture, or piece of sound, told by its time stamp when it has come whole, and not decoded. To be called before
    anything comes."""
    insides: Any = receiver
    insides._RTCRtpReceiver__decoder_queue = _Undecoded(on_piece)


def learn_clock(receiver: RTCRtpReceiver, clock_hz: int, on_clock: Callable[[float], None]) -> None:
    """Have told, from each sender report, at which wall time of the sender (NTP seconds) time stamp 0 of a receiver lies."""
    insides: Any = receiver
    handle = receiver._handle_rtcp_packet

    async def handle_rtcp_packet(packet: Any) -> None:
        await handle(packet)
        origin = insides._RTCRtpReceiver__timestamp_mapper._origin
        if isinstance(packet, RtcpSrPacket) and origin is not None:
            info = packet.sender_info
            elapsed = (info.rtp_timestamp - origin + (1 << 31)) % (1 << 32) - (1 << 31)
            on_clock(info.ntp_timestamp / (1 << 32) - elapsed / clock_hz)

    insides._handle_rtcp_packet = handle_rtcp_packet
