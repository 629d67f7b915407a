"""What a client offers, checked before the transport sees it: what it takes for granted and what it would stumble over."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from aiortc.sdp import DIRECTIONS, SessionDescription

MAX_SECTIONS = 16
"""Each may have sockets of its own."""
KINDS = ("video", "audio", "application")


def read_offer(text: str) -> tuple[str, SessionDescription]:
    """An SDP offer, as text that can be handed on, and parsed.

    Candidates with a name for an address are left out. A browser hides its addresses behind such names, which take multicast and
    seconds to resolve; others would be looked up wherever they lead. Checks that reach us reveal the addresses, so the claim that
    no further candidates come goes, too; the join timeout is the bound.

    Raises:
        ValueError: it cannot be used; the message says why. The parser raises others, on text that is no SDP.
    """
    sdp = "\r\n".join(_completed(text.splitlines())) + "\r\n"
    offer = SessionDescription.parse(sdp)
    mids = [media.rtp.muxId or "" for media in offer.media]
    if not mids:
        raise ValueError("it has no media section")
    if len(mids) > MAX_SECTIONS:
        raise ValueError(f"it has {len(mids)} media sections, and {MAX_SECTIONS} are the most")
    kinds = [media.kind for media in offer.media]
    other = next((kind for kind in kinds if kind not in KINDS), None)
    if other is not None:
        raise ValueError(f"one of its sections is of {other!r:.40}, and {', '.join(KINDS)} can be answered")
    if kinds.count("application") > 1:
        raise ValueError("two of its sections are for data channels")
    if len(set(mids)) < len(mids):
        raise ValueError("two of its sections have the same a=mid, or none")
    if not all(media.dtls and media.dtls.fingerprints for media in offer.media):
        raise ValueError("one of its sections has no a=fingerprint or no a=setup")
    for group in offer.group:
        unknown = [str(mid) for mid in group.items if str(mid) not in mids]
        if group.semantic == "BUNDLE" and unknown:
            raise ValueError(f"its bundle names {unknown[0]!r:.40}, but no section has that a=mid")
    return sdp, offer


def has_address(candidate: str) -> bool:
    """Whether a candidate, without ``a=candidate:``, gives a numeric address; one that is no candidate does as well."""
    fields = candidate.split()
    if len(fields) < 5:
        return True
    try:
        ipaddress.ip_address(fields[4])
    except ValueError:
        return False
    return True


def _completed(lines: list[str]) -> Iterator[str]:
    """The lines that count, with the direction where a media section leaves it out: both ways."""
    section: list[str] = []
    for line in [*lines, "m="]:
        if line.startswith("m="):
            yield from section
            if section and section[0].startswith("m=") and not any(line.removeprefix("a=") in DIRECTIONS for line in section):
                yield "a=sendrecv"
            section = []
        if line != "a=end-of-candidates" and not (line.startswith("a=candidate:") and not has_address(line[12:])):
            section.append(line)
