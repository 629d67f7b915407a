"""A headless client: it calls a server, says lines, and keeps when what of them was heard and seen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urljoin

import aiohttp
import av
import numpy as np
from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from avatar_rtc.errors import CallError, NotReadyError
from avatar_rtc.microphone import Microphone
from avatar_rtc.outputs.aiortc_patches import (
    be_patient,
    learn_clock,
    leave_undecoded,
    quicken_retransmission,
    read_all_that_came,
    take_what_waits,
)
from avatar_rtc.recording import Recorder
from signaling import vocabulary as v
from signaling.dialects import avatar as dialect
from signaling.dialects.frames import well_formed
from signaling.nodes import node_of

NOTHING_COMES = "the server answers, but nothing comes; UDP may be blocked"
JOIN_TIMEOUT_S = 15.0
START_PATIENCE_S = 180.0
"""How long a server is waited for that says its engine is starting."""
ABSENT_PATIENCE_S = 5.0
"""How long a server is waited for that does not answer: it may have been started a moment ago."""
ACCEPT_TIMEOUT_S = 10.0
LINE_TIMEOUT_S = 180.0
TURN_TIMEOUT_S = 15.0
REPEAT_EVERY_S = 1.0
PING_EVERY_S = 1.0
CLOSED = (
    "the connection was closed. The server took this client for gone, or went itself; its log says which. Where both are on one "
    "machine, it may be overloaded: 'avatar-rtc doctor' measures it"
)
SILENCE_S = 3.5
"""A server from which nothing has come for so long is gone."""
LISTEN_EVERY_S = 0.25
HANG_UP_TIMEOUT_S = 2.0
TAIL_S = 0.5
"""How long the bot stays after the last line: what was sent last has to arrive."""
LATE_S = 3.0
"""So much longer for a voice that was heard but has not come: events overtake media on a busy machine."""
VOICED_LEVEL = 300
"""Root mean square of 20 ms of sound, of 32767, from which on it counts as voiced."""
EVENT_LEAD_S = 0.1
"""By so much sound may come before the event that announces it."""


@dataclass
class Line:
    """What became of one line. Milliseconds count from sending it."""

    text: str
    status: str = ""
    heard_text: str = ""
    heard_ms: int = 0
    text_to_first_voiced_audio_ms: int | None = None
    text_to_first_speaking_frame_ms: int | None = None
    captions: list[dict[str, Any]] = field(default_factory=list)


class _Arrivals:
    """When what arrived: parallel lists of the media time (in the server's wall clock, NTP seconds less an offset) and ours."""

    def __init__(self, clock_hz: int) -> None:
        self.clock_hz = clock_hz
        self.ntp_at_zero_s: float | None = None
        self.pts: list[int] = []
        self.arrived_s: list[float] = []
        self.level: list[float] = []

    def add(self, pts: int, arrived_s: float, level: float = 0.0) -> None:
        self.pts.append(pts)
        self.arrived_s.append(arrived_s)
        self.level.append(level)

    def media_s(self, index: int) -> float:
        return (self.ntp_at_zero_s or 0.0) + self.pts[index] / self.clock_hz


class Call:
    """One call: connect, ``speak``, ``close``. Also the peer of the tests.

    Args:
        key: an API key, or a token, for a server that asks who calls.
        configuration: ICE servers and how they are used; without it no servers, so that nothing on the internet is asked.
        microphone: what the server hears, where it listens.
        wait_s: where all seats are taken, so long it waits for one.
        decodes: else what comes is received and thrown away, which costs less: captions and outcomes tell what was said, but
            nothing is recorded, or measured of how it looks and sounds.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        configuration: RTCConfiguration | None = None,
        *,
        microphone: Microphone | None = None,
        wait_s: int | None = None,
        decodes: bool = True,
    ) -> None:
        self._key = key
        self.decodes = decodes
        self._microphone = microphone
        self._wait_s = wait_s
        self.url = url if url.endswith("/") else url + "/"
        self.resource = ""
        self.session_id = self.etag = self._query = ""
        self.events: list[tuple[float, v.Event]] = []
        self.audio = _Arrivals(48_000)
        self.video = _Arrivals(90_000)
        self.size_px = (0, 0)
        self.answered_ms = 0
        self.join_ms = 0
        self.connected_ms = 0
        self.recorder: Recorder | None = None
        self.on_frame: Callable[[av.VideoFrame], None] | None = None
        self.on_sound: Callable[[av.AudioFrame], None] | None = None
        self.on_event: Callable[[v.Event], None] | None = None
        self.last_seq = 0
        self._http: aiohttp.ClientSession | None = None
        # No servers unless they are given: nothing on the internet is asked.
        self._configuration = configuration or RTCConfiguration(iceServers=[])
        self._new_peer()
        self._news = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._start_s = self._heard_s = 0.0
        self.lost = self._goodbye = ""

    def _new_peer(self) -> None:
        self.peer = RTCPeerConnection(self._configuration)
        self.channel: RTCDataChannel = self.peer.createDataChannel("events")

    async def resume(self) -> None:
        """Come back to the session after the connection was lost: what was said meanwhile was held, and goes on.

        Raises:
            CallError: it is over, or cannot be reached.
        """
        await self._change_peer()
        await self.connect(f"?session={self.session_id}&after={self.last_seq}")

    async def call_again(self) -> None:
        """Begin a new session, as the first one was begun. Raises as ``connect``."""
        self.session_id, self.last_seq = "", 0
        await self._change_peer()
        await self.connect(self._query)

    async def _change_peer(self) -> None:
        old, self.lost, self._goodbye = self.peer, "", ""
        self.audio, self.video = _Arrivals(48_000), _Arrivals(90_000)
        self._new_peer()
        await old.close()

    async def connect(self, query: str = "") -> None:
        """Join.

        Raises:
            NotReadyError: there is no server yet, or its engine is starting.
            CallError: the server cannot be reached or refuses, or no media come.
        """
        if not self.session_id:
            self._query = query
        if self._http is None:
            self._http = aiohttp.ClientSession(headers={"Authorization": f"Bearer {self._key}"} if self._key else None)
        peer, channel = self.peer, self.channel
        for kind in ("video", "audio"):
            sends = self._microphone if kind == "audio" else None
            transceiver = peer.addTransceiver(sends or kind, direction="sendrecv" if sends else "recvonly")
            arrivals = self.video if kind == "video" else self.audio
            self._learn_clock(transceiver.receiver, arrivals)
            if not self.decodes:
                leave_undecoded(transceiver.receiver, partial(self._on_piece, arrivals))
        channel.on("message", self._on_message)
        channel.on("open", lambda: self._run(self._live(channel)))
        self.peer.on("track", self._on_track)
        peer.on("connectionstatechange", lambda: self._on_connection(peer))
        await self.peer.setLocalDescription(await self.peer.createOffer())
        self._start_s = time.monotonic()
        answer = await self._post_offer(query)
        self.answered_ms = round((time.monotonic() - self._start_s) * 1000)
        await self.peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        for ice in {transceiver.receiver.transport.transport for transceiver in self.peer.getTransceivers()}:
            be_patient(ice.iceGatherer)
            take_what_waits(ice)
        assert self.peer.sctp is not None
        quicken_retransmission(self.peer.sctp)
        read_all_that_came(self.peer.sctp.transport)
        await self.wait_for(lambda: self.session_id and channel.readyState == "open", JOIN_TIMEOUT_S, NOTHING_COMES)
        await self.wait_for(lambda: self.video.pts, JOIN_TIMEOUT_S, "the call is up, but no picture came")

    async def _post_offer(self, query: str) -> str:
        assert self._http is not None
        headers = {"Content-Type": "application/sdp"}
        if self._wait_s is not None:
            headers["Prefer"] = f"wait={self._wait_s}"
        try:
            where = urljoin(self.url, "whep") + query
            async with self._http.post(where, data=self.peer.localDescription.sdp, headers=headers) as response:
                body = await response.text()
                if response.status != 201:
                    raise _refusal(self.url, response, body)
                self.resource = urljoin(str(response.url), response.headers["Location"])
                self.etag = response.headers.get("ETag", "")
                name = self.resource.rpartition("/")[2]
                if self.session_id and node_of(name) != node_of(self.session_id):
                    self.session_id = name  # the session is at another node now: this is its name there, should this try fail
                return body
        except aiohttp.ClientConnectorError as error:
            raise NotReadyError(_unreachable(self.url, error), ABSENT_PATIENCE_S) from None
        except aiohttp.ClientError as error:
            raise CallError(_unreachable(self.url, error)) from None

    async def wait_for(self, condition: Callable[[], Any], timeout_s: float, problem: str) -> Any:
        """Wait until an event, a picture or a sound makes ``condition`` true; returns its value.

        Raises:
            CallError: it did not within the time, or the call broke off.
        """
        try:
            async with asyncio.timeout(timeout_s), self._news:
                while not (value := condition()):
                    if self.lost:
                        raise CallError(f"the call broke off: {self.lost}")
                    await self._news.wait()
                return value
        except TimeoutError:
            raise CallError(f"{problem} (waited {timeout_s:.0f} s)") from None

    def send(self, event: v.Command | str) -> None:
        """An event, or any text frame.

        Raises:
            CallError: the call broke off.
        """
        if self.channel.readyState != "open":
            raise CallError(f"the call broke off: {self.lost or 'the data channel is closed'}")
        self.channel.send(well_formed(event if isinstance(event, str) else dialect.dump(event)))

    def received(self, kind: type[Any], reply_id: str | None = None) -> list[Any]:
        """All events of a type so far, of one reply if given."""
        events = [event for _, event in self.events if isinstance(event, kind)]
        return [event for event in events if reply_id is None or event.response_id == reply_id]

    async def speak(self, text: str, mode: v.Mode = "queue") -> Line:
        """Say a line and wait until it was heard.

        Raises:
            CallError: it was not accepted, or did not end.
        """
        sent_s = time.monotonic()
        reply_id = f"line-{sent_s:.6f}"
        event = v.ResponseCreate(event_id=reply_id, id=reply_id, input=text, mode=mode)
        deadline_s = sent_s + ACCEPT_TIMEOUT_S

        def outcome() -> list[Any]:
            errors = [error for error in self.received(v.Error) if error.event_id == reply_id]
            return self.received(v.ResponseCreated, reply_id) or errors

        while True:
            # Repeated until it is answered: the id makes that safe.
            self.send(event)
            try:
                await self.wait_for(outcome, REPEAT_EVERY_S, "no answer")
                break
            except CallError:
                if self.lost or time.monotonic() > deadline_s:
                    raise

        def ended() -> list[Any]:
            errors = [error for error in self.received(v.Error) if error.event_id == reply_id]
            return self.received(v.ResponseDone, reply_id) or errors

        (done, *_) = await self.wait_for(ended, LINE_TIMEOUT_S, "the line did not end")
        if isinstance(done, v.Error):
            raise CallError(f"{done.message} ({done.code})")
        return await _line(self, text, done, sent_s)

    async def ask(self, samples: np.ndarray) -> Line:
        """Say something into the microphone, in one turn, and wait until its answer was heard. Times count from its end.

        Args:
            samples: float32 [S] at 16 kHz.

        Raises:
            CallError: the server does not listen, has heard no words, or the answer failed or did not end.
        """
        if self._microphone is None or not any(created.listens for created in self.received(v.SessionCreated)):
            raise CallError(f"{self.url} does not listen: start it with 'avatar-rtc serve --listen', or set listen in its config")
        num_before = len(self._outcomes_of_turns())
        await self._microphone.say(samples)
        said_s = time.monotonic()
        outcomes = await self.wait_for(lambda: self._outcomes_of_turns()[num_before:], TURN_TIMEOUT_S, "no words were recognised")
        if isinstance(outcomes[0], v.InputTranscriptFailed):
            raise CallError(f"{outcomes[0].message} ({outcomes[0].code})")
        if isinstance(outcomes[0], v.InputTranscript):
            raise CallError("the server has heard somebody, but no words")
        item = outcomes[0]
        (done,) = await self.wait_for(lambda: self.received(v.ResponseDone, item.response_id), LINE_TIMEOUT_S, "no answer ended")
        return await _line(self, item.text, done, said_s)

    def _outcomes_of_turns(self) -> list[Any]:
        """Of turns that are over: what was said and is answered, or why that is not known."""
        wordless = [heard for heard in self.received(v.InputTranscript) if not heard.text]
        added = [item for item in self.received(v.ItemAdded) if item.item_id is not None]
        return [*self.received(v.InputTranscriptFailed), *wordless, *added]

    async def stats(self) -> dict[str, Any]:
        """The server's counters of this session; empty where it has none."""
        assert self._http is not None
        with contextlib.suppress(aiohttp.ClientError):
            async with self._http.get(urljoin(self.url, f"v1/sessions/{self.session_id}/stats")) as response:
                if response.status == 200:
                    stats: dict[str, Any] = await response.json()
                    return stats
        return {}

    async def packets_lost(self) -> int:
        report = await self.peer.getStats()
        return sum(max(0, stat.packetsLost) for stat in report.values() if stat.type == "inbound-rtp")

    async def close(self) -> None:
        """Hang up, with word to the server; idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._http is not None and not self._http.closed:
            if self.resource:
                limit = aiohttp.ClientTimeout(total=HANG_UP_TIMEOUT_S)
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with self._http.delete(self.resource, timeout=limit):
                        pass
            await self._http.close()
        await self.peer.close()
        if self.recorder is not None:
            await self.recorder.close()

    def _learn_clock(self, receiver: RTCRtpReceiver, arrivals: _Arrivals) -> None:
        """Take from sender reports at which wall time of the server a media time stamp lies."""

        def on_clock(ntp_at_zero_s: float) -> None:
            arrivals.ntp_at_zero_s = ntp_at_zero_s
            if self.recorder is not None:
                self.recorder.align("video" if arrivals is self.video else "audio", ntp_at_zero_s)

        learn_clock(receiver, arrivals.clock_hz, on_clock)

    def _on_track(self, track: MediaStreamTrack) -> None:
        self._run(self._watch(track) if track.kind == "video" else self._listen(track))

    async def _watch(self, track: MediaStreamTrack) -> None:
        async for frame, arrived_s in _frames(track):
            if not self.video.pts:
                self.join_ms = round((arrived_s - self._start_s) * 1000)
                self.size_px = (frame.width, frame.height)
            self._heard_s = arrived_s
            self.video.add(frame.pts, arrived_s)
            if self.on_frame is not None:
                self.on_frame(frame)
            if self.recorder is not None:
                self.recorder.add("video", frame)
            await self._tell()

    async def _listen(self, track: MediaStreamTrack) -> None:
        async for frame, arrived_s in _frames(track):
            samples = frame.to_ndarray().astype(np.float32)
            self._heard_s = arrived_s
            self.audio.add(frame.pts, arrived_s, float(np.sqrt(np.mean(samples**2))))
            if self.on_sound is not None:
                self.on_sound(frame)
            if self.recorder is not None:
                self.recorder.add("audio", frame)
            await self._tell()

    def _on_piece(self, arrivals: _Arrivals, pts: int) -> None:
        self._heard_s = time.monotonic()
        arrivals.add(pts, self._heard_s)
        if len(arrivals.pts) == 1:
            self._run(self._tell())

    def _on_message(self, message: str) -> None:
        event, seq = dialect.parse_event(message)
        if seq is not None:
            if seq <= self.last_seq:
                return  # it came over the connection before
            self.last_seq = seq
        self._heard_s = time.monotonic()
        self.events.append((self._heard_s, event))
        if isinstance(event, v.SessionCreated):
            self.session_id = event.session_id
            self.connected_ms = round((time.monotonic() - self._start_s) * 1000)
        elif isinstance(event, v.SessionClosing):
            self._goodbye = f"the server ends it ({event.reason})"  # in a moment, or in minutes: until then the call goes on
        if self.on_event is not None:
            self.on_event(event)
        self._run(self._tell())

    def _on_connection(self, peer: RTCPeerConnection) -> None:
        if peer is self.peer and peer.connectionState in ("failed", "closed"):
            self.lost = self.lost or self._goodbye or CLOSED
            self._run(self._tell())

    def _run(self, life: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(life)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def _live(self, channel: RTCDataChannel) -> None:
        """Ping, and notice when nothing comes any more: a server that died says nothing of it."""
        self._heard_s = looked_s = time.monotonic()
        pinged_s = 0.0
        await self._tell()
        while channel.readyState == "open" and channel is self.channel:
            now_s = time.monotonic()
            if now_s - looked_s > 1.0:
                self._heard_s = now_s  # it was us who stood still; what came meanwhile is not read yet
            looked_s = now_s
            if now_s - self._heard_s > SILENCE_S:
                self.lost = self.lost or self._goodbye or f"nothing has come from the server for {SILENCE_S} s"
                await self._tell()
                return
            if now_s - pinged_s >= PING_EVERY_S:
                pinged_s = now_s
                self.send(v.Ping(t=now_s))
            await asyncio.sleep(LISTEN_EVERY_S)


async def come_back(call: Call) -> bool:
    """Resume a call, or begin a new session where its own is over, or lost with its node. Returns whether it is the same.

    Raises:
        CallError: neither is possible now.
    """
    if call.session_id:
        try:
            await call.resume()
            return True
        except CallError as error:
            if error.code not in ("unknown_session", "node_lost"):
                raise
    await call.call_again()
    return False


async def _line(call: Call, text: str, done: v.ResponseDone, sent_s: float) -> Line:
    """What became of a line."""
    reply_id = done.response_id
    if done.status == "failed":
        raise CallError(f"{done.message} ({done.code})")
    line = Line(text, done.status, done.heard_text, done.heard_ms)
    deltas = call.received(v.TranscriptDelta, reply_id)
    line.captions = [{"text": d.text, "start_ms": d.start_ms, "end_ms": d.end_ms} for d in deltas]
    await asyncio.sleep(TAIL_S)
    if not _measure(call, line, sent_s, reply_id) and line.heard_ms and call.decodes:
        with contextlib.suppress(CallError):  # then it is not measured
            await call.wait_for(lambda: _measure(call, line, sent_s, reply_id), LATE_S, "its voice did not come")
    return line


def _measure(call: Call, line: Line, sent_s: float, reply_id: str) -> bool:
    """Put into a line how long its voice and its face were waited for, and say whether its voice has come."""
    announced = [at for at, event in call.events if isinstance(event, v.AudioStarted) and event.response_id == reply_id]
    if not announced:
        return False
    from_s = max(sent_s, announced[0] - EVENT_LEAD_S)
    audio, video = call.audio, call.video
    voiced = next((i for i, at in enumerate(audio.arrived_s) if at >= from_s and audio.level[i] > VOICED_LEVEL), None)
    if voiced is None:
        return False
    line.text_to_first_voiced_audio_ms = round((audio.arrived_s[voiced] - sent_s) * 1000)
    media_s = audio.media_s(voiced)
    for index, arrived_s in enumerate(video.arrived_s):
        if arrived_s >= sent_s and video.media_s(index) + 0.04 > media_s:
            line.text_to_first_speaking_frame_ms = round((arrived_s - sent_s) * 1000)
            break
    return True


async def _frames(track: MediaStreamTrack) -> AsyncIterator[tuple[Any, float]]:
    """What a track receives, with the time of its arrival, to its end."""
    while True:
        try:
            frame = await track.recv()
        except MediaStreamError:
            return
        yield frame, time.monotonic()


def _unreachable(url: str, error: aiohttp.ClientError) -> str:
    return f"{url} cannot be reached ({error}). Is the server running? Start one with 'avatar-rtc serve'."


def _refusal(url: str, response: aiohttp.ClientResponse, body: str) -> CallError:
    """Why a server refused, in its own words where it has some."""
    with contextlib.suppress(ValueError):
        problem = json.loads(body)
        if isinstance(problem, dict) and "detail" in problem:
            message = f"{url} refused the call: {problem['detail']} ({problem.get('code', response.status)})"
            if response.status == 401:
                message += " 'avatar-rtc say' takes one by --key."
            code = str(problem.get("code", response.status))
            if code == "engine_unavailable":
                return NotReadyError(message, START_PATIENCE_S, code)
            return CallError(message, code)
    return CallError(f"{url} refused the call with HTTP {response.status}. Is it the address of an avatar-rtc server?")
