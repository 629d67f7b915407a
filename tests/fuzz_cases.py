"""What :mod:`tests.fuzz` sends: seeds, what is put into them, and how they are mutated."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import TypeVar

from hypothesis import strategies as st

from signaling.dialects.avatar import COMMANDS
from tests.avatar_rtc.outputs.test_offer import SHAPES

T = TypeVar("T")
ROOT = Path(__file__).parent.parent

EVENTS = [
    *re.findall(r"```json client\n(.*?)\n```", (ROOT / "docs" / "protocol.md").read_text(), re.DOTALL),
    '{"type":"response.create","input":"Great\\ud83d news.","mode":"append","more":true,"id":"r"}',
    '{"type":"session.update","image":"iVBORw0KGgoAAAANSUhEUgAA"}',
    '{"type":"ping","event_id":"e","t":1e300}',
    "Hello, nice to meet you.",
    "A man. <S>Good morning.<E> <AUDCAP>a deep voice<ENDAUDCAP>",
]
NASTY = ["\\ud83d", "\\ude00", "\\u0000", "\\\\", '"', "{", "}", "[", "]", ":", ",", "null", "true", "NaN", "-Infinity"]
NASTY += ["1e999", "-0.0", "9" * 400, "日本語", "\ufeff", "\ufffd", "\x00", "\u2028", " ", "\n", "x" * 3000, "[" * 2000]
NASTY += ["<S>", "<E>", "<AUDCAP>", '"event_id":"\\ud83d",', '"id":"r",', '"mode":"append",', '"more":true,', '"input":"",']
NASTY_SDP = ["\r\n", "\n", " ", ":", "/", "=", "-1", "0", "255", "9" * 40, "\x00", "ü", "\ufffd"]
NASTY_SDP += [
    f"{line}\r\n"
    for line in (
        "m=audio 9 UDP/TLS/RTP/SAVPF 111",
        "m=video 0 UDP/TLS/RTP/SAVPF 96",
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
        *("a=mid:0", "a=mid", "a=sendonly", "a=inactive", "a=fmtp:98 apt=97", "a=group:BUNDLE 0 1", "a=max-message-size:-1"),
        *("a=sctp-port:99999999", "a=setup:holdconn", "a=ice-lite", "a=rtcp-fb:* nack", "a=extmap:1/sendonly x"),
    )
]


OFFERS = [(ROOT / "tests" / "data" / "chromium_offer.sdp").read_bytes().decode(), *(text for text, _, _ in SHAPES.values())]
FRAGMENTS = [
    "a=ice-ufrag:{ufrag}\r\na=ice-pwd:zyxwvutsrqponmlkjihgfe\r\nm=video 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n"
    "a=candidate:1 1 udp 2130706431 127.0.0.1 40000 typ host\r\na=candidate:2 1 udp 1694498815 127.0.0.2 40001 typ srflx raddr "
    "127.0.0.1 rport 40000\r\na=end-of-candidates\r\n",
    "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:1\r\na=candidate:3 1 tcp 1518280447 127.0.0.1 9 typ host tcptype active generation 0 "
    "ufrag {ufrag} network-id 1\r\n",
    "a=candidate:4 1 UDP 1 127.0.0.9 1 typ relay raddr 127.0.0.1 rport 1\r\n",
    "a=ice-options:trickle\r\na=candidate:5 1 udp 2122260223 5b1c2f4e-0000-4000-8000-000000000000.local 50000 typ host\r\n",
]
JSON, SDP, ICE = "application/json", "application/sdp", "application/trickle-ice-sdpfrag"
FORM = "multipart/form-data; boundary=b"
ROUTES = [
    *(("POST", target, SDP) for target in ("/whep", "/whep/?avatar=maya&voice=clara", "/whep?session={id}&after=3&role=watch")),
    *(("PATCH", "/whep/{id}", ICE), ("DELETE", "/whep/{id}", ""), ("OPTIONS", "/whep", ""), ("POST", "/v1/tokens", JSON)),
    *(("POST", "/v1/sessions", JSON), ("GET", "/v1/sessions", ""), ("DELETE", "/v1/sessions/{id}", "")),
    *(("POST", "/v1/sessions/{id}/events", JSON), ("POST", "/v1/sessions/{id}/outputs", JSON)),
    *(("POST", "/v1/realtime/calls", kind) for kind in (JSON, SDP, FORM)),
    *(("POST", "/start", JSON), ("POST", "/api/offer", JSON), ("PATCH", "/api/offer", JSON)),
    *(("POST", "/v1/realtime/client_secrets", JSON), ("GET", "/v1/realtime?call_id={id}", "")),
    *(
        ("GET", f"/v1/sessions/{{id}}{rest}", "")
        for rest in ("", "/stats", "/events", "/events?after=0", "/outputs/0123456789abcdef")
    ),
    ("DELETE", "/v1/sessions/{id}/outputs/0123456789abcdef", ""),
    ("GET", "/v1/sessions/{id}/recordings/{id}-20261129T120301.123Z.webm", ""),
    *(
        ("GET", target, "")
        for target in ("/v1/avatars", "/v1/models", "/livez", "/readyz", "/metrics", "/", "/app.js", "/looks/ava.webp")
    ),
]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
NASTY_TARGETS = [
    "/",
    "//",
    "/..",
    "%2e%2e%2f",
    "%00",
    "%",
    "%ff",
    "?",
    "&",
    "=",
    "#",
    ";",
    ":",
    "@",
    "é",
    "*",
    "{id}",
    "x" * 3000,
]
NASTY_TARGETS += ["after=-1", "after=9" + "9" * 5000, "session=", "role=", "avatar=", "http://127.0.0.1:1/"]
HEADERS = {
    "Content-Type": [JSON, SDP, ICE, "text/plain; charset=utf-16", "x"],
    "If-Match": ["*", '"x"', 'W/"x", "y"'],
    "Last-Event-ID": ["0", "3", "-1", "9" * 5000],
    "Authorization": ["Bearer x", "Basic dTpw", "Bearer"],
    "Range": ["bytes=0-", "bytes=-1", "bytes=9-1", "lines=1"],
    "Origin": ["null", "https://a.example"],
    "Content-Encoding": ["gzip", "deflate", "br"],
    "Expect": ["100-continue", "x"],
    "Accept": ["text/event-stream", "*/*"],
    "If-Modified-Since": ["Sun, 29 Nov 2026 12:00:00 GMT", "x"],
    "X-Forwarded-For": ["127.0.0.1", "x"],
}
BODIES = [
    '{"avatar": "maya", "voice": "clara", "name": "lobby", "idle_s": 60}',
    '{"scene": "A man in a library.", "voice": "a deep voice", "outputs": [{"type": "recording"}]}',
    '{"type": "recording"}',
    '{"type": "whip", "url": "ftp:/x", "token": "t"}',
    '{"scopes": ["call", "speak"], "ttl_s": 600, "name": "alice"}',
    '{"scopes": ["watch"], "session": "{id}"}',
    '{"sdp": "v=0", "session": {"avatar": {"look": "maya"}}, "expires_after": {"anchor": "created_at", "seconds": 60}}',
    '{"sdp": "v=0", "type": "offer", "pc_id": "{id}", "restart_pc": true, "requestData": {"avatar": "maya"}}',
    '{"pc_id": "{id}", "candidates": [{"candidate": "candidate:1 1 udp 1 127.0.0.1 5000 typ host", "sdp_mid": "0"}]}',
    '--b\r\nContent-Disposition: form-data; name="sdp"\r\n\r\nv=0\r\n--b\r\nContent-Disposition: form-data; name="session"\r\n'
    "Content-Type: application/json\r\n\r\n{}\r\n--b--\r\n",
]


def mutated(seeds: list[str], pieces: list[str]) -> st.SearchStrategy[str]:
    """A seed after up to eight edits."""
    piece = st.one_of(st.sampled_from(pieces), st.text(max_size=6))
    edit = st.tuples(
        st.sampled_from(["insert", "replace", "delete", "double", "swap"]), st.floats(0, 1), st.integers(1, 60), piece
    )

    def apply(seed: str, edits: list[tuple[str, float, int, str]]) -> str:
        for kind, where, length, put in edits:
            at = int(where * len(seed))
            before, part, after = seed[:at], seed[at : at + length], seed[at + length :]
            changed = {"insert": put + part, "replace": put, "delete": "", "double": part + part, "swap": part[::-1]}[kind]
            seed = before + changed + after
        return seed

    return st.builds(apply, st.sampled_from(seeds), st.lists(edit, max_size=8))


def mutated_lines(seeds: list[str]) -> st.SearchStrategy[str]:
    """A seed whose lines are lost, doubled, or elsewhere."""

    def apply(seed: str, edits: list[tuple[str, float, float]]) -> str:
        lines = seed.splitlines()
        for kind, where, to in edits:
            if lines:
                line = lines.pop(int(where * (len(lines) - 1)))
                for _ in range({"lose": 0, "move": 1, "double": 2}[kind]):
                    lines.insert(int(to * len(lines)), line)
        return "\r\n".join(lines) + "\r\n"

    edit = st.tuples(st.sampled_from(["lose", "move", "double"]), st.floats(0, 1), st.floats(0, 1))
    return st.builds(apply, st.sampled_from(seeds), st.lists(edit, max_size=12))


def made_up_events() -> st.SearchStrategy[str]:
    """JSON with the names of our events and fields, and anything for values."""
    fields = sorted({field.name for command in COMMANDS.values() for field in dataclasses.fields(command)})
    text = st.one_of(
        st.text(st.characters(exclude_categories=()), max_size=20),
        st.sampled_from(["a\ud83d", "r", "replace", "append", "clara"]),
    )
    number = st.one_of(st.integers(), st.floats(), st.sampled_from([10**400, -(10**400), 2**63, 10**4000 - 1]))
    value = st.one_of(text, number, st.booleans(), st.none(), st.lists(number, max_size=3))
    event = st.fixed_dictionaries({"type": st.sampled_from([*COMMANDS, "dance"])}, optional=dict.fromkeys(fields, value))
    return event.map(json.dumps)


def offers(of_aiortc: str) -> st.SearchStrategy[str]:
    seeds = [of_aiortc, *OFFERS]
    return st.one_of(mutated(seeds, NASTY_SDP), mutated_lines(seeds))


def fragments() -> st.SearchStrategy[str]:
    """Of trickle ICE (RFC 8840)."""
    return st.one_of(mutated(FRAGMENTS, NASTY_SDP), mutated_lines(FRAGMENTS))


def _mostly(right: list[T], wrong: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    return st.integers(0, 3).flatmap(lambda number: st.sampled_from(right) if number else wrong)


Request = tuple[str, str, list[tuple[str, str]], str]
"""Method, target, headers, body. In all of them ``{id}`` stands for a session that lives."""


def requests() -> st.SearchStrategy[Request]:
    """Of all routes, and of none; each part is mostly as it should be."""
    value = mutated([value for values in HEADERS.values() for value in values], NASTY)
    fitting = [(name, value) for name, values in HEADERS.items() for value in values]
    header = _mostly(fitting, st.tuples(st.sampled_from(list(HEADERS)), value))
    texts = mutated([*BODIES, *EVENTS], NASTY)
    bodies = {"": st.just(""), JSON: texts, FORM: texts, ICE: fragments(), SDP: mutated(OFFERS, NASTY_SDP)}

    def of(route: tuple[str, str, str]) -> st.SearchStrategy[Request]:
        method, target, kind = route
        headers = st.lists(header, max_size=2).map(lambda others: [("Content-Type", kind), *others] if kind else others)
        return st.tuples(
            _mostly([method], mutated(METHODS, ["", "\t", "é"])),
            _mostly([target], mutated([target], NASTY_TARGETS)),
            headers,
            bodies[kind],
        )

    return st.sampled_from(ROUTES).flatmap(of)
