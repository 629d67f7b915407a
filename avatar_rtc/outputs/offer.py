"""What a client offers, and what becomes of it: which sections live, what the transport is given, and what is answered.

Any WHEP client may call, and each writes its offer otherwise. aiortc takes one kind of offer: every section complete, wanted, and
on one transport. So a plan is made of what was offered (JSEP, RFC 9429, section 5.3): aiortc is given the sections that live, as
it takes them, and its answer is put back into the order and the words of the offer.
"""

from __future__ import annotations

import copy
import ipaddress
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from aiortc import RTCIceCandidate, RTCIceParameters, RTCRtpCodecCapability, RTCRtpParameters, RTCRtpSender
from aiortc.codecs import CODECS, is_rtx
from aiortc.rtcdtlstransport import X509_DIGEST_ALGORITHMS
from aiortc.rtcpeerconnection import find_common_codecs
from aiortc.sdp import (
    DIRECTIONS,
    GroupDescription,
    MediaDescription,
    SessionDescription,
    candidate_from_sdp,
    grouplines,
    parse_attr,
)

from signaling.errors import Unprocessable

MAX_SECTIONS = 16
MEDIA = ("video", "audio")
DEFAULT_SCTP_PORT = 5000
"""RFC 8841, section 5."""
DISCARD_PORT = 9
CODEC_WORDS = {
    "VP8": "VP8",
    "H264": "H264 in constrained baseline (profile-level-id=42e01f) with packetization-mode=1",
    "opus": "Opus (opus/48000/2)",
}
_UNREADABLE = (AssertionError, AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError)
"""What aiortc's parser raises of a line that it cannot read."""


@dataclass(frozen=True)
class TrackPlan:
    """A section that gets one of our tracks.

    Attributes:
        kind: ``video`` or ``audio``.
        codecs: to prefer, in the client's order.
        may_send: the client offers to send something in it, too.
    """

    kind: str
    mid: str
    codecs: tuple[RTCRtpCodecCapability, ...]
    may_send: bool


@dataclass(frozen=True)
class MediaPlan:
    """What becomes of an offer.

    Attributes:
        sdp: an offer of the sections that live, on one transport, for aiortc: those with a track in the order of ``tracks``, then
            that of the data channels.
        tracks: one of each kind at most, at least one in all.
        transport_mid: of the section that aiortc has the transport of.
        mids: whose candidates are of that transport; the empty one stands for a client that does not say.
        ice_ufrags: of the client; another one is of another ICE session.
    """

    sdp: str
    tracks: tuple[TrackPlan, ...]
    transport_mid: str
    mids: frozenset[str]
    ice_ufrags: frozenset[str]
    _offered: tuple[MediaDescription, ...]
    _live: tuple[int, ...]
    _bundle: tuple[str, ...]

    def answer(self, sdp: str) -> str:
        """aiortc's answer to ``sdp``, as the answer to what was offered.

        Sections are in its order, those that do not live are rejected by port 0, and in the group is only what the client put
        there and lives. Media that come first there are inactive rather than rejected: they have the client's transport, and
        Chromium with max-bundle would lose all sections with it (RFC 9143 lets the next one take its place).
        """
        description = SessionDescription.parse(sdp)
        live = dict(zip(self._live, description.media, strict=True))
        for place, offered in enumerate(self._offered):
            is_first = self._bundle[:1] == (offered.rtp.muxId,) and offered.port and offered.kind in MEDIA
            if is_first and place not in live:
                live[place] = _inactive(offered, description.media[0])
        description.media = [live.get(place) or _rejected(offered) for place, offered in enumerate(self._offered)]
        for media, offered in zip(description.media, self._offered, strict=True):
            media.profile = offered.profile
        alive = {self._offered[place].rtp.muxId for place in live}
        description.group = _bundle_of([mid for mid in self._bundle if mid in alive])
        return str(description)


