"""What aiortc's transports must do otherwise, for one call at a time: bounded gathering, a port range, signs of life, quick
retransmission, and messages that neither raise nor get lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from typing import Any

from aioice import Candidate, stun
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import StunProtocol
from aiortc import RTCDataChannel, RTCDataChannelParameters, RTCIceGatherer, RTCIceTransport, RTCSctpTransport
from aiortc.rtcsctptransport import DATA_CHANNEL_OPEN, SCTP_RTO_MAX, WEBRTC_BINARY, WEBRTC_DCEP, WEBRTC_STRING

from signaling.messages import MAX_MESSAGE_BYTES

GATHER_TIMEOUT_S = 1
RECEIVE_BUFFER_BYTES = 1 << 20
CONSENT_EVERY_S = 5.0
CONSENT_RETRANSMISSIONS = 5
"""At 0.5, 1, 2, 4, 8 and 16 s each: 31.5 s in all."""
MIN_RETRANSMIT_S = 0.1
INITIAL_RETRANSMIT_S = 0.5
MAX_STREAM_ID = 65534


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
    on a busy machine that alone keeps round trips long.
    """
    insides: Any = sctp
    insides._rto = INITIAL_RETRANSMIT_S
    update, expire = sctp._update_rto, sctp._t3_expired

    def update_rto(round_trip_s: float) -> None:
        update(round_trip_s)
        insides._rto = min(insides._rto, max(MIN_RETRANSMIT_S, insides._srtt + 4 * insides._rttvar))

    def t3_expired() -> None:
        insides._rto = min(2 * insides._rto, SCTP_RTO_MAX)
        expire()

    insides._update_rto, insides._t3_expired = update_rto, t3_expired


async def answers(ice: RTCIceTransport) -> bool:
    """Whether the peer answers a check of its consent (RFC 7675): it lives, also where there is nothing to report on."""
    return await _answers(ice._connection, retransmissions=1)


async def _answers(connection: Any, retransmissions: int) -> bool:
    for pair in list(connection._nominated.values()):
        request = connection.build_request(pair, nominate=False)
        key = connection.remote_password.encode()
        with contextlib.suppress(stun.TransactionError):
            await pair.protocol.request(request, pair.remote_addr, integrity_key=key, retransmissions=retransmissions)
            return True
    return False


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
