"""What docs/protocol.md and README show is what the server does: each example is taken out of the document and run."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from avatar_rtc.mind.source import SPOKEN
from avatar_rtc.sessions.conversation import ENGINE_FAILED
from signaling.dialects.avatar import COMMANDS, EVENTS, dump, parse_command, parse_event
from signaling.vocabulary import Error, OutputUpdated, ResponseCreated, SessionUpdated
from tests.support.calls import calling, serving

ROOT = Path(__file__).parent.parent
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
README = (ROOT / "README.md").read_text()
TIMEOUT_S = 20
"""A safety net, not a measure."""


def examples(tag: str) -> list[str]:
    return re.findall(rf"```json {re.escape(tag)}\n(.*?)```", PROTOCOL, re.DOTALL)


def error_codes() -> set[str]:
    table = PROTOCOL.partition("### Error codes")[2]
    return set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))


@pytest.mark.parametrize("text", examples("client"))
def test_client_examples_are_events(text: str) -> None:
    shown = json.loads(text)
    if shown["type"] == "output_audio_buffer.clear":
        shown["type"] = "response.cancel"  # the same, by another name
    assert json.loads(dump(parse_command(text))).items() >= shown.items()


@pytest.mark.parametrize("text", examples("server"))
def test_server_examples_are_what_the_server_would_write(text: str) -> None:
    assert json.loads(dump(*parse_event(text))) == json.loads(text)


def test_every_event_and_field_has_an_example() -> None:
    for tag, types in (("client", COMMANDS), ("server", EVENTS)):
        shown: dict[str, set[str]] = {}
        for text in examples(tag):
            data = json.loads(text)
            shown.setdefault(data["type"], set()).update(data)
        assert set(shown) | {"output_audio_buffer.clear"} >= set(types)
        for name, fields in shown.items():
            unshown = {field.name for field in dataclasses.fields(types[name])} - fields - {"event_id"}
            if name != "output_audio_buffer.clear":
                assert not unshown, f"{name}: {unshown}"


def test_every_error_code_of_the_code_is_in_the_table() -> None:
    raised: set[str] = set()
    for path in (
        "signaling/dialects/avatar.py",
        "signaling/dialects/frames.py",
        "avatar_rtc/sessions/conversation.py",
        "avatar_rtc/sessions/performance.py",
        "avatar_rtc/sessions/session.py",
        "avatar_rtc/sessions/answering.py",
        "avatar_rtc/mind/mind.py",
        "avatar_rtc/ears/listener.py",
        "avatar_rtc/ears/transcriptions.py",
    ):
        source = (Path(__file__).parent.parent / path).read_text()
        raised |= set(re.findall(r'(?:EventError|RecognitionError)\(\s*"(\w+)"', source))
    raised |= set(SPOKEN)
    assert raised <= error_codes(), raised - error_codes()
    assert json.loads(next(text for text in examples("server") if "engine_failed" in text))["message"] == ENGINE_FAILED


async def test_client_examples_are_carried_out_in_a_call() -> None:
    async with serving() as server, calling(server) as call:
        hello = json.loads(dump(call.events[0][1]))
        assert set(hello) == set(json.loads(next(text for text in examples("server") if "session.created" in text)))
        for text in examples("client"):
            call.send(text)
        created = sum("response.create" in text for text in examples("client")) - 1  # one is the last piece of another
        await call.wait_for(lambda: len(call.received(ResponseCreated)) == created, TIMEOUT_S, "not all replies were created")
        await call.wait_for(lambda: len(call.received(SessionUpdated)) == 2, TIMEOUT_S, "session.updated is missing")
        await call.wait_for(lambda: len(call.received(Error)) >= 5, TIMEOUT_S, "what cannot be done is not refused")
        refused = [error.code for error in call.received(Error)]
        wanted = ["no_llm"] * 3 + ["bad_image", "no_llm"]
        assert refused == wanted, "what wants a language model, and a picture of which the end is missing"
        assert {type(event) for _, event in call.events} <= set(EVENTS.values())


def shape(value: Any) -> Any:
    """Keys and kinds of a JSON value; numbers are one kind, and null fits any."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return "number" if isinstance(value, int | float) else "text" if isinstance(value, str) else None


def differences(a: Any, b: Any) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        yield from (f"only once: {key}" for key in set(a) ^ set(b))
        for key in set(a) & set(b):
            yield from differences(a[key], b[key])
    elif isinstance(a, list) and isinstance(b, list):
        if a and b:
            yield from differences(a[0], b[0])
    elif a != b and None not in (a, b):
        yield f"{a} != {b}"