def plan_media(text: str, video_codecs: Collection[str]) -> MediaPlan:
    """Read an SDP offer and decide what becomes of each of its sections.

    The first section of a kind that can be served gets the track of its kind; others, what was switched off (port 0), what no
    track fits, and what is not in the bundle are rejected. Without a bundle only one section can live: there is one transport.

    Args:
        video_codecs: names that may be negotiated, such as ``VP8``.

    Raises:
        ValueError: it is no offer that can be read; the message says which line, or what is missing.
        signaling.errors.Unprocessable: it can, but nothing in it can be served; the message names what to offer.
    """
    session_lines, groups = grouplines(text)
    if not groups:
        raise ValueError("it has no media section")
    if len(groups) > MAX_SECTIONS:
        raise ValueError(f"it has {len(groups)} media sections, and {MAX_SECTIONS} are the most")
    offered = [_read_section(session_lines, lines, number) for number, lines in enumerate(groups, start=1)]
    mids = [media.rtp.muxId for media in offered]
    if any(mid and mids.count(mid) > 1 for mid in mids):
        raise ValueError("two of its sections have the same a=mid")
    bundle = _read_bundle(session_lines, mids)

    tracks, live = _choose(offered, bundle, video_codecs)
    if not bundle and len(live) > 1:
        raise Unprocessable(
            "The sections of the offer are not bundled, and there is one transport. Put them into one group, a=group:BUNDLE; "
            "in browsers and in GStreamer that is the bundle policy max-bundle.",
            code="no_bundle",
        )
    places = (*(live[kind] for kind in tracks), *([live["application"]] if "application" in live else []))
    by_mid = {media.rtp.muxId: media for media in offered}
    # The transport is that of the first in the bundle that lives; where that one is bundled only and has none of its own, of the
    # first that has one (RFC 9143, section 7).
    bundled = [by_mid[mid] for mid in bundle]
    alive = [offered[place] for place in places]
    owner = _with_transport([*(media for media in bundled if media in alive), *bundled] or alive)
    return MediaPlan(
        sdp=_offer_of(alive, owner),
        tracks=tuple(tracks.values()),
        transport_mid=alive[0].rtp.muxId,
        mids=frozenset([*bundle, *(media.rtp.muxId for media in alive), ""]),
        ice_ufrags=frozenset(ufrag for media in offered if media.ice and (ufrag := media.ice.usernameFragment)),
        _offered=tuple(offered),
        _live=places,
        _bundle=tuple(bundle),
    )


def _choose(
    offered: Sequence[MediaDescription], bundle: Sequence[str], video_codecs: Collection[str]
) -> tuple[dict[str, TrackPlan], dict[str, int]]:
    """The tracks by kind, and the places in the offer of what lives by kind.

    Raises:
        signaling.errors.Unprocessable: there would be no track.
    """
    tracks: dict[str, TrackPlan] = {}
    live: dict[str, int] = {}
    refused: list[str] = []
    for place, media in enumerate(offered):
        if media.port == 0 or (bundle and media.rtp.muxId not in bundle):
            continue
        if media.kind == "application":
            if media.profile == "DTLS/SCTP" or "webrtc-datachannel" in media.fmt:
                live.setdefault(media.kind, place)
        elif media.kind not in tracks and media.direction in ("recvonly", "sendrecv"):
            allowed = video_codecs if media.kind == "video" else ("opus",)
            codecs = _common_codecs(media, allowed)
            if codecs:
                live[media.kind] = place
                tracks[media.kind] = TrackPlan(media.kind, media.rtp.muxId, codecs, media.direction == "sendrecv")
            else:
                refused.append(_codecs_refused(place + 1, media, allowed))
    if not tracks:
        if refused:
            raise Unprocessable("No common codec. " + " ".join(refused), code="no_common_codec")
        raise Unprocessable(
            "The offer wants neither video nor audio. Offer recvonly audio and video sections, in one BUNDLE group.",
            code="nothing_to_send",
        )
    return tracks, live


