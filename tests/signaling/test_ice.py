from __future__ import annotations

import pytest

from signaling.errors import BadRequest
from signaling.ice import IceFragment, IceServer, advertise, parse_fragment, turn_credentials


def test_fragment() -> None:
    text = (
        "a=ice-ufrag:abcd\r\na=ice-pwd:secret\r\nm=video 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n"
        "a=candidate:1 1 udp 2130706431 192.0.2.7 5000 typ host\r\na=end-of-candidates\r\n"
    )
    assert parse_fragment(text) == IceFragment(
        "abcd", "secret", (("0", "1 1 udp 2130706431 192.0.2.7 5000 typ host"),), complete=True
    )


def test_fragments_of_clients_that_take_it_easy() -> None:
    line = "1 1 udp 1 192.0.2.7 5000 typ host"
    media = "m=video 9 UDP/TLS/RTP/SAVPF 0\n"
    for text, mids in (
        (f"a=candidate:{line}", [""]),
        (f"{media}a=candidate:{line}\na=mid:0\n", ["0"]),
        (f"a=mid:0\na=candidate:{line}\na=mid:1\na=candidate:{line}\na=candidate:{line}", ["0", "1", "1"]),
        (f"{media}a=mid:0\na=candidate:{line}\n{media}a=candidate:{line}\na=mid:b", ["0", "b"]),
        (f"{media}a=candidate:{line}\n{media}a=mid:1\na=candidate:{line}", ["", "1"]),
    ):
        assert parse_fragment(text).candidates == tuple((mid, line) for mid in mids), text
    assert parse_fragment("a=mid:0\r\na=candidate:\r\n") == IceFragment(complete=True)


@pytest.mark.parametrize("text", ["", "hello", "a=mid:0\r\n"])
def test_what_is_no_fragment(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_fragment(text)
    assert caught.value.code == "bad_ice_fragment"


def test_link_headers_quote_credentials() -> None:
    server = IceServer(("turn:t.example:3478",), 'us"er', "pa\\ss")
    assert server.link_headers() == [
        '<turn:t.example:3478>; rel="ice-server"; username="us\\"er"; credential="pa\\\\ss"; credential-type="password"'
    ]
    assert IceServer(("stun:s.example",)).link_headers() == ['<stun:s.example>; rel="ice-server"']


def test_credentials_of_a_shared_secret() -> None:
    # printf 1700000000 | openssl dgst -sha1 -hmac north -binary | base64
    assert turn_credentials("north", 1_700_000_000) == ("1700000000", "CWyHi3zCeWqXBir9thl4m+iZPRY=")


def test_the_advertised_address_takes_the_place_of_host_addresses_of_its_family() -> None:
    sdp = (
        "v=0\r\nm=video 5000 UDP/TLS/RTP/SAVPF 96\r\n"
        "a=candidate:1 1 udp 1 10.0.0.2 5000 typ host\r\n"
        "a=candidate:2 1 udp 1 172.17.0.1 5001 typ host\r\n"
        "a=candidate:3 1 udp 1 fd00::2 5002 typ host\r\n"
        "a=candidate:4 1 udp 1 198.51.100.1 6000 typ relay raddr 0.0.0.0 rport 0\r\n"
    )
    lines = advertise(sdp, "203.0.113.9").splitlines()
    assert [line for line in lines if "candidate" in line] == [
        "a=candidate:1 1 udp 1 203.0.113.9 5000 typ host",
        "a=candidate:2 1 udp 1 203.0.113.9 5001 typ host",
        "a=candidate:4 1 udp 1 198.51.100.1 6000 typ relay raddr 0.0.0.0 rport 0",
    ]
