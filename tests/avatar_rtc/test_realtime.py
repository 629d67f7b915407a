"""OpenAI's own library for Python, unmodified: calls and client secrets over HTTP, and the sideband of a call."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack
from openai import AsyncOpenAI, AuthenticationError, PermissionDeniedError, omit
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter
from websockets import Subprotocol
from websockets.exceptions import ConnectionClosed

from avatar_rtc.app import Server
from avatar_rtc.config import AuthConfig, LlmConfig, ToolConfig
from avatar_rtc.keys import add_key
from signaling import vocabulary as v
from testkit.chat_server import Stream, chat_server
from tests.support.calls import calling, make_config, serving

ROOT = Path(__file__).parent.parent.parent
SERVER_EVENTS: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
LINE = "Hello, nice to meet you."
LONG_LINE = "This line goes on for a while, so that there is time to stop it before its very last word is heard."


def library(server: Server, key: str = "none") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{server.address}/v1", api_key=key, max_retries=0)


class Browser:
    """A peer that offers what OpenAI's library for browsers does; with a picture, if so wanted."""

    def __init__(self, *, picture: bool) -> None:
        self.peer = RTCPeerConnection()
        self.events: list[dict[str, Any]] = []
        self.tracks: dict[str, MediaStreamTrack] = {}
        self.peer.createDataChannel("oai-events").on("message", lambda line: self.events.append(json.loads(line)))
        self.peer.addTrack(AudioStreamTrack())
        if picture:
            self.peer.addTransceiver("video", direction="recvonly")
        self.peer.on("track", lambda track: self.tracks.update({track.kind: track}))

    async def call(self, openai: AsyncOpenAI, **session: Any) -> str:
        """Returns the id of the call."""
        await self.peer.setLocalDescription(await self.peer.createOffer())
        wanted: Any = {"type": "realtime", **session} if session else omit
        create = openai.realtime.calls.with_raw_response.create
        answer = await create(sdp=self.peer.localDescription.sdp, session=wanted)
        assert answer.http_response.status_code == 201
        await self.peer.setRemoteDescription(RTCSessionDescription(answer.http_response.text, "answer"))
        return answer.headers["Location"].split("/")[-1]

    async def told(self, *kinds: str) -> None:
        """Wait until it was told events of all these types."""
        async with asyncio.timeout(20):
            while not {*kinds} <= {event["type"] for event in self.events}:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@asynccontextmanager
async def in_call(openai: AsyncOpenAI, *, picture: bool = True, **session: Any) -> AsyncIterator[tuple[Browser, str]]:
    browser = Browser(picture=picture)
    try:
        yield browser, await browser.call(openai, **session)
    finally:
        await browser.peer.close()


async def until(connection: AsyncRealtimeConnection, kind: str) -> list[Any]:
    """The events to the next one of this type, which fit the library's types."""
    events: list[Any] = []
    async with asyncio.timeout(20):
        while not events or events[-1].type != kind:
            line = await connection.recv_bytes()
            SERVER_EVENTS.validate_json(line)
            events.append(connection.parse_event(line))
    return events


async def ask(connection: AsyncRealtimeConnection, text: str) -> None:
    content: Any = [{"type": "input_text", "text": text}]
    await connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
    await connection.response.create()


async def test_a_program_drives_the_face_that_a_browser_watches() -> None:
    async with serving() as server, library(server) as openai, in_call(openai, avatar={"look": "adam"}) as (browser, call_id):
        async with openai.realtime.connect(call_id=call_id) as connection:
            (hello,) = await until(connection, "session.created")
            assert hello.session.avatar["mode"] == "verbatim"
            adam = next(avatar for avatar in server.registry.avatars()["avatars"] if avatar["id"] == "adam")
            assert hello.session.avatar["scene"] == adam["scene"]
            await ask(connection, LINE)
            events = await until(connection, "output_audio_buffer.stopped")
            deltas = [event.delta for event in events if event.type == "response.output_audio_transcript.delta"]
            assert "".join(deltas) == LINE
            (done,) = [event.response for event in events if event.type == "response.done"]
            assert (done.status, done.output[0].content[0].transcript) == ("completed", LINE)
            for kind in ("video", "audio"):
                async with asyncio.timeout(10):
                    await browser.tracks[kind].recv()
            await browser.told("session.created", "response.done")

            await ask(connection, LONG_LINE)
            await until(connection, "response.output_audio_transcript.delta")
            await connection.response.cancel()
            events = await until(connection, "response.done")
            assert events[-1].response.status == "cancelled"
            heard = events[-1].response.output[0].content[0].transcript
            assert LONG_LINE.startswith(heard)
            assert heard != LONG_LINE

            await connection.session.update(session={"type": "realtime", "audio": {"output": {"voice": "deep-male"}}})
            (updated,) = await until(connection, "session.updated")
            assert updated.session.audio.output.voice == next(
                voice["voice"] for voice in server.registry.avatars()["voices"] if voice["id"] == "deep-male"
            )
            await openai.realtime.calls.hangup(call_id)
            with pytest.raises(ConnectionClosed):
                await until(connection, "never")
        assert server.registry.num_sessions == 0


