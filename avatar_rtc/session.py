"""Session: one peer's whole life, from the offer to the freed seat.

``Session.run`` is the one coroutine. It holds one task group with four tasks: ``_feed`` pulls chunks, ``_work`` carries out
events one after the other, ``_watch`` notices who has left, ``_ask`` asks whoever is silent. What is played is told back by the
buffer, slot by slot, and turned into events.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)

from avatar_rtc.config import ServerConfig
from avatar_rtc.engine import Engine, EngineFailure, EngineStream, speed_of
from avatar_rtc.errors import StillError
from avatar_rtc.events import EventChannels
from avatar_rtc.logs import SessionLog
from avatar_rtc.media.buffer import PlayBuffer, Played
from avatar_rtc.media.demand import Demand
from avatar_rtc.media.encode import OPUS_CLOCK_HZ, Opus, VideoEncoder, make_encoder
from avatar_rtc.media.lines import Lines
from avatar_rtc.media.sender import prepare_sender
from avatar_rtc.media.timeline import Timeline
from avatar_rtc.media.tracks import VIDEO_CLOCK_HZ, AudioTrack, Playout, VideoTrack
from avatar_rtc.media.transport import answers, be_patient, bound_gathering, quicken_retransmission, take_every_message
from avatar_rtc.metrics import Metrics
from avatar_rtc.offer import MediaPlan, plan_media, read_candidate
from avatar_rtc.pace import Pace
from avatar_rtc.stills import decode_base64
from model.chunk import AVChunk, Still, StreamSettings
from model.errors import ModelError, PromptError
from model.text.prompt import MAX_PROMPT_CHARS, parse_prompt
from signaling import messages as wire
from signaling.errors import BadOffer, SignalingError
from signaling.ice import IceFragment, advertise
from signaling.service import Answer

KEPT_AFTER_CANCEL_S = 0.1
"""Pictures beyond one block that may still be played after an interruption."""
WORDS_PER_S = 2.5
"""Usual speech, by which it is guessed how long a reply will last that the engine does not have yet."""
RETELL_S = 0.5
RETELL_SHARE = 0.2
"""A wait is told again if it turned out to be off by so much, and by such a share of what is left of it."""
MAX_REMEMBERED_EVENTS = 1024
MAX_WAITING_EVENTS = 256
"""Of the client, that wait to be carried out."""
MAX_WAITING_LINES = 256
REOPEN_EVERY_S = 0.25
WATCH_EVERY_S = 0.25
ASK_AFTER_S = 0.5
"""A client from which nothing came for so long is asked whether it lives."""
STATS_EVERY_S = 1.0
MAX_BLIND_S = 1.0
CLOSING_NOTICE_S = 0.2
CLOSE_STEP_TIMEOUT_S = 3.0
ENGINE_FAILED = "The engine stopped and is being restarted. Send the text again."
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"')\]]*\s+|\n+")


@dataclass(frozen=True)
class _Line:
    """One thing to push into the engine. ``scene`` and ``voice`` None: as they are."""

    text: str
    scene: str | None = None
    voice: str | None = None
    event_id: str | None = None


@dataclass
class _Reply:
    """What is spoken for one request. Each line of it goes to the engine as a reply of its own, so that it may grow."""

    reply_id: str
    accepted_s: float
    underruns_before: int
    waiting: deque[_Line] = field(default_factory=deque)
    unfinished_text: str = ""
    closed: bool = True
    pushed: bool = False
    num_pushed: int = 0
    num_generated: int = 0
    num_played: int = 0
    touched_s: float = 0.0
    voice_media_s: float | None = None
    voice_held_frames: int = 0
    first_audio_ms: int | None = None
    end_media_s: float = 0.0
    end_held_frames: int = 0
    is_cut: bool = False
    heard: list[str] = field(default_factory=list)
    error: ModelError | None = None

    @property
    def generated(self) -> bool:
        """Whether nothing more will come out of the engine for it."""
        return self.closed and not self.waiting and self.num_generated >= self.num_pushed

    @property
    def played(self) -> bool:
        return self.closed and not self.waiting and self.num_played >= self.num_pushed


@dataclass(frozen=True)
class _Job:
    """An event that waits for ``_work``, and who waits for its outcome."""

    act: Callable[[], Awaitable[None]]
    done: asyncio.Future[None] | None = None


class Session:
    """One connected peer.

    Args:
        settings: who is seen and heard at first.
        clock: seconds, monotonic.

    Attributes:
        reason: why the session ended; empty while it lives.
    """

    def __init__(
        self,
        session_id: str,
        config: ServerConfig,
        engine: Engine,
        settings: StreamSettings,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.session_id = session_id
        self.etag = secrets.token_hex(8)
        self.reason = ""
        self.state: wire.State = "initializing"
        self._config = config
        self._engine = engine
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._log = SessionLog(session_id)
        self._born_s = clock()
        self._over = asyncio.Event()
        self._finished = asyncio.Event()
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._outcomes: OrderedDict[str, wire.EventError | None] = OrderedDict()

        info = engine.info
        self._info = info
        self._timeline = Timeline(clock)
        self._buffer = PlayBuffer(info, self._on_played, kept_after_cancel_s=info.block_duration_s + KEPT_AFTER_CANCEL_S)
        pace = Pace(info.chunks_per_block, prior=engine.stats().rtf_p50)
        self._demand = Demand(config.media.low_water_ms / 1000, info.block_duration_s, pace)
        self._lines = Lines(self._buffer, self._demand)
        self._playout = Playout(self._buffer, self._timeline)
        self._video = VideoTrack(self._playout, config.media.video_delay_ms)
        self._audio = AudioTrack(self._playout)
        self._encoders: list[VideoEncoder | Opus] = []
        self._video_encoder: VideoEncoder | None = None

        servers = [RTCIceServer(list(s.urls), s.username, s.credential) for s in config.ice.wire_servers()]
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=servers, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        self._channels = EventChannels(self._hello, self._on_message, metrics, self._log)
        self._peer.on("datachannel", self._channels.add)
        self._peer.on("connectionstatechange", self._on_connection)
        self._plan: MediaPlan | None = None
        self._connected_s: float | None = None
        self._heard_s = clock()
        self._packets_received = -1
        self._stats: dict[str, Any] = {"packets_sent": 0, "packets_lost": 0, "rtt_ms": None}

        self._stream: EngineStream | None = None
        self._replies: deque[_Reply] = deque()
        self._by_line: dict[str, _Reply] = {}
        self._told_ready_s: float | None = None
        self._used_ids: OrderedDict[str, None] = OrderedDict()
        self._num_replies = 0
        self._num_looks = self._shown_look = 0
        self._epoch = 0
        self._trimmed = asyncio.Event()
        self._counted: dict[Any, int] = {}

    # The offer, and what follows it over HTTP.

    async def negotiate(self, offer: str) -> Answer:
        """Answer an SDP offer.

        Raises:
            signaling.errors.BadOffer: it is no SDP, or not one that can be used.
            signaling.errors.Unprocessable: nothing to send in, or no common codec.
        """
        with self._reading("an SDP offer", "bad_sdp"):
            self._plan = plan = plan_media(offer, self._config.media.video_codecs)
            for planned in plan.tracks:
                track = self._video if planned.kind == "video" else self._audio
                self._peer.addTransceiver(track, "sendonly").setCodecPreferences(list(planned.codecs))
            await self._peer.setRemoteDescription(RTCSessionDescription(plan.sdp, "offer"))
        for transceiver in self._peer.getTransceivers():
            clock_hz = VIDEO_CLOCK_HZ if transceiver.kind == "video" else OPUS_CLOCK_HZ
            rates = self._config.media.rates(self._info.fps)
            codec = transceiver._codecs[0]
            encoder = make_encoder(codec, rates, self._info.sample_rate_hz, self._config.media.audio_bps)
            self._encoders.append(encoder)
            if isinstance(encoder, VideoEncoder):
                self._video_encoder = encoder
            prepare_sender(transceiver.sender, encoder, self._timeline, clock_hz)
        # Sections of one bundle share a gatherer.
        for gatherer in {t.receiver.transport.transport.iceGatherer for t in self._peer.getTransceivers()}:
            bound_gathering(gatherer, self._config.ice.udp_ports)
            be_patient(gatherer)
        if self._peer.sctp is not None:
            quicken_retransmission(self._peer.sctp)
            take_every_message(self._peer.sctp)
        with self._reading("an SDP offer", "bad_sdp"):
            await self._peer.setLocalDescription(await self._peer.createAnswer())
        answer = plan.answer(self._peer.localDescription.sdp)
        if self._config.ice.advertised_address is not None:
            answer = advertise(answer, self._config.ice.advertised_address)
        codecs = "+".join(t._codecs[0].name for t in self._peer.getTransceivers())
        self._log.info("created: %s, %.60s", codecs, self._settings.scene)
        return Answer(self.session_id, self.etag, answer)

    @contextlib.contextmanager
    def _reading(self, what: str, code: str) -> Iterator[None]:
        """Whatever the transport stumbles over, what it was given is at fault; except that a machine may have no more sockets."""
        try:
            yield
        except (SignalingError, OSError):
            raise
        except Exception as error:
            reason = error if isinstance(error, ValueError) else f"{type(error).__name__} {error}".strip()
            self._log.info("refused %s: %s", what, reason)
            raise BadOffer(
                f"The body is not {what} that can be used ({reason}). Send what the browser gave.", code=code
            ) from None

    def is_other_ice_session(self, fragment: IceFragment) -> bool:
        """Whether a fragment belongs to other ICE credentials than those of the offer: the client wants to restart ICE."""
        assert self._plan is not None
        return fragment.ufrag is not None and fragment.ufrag not in self._plan.ice_ufrags

    async def trickle(self, fragment: IceFragment) -> None:
        """Add the client's candidates.

        Raises:
            signaling.errors.BadOffer: one of them cannot be read.
        """
        assert self._plan is not None
        for mid, line in fragment.candidates:
            with self._reading(f"an ICE candidate: {line!r:.120}", "bad_ice_fragment"):
                candidate = read_candidate(line)
                if candidate is not None and mid in self._plan.mids:
                    candidate.sdpMid = self._plan.transport_mid
                    await self._peer.addIceCandidate(candidate)

    async def handle(self, event: wire.ClientEvent) -> None:
        """Carry out an event that came over HTTP; returns when it is done.

        Raises:
            signaling.messages.EventError: it could not be carried out.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._accept(event, done)
        await done

    def stats(self) -> dict[str, Any]:
        """Counters for ``GET /v1/sessions/{id}/stats``."""
        return {
            "id": self.session_id,
            "state": self.state,
            "age_s": round(self._clock() - self._born_s, 3),
            "frames": self._buffer.num_decided,
            "underruns": self._buffer.num_underruns,
            "held_frames": self._buffer.num_held_frames,
            "dropped_frames": self._video.num_dropped,
            "buffer_ms": round(self._buffer.buffered_s * 1000),
            "replies": self._num_replies,
            **self._stats,
            "video_bitrate_bps": self._video_encoder.target_bitrate if self._video_encoder is not None else 0,
        }

    # Life.

    def end(self, reason: str) -> None:
        """Begin to end; the first reason counts. Returns at once, ``run`` does the rest."""
        self.reason = self.reason or reason
        self._over.set()

    async def finished(self) -> None:
        """Wait until ``run`` has closed everything."""
        await self._finished.wait()

    async def run(self) -> None:
        """Live until ``end`` is called or the peer goes; then close everything. Never raises."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(life) for life in (self._feed(), self._work(), self._watch(), self._ask())]
                await self._over.wait()
                for task in tasks:
                    task.cancel()
        except Exception:
            self._log.exception("failed")
            self.end("internal_error")
        finally:
            await self._close()

    async def _close(self) -> None:
        """Replies, notice, tracks, stream, connection: in this order, each guarded alone."""
        self.end("cancelled")
        for reply in list(self._replies):
            self._finish(reply, "cancelled")
        if self.reason in ("shutdown", "internal_error") and self._channels.is_open:
            self._send(wire.SessionClosing(reason=self.reason, in_ms=int(CLOSING_NOTICE_S * 1000)))
            await self._guarded("notice", asyncio.sleep(CLOSING_NOTICE_S))
        self._fail_jobs()
        self._playout.close()
        self._video.stop()
        self._audio.stop()
        if self._stream is not None:
            await self._guarded("stream", self._stream.close())
        await self._guarded("connection", self._peer.close())
        for encoder in self._encoders:
            encoder.close()
        self._count()
        self._metrics.session_end.labels(self.reason).inc()
        age_s = self._clock() - self._born_s
        self._log.info(
            "ended: %s after %.1f s, %d replies, %d frames, %d underruns",
            self.reason,
            age_s,
            self._num_replies,
            self._buffer.num_decided,
            self._buffer.num_underruns,
        )
        self._finished.set()

    async def _guarded(self, step: str, action: Awaitable[None]) -> None:
        try:
            await asyncio.wait_for(action, CLOSE_STEP_TIMEOUT_S)
        except Exception:
            self._log.exception("closing: %s", step)

    # Task 1: chunks in.

    async def _feed(self) -> None:
        while True:
            stream = await self._open_stream()
            try:
                await self._pull(stream)
            except EngineFailure as failure:
                self._lose_stream(stream, failure)

    async def _open_stream(self) -> EngineStream:
        while True:
            asked = self._settings
            try:
                stream = await self._engine.open(asked)
            except EngineFailure:
                await asyncio.sleep(REOPEN_EVERY_S)
                continue
            except ModelError as error:
                # A scene or a voice in words that the model cannot use, from the address of the call.
                fallback = self._config.avatars[0]
                settings = StreamSettings(fallback.scene, self._voice(fallback.voice), self._settings.seed)
                if settings == asked:
                    raise
                self._send(wire.Error(code=error.code, message=str(error)))
                self._settings = settings
                self._send(wire.SessionUpdated(scene=settings.scene, voice=settings.voice))
                continue
            if self._settings != asked:
                await stream.close()  # they were changed meanwhile
                continue
            self._stream = stream
            self._push_soon()
            return stream

    async def _pull(self, stream: EngineStream) -> None:
        """Pull for ever: the next chunk is asked for when the buffer is low, and not before."""
        while self._stream is stream:
            spare_s = self._lines.spare_s()
            if spare_s > 0:
                # An interruption leaves less than was counted on.
                self._trimmed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._trimmed.wait(), max(spare_s, 0.01))
                continue
            epoch, look = self._epoch, self._num_looks
            asked_s = self._clock()
            chunk = await stream.next(asked_s + self._buffer.buffered_s)
            if self._shown_look != self._num_looks:
                # Asked for before the look changed, it may show either one; the first one asked for since shows the new one.
                self._buffer.cut()
                self._shown_look = look
            took_s = self._clock() - asked_s
            factor = self._demand.on_chunk(took_s, chunk.duration_s, self._buffer.num_underruns)
            if factor is not None:
                self._metrics.rtf.observe(factor)
            self._metrics.buffer_s.labels("video").observe(self._buffer.buffered_s)
            self._take(chunk, epoch)

    def _take(self, chunk: AVChunk, epoch: int) -> None:
        # A chunk that was asked for before an interruption may still speak for what was interrupted.
        known = any(mark.reply_id in self._by_line for mark in chunk.marks)
        stale = chunk.speaking and epoch != self._epoch and not known
        self._lines.put(chunk, muted=stale)
        self._playout.notify()
        if self.state in ("initializing", "idle"):
            self._set_state("thinking" if self._replies else "listening")
        ended = [mark for mark in chunk.marks if mark.kind == "end" and mark.reply_id in self._by_line]
        for mark in ended:
            self._by_line[mark.reply_id].num_generated += 1
        if ended:
            self._push_soon()
        self._tell_wait()

    def _tell_wait(self) -> None:
        """Tell the client when the next line begins, where that takes its time; again if it turned out to be wrong."""
        wait_s = self._lines.wait_s()
        if wait_s is None or self.state != "thinking":
            return
        ready_s = self._clock() + wait_s
        if self._told_ready_s is None or abs(ready_s - self._told_ready_s) > max(RETELL_S, RETELL_SHARE * wait_s):
            self._told_ready_s = ready_s
            self._send(wire.AvatarState(state="thinking", ready_in_ms=round(wait_s * 1000)))

    def _lose_stream(self, stream: EngineStream, failure: EngineFailure) -> None:
        """The engine died: replies that it had end as failed, the last picture is held, those that wait go on waiting."""
        if self._stream is not stream:
            return
        self._stream = None
        self._epoch += 1
        self._metrics.engine_failures.inc()
        self._log.warning("engine failed: %s", failure)
        self._buffer.cancel()
        for reply in [reply for reply in self._replies if reply.pushed]:
            self._finish(reply, "failed", "engine_failed", ENGINE_FAILED)
        self._set_state("idle")

    # Task 2: events, one after the other.

    def _accept(self, event: wire.ClientEvent, done: asyncio.Future[None] | None = None) -> None:
        """Let an event wait for its turn; bounded."""
        if self._over.is_set():
            raise _session_over()
        if self._jobs.qsize() >= MAX_WAITING_EVENTS:
            raise wire.EventError("queue_full", "Too many events wait to be carried out. Send fewer.", event.event_id)
        self._jobs.put_nowait(_Job(lambda: self._carry_out(event), done))

    def _push_soon(self) -> None:
        self._jobs.put_nowait(_Job(self._push_next))

    async def _work(self) -> None:
        while True:
            job = await self._jobs.get()
            try:
                await job.act()
            except wire.EventError as error:
                if job.done is None:
                    self._send(error.as_event())
                elif not job.done.done():
                    job.done.set_exception(error)
            finally:
                # Also when the session ends in the middle of it: nobody waits for ever.
                if job.done is not None and not job.done.done():
                    _settle(job.done, over=self._over.is_set())

    def _fail_jobs(self) -> None:
        while not self._jobs.empty():
            job = self._jobs.get_nowait()
            if job.done is not None and not job.done.done():
                _settle(job.done, over=True)

    async def _carry_out(self, event: wire.ClientEvent) -> None:
        """Once for each ``event_id``; a repeated one has the outcome of the first."""
        if event.event_id is not None and event.event_id in self._outcomes:
            outcome = self._outcomes[event.event_id]
            if outcome is not None:
                raise outcome
            return
        outcome = None
        try:
            await self._act(event)
        except wire.EventError as error:
            outcome = wire.EventError(error.code, error.message, event.event_id)
            raise outcome from None
        except Exception:
            outcome = self._surprised(event.event_id)
            raise outcome from None
        finally:
            if event.event_id is not None:
                self._outcomes[event.event_id] = outcome
                if len(self._outcomes) > MAX_REMEMBERED_EVENTS:
                    self._outcomes.popitem(last=False)

    def _surprised(self, event_id: str | None) -> wire.EventError:
        """An event has met an error of ours: whoever sent it hears so, and the call goes on."""
        self._log.exception("an event failed")
        return wire.EventError("internal_error", "The server failed to carry this out; its log says why.", event_id)

    async def _act(self, event: wire.ClientEvent) -> None:
        match event:
            case wire.ResponseCreate(mode="append"):
                await self._append(event)
            case wire.ResponseCreate():
                await self._create(event)
            case wire.ResponseCancel():
                await self._cancel(event)
            case wire.SessionUpdate():
                await self._update(event)
            case wire.Ping():
                self._send(wire.Pong(t=event.t))
            case wire.ClientStats():
                if event.first_frame_ms is not None:
                    self._metrics.join_s.labels("first_frame_shown").observe(event.first_frame_ms / 1000)

    async def _create(self, event: wire.ResponseCreate) -> None:
        if event.more:
            self._check_piece(event.input)
        lines, rest = ([], event.input) if event.more else (self._parse(event.input, event.event_id), "")
        if event.mode != "replace" and len(self._replies) > self._config.limits.max_queued_replies:
            raise wire.EventError(
                "queue_full", f"{len(self._replies)} replies wait already. Wait for one to end, or use replace."
            )
        reply_id = self._new_id(event.id)
        if event.mode == "replace":
            await self._stop(list(self._replies))
        reply = self._add_reply(reply_id, event)
        reply.waiting.extend(lines)
        reply.unfinished_text = rest
        reply.closed = not event.more
        await self._go_on(reply)

    async def _append(self, event: wire.ResponseCreate) -> None:
        """A further piece, or the first one of a reply behind all others."""
        open_replies = [reply for reply in self._replies if not reply.closed]
        reply = next((r for r in self._replies if r.reply_id == event.id), None) if event.id else next(iter(open_replies), None)
        if reply is None:
            if event.id in self._used_ids:
                raise wire.EventError("reply_closed", f"Reply {event.id!r} has ended. Start another one.")
            if not event.input.strip() and not event.more:
                raise wire.EventError("unknown_reply", "There is no open reply to end. Start one with text.")
            await self._create(event)
            return
        if reply.closed:
            raise wire.EventError("reply_closed", f"Reply {reply.reply_id!r} had its last piece. Start another one.")
        if len(reply.waiting) >= MAX_WAITING_LINES:
            raise wire.EventError(
                "queue_full", f"{len(reply.waiting)} sentences wait already. Send the rest when some were heard."
            )
        self._check_piece(reply.unfinished_text + event.input)
        reply.unfinished_text += event.input
        reply.closed = not event.more
        reply.touched_s = self._clock()
        await self._go_on(reply)

    def _check_piece(self, text: str) -> None:
        if len(text) > MAX_PROMPT_CHARS:
            raise wire.EventError(
                "bad_prompt",
                f"A piece and the sentence that it goes on with have {MAX_PROMPT_CHARS} characters at most. Send less at once.",
            )

    async def _go_on(self, reply: _Reply) -> None:
        """A reply has more text, or its last: let the engine have it."""
        reply.error = None
        self._split_sentences(reply)
        await self._push_next(reply)
        self._finish_if_played(reply)
        if reply.error is not None:
            raise wire.EventError(reply.error.code, str(reply.error))

    def _split_sentences(self, reply: _Reply) -> None:
        """Move whole sentences, and at the end everything, from the text that came in pieces to the lines that wait."""
        *sentences, rest = _SENTENCE_END.split(reply.unfinished_text)
        if reply.closed:
            sentences, rest = [*sentences, rest], ""
        reply.waiting.extend(_Line(" ".join(sentence.split())) for sentence in sentences if sentence.strip())
        reply.unfinished_text = rest

    def _parse(self, text: str, event_id: str | None) -> list[_Line]:
        """The lines of a prompt; sentence by sentence where it would have to wait for too long before it plays through."""
        try:
            prompt = parse_prompt(text)
        except PromptError as error:
            raise wire.EventError(error.code, str(error)) from None
        first, *others = prompt.lines
        voice = self._voice(prompt.voice) if prompt.voice else None
        lines = [_Line(first, prompt.scene, voice, event_id), *(_Line(line) for line in others)]
        length_s = sum(len(line.text.split()) for line in lines) / WORDS_PER_S
        if self._demand.wait_s(length_s, 0.0, begun=False) * 1000 <= self._config.media.max_wait_ms:
            return lines
        sentences = [[" ".join(s.split()) for s in _SENTENCE_END.split(line.text) if s.strip()] for line in lines]
        return [
            replace(line, text=text) if index == 0 else _Line(text)
            for line, own in zip(lines, sentences, strict=True)
            for index, text in enumerate(own)
        ]

    def _new_id(self, wanted: str | None) -> str:
        if wanted in self._used_ids:
            raise wire.EventError("duplicate_reply", f"The id {wanted!r} was used before. Give each reply its own.")
        reply_id = wanted or f"reply-{secrets.token_hex(4)}"
        self._used_ids[reply_id] = None
        if len(self._used_ids) > MAX_REMEMBERED_EVENTS:
            self._used_ids.popitem(last=False)
        return reply_id

    def _add_reply(self, reply_id: str, event: wire.ResponseCreate) -> _Reply:
        now = self._clock()
        reply = _Reply(reply_id, now, self._buffer.num_underruns, touched_s=now)
        self._send(
            wire.ResponseCreated(response_id=reply_id, mode=event.mode, position=len(self._replies), event_id=event.event_id)
        )
        self._replies.append(reply)
        self._num_replies += 1
        if self.state == "listening":
            self._set_state("thinking")
        return reply

    async def _push_next(self, current: _Reply | None = None) -> None:
        """Give the engine what it may know by now: lines of the first reply that is not wholly generated.

        A line that cannot be spoken is left out with an error, told by the caller if it belongs to ``current``; a reply without
        any line that can is failed.
        """
        while (reply := next((r for r in self._replies if not r.generated), None)) is not None and reply.waiting:
            stream = self._stream
            if stream is None:
                return
            line = reply.waiting.popleft()
            line_id = f"{reply.reply_id}#{reply.num_pushed}"
            self._by_line[line_id] = reply
            reply.pushed = True
            reply.num_pushed += 1
            try:
                if line.scene is not None or line.voice is not None:
                    await self._change_settings(line.scene, line.voice, line.event_id)
                self._lines.push(line_id, await stream.push(line_id, line.text))
                self._tell_wait()
            except ModelError as error:
                self._by_line.pop(line_id, None)
                reply.num_pushed -= 1
                reply.error = error
                if reply is not current:
                    self._send(wire.Error(code=error.code, message=str(error), event_id=line.event_id))
                self._finish_if_played(reply)
            except EngineFailure as failure:
                self._lose_stream(stream, failure)
                return

    def _finish_if_played(self, reply: _Reply) -> None:
        if not reply.played or reply not in self._replies:
            return
        if reply.num_played == 0 and reply.error is not None:
            self._finish(reply, "failed", reply.error.code, str(reply.error))
        else:
            self._finish(reply, "completed")

    async def _cancel(self, event: wire.ResponseCancel) -> None:
        if event.id is None:
            await self._stop(list(self._replies))
            return
        reply = next((r for r in self._replies if r.reply_id == event.id), None)
        if reply is None:
            if event.id in self._used_ids:
                return  # it ended by itself meanwhile
            raise wire.EventError("unknown_reply", f"There is no reply {event.id!r}. Leave out the id to stop everything.")
        await self._stop([reply])
        await self._push_next()

    async def _stop(self, replies: list[_Reply]) -> None:
        """End replies. If one of them is with the engine, all that are with it are cut: their sound is one stream."""
        if any(reply.pushed for reply in replies):
            replies = [reply for reply in self._replies if reply in replies or reply.pushed]
            await self._silence(replies)
        for reply in replies:
            if reply in self._replies:
                self._finish(reply, "cancelled")

    async def _silence(self, replies: list[_Reply]) -> None:
        """Voice off now, and nothing more of it from the engine."""
        self._epoch += 1
        for line_id in [line_id for line_id, reply in self._by_line.items() if reply in replies]:
            self._forget(line_id)
        self._buffer.cancel()
        self._metrics.interrupt_s.observe(self._buffer.buffered_s)
        self._trimmed.set()
        for reply in replies:
            reply.end_media_s, reply.end_held_frames, reply.is_cut = self._played_s(), self._buffer.num_held_frames, True
        stream = self._stream
        if stream is None:
            return
        try:
            await stream.cancel()
            self._demand.on_line()
        except EngineFailure as failure:
            self._lose_stream(stream, failure)
        # Chunks that were asked for before the engine knew count as old, too.
        self._epoch += 1

    async def _update(self, event: wire.SessionUpdate) -> None:
        scene, voice = event.scene, self._voice(event.voice) if event.voice else None
        if event.avatar is not None:
            avatar = next((a for a in self._config.avatars if a.id == event.avatar), None)
            if avatar is None:
                known = ", ".join(a.id for a in self._config.avatars)
                raise wire.EventError("unknown_avatar", f"There is no avatar {event.avatar!r:.80}. Choose one of {known}.")
            scene, voice = scene or avatar.scene, voice or self._voice(avatar.voice)
        for name, text in (("scene", scene), ("voice", voice)):
            if text is not None and (not text.strip() or len(text) > MAX_PROMPT_CHARS):
                raise wire.EventError("bad_prompt", f"The {name} must have 1 to {MAX_PROMPT_CHARS} characters.")
        try:
            still = None if event.image is None else decode_base64(event.image)
            await self._change_settings(scene, voice, event.event_id, still)
        except (ModelError, StillError) as error:
            raise wire.EventError(error.code, str(error)) from None

    async def _change_settings(
        self, scene: str | None, voice: str | None, event_id: str | None, still: Still | None = None
    ) -> None:
        old = self._settings
        if still is None and scene is None:
            still = old.still
        self._settings = StreamSettings(scene or old.scene, voice or old.voice, old.seed, still)
        stream = self._stream
        if stream is not None and self._settings != old:
            try:
                self._num_looks += 1
                await stream.update(self._settings)
            except ModelError:
                self._settings = old
                raise
            except EngineFailure as failure:
                self._lose_stream(stream, failure)  # the one that is opened next has the new settings
        self._send(wire.SessionUpdated(scene=self._settings.scene, voice=self._settings.voice, event_id=event_id))

    def _voice(self, text: str) -> str:
        return next((voice.voice for voice in self._config.voices if voice.id == text), text)

    # Task 3: who has left.

    async def _watch(self) -> None:
        limits = self._config.limits
        stats_s = looked_s = self._clock()
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            now = self._clock()
            if now - looked_s > MAX_BLIND_S:
                self._heard_s = now  # it was us who stood still; what arrived meanwhile is not read yet
            looked_s = now
            await self._read_stats(now, detailed=now - stats_s >= STATS_EVERY_S)
            if now - stats_s >= STATS_EVERY_S:
                stats_s = now
                self._count()
            if self._connected_s is None:
                if now - self._born_s > limits.join_timeout_s:
                    self.end("join_timeout")
            elif now - self._heard_s > limits.vanish_after_s:
                self.end("vanished")
            for reply in list(self._replies):
                if not reply.closed and now - reply.touched_s > limits.open_reply_timeout_s:
                    reply.closed = True
                    self._split_sentences(reply)
                    self._finish_if_played(reply)
                    self._push_soon()

    async def _ask(self) -> None:
        """Task 4. Who only watches has nothing to say, and without pictures nothing to report; its ICE agent answers even so."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            if self._connected_s is None or self._clock() - self._heard_s < ASK_AFTER_S:
                continue
            for ice in {t.receiver.transport.transport for t in self._peer.getTransceivers()}:
                if await answers(ice):
                    self._heard_s = self._clock()

    async def _read_stats(self, now: float, detailed: bool) -> None:
        sent = lost = 0
        for sender in self._peer.getSenders():
            for stat in (await sender.getStats()).values():
                if stat.type == "transport":
                    if stat.packetsReceived != self._packets_received:
                        self._packets_received = stat.packetsReceived
                        self._heard_s = now
                elif stat.type == "outbound-rtp":
                    sent += stat.packetsSent
                elif stat.type == "remote-inbound-rtp":
                    lost += stat.packetsLost
                    if stat.roundTripTime is not None:
                        self._stats["rtt_ms"] = round(stat.roundTripTime * 1000, 1)
                        if detailed:
                            self._metrics.rtt_s.observe(stat.roundTripTime)
                    if detailed:
                        self._metrics.fraction_lost.observe(stat.fractionLost / 256)
        self._stats["packets_sent"], self._stats["packets_lost"] = sent, lost

    def _count(self) -> None:
        """Bring the counters of the server up to those of this session."""
        totals = {
            self._metrics.frames.labels("video", "sent"): self._video.num_sent,
            self._metrics.frames.labels("video", "dropped"): self._video.num_dropped,
            self._metrics.frames.labels("video", "held"): self._buffer.num_held_frames,
            self._metrics.underruns.labels("video"): self._buffer.num_underruns,
            self._metrics.keyframes.labels("any"): self._video_encoder.num_keyframes if self._video_encoder is not None else 0,
        }
        for counter, total in totals.items():
            counter.inc(total - self._counted.get(counter, 0))
            self._counted[counter] = total

    def _on_connection(self) -> None:
        state = self._peer.connectionState
        now = self._clock()
        if state == "connected" and self._connected_s is None:
            self._connected_s = self._heard_s = now
            self._metrics.join_s.labels("connected").observe(now - self._born_s)
            self._log.info("connected after %.0f ms", (now - self._born_s) * 1000)
        elif state in ("failed", "closed"):
            self.end("left" if self._connected_s is not None else "connection_failed")

    # Events out.

    def _hello(self) -> list[wire.ServerEvent]:
        """What a data channel is told first."""
        created = wire.SessionCreated(
            session_id=self.session_id,
            model=self._info.model,
            fps=self._info.fps,
            width=self._info.width_px,
            height=self._info.height_px,
            block_ms=round(self._info.block_duration_s * 1000),
            scene=self._settings.scene,
            voice=self._settings.voice,
            limits=wire.Limits(
                max_message_bytes=wire.MAX_MESSAGE_BYTES,
                max_prompt_chars=MAX_PROMPT_CHARS,
                max_queued_replies=self._config.limits.max_queued_replies,
            ),
            **speed_of(self._engine),
        )
        return [created, wire.AvatarState(state=self.state)]

    def _on_message(self, frame: str | bytes) -> None:
        try:
            event = wire.parse_client(frame)
            self._metrics.messages.labels("in", event.type, "ok").inc()
            self._accept(event)
        except wire.EventError as error:
            self._metrics.messages.labels("in", "any", error.code).inc()
            self._send(error.as_event())
        except Exception:
            # The transport has called; an exception would end the connection.
            self._send(self._surprised(None).as_event())

    def _send(self, event: wire.ServerEvent) -> None:
        self._channels.send(event)

    def _played_s(self) -> float:
        """Media time of what is being played. On a busy machine the tracks lag behind the clock."""
        return min(self._timeline.media_s(), self._buffer.num_decided / self._info.fps)

    def _forget(self, line_id: str) -> None:
        del self._by_line[line_id]
        self._lines.forget(line_id)

    def _set_state(self, state: wire.State) -> None:
        if state != self.state:
            self.state = state
            self._told_ready_s = None
            self._send(wire.AvatarState(state=state))

    def _on_played(self, played: Played) -> None:
        """A moment of a reply is being played. Called by whichever track needed the slot."""
        mark = played.mark
        reply = self._by_line.get(mark.reply_id)
        if reply is None:
            return
        reply.end_media_s, reply.end_held_frames = played.media_s, self._buffer.num_held_frames
        if mark.kind in ("start", "word") and reply.voice_media_s is None:
            waited_s = self._clock() - reply.accepted_s
            reply.voice_media_s, reply.voice_held_frames = played.media_s, self._buffer.num_held_frames
            reply.first_audio_ms = round(waited_s * 1000)
            self._metrics.first_audio_s.observe(waited_s)
            self._metrics.first_frame_s.observe(waited_s)
            self._send(wire.AudioStarted(response_id=reply.reply_id, pts=round(played.media_s * VIDEO_CLOCK_HZ)))
        if mark.kind == "end":
            self._forget(mark.reply_id)
            reply.num_played += 1
            if reply.played:
                self._finish_if_played(reply)
            elif self._lines.is_waiting or (not reply.waiting and reply.num_played >= reply.num_pushed):
                self._set_state("thinking")
                self._tell_wait()
            return
        self._set_state("speaking")
        if mark.kind == "word":
            assert reply.voice_media_s is not None
            reply.heard.append(mark.text)
            self._send(
                wire.TranscriptDelta(
                    response_id=reply.reply_id,
                    text=mark.text,
                    start_ms=round((played.media_s - reply.voice_media_s) * 1000),
                    end_ms=round((played.end_media_s - reply.voice_media_s) * 1000),
                )
            )

    def _finish(self, reply: _Reply, status: wire.DoneStatus, code: str | None = None, message: str | None = None) -> None:
        """The one place where a reply ends; it leaves ``_replies``, so it cannot end twice."""
        self._replies.remove(reply)
        for line_id in [line_id for line_id, owner in self._by_line.items() if owner is reply]:
            self._forget(line_id)
        heard_ms = 0
        if reply.voice_media_s is not None:
            if status != "completed" and not reply.is_cut:
                reply.end_media_s, reply.end_held_frames = self._played_s(), self._buffer.num_held_frames
            # Pictures that stood still came with silence.
            held_s = (reply.end_held_frames - reply.voice_held_frames) / self._info.fps
            heard_ms = max(0, round((reply.end_media_s - held_s - reply.voice_media_s) * 1000))
            if status != "completed":
                self._send(wire.AudioCleared(response_id=reply.reply_id, heard_ms=heard_ms))
        total_s = self._clock() - reply.accepted_s
        self._send(
            wire.ResponseDone(
                response_id=reply.reply_id,
                status=status,
                heard_ms=heard_ms,
                heard_text=" ".join(reply.heard),
                timings=wire.Timings(
                    first_audio_ms=reply.first_audio_ms,
                    total_ms=round(total_s * 1000),
                    underruns=self._buffer.num_underruns - reply.underruns_before,
                ),
                code=code,
                message=message,
            )
        )
        self._metrics.replies.labels(status).inc()
        self._log.info("reply %s %s: voice after %s ms, heard %d ms", reply.reply_id, status, reply.first_audio_ms, heard_ms)
        if self.state in ("speaking", "thinking"):
            self._set_state("thinking" if self._replies else "listening")


def _session_over() -> wire.EventError:
    return wire.EventError("session_over", "The session is over. Start a new one.")


def _settle(done: asyncio.Future[None], *, over: bool) -> None:
    if over:
        done.set_exception(_session_over())
    else:
        done.set_result(None)