def read_candidate(line: str) -> RTCIceCandidate | None:
    """A candidate, without ``a=candidate:``; None where there is no numeric address to connect to.

    A browser hides its addresses behind names, which take multicast and seconds to resolve; others would be looked up wherever
    they lead. Checks that reach us reveal the addresses.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        candidate = candidate_from_sdp(line)
    except _UNREADABLE:
        raise ValueError("it is no candidate: foundation, component, transport, priority, address, port, typ, type") from None
    try:
        ipaddress.ip_address(candidate.ip)
    except ValueError:
        return None
    return candidate


def _read_section(session_lines: Sequence[str], lines: Sequence[str], number: int) -> MediaDescription:
    """A section, with what it has of the session level. One that was switched off has port 0, one that is bundled only has not.

    Raises:
        ValueError: a line of it cannot be read.
    """
    fields = lines[0].removeprefix("m=").split()
    if len(fields) < 4 or not (fields[1].isascii() and fields[1].isdecimal()):
        raise ValueError(f"its line {lines[0]!r:.80} is not 'm=', a kind, a port, a protocol and formats")
    kind, port, profile, *formats = fields
    attributes = [parse_attr(line) for line in lines[1:] if line.startswith("a=")]
    names = {name for name, _ in attributes}
    switched_off = int(port) == 0 and "bundle-only" not in names
    if switched_off or kind not in (*MEDIA, "application"):
        # Nothing in it matters but where it stands and what it is called.
        media = MediaDescription(kind, 0, profile, formats)
        media.rtp.muxId = next((value or "" for name, value in attributes if name == "mid"), "")
        media.ice = RTCIceParameters()
        return media
    readable = _readable(lines)
    try:
        media = SessionDescription.parse("\r\n".join([*_of_transport(session_lines), *readable])).media[0]
    except _UNREADABLE:
        guilty = next(line for line in [lines[0], *_of_transport(session_lines), *readable] if not _parses(lines[0], line))
        raise ValueError(f"its line {guilty!r:.120} (section {number}, {kind}) cannot be read") from None
    media.port = DISCARD_PORT
    media.rtp.muxId = media.rtp.muxId or ""
    # The media line says which formats there are, and which is liked best; retransmission after all that it is of.
    media.rtp.codecs = sorted(
        (codec for codec in media.rtp.codecs if codec.payloadType in media.fmt),
        key=lambda codec: (is_rtx(codec), media.fmt.index(codec.payloadType)),
    )
    if kind == "application":
        media.direction = None
    elif media.direction is None:
        inherited = [line.removeprefix("a=") for line in session_lines if line.removeprefix("a=") in DIRECTIONS]
        media.direction = inherited[-1] if inherited else "sendrecv"
    return media


def _of_transport(session_lines: Sequence[str]) -> list[str]:
    """What sections have from the session level."""
    wanted = ("fingerprint", "ice-lite", "ice-options", "ice-pwd", "ice-ufrag", "setup")
    return [line for line in session_lines if line.startswith("a=") and parse_attr(line)[0] in wanted]


def _readable(lines: Sequence[str]) -> list[str]:
    """A section's lines without what does not matter and could not be read: of formats that nothing describes, of candidates that
    lead nowhere, and that there are no more of those. Blanks between the parameters of a format go."""
    payload_types = {(parse_attr(line)[1] or "").partition(" ")[0] for line in lines if line.startswith("a=rtpmap:")}
    kept = []
    for line in lines:
        name, value = parse_attr(line) if line.startswith("a=") else ("", None)
        payload_type, _, rest = (value or "").strip().partition(" ")
        if name == "fmtp":
            parameters = ";".join(part.strip() for part in rest.split(";") if part.strip())
            if payload_type not in payload_types or not parameters:
                continue
            line = f"a=fmtp:{payload_type} {parameters}"
        elif name == "rtcp-fb":
            if payload_type not in payload_types | {"*"} or not rest.strip():
                continue
        elif name == "candidate":
            try:
                if read_candidate(value or "") is None:
                    continue
            except ValueError:
                continue
        elif name in ("end-of-candidates", "ssrc", "ssrc-group", "msid", "rtcp") or (line.startswith("c=")):
            continue
        kept.append(line)
    return kept


def _parses(first: str, line: str) -> bool:
    rtpmap = f"a=rtpmap:{line[7:].partition(' ')[0]} x/1" if line.startswith("a=fmtp:") else ""
    try:
        SessionDescription.parse("\r\n".join([first, rtpmap, line] if line != first else [first]))
    except _UNREADABLE:
        return False
    return True


def _read_bundle(session_lines: Sequence[str], mids: Sequence[str]) -> list[str]:
    """The mids of the first BUNDLE group; none if there is no group."""
    for line in session_lines:
        name, value = parse_attr(line) if line.startswith("a=") else ("", None)
        semantics, *bundle = (value or "").split() or [""]
        if name == "group" and semantics == "BUNDLE":
            unknown = next((mid for mid in bundle if mid not in mids), None)
            if unknown is not None:
                raise ValueError(f"its bundle names {unknown!r:.40}, but no section has that a=mid")
            return list(dict.fromkeys(bundle))
    return []


def _common_codecs(media: MediaDescription, allowed: Collection[str]) -> tuple[RTCRtpCodecCapability, ...]:
    """What both sides can, in the client's order; with retransmission, where the client offers it."""
    common = find_common_codecs(CODECS[media.kind], media.rtp.codecs)
    capabilities = RTCRtpSender.getCapabilities(media.kind).codecs
    names = {name.lower() for name in allowed}
    wanted = [
        capability
        for codec in common
        if codec.name.lower() in names
        for capability in capabilities
        if (capability.mimeType, capability.parameters) == (codec.mimeType, codec.parameters)
    ]
    if wanted and any(is_rtx(codec) for codec in common):
        wanted += [capability for capability in capabilities if is_rtx(capability)]
    return tuple(wanted)


