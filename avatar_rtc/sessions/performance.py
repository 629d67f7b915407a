"""Performance: what is said and shown in one session, whoever watches.

It carries out commands one after the other: what the conversation decides goes to the engine, what comes from the engine into the
playout, and what the playout plays is told to the conversation.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal

from avatar_rtc.config import ServerConfig
from avatar_rtc.engine.api import Engine, EngineFailure, EngineStream
from avatar_rtc.errors import ImageError
from avatar_rtc.event_log import EventLog
from avatar_rtc.images import decode_base64
from avatar_rtc.logs import SessionLog
from avatar_rtc.media.buffer import MarkReached
from avatar_rtc.media.playout import Playout, Pulled
from avatar_rtc.metrics import Metrics
from avatar_rtc.mind.source import Brief, ReplySource
from avatar_rtc.presets import seed_of
from avatar_rtc.sessions.answering import Answering, Change
from avatar_rtc.sessions.conversation import Conversation, Playhead, Push
from avatar_rtc.sessions.turns import Turns
from model.chunk import Image, StreamSettings
from model.errors import ModelError
from model.text.prompt import MAX_PROMPT_CHARS
from signaling.vocabulary import (
    ClientStats,
    Command,
    Error,
    EventError,
    FunctionCallOutput,
    InputTranscriptFailed,
    Ping,
    ResponseCancel,
    ResponseCreate,
    ResponseDone,
    SessionUpdate,
    SessionUpdated,
    State,
    UserMessage,
)

REOPEN_EVERY_S = 0.25


class Performance:
    """One stream of the engine, what is said in it, and when it is played.

    Args:
        settings: who is seen and heard at first.
        events: of the session; what happens is appended to it.
        source: makes up answers to what the user says; goes with ``config.llm``.

    Attributes:
        settings: who is seen and heard now.
        playout: gives what is due to whoever encodes it.
        turns: where commands wait to be carried out.
        conversation: what is said.
        answering: what is made up to be said.
    """

    def __init__(
        self,
        config: ServerConfig,
        engine: Engine,
        settings: StreamSettings,
        events: EventLog,
        metrics: Metrics,
        log: SessionLog,
        source: ReplySource | None = None,
    ) -> None:
        self.settings = settings
        self._config = config
        self._engine = engine
        self._events = events
        self._metrics = metrics
        self._log = log
        media, limits = config.media, config.limits
        self._voices = {voice.id: voice.voice for voice in config.voices}
        self.conversation = Conversation(
            engine.info.fps,
            max_queued_replies=limits.max_queued_replies,
            open_reply_timeout_s=limits.open_reply_timeout_s,
            voices=self._voices,
            is_long=lambda length_s: self.playout.policy.wait_s(length_s, 0.0, started=False) * 1000 > media.max_wait_ms,
        )
        self.playout = Playout(
            engine.info,
            low_water_s=media.low_water_ms / 1000,
            rtf=engine.stats().rtf_p50,
            on_mark=self._on_mark,
            is_wanted=self.conversation.knows,
            video_delay_s=media.video_delay_ms / 1000,
        )
        self.turns = Turns(self._carry_out, log)
        self.answering = Answering(self.conversation, events, self._in_turn, log, source, config.llm)
        self._stream: EngineStream | None = None

    @property
    def state(self) -> State:
        """What the avatar does."""
        return self.conversation.state

    @property
    def is_busy(self) -> bool:
        """Whether something is said, or waits to be."""
        return self.conversation.is_busy

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is said, and nothing waits to be done."""
        return self.conversation.state == "listening" and not self.conversation.is_busy and not self.turns.are_waiting

    @property
    def is_between(self) -> bool:
        """Whether something waits to be said, and all of it could be said elsewhere."""
        replies = self.conversation.replies
        return bool(replies) and all(reply.may_move for reply in replies) and not self.turns.are_waiting

    @property
    def num_replies(self) -> int:
        return self.conversation.num_replies

    # Commands.

    async def _carry_out(self, command: Command) -> None:
        try:
            await self._act(command)
        finally:
            self._tell()

    async def _act(self, command: Command) -> None:
        match command:
            case ResponseCreate() | ResponseCancel():
                await self._change(lambda at: self.conversation.receive(command, at))
            case UserMessage():
                await self._change(lambda at: self.answering.ask(command, at))
            case FunctionCallOutput():
                self.answering.mind.take_output(command)
            case SessionUpdate():
                await self._update(command)
            case ClientStats():
                if command.first_frame_ms is not None:
                    self._metrics.join_s.labels("first_frame_shown").observe(command.first_frame_ms / 1000)
            case Ping():
                pass  # over HTTP the answer is one

    def interrupt(self) -> None:
        """Somebody speaks: nothing is said any more."""
        self.turns.take_soon(lambda: self._carry_out(ResponseCancel()))

    def expect_spoken(self, text: str) -> None:
        """The user has said so much into a microphone, and may go on; see :meth:`avatar_rtc.mind.mind.Mind.expect`."""
        self.answering.expect(text)

    def answer_spoken(self, text: str, item_id: str, mode: Literal["replace", "queue"]) -> None:
        """The user has said something into a microphone, in a turn of this id."""
        message = UserMessage(text=text, mode=mode)

        async def answer() -> None:
            try:
                await self._change(lambda at: self.answering.ask(message, at, item_id))
            except EventError as error:
                self._events.append(InputTranscriptFailed(item_id=item_id, code=error.code, message=error.message))
            finally:
                self._tell()

        self.turns.take_soon(answer)

    async def _change(self, change: Change) -> None:
        """Change the conversation, and carry out what follows. Raises ``EventError`` as both do."""
        change(self._playhead())
        await self._execute()
        self.conversation.settle()

    async def _in_turn(self, change: Change) -> None:
        """The same when it is its turn among the commands."""
        await self.turns.take(lambda: self._change(change))

    async def _update(self, command: SessionUpdate) -> None:
        brief = None
        if command.instructions is not None or command.tools is not None:
            brief = self.answering.mind.brief_of(command)
        scene, voice = command.scene, self._voices.get(command.voice, command.voice) if command.voice else None
        if command.avatar is not None:
            avatar = next((a for a in self._config.avatars if a.id == command.avatar), None)
            if avatar is None:
                known = ", ".join(a.id for a in self._config.avatars)
                raise EventError("unknown_avatar", f"There is no avatar {command.avatar!r:.80}. Choose one of {known}.")
            scene, voice = scene or avatar.scene, voice or self._voices[avatar.voice]
        for name, text in (("scene", scene), ("voice", voice)):
            if text is not None and (not text.strip() or len(text) > MAX_PROMPT_CHARS):
                raise EventError("bad_prompt", f"The {name} must have 1 to {MAX_PROMPT_CHARS} characters.")
        try:
            image = None if command.image is None else decode_base64(command.image)
            await self._change_settings(scene, voice, command.event_id, image, brief)
        except (ModelError, ImageError) as error:
            raise EventError(error.code, str(error)) from None

    async def _change_settings(
        self, scene: str | None, voice: str | None, event_id: str | None, image: Image | None = None, brief: Brief | None = None
    ) -> None:
        old = self.settings
        if image is None and scene is None:
            image = old.image
        scene = scene or old.scene
        self.settings = StreamSettings(scene, voice or old.voice, seed_of(self._config, scene, otherwise=old.seed), image)
        stream = self._stream
        if stream is not None and self.settings != old:
            try:
                self.playout.change_look()
                await stream.update(self.settings)
            except ModelError:
                self.settings = old
                raise
            except EngineFailure as failure:
                self._lose_stream(stream, failure)  # the one that is opened next has the new settings
        if brief is not None:
            self.answering.mind.take_brief(brief)
        self._events.append(SessionUpdated(scene=self.settings.scene, voice=self.settings.voice, event_id=event_id))

    async def _execute(self) -> None:
        """Carry out what the conversation wants now."""
        while (action := self.conversation.next_action(can_push=self._stream is not None)) is not None:
            self._tell()
            stream = self._stream
            try:
                if isinstance(action, Push):
                    await self._push(action)
                    continue
                self.playout.silence()
                self._metrics.interrupt_s.observe(self.playout.buffer.buffered_s)
                if stream is not None:
                    await stream.cancel()
                    self.playout.policy.on_line()
                    self.playout.outdate()  # also what was asked for before the engine knew
            except EngineFailure as failure:
                if stream is not None:
                    self._lose_stream(stream, failure)
        self._tell()

    async def _push(self, push: Push) -> None:
        stream = self._stream
        assert stream is not None
        try:
            if push.scene is not None or push.voice is not None:
                await self._change_settings(push.scene, push.voice, push.event_id)
            self.playout.push(push.line_id, await stream.push(push.line_id, push.text))
            self._tell_wait()
        except ModelError as error:
            self.conversation.refused(push, error, self._playhead())

    # Life.

    async def run(self) -> None:
        """Feed the playout and carry out commands until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._feed())
            group.create_task(self.turns.run())
            group.create_task(self.answering.run())

    async def close(self, *, goes_on: bool = False) -> None:
        """End all replies and the stream. To be called when ``run`` has ended.

        Args:
            goes_on: the replies do not end: they are said elsewhere.
        """
        if not goes_on:
            self.conversation.close(self._playhead())
            self._tell()
        self.turns.close()
        if self._stream is not None:
            await self._stream.close()

    def expire(self) -> None:
        """To be called now and then: what waits for too long is closed."""
        if self.conversation.expire(self._playhead()):
            self.turns.take_soon(self._execute)
        self._tell()

    async def _feed(self) -> None:
        while True:
            stream = await self._open_stream()
            try:
                async with contextlib.aclosing(self.playout.pull(stream)) as chunks:
                    async for pulled in chunks:
                        if self._stream is not stream:
                            break
                        self._take(pulled)
            except EngineFailure as failure:
                self._lose_stream(stream, failure)

    async def _open_stream(self) -> EngineStream:
        while True:
            asked = self.settings
            try:
                stream = await self._engine.open(asked)
            except EngineFailure:
                await asyncio.sleep(REOPEN_EVERY_S)
                continue
            except ModelError as error:
                # A scene or a voice in words that the model cannot use, from the address of the call.
                fallback = self._config.avatars[0]
                seed = seed_of(self._config, fallback.scene, otherwise=self.settings.seed)
                settings = StreamSettings(fallback.scene, self._voices[fallback.voice], seed)
                if settings == asked:
                    raise
                self._events.append(Error(code=error.code, message=str(error)))
                self.settings = settings
                self._events.append(SessionUpdated(scene=settings.scene, voice=settings.voice))
                continue
            if self.settings != asked:
                await stream.close()  # they were changed meanwhile
                continue
            self._stream = stream
            self.turns.take_soon(self._execute)
            return stream

    def _take(self, pulled: Pulled) -> None:
        if pulled.rtf is not None:
            self._metrics.rtf.observe(pulled.rtf)
        self._metrics.buffer_s.observe(self.playout.buffer.buffered_s)
        self.conversation.came()
        ended = [mark.reply_id for mark in pulled.chunk.marks if mark.kind == "end"]
        for line_id in ended:
            self.conversation.generated(line_id)
        if ended:
            self.turns.take_soon(self._execute)
        self._tell_wait()
        self._tell()

    def _lose_stream(self, stream: EngineStream, failure: EngineFailure) -> None:
        """The engine died: replies that it had end as failed, the last picture is held, those that wait go on waiting."""
        if self._stream is not stream:
            return
        self._stream = None
        self._metrics.engine_failures.inc()
        self._log.warning("engine failed: %s", failure)
        self.playout.silence()
        self.conversation.stream_lost(self._playhead())
        self._tell()

    def _on_mark(self, played: MarkReached) -> None:
        """A moment of a line is being played."""
        if played.mark.kind == "end":
            self.playout.lines.forget(played.mark.reply_id)  # whether the next one waits is asked below
        self.conversation.reached(played, self._playhead())
        if played.mark.kind == "end":
            self._tell_wait()
        self._tell()

    def _playhead(self) -> Playhead:
        buffer = self.playout.buffer
        return Playhead(
            self.playout.clock.now(),
            self.playout.played_s(),
            buffer.num_held_frames,
            buffer.num_underruns,
            self.playout.lines.is_waiting,
        )

    def _tell_wait(self) -> None:
        self.conversation.waits(self.playout.lines.wait_s(), self.playout.clock.now())

    def _tell(self) -> None:
        """Hand on what the conversation has to say."""
        for line_id in self.conversation.take_forgotten():
            self.playout.lines.forget(line_id)
        for event in self.conversation.take_events():
            self._events.append(event)
            if isinstance(event, ResponseDone):
                self.answering.heard(event)
                self._metrics.replies.labels(event.status).inc()
                first_ms = event.timings.first_audio_ms
                if first_ms is not None:
                    self._metrics.first_audio_s.observe(first_ms / 1000)
                self._log.info(
                    "reply %s %s: voice after %s ms, heard %d ms", event.response_id, event.status, first_ms, event.heard_ms
                )
