"""ICE as it appears on the wire: servers for clients, trickled fragments (RFC 8840), and candidates written into an answer."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import re
from dataclasses import dataclass, field

from signaling.errors import BadRequest


@dataclass(frozen=True)
class IceServer:
    """A STUN or TURN server that both sides may use."""

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = None

    def as_browsers_take_it(self) -> dict[str, object]:
        """An ``RTCIceServer``."""
        secrets = {"username": self.username, "credential": self.credential}
        return {"urls": list(self.urls), **{name: secret for name, secret in secrets.items() if secret is not None}}

    def link_headers(self) -> list[str]:
        """``Link`` header values of WHEP, one for each URL."""
        auth = ""
        if self.username is not None and self.credential is not None:
            auth = f'; username="{_quoted(self.username)}"; credential="{_quoted(self.credential)}"; credential-type="password"'
        return [f'<{url}>; rel="ice-server"{auth}' for url in self.urls]


def turn_credentials(secret: str, expires_s: int) -> tuple[str, str]:
    """Username and password for a TURN server that shares a secret with us, good until a time.

    The scheme of coturn's ``use-auth-secret`` (draft-uberti-behave-turn-rest-00, section 2.2).

    Args:
        expires_s: seconds since 1970.
    """
    username = str(expires_s)
    return username, base64.b64encode(hmac.digest(secret.encode(), username.encode(), "sha1")).decode()


@dataclass(frozen=True)
class IceFragment:
    """A body of type ``application/trickle-ice-sdpfrag``.

    Attributes:
        ufrag, password: ICE credentials of the client, where given.
        candidates: pairs of media id, empty where it is not said, and candidate line without ``a=candidate:``.
        complete: no further candidates follow.
    """

    ufrag: str | None = None
    password: str | None = None
    candidates: tuple[tuple[str, str], ...] = field(default=())
    complete: bool = False


def parse_fragment(text: str) -> IceFragment:
    """Parse an SDP fragment.

    ``a=mid`` counts for its whole section, wherever it stands there; candidates of a section without one have an empty media id.
    A candidate with nothing behind it means that no further ones follow.

    Raises:
        BadRequest: it holds a line that is no SDP, or nothing that matters.
    """
    ufrag = password = None
    mids = [""]
    candidates: list[tuple[int, str]] = []
    complete = False
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        if not re.match(r"^[a-z]=", line):
            raise BadRequest(f"Line {number} of the ICE fragment is not SDP: {line!r:.80}.", code="bad_ice_fragment")
        name, _, value = line.partition(":")
        value = value.strip()
        if line.startswith("m="):
            mids.append("")
        elif name == "a=ice-ufrag":
            ufrag = value
        elif name == "a=ice-pwd":
            password = value
        elif name == "a=mid":
            # Those that leave out the media line, too, tell sections apart by this one.
            if mids[-1]:
                mids.append(value)
            mids[-1] = value
        elif name == "a=end-of-candidates" or (name == "a=candidate" and not value):
            complete = True
        elif name == "a=candidate":
            candidates.append((len(mids) - 1, value))
    if not (candidates or complete or ufrag):
        raise BadRequest("The ICE fragment holds neither candidates nor a=end-of-candidates.", code="bad_ice_fragment")
    return IceFragment(ufrag, password, tuple((mids[section], candidate) for section, candidate in candidates), complete)


def advertise(sdp: str, address: str) -> str:
    """Put a public address in the place of the host addresses of an answer, ports kept, once for each port.

    For containers and one-to-one NAT, where the machine does not know its own public address.
    """
    family = ipaddress.ip_address(address).version
    lines: list[str] = []
    seen: set[tuple[int, str]] = set()
    section = 0
    for line in sdp.splitlines():
        section += line.startswith("m=")
        match = re.fullmatch(r"(a=candidate:\S+ \d+ \S+ \d+ )(\S+) (\d+) typ host(.*)", line)
        if match is None:
            lines.append(line)
            continue
        prefix, host, port, rest = match.groups()
        if ipaddress.ip_address(host).version == family and (section, port) not in seen:
            seen.add((section, port))
            lines.append(f"{prefix}{address} {port} typ host{rest}")
    return "\r\n".join(lines) + "\r\n"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