def _codecs_refused(number: int, media: MediaDescription, allowed: Collection[str]) -> str:
    names = dict.fromkeys(_in_words(codec) for codec in media.rtp.codecs if not is_rtx(codec))
    has = f"has {', '.join(names)}" if names else "names no codec in a=rtpmap"
    return f"Section {number} ({media.kind}) {has:.300}; offer {' or '.join(CODEC_WORDS[name] for name in allowed)}."


def _in_words(codec: object) -> str:
    name, parameters = getattr(codec, "name", ""), getattr(codec, "parameters", {})
    if name.lower() != "h264":
        return str(name)
    profile = parameters.get("profile-level-id", "none")
    return f"H264 (profile-level-id={profile}, packetization-mode={parameters.get('packetization-mode', '0')})"


def _with_transport(sections: Sequence[MediaDescription]) -> MediaDescription:
    """The first of the sections that has all that a transport needs.

    Raises:
        ValueError: none has; the message says what the first one lacks.
    """
    for media in sections:
        if not _lacks(media):
            return media
    raise ValueError(f"its section {sections[0].rtp.muxId!r:.40} has no {_lacks(sections[0])}")


def _lacks(media: MediaDescription) -> str:
    if not (media.ice and media.ice.usernameFragment and media.ice.password):
        return "a=ice-ufrag and a=ice-pwd"
    if media.dtls is None:
        return "a=setup"
    if not any(fingerprint.algorithm.lower() in X509_DIGEST_ALGORITHMS for fingerprint in media.dtls.fingerprints):
        return f"a=fingerprint of {' or '.join(X509_DIGEST_ALGORITHMS)}"
    return "a=rtcp-mux" if media.kind in MEDIA and not media.rtcp_mux else ""


def _offer_of(live: Sequence[MediaDescription], owner: MediaDescription) -> str:
    """An offer of these sections alone, each of them with the transport of ``owner``."""
    description = SessionDescription()
    description.origin = "- 0 0 IN IP4 127.0.0.1"
    for media in live:
        media = copy.copy(media)
        media.ice, media.dtls, media.ice_options = owner.ice, owner.dtls, owner.ice_options
        media.ice_candidates = owner.ice_candidates
        if media.kind == "application":
            media.sctp_port = DEFAULT_SCTP_PORT if media.sctp_port is None else media.sctp_port
            if not 0 < media.sctp_port < 1 << 16:
                raise ValueError(f"its a=sctp-port:{media.sctp_port} is no port")
        else:
            media.rtcp_mux, media.rtcp_port = True, DISCARD_PORT  # aiortc writes the one only beside the other
        description.media.append(media)
    description.group = _bundle_of([media.rtp.muxId for media in live])
    return str(description)


def _bundle_of(mids: Sequence[str]) -> list[GroupDescription]:
    return [GroupDescription("BUNDLE", [*mids])] if any(mids) else []


def _inactive(offered: MediaDescription, alive: MediaDescription) -> MediaDescription:
    """A section that lives, on the transport of another one, with the client's own formats, and of which nothing is sent."""
    media = copy.copy(alive)
    media.kind, media.fmt, media.direction = offered.kind, offered.fmt, "inactive"
    media.rtp = RTCRtpParameters(muxId=offered.rtp.muxId, codecs=offered.rtp.codecs)
    media.msid, media.ssrc, media.ssrc_group = None, [], []
    return media


def _rejected(offered: MediaDescription) -> MediaDescription:
    """A section that does not live, as the answer has it."""
    media = MediaDescription(offered.kind, 0, offered.profile, offered.fmt)
    media.rtp.muxId = offered.rtp.muxId
    media.ice = RTCIceParameters()
    media.host = "0.0.0.0"
    if offered.kind in MEDIA:
        media.direction = "inactive"
    return media
