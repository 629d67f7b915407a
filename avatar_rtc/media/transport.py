"""What aiortc's transports must do otherwise, for one call at a time: bounded gathering, a port range, quick retransmission."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import Any

from aioice import Candidate
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import StunProtocol
from aiortc import RTCIceGatherer, RTCSctpTransport

GATHER_TIMEOUT_S = 1
RECEIVE_BUFFER_BYTES = 1 << 20
MIN_RETRANSMIT_S = 0.1
INITIAL_RETRANSMIT_S = 0.5


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


def quicken_retransmission(sctp: RTCSctpTransport) -> None:
    """Resend lost data channel packets after the round trip, not after a second (RFC 9260 allows other minimums)."""
    insides: Any = sctp
    insides._rto = INITIAL_RETRANSMIT_S
    update = sctp._update_rto

    def update_rto(round_trip_s: float) -> None:
        update(round_trip_s)
        insides._rto = min(insides._rto, max(MIN_RETRANSMIT_S, insides._srtt + 4 * insides._rttvar))

    insides._update_rto = update_rto


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
