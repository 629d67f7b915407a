"""Offers that are no offers: a clear refusal, and the seat is free again."""

from __future__ import annotations

import re

import aiohttp
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection

from avatar_rtc.outputs.offer import has_address, read_offer
from tests.support.calls import serving

SDP = {"Content-Type": "application/sdp"}


async def make_offer() -> str:
    """Video as mid 0, audio as mid 1, events as mid 2."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    for kind in ("video", "audio"):
        peer.addTransceiver(kind, direction="recvonly")
    peer.createDataChannel("events")
    await peer.setLocalDescription(await peer.createOffer())
    await peer.close()
    return peer.localDescription.sdp


BROKEN = {
    "rtx without a codec": lambda sdp: re.sub(r"a=rtpmap:(\d+) rtx/90000\r\n", "", sdp),
    "the same mid twice": lambda sdp: sdp.replace("a=mid:1", "a=mid:0"),
    "a bundle of nobody": lambda sdp: sdp.replace("a=mid:0", "a=mid:7"),
    "a mid without a value": lambda sdp: sdp.replace("a=mid:1", "a=mid"),
    "no value of a fingerprint": lambda sdp: re.sub(r"a=fingerprint:.*\r\n", "a=fingerprint:\r\n", sdp),
    "no fingerprint in one section": lambda sdp: re.sub(r"(m=audio.*?\r\n)(a=fingerprint:.*?\r\n)+", r"\1", sdp, flags=re.DOTALL),
    "no sections": lambda sdp: sdp[: sdp.index("m=")],
    "many sections": lambda sdp: sdp + "".join(f"m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:x{n}\r\n" for n in range(16)),
    "a section of another kind, first in the bundle": lambda sdp: sdp.replace("m=video", "m=text"),
    "two sections for data, the second one first in the bundle": lambda sdp: (
        sdp.replace("BUNDLE 0", "BUNDLE 3 0") + sdp[sdp.index("m=application") :].replace("a=mid:2", "a=mid:3")
    ),
    "text": lambda sdp: "Hello, nice to meet you.",
    "two lines": lambda sdp: "m=video 9 UDP/TLS/RTP/SAVPF 97 98\r\na=fmtp:98 apt=97\r\n",
}


async def test_no_offer_is_an_error_of_the_server() -> None:
    offer = await make_offer()
    async with serving(limits={"max_sessions": 1}) as server, aiohttp.ClientSession() as http:
        for what, breaks in BROKEN.items():
            broken = breaks(offer)
            assert broken != offer, what
            async with http.post(f"{server.address}/whep", data=broken, headers=SDP) as response:
                problem = await response.json(content_type=None)
                assert (response.status, problem["code"]) == (400, "bad_sdp"), what
        async with http.post(f"{server.address}/whep", data=offer, headers=SDP) as response:
            assert response.status == 201, "the seat was given back"


async def test_a_direction_that_is_left_out_means_both_ways() -> None:
    offer = (await make_offer()).replace("a=recvonly\r\n", "")
    async with (
        serving() as server,
        aiohttp.ClientSession() as http,
        http.post(f"{server.address}/whep", data=offer, headers=SDP) as response,
    ):
        assert response.status == 201
        assert (await response.text()).count("a=sendonly") == 2


def test_names_are_not_looked_up() -> None:
    candidate = "1 1 udp 2113937151 {} 5000 typ host"
    for address in ("192.0.2.7", "2001:db8::7"):
        assert has_address(candidate.format(address))
    for name in ("6c5a.local", "who.example.com", "localhost", "1.2.3.4.5"):
        assert not has_address(candidate.format(name))
    lines = ["v=0", "a=fingerprint:sha-256 AB:CD", "a=setup:actpass", "m=audio 9 UDP/TLS/RTP/SAVPF 96", "a=mid:0", "a=recvonly"]
    lines += [f"a=candidate:{candidate.format(address)}" for address in ("who.example.com", "192.0.2.7")]
    sdp, offer = read_offer("\r\n".join([*lines, "a=end-of-candidates", ""]))
    assert [candidate.ip for candidate in offer.media[0].ice_candidates] == ["192.0.2.7"]
    assert "example" not in sdp


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ValueError, match="two of its sections have the same a=mid"):
        read_offer("v=0\r\n" + "m=audio 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\n" * 2)