async def test_http_examples_have_the_shape_of_the_answers(tmp_path: Path) -> None:
    here = (ipaddress.ip_network("127.0.0.1"),)
    config: dict[str, Any] = {"limits": {"max_sessions": 1}, "recording": {"directory": tmp_path}, "whip": {"allow": here}}
    async with serving(**config) as server, calling(server) as call, aiohttp.ClientSession() as http:
        for path in ("/v1/avatars", "/v1/models", "/v1/capacity", "/v1/sessions/{id}/stats"):
            (example,) = examples(f"GET {path}")
            async with http.get(server.address + path.replace("{id}", call.session_id)) as response:
                assert response.status == 200
                assert not list(differences(shape(json.loads(example)), shape(await response.json())))
        output_path = "/v1/sessions/{id}/outputs"
        push = json.loads(examples(f"POST {output_path} (push)")[0]) | {"url": "http://127.0.0.1:9/whip"}  # nobody is there
        async with http.post(server.address + output_path.replace("{id}", call.session_id), json=push) as response:
            assert response.status == 201
            (example,) = examples(f"GET {output_path}/{{output}} (push)")
            assert not list(differences(shape(json.loads(example)), shape(await response.json())))
        (example,) = examples(f"POST {output_path}")
        async with http.post(server.address + output_path.replace("{id}", call.session_id), data=example) as response:
            assert response.status == 201
            url = server.address + response.headers["Location"]
        recording = lambda: [event for event in call.received(OutputUpdated) if event.kind == "recording"]  # noqa: E731
        await call.wait_for(recording, TIMEOUT_S, "nothing is recorded")
        (example,) = examples(f"GET {output_path}/{{output}}")
        async with http.get(url) as response:
            assert not list(differences(shape(json.loads(example)), shape(await response.json())))
        (example,) = examples("problem")
        headers = {"Content-Type": "application/sdp"}
        async with http.post(f"{server.address}/whep", data="v=0", headers=headers) as response:
            assert response.status == 503
            problem = await response.json(content_type="application/problem+json")
            assert set(problem) == set(json.loads(example))
            assert problem["code"] == json.loads(example)["code"]
        (example,) = examples("problem (waiting)")
        async with http.post(f"{server.address}/whep", data="v=0", headers={**headers, "Prefer": "wait=0"}) as response:
            assert not list(differences(shape(json.loads(example)), shape(await response.json(content_type=None))))


async def test_error_answers_of_the_table_for_offers() -> None:
    headers = {"Content-Type": "application/sdp"}
    audio = (
        "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\n"
        "a=recvonly\r\na=rtcp-mux\r\na=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\na=setup:actpass\r\n"
        "a=fingerprint:sha-256 " + ":".join(["00"] * 32) + "\r\na=rtpmap:0 PCMU/8000\r\n"
    )
    cases = [
        ("nonsense", "", 400, "bad_sdp"),
        ("v=0\r\nm=video x\r\n", "", 400, "bad_sdp"),
        (audio, "", 422, "no_common_codec"),
        (audio.replace("recvonly", "sendonly"), "", 422, "nothing_to_send"),
        (audio, "?avatar=nobody", 404, "unknown_avatar"),
    ]
    async with serving() as server, aiohttp.ClientSession() as http:
        for offer, query, status, code in cases:
            async with http.post(f"{server.address}/whep{query}", data=offer, headers=headers) as response:
                problem = await response.json(content_type="application/problem+json")
                assert (response.status, problem["code"]) == (status, code), offer[:40]
        async with calling(server) as call:
            await call.speak("Counted.")
        async with http.get(f"{server.address}/readyz") as response:
            assert response.status == 200
        async with http.get(f"{server.address}/metrics") as response:
            text = await response.text()
            assert 'avatar_rtc_admission_total{reason="no_common_codec",result="refused"} 1.0' in text
            assert 'avatar_rtc_seats{state="taken"} 0.0' in text
            assert 'avatar_rtc_replies_total{status="completed"} 1.0' in text
            assert 'avatar_rtc_session_end_total{reason="deleted"} 1.0' in text
            assert "avatar_rtc_keyframes_total 1.0" in text
            sent = re.search(r'avatar_rtc_frames_total\{result="sent"\} (\d+)', text)
            assert sent
            assert int(sent[1]) > 10


def test_the_readme_fits_on_two_screens() -> None:
    assert len(README.splitlines()) < 100


async def test_the_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, Any] = {}
    async with serving() as server:
        exec(code.replace("http://127.0.0.1:8080", server.address), names)
        await names["main"]()
    assert capsys.readouterr().out == "Hello, nice to meet you.\n"


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
async def test_the_shell_of_the_readme_runs() -> None:
    (block,) = re.findall(r"```sh\n(curl .*?)```", README, re.DOTALL)
    async with serving() as server, calling(server) as call:
        answers = []
        for line in block.splitlines():
            command = line.replace("http://127.0.0.1:8080", server.address).replace("$ID", call.resource.rpartition("/")[2])
            process = await asyncio.create_subprocess_shell(f"{command} --silent --fail", stdout=asyncio.subprocess.PIPE)
            answers.append(json.loads((await process.communicate())[0]))
        await call.wait_for(lambda: call.received(ResponseCreated), TIMEOUT_S, "nothing is said")
    assert answers[1]["id"] == call.session_id
