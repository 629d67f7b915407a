"""A lost datagram of the data channel costs a round trip, not a second."""

from __future__ import annotations

import time
from typing import Any

from aiortc.rtcsctptransport import DataChunk

from signaling.messages import Ping, Pong
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