async def test_a_program_attends_a_session_however_its_viewers_have_come() -> None:
    async with serving() as server, calling(server) as call, library(server) as openai:
        async with openai.realtime.connect(call_id=call.session_id) as connection:
            await until(connection, "session.created")
            call.send(v.ResponseCreate(input=LINE, id="r", event_id="e"))
            events = await until(connection, "output_audio_buffer.stopped")
            assert {event.response.id for event in events if event.type == "response.done"} == {"r"}
            await ask(connection, LINE)
            await until(connection, "response.done")
        assert len(await call.wait_for(lambda: call.received(v.ResponseDone)[1:], 10, "the viewer is not told")) == 1


async def test_the_program_of_the_docs_speaks_in_a_call(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "realtime.md").read_text(), re.DOTALL)
    async with serving() as server, library(server) as openai, in_call(openai) as (_, call_id):
        await asyncio.to_thread(exec, program.replace("http://127.0.0.1:8080", server.address), {"call_id": call_id})
    assert capsys.readouterr().out == "Hello from Python."


async def test_a_tool_is_called_and_its_output_goes_into_the_answer() -> None:
    async def weather(stream: Stream) -> None:
        await stream.say("Let me see.")
        await stream.call("weather", {"city": "Oslo"}, "call-1")

    tool = ToolConfig(name="weather", description="The weather of a city.", parameters={"type": "object", "properties": {}})
    async with chat_server() as model:
        model.then(weather, "It rains.")
        config = make_config().model_copy(update={"llm": LlmConfig(base_url=model.base_url, model="m", tools=(tool,))})
        async with (
            serving(config=config) as server,
            library(server) as openai,
            in_call(openai, picture=False) as (browser, call_id),
            openai.realtime.connect(call_id=call_id) as connection,
        ):
            await ask(connection, "Does it rain in Oslo?")
            (call,) = (await until(connection, "response.done"))[-1].response.output
            assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "weather", {"city": "Oslo"})
            output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
            await connection.conversation.item.create(item=output)
            await connection.response.create()
            (item,) = (await until(connection, "response.done"))[-1].response.output
            assert item.content[0].transcript == "Let me see. It rains."
            assert model.messages(0)[-1] == ("user", "Does it rain in Oslo?")
            assert set(browser.tracks) == {"audio"}, "who asks for no picture is answered all the same"


async def test_a_client_secret_calls_for_a_browser_and_says_who_is_seen(tmp_path: Path) -> None:
    keys_file = tmp_path / "keys.yaml"
    key = add_key(keys_file, "web", ["call", "speak", "watch"])
    config = make_config().model_copy(update={"auth": AuthConfig(keys_file=keys_file)})
    async with serving(config=config) as server, library(server, key) as backend:
        session: Any = {"type": "realtime", "avatar": {"look": "adam"}, "audio": {"output": {"voice": "deep-male"}}}
        secret = await backend.realtime.client_secrets.create(
            session=session, expires_after={"anchor": "created_at", "seconds": 60}
        )
        assert secret.value.startswith("ek_")
        assert 0 < secret.expires_at - time.time() <= 60
        with pytest.raises(AuthenticationError, match="no API key of this server"):
            await library(server, "ek_guessed").realtime.calls.create(sdp="v=0")
        async with library(server, secret.value) as page, in_call(page) as (_, call_id):
            with pytest.raises(PermissionDeniedError, match="A token makes no tokens"):
                await page.realtime.client_secrets.create()
            async with page.realtime.connect(call_id=call_id) as connection:
                (hello,) = await until(connection, "session.created")
                voices = {voice["id"]: voice["voice"] for voice in server.registry.avatars()["voices"]}
                assert hello.session.audio.output.voice == voices["deep-male"]
                (adam,) = [avatar for avatar in server.registry.avatars()["avatars"] if avatar["id"] == "adam"]
                assert hello.session.avatar["scene"] == adam["scene"]
            # A page cannot send headers with a WebSocket, so its key comes among the subprotocols.
            protocols = [Subprotocol("realtime"), Subprotocol(f"openai-insecure-api-key.{secret.value}")]
            url = f"{server.address.replace('http', 'ws')}/v1/realtime?call_id={call_id}"
            async with websockets.connect(url, subprotocols=protocols) as socket:
                assert socket.subprotocol == "realtime"
                assert json.loads(await socket.recv())["type"] == "session.created"
