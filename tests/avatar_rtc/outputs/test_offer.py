"""What becomes of offers that are written otherwise: the plan, calls of two real peers by it, and what the server answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
import pytest
from aiortc import MediaStreamTrack, RTCBundlePolicy, RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack, VideoStreamTrack
from aiortc.sdp import SessionDescription
from yarl import URL

from avatar_rtc.outputs.offer import MediaPlan, plan_media, read_candidate
from signaling.errors import Unprocessable
from tests.support.calls import serving

CODECS = ("VP8", "H264")
TRANSPORT = ("a=ice-ufrag:", "a=ice-pwd:", "a=fingerprint:", "a=setup:", "a=rtcp-mux", "a=candidate:", "a=end-of-candidates")
HASH = ":".join(["AB"] * 32)


def section(kind: str, mid: str, *lines: str, port: int = 9, transport: bool = True) -> str:
    """A section of the base offer: VP8 as 96, Opus as 111, or a data channel."""
    head = {
        "video": (f"m=video {port} UDP/TLS/RTP/SAVPF 96", "a=rtpmap:96 VP8/90000"),
        "audio": (f"m=audio {port} UDP/TLS/RTP/SAVPF 111", "a=rtpmap:111 opus/48000/2"),
        "application": (f"m=application {port} UDP/DTLS/SCTP webrtc-datachannel", "a=sctp-port:5000"),
    }[kind]
    attributes = [f"a=mid:{mid}"] if mid else []
    attributes += [] if kind == "application" else ["a=recvonly"]
    if transport:
        attributes += ["a=ice-ufrag:abcd", "a=ice-pwd:abcdefghijklmnopqrstuv", f"a=fingerprint:sha-256 {HASH}", "a=setup:actpass"]
        attributes += [] if kind == "application" else ["a=rtcp-mux"]
    return "\r\n".join([*head, *attributes, *lines, ""])


def offer(*sections: str, bundle: str | None = "0 1 2", session: str = "") -> str:
    group = "" if bundle is None else f"a=group:BUNDLE {bundle}\r\n"
    return f"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n{group}{session}" + "".join(sections)


def outline(plan: MediaPlan) -> tuple[list[str], str]:
    """The sections of the answer, and its group, as aiortc would make them."""
    answer = SessionDescription.parse(plan.answer(plan.sdp))
    group = " ".join(str(mid) for mid in answer.group[0].items) if answer.group else ""
    outlines = []
    for media in answer.media:
        state = 0 if not media.port else "held" if media.direction == "inactive" else "live"
        outlines.append(f"{media.kind} {state} {media.rtp.muxId}".strip())
    return outlines, group


VIDEO, AUDIO, DATA = section("video", "0"), section("audio", "1"), section("application", "2")
LIVE = ["video live 0", "audio live 1", "application live 2"]
VP9 = section("video", "3").replace("VP8", "VP9")
PCMU = section("audio", "1").replace("opus/48000/2", "PCMU/8000")

SHAPES: dict[str, tuple[str, list[str], str]] = {
    "as browsers offer": (offer(VIDEO, AUDIO, DATA), LIVE, "0 1 2"),
    "bundled only, without a transport": (
        offer(
            VIDEO,
            section("audio", "1", "a=bundle-only", port=0, transport=False),
            section("application", "2", "a=bundle-only", port=0, transport=False),
        ),
        LIVE,
        "0 1 2",
    ),
    "bundled only, the first one of no use": (
        offer(VP9, section("audio", "1", "a=bundle-only", port=0, transport=False), bundle="3 1"),
        ["video held 3", "audio live 1"],
        "3 1",
    ),
    "no directions": (offer(VIDEO, AUDIO, DATA).replace("a=recvonly\r\n", ""), LIVE, "0 1 2"),
    "a direction of the session": (
        offer(VIDEO, AUDIO, DATA, session="a=inactive\r\n").replace("a=recvonly\r\n", "", 1),
        ["video held 0", *LIVE[1:]],
        "0 1 2",
    ),
    "a format that nothing describes": (
        offer(VIDEO, AUDIO.replace("SAVPF 111", "SAVPF 111 101") + "a=fmtp:101 0-15\r\na=rtcp-fb:101 nack\r\n", DATA),
        LIVE,
        "0 1 2",
    ),
    "a section of another kind": (
        offer(VIDEO, AUDIO, DATA, "m=text 9 UDP/TLS/RTP/SAVPF 100\r\na=mid:3\r\na=inactive\r\na=rtpmap:x\r\n", bundle="0 1 2 3"),
        [*LIVE, "text 0 3"],
        "0 1 2",
    ),
    "a section without a common codec": (offer(VIDEO, AUDIO, DATA, VP9, bundle="0 1 2 3"), [*LIVE, "video 0 3"], "0 1 2"),
    "sound that is not possible": (offer(VIDEO, PCMU, DATA), ["video live 0", "audio 0 1", "application live 2"], "0 2"),
    "the second section of its kind is the one": (
        offer(PCMU.replace("recvonly", "inactive"), section("audio", "2"), bundle="1 2"),
        ["audio held 1", "audio live 2"],
        "1 2",
    ),
    "two of a kind": (offer(VIDEO, section("video", "3"), bundle="0 3"), ["video live 0", "video 0 3"], "0"),
    "two for data": (
        offer(VIDEO, DATA, section("application", "3"), bundle="3 0 2"),
        ["video live 0", "application live 2", "application 0 3"],
        "0 2",
    ),
    "switched off": (
        offer(VIDEO, section("audio", "1", port=0), DATA, bundle="0 2"),
        ["video live 0", "audio 0 1", "application live 2"],
        "0 2",
    ),
    "switched off, events": (
        offer(VIDEO, AUDIO, section("application", "2", port=0), bundle="0 1"),
        [*LIVE[:2], "application 0 2"],
        "0 1",
    ),
    "events first": (offer(DATA, VIDEO, AUDIO, bundle="2 0 1"), [LIVE[2], *LIVE[:2]], "2 0 1"),
    "events outside of the bundle": (offer(VIDEO, AUDIO, DATA, bundle="0 1"), [*LIVE[:2], "application 0 2"], "0 1"),
    "no bundle, one section": (offer(VIDEO, bundle=None), ["video live 0"], ""),
    "no bundle, no mid": (
        offer(section("audio", ""), PCMU.replace("a=mid:1\r\n", ""), bundle=None),
        ["audio live", "audio 0"],
        "",
    ),
    "all of the transport at session level": (
        offer(
            *(
                section(kind, mid, transport=False) + ("" if kind == "application" else "a=rtcp-mux\r\n")
                for kind, mid in (("video", "0"), ("audio", "1"), ("application", "2"))
            ),
            session=f"a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\na=setup:active\r\na=fingerprint:SHA-256 {HASH}\r\n",
        ),
        LIVE,
        "0 1 2",
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_each_section_is_answered_in_its_place(shape: str) -> None:
    text, sections, group = SHAPES[shape]
    plan = plan_media(text, CODECS)
    assert outline(plan) == (sections, group)
    # One transport, and what has a track of ours comes first: aiortc stops it otherwise.
    given = SessionDescription.parse(plan.sdp)
    assert [media.kind for media in given.media][: len(plan.tracks)] == [track.kind for track in plan.tracks]
    assert {media.ice.usernameFragment for media in given.media} == {"abcd"}
    assert all(media.dtls.fingerprints and media.host is None for media in given.media)


H264_SPELLINGS = {
    "blanks": ("level-asymmetry-allowed=1; packetization-mode=1; profile-level-id=42e01f", True),
    "no profile": ("packetization-mode=1", True),
    "another baseline": ("packetization-mode=1;profile-level-id=42001f", True),
    "capitals": ("packetization-mode=1;profile-level-id=42E01F", True),
    "main": ("packetization-mode=1;profile-level-id=4d001f", False),
    "high": ("packetization-mode=1;profile-level-id=640c1f", False),
    "mode 0": ("packetization-mode=0;profile-level-id=42e01f", False),
    "no profile that there is": ("packetization-mode=1;profile-level-id=zzz", False),
    "nothing": ("", False),
}


@pytest.mark.parametrize("spelling", H264_SPELLINGS)
def test_h264_in_any_spelling(spelling: str) -> None:
    parameters, possible = H264_SPELLINGS[spelling]
    h264 = VIDEO.replace("VP8", "H264") + (f"a=fmtp:96 {parameters}\r\n" if parameters else "")
    if possible:
        (track,) = plan_media(offer(h264, bundle="0"), CODECS).tracks
        assert track.codecs[0].mimeType == "video/H264"
        return
    with pytest.raises(
        Unprocessable, match=r"Section 1 \(video\) has H264.*offer VP8 or H264 .*profile-level-id=42e01f.*mode=1"
    ) as caught:
        plan_media(offer(h264, bundle="0"), CODECS)
    assert caught.value.code == "no_common_codec"
    assert [track.kind for track in plan_media(offer(h264, AUDIO, bundle="0 1"), CODECS).tracks] == ["audio"]


def test_the_order_of_the_media_line_counts() -> None:
    h264 = "a=fmtp:{0} packetization-mode=1;profile-level-id={1}\r\na=rtpmap:{0} H264/90000\r\n"
    lines = h264.format(97, "4d001f") + h264.format(98, "42e01f") + "a=fmtp:99 apt=96\r\na=rtpmap:99 rtx/90000\r\n"
    several = VIDEO.replace("SAVPF 96", "SAVPF 97 98 99 96").replace("VP8", "vp8") + lines

    def names(text: str, allowed: Sequence[str] = CODECS) -> list[str]:
        return [codec.mimeType for codec in plan_media(offer(text, bundle="0"), allowed).tracks[0].codecs]

    assert names(several) == ["video/H264", "video/VP8", "video/rtx"]
    assert names(several, ["VP8"]) == ["video/VP8", "video/rtx"]
    assert names(several.replace("97 98 99 96", "96 97")) == ["video/VP8"], "the others are not offered"


REFUSED: dict[str, tuple[str, str]] = {
    "nothing to send": (
        offer(VIDEO.replace("recvonly", "sendonly"), AUDIO.replace("recvonly", "inactive"), DATA),
        "nothing_to_send",
    ),
    "only data": (offer(DATA, bundle="2"), "nothing_to_send"),
    "all switched off": (offer(section("video", "0", port=0), bundle=None), "nothing_to_send"),
    "no codec": (offer(VP9, PCMU, bundle="3 1"), "no_common_codec"),
    "no bundle": (offer(VIDEO, AUDIO, bundle=None), "no_bundle"),
    "no bundle, and no mids": (offer(section("video", ""), section("audio", ""), bundle=None), "no_bundle"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_served_says_why(what: str) -> None:
    text, code = REFUSED[what]
    with pytest.raises(Unprocessable) as caught:
        plan_media(text, CODECS)
    assert caught.value.code == code
    if code == "no_common_codec":
        assert "Section 1 (video) has VP9" in caught.value.detail
        assert "Section 2 (audio) has PCMU; offer Opus (opus/48000/2)." in caught.value.detail


UNREADABLE: dict[str, tuple[str, str]] = {
    "no text of this kind": ("Hello, nice to meet you.", "no media section"),
    "too many": (offer(*(section("audio", f"a{n}") for n in range(17)), bundle=None), "17 media sections"),
    "a mid twice": (offer(VIDEO, section("audio", "0")), "same a=mid"),
    "a bundle of nobody": (offer(VIDEO, bundle="0 7"), "bundle names '7'"),
    "no media line": (offer(VIDEO, "m=audio\r\n"), "'m=audio' is not 'm='"),
    "no port": (offer(VIDEO.replace(" 9 ", " ü ")), "is not 'm='"),
    "a forbidden payload type": (
        offer(VIDEO.replace("SAVPF 96", "SAVPF 72"), bundle="0"),
        "'m=video 9 UDP/TLS/RTP/SAVPF 72' .section 1, video",
    ),
    "a broken line": (offer(AUDIO + "a=extmap:1\r\n", bundle="1"), "'a=extmap:1' .section 1, audio"),
    "a broken format": (offer(AUDIO + "a=fmtp:111 minptime=x\r\n", bundle="1"), "'a=fmtp:111 minptime=x'"),
    "no user": (offer(VIDEO.replace("a=ice-ufrag:abcd\r\n", ""), bundle="0"), "no a=ice-ufrag and a=ice-pwd"),
    "no setup": (offer(VIDEO.replace("a=setup:actpass\r\n", ""), bundle="0"), "no a=setup"),
    "a setup that there is not": (offer(VIDEO.replace("actpass", "holdconn"), bundle="0"), "'a=setup:holdconn'"),
    "no fingerprint": (offer(VIDEO.replace(f"a=fingerprint:sha-256 {HASH}\r\n", ""), bundle="0"), "no a=fingerprint of sha-256"),
    "a weak fingerprint": (offer(VIDEO.replace("sha-256", "sha-1"), bundle="0"), "no a=fingerprint of sha-256"),
    "no rtcp-mux": (offer(VIDEO.replace("a=rtcp-mux\r\n", ""), bundle="0"), "no a=rtcp-mux"),
    "a port of events": (offer(VIDEO, DATA.replace("5000", "99999"), bundle="0 2"), "a=sctp-port:99999"),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_cannot_be_read_says_where(what: str) -> None:
    text, message = UNREADABLE[what]
    with pytest.raises(ValueError, match=message):
        plan_media(text, CODECS)


def test_candidates_that_lead_nowhere_are_passed_over() -> None:
    line = "1 1 udp 2113937151 {} 5000 typ host"
    for address in ("192.0.2.7", "2001:db8::7", "fe80::1%eth0"):
        candidate = read_candidate(line.format(address))
        assert candidate is not None
        assert candidate.ip == address
    for name in ("6c5a.local", "who.example.com", "localhost", "1.2.3.4.5"):
        assert read_candidate(line.format(name)) is None
    for broken in ("", "()", "1 1 udp x 192.0.2.7 5000 typ host", "1 1 udp 1 192.0.2.7 5000"):
        with pytest.raises(ValueError, match="no candidate: foundation"):
            read_candidate(broken)
    lines = [f"a=candidate:{line.format(address)}\r\n" for address in ("who.example.com", "192.0.2.7")]
    plan = plan_media(
        offer(VIDEO + "".join([*lines, "a=candidate:\r\n", "a=end-of-candidates\r\n"]), AUDIO, bundle="0 1"), CODECS
    )
    given = SessionDescription.parse(plan.sdp)
    for media in given.media:  # aiortc reads them from the last one
        assert [candidate.ip for candidate in media.ice_candidates] == ["192.0.2.7"]
    assert not any(media.ice_candidates_complete for media in given.media)
    assert plan.mids == {"0", "1", ""}


# -- two real peers -------------------------------------------------------------------------------------------------------------


async def answer(server: RTCPeerConnection, text: str) -> str:
    """What a session does with an offer."""
    plan = plan_media(text, CODECS)
    for track in plan.tracks:
        transceiver = server.addTransceiver(VideoStreamTrack() if track.kind == "video" else AudioStreamTrack(), "sendonly")
        transceiver.setCodecPreferences(list(track.codecs))
    await server.setRemoteDescription(RTCSessionDescription(plan.sdp, "offer"))
    await server.setLocalDescription(await server.createAnswer())
    return plan.answer(server.localDescription.sdp)


def without(text: str, *beginnings: str) -> str:
    return "\r\n".join([*(line for line in text.splitlines() if not line.startswith(beginnings)), ""])


def bundled_only(text: str) -> str:
    """All sections but the first one without a transport of their own."""
    first, *others = text.replace("\r\nm=", "\r\n\0m=").split("\0")[1:]
    session = text[: text.index("m=")]
    changed = []
    for other in others:
        kind, _, *rest = without(other, *TRANSPORT).split(" ")
        changed.append(" ".join([kind, "0", *rest]) + "a=bundle-only\r\n")
    return session + first + "".join(changed)


CALLS: dict[str, tuple[dict[str, Any], Callable[[str], str]]] = {
    "as it is": ({}, lambda text: text),
    "events first": ({"alwaysNegotiateDataChannels": True}, lambda text: text),
    "bundled only": ({}, bundled_only),
    "three hashes in capitals": ({}, lambda text: text.replace("fingerprint:sha", "fingerprint:SHA")),
    "one hash": ({}, lambda text: without(text, "a=fingerprint:sha-256", "a=fingerprint:sha-384")),
    "passive": ({}, lambda text: text.replace("a=setup:actpass", "a=setup:passive")),
    "no candidates, and no more of them": ({}, lambda text: without(text, "a=candidate:")),
}


@pytest.mark.parametrize("what", CALLS)
async def test_a_call_comes_about(what: str) -> None:
    options, change = CALLS[what]
    none: list[Any] = []
    client = RTCPeerConnection(RTCConfiguration(iceServers=none, **options))
    server = RTCPeerConnection(RTCConfiguration(iceServers=none, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
    heard: asyncio.Queue[str] = asyncio.Queue()
    try:
        tracks: list[MediaStreamTrack] = []
        client.on("track", tracks.append)

        def on_channel(channel: RTCDataChannel) -> None:
            channel.on("message", channel.send)

        server.on("datachannel", on_channel)
        for kind in ("video", "audio"):
            client.addTransceiver(kind, direction="recvonly")
        before = None if options else client.createDataChannel("events")
        await client.setLocalDescription(await client.createOffer())
        channel = before or client.createDataChannel("events")
        channel.on("message", heard.put_nowait)
        channel.on("open", lambda: channel.send("Hello."))
        assert client.localDescription.sdp.index("m=application") < client.localDescription.sdp.index("m=video") or not options
        text = await answer(server, change(client.localDescription.sdp))
        await client.setRemoteDescription(RTCSessionDescription(text, "answer"))
        async with asyncio.timeout(10):
            assert await heard.get() == "Hello."
            assert {track.kind for track in tracks} == {"video", "audio"}
            for track in tracks:
                await track.recv()
    finally:
        await client.close()
        await server.close()


# -- a real server --------------------------------------------------------------------------------------------------------------


async def test_no_offer_is_an_error_of_the_server() -> None:
    """Whatever is offered, the answer is one of the table, and a seat that was refused is free again."""
    offers = [(text, 201) for text, _, _ in SHAPES.values()]
    offers += [(text, 422) for text, _ in REFUSED.values()] + [(text, 400) for text, _ in UNREADABLE.values()]
    async with serving(limits={"max_sessions": 1}) as server, aiohttp.ClientSession() as http:
        for text, status in [*offers, (offer(VIDEO, AUDIO, DATA), 201)]:
            async with http.post(f"{server.address}/whep", data=text, headers={"Content-Type": "application/sdp"}) as response:
                assert response.status == status, await response.text()
                if status == 201:
                    async with http.delete(response.url.join(URL(response.headers["Location"]))) as ended:
                        assert ended.status == 200


async def test_a_client_that_says_little_of_its_addresses_connects() -> None:
    """No candidate in the offer and none trickled, and its If-Match one of some: what reaches us tells where it is."""
    async with serving() as server, aiohttp.ClientSession() as http:
        none: list[Any] = []
        client = RTCPeerConnection(RTCConfiguration(iceServers=none))
        try:
            client.addTransceiver("audio", direction="recvonly")
            frames: asyncio.Queue[Any] = asyncio.Queue()
            client.on("track", frames.put_nowait)
            await client.setLocalDescription(await client.createOffer())
            text = without(client.localDescription.sdp, "a=candidate:")
            async with http.post(f"{server.address}/whep/", data=text, headers={"Content-Type": "application/sdp"}) as response:
                assert response.status == 201, await response.text()
                resource, etag = response.url.join(URL(response.headers["Location"])), response.headers["ETag"]
                await client.setRemoteDescription(RTCSessionDescription(await response.text(), "answer"))
            headers = {"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": f'"old", W/{etag}'}
            fragments = [
                ("a=candidate:\r\n", 204, ""),
                ("a=candidate:1 1 udp 1 6c5a.local 5000 typ host\r\n", 204, ""),
                ("a=mid:0\r\na=candidate:1 1 tcp 1 192.0.2.7 9 typ host tcptype active\r\n", 204, ""),
                ("a=mid:0\r\na=candidate:1 1 udp 1 192.0.2.7 70000 typ host\r\n", 204, ""),
                ("a=mid:9\r\na=candidate:1 1 udp 1 192.0.2.7 5000 typ host\r\n", 204, ""),
                ("a=mid:0\r\na=candidate:1 1 udp\r\n", 400, "bad_ice_fragment"),
                ("a=ice-ufrag:other\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\n", 422, "ice_restart"),
            ]
            for body, status, code in fragments:
                async with http.patch(resource, data=body, headers=headers) as response:
                    assert (response.status, code) == (status, code and (await response.json(content_type=None))["code"]), body
            async with asyncio.timeout(10):
                track = await frames.get()
                await track.recv()
        finally:
            await client.close()
