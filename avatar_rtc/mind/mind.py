"""A mind: turn by turn, it has a source make up replies to what the user of one session says, and has them spoken."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from avatar_rtc.config import LlmConfig
from avatar_rtc.logs import SessionLog
from avatar_rtc.mind.history import History
from avatar_rtc.mind.source import Brief, Message, ReplySource, SourceError, ToolCall, ToolUse
from signaling.vocabulary import EventError, FunctionCallOutput, ResponseDone, SessionUpdate, Tool, UserMessage

MAX_TOOL_USES = 8
"""In one turn; a model that goes on calling tools has lost its thread."""
MAX_SENTENCE_REST_CHARS = 400
"""By so much an answer may exceed its limit to end with a sentence."""
MAX_PIECE_CHARS = 1000
NO_OUTPUT = "Error: nothing came back from the tool in time."
_SENTENCE_END = re.compile(r"[.!?…][\"')\]]*(?=\s|$)|\n")


class Speaker(Protocol):
    """Has said what a mind makes up. A reply that has ended takes nothing more."""

    def is_next(self, reply_id: str) -> bool:
        """Whether nothing is said before this reply any more."""

    async def say(self, reply_id: str, piece: str) -> None:
        """Append a piece to a reply. Raises ``signaling.vocabulary.EventError``."""

    async def flush(self, reply_id: str) -> None:
        """What was said so far ends with a sentence: none of it waits for what follows."""

    async def finish(self, reply_id: str, error: SourceError | None) -> None:
        """End a reply when what it has is heard. With an error it says so, and has failed."""

    def call_tool(self, reply_id: str, call: ToolCall) -> None:
        """Pass a call on to whoever controls the session."""


@dataclass(frozen=True)
class _Turn:
    reply_id: str
    text: str
    instructions: str | None


class _Early:
    """An answer that is asked for before it is sure what was asked.

    Attributes:
        messages, brief: what it answers.
    """

    def __init__(self, source: ReplySource, messages: Sequence[Message], brief: Brief) -> None:
        self.messages = messages
        self.brief = brief
        self._pieces: asyncio.Queue[str | ToolCall | None] = asyncio.Queue()
        self._asking = asyncio.create_task(self._ask(source))
        self._asking.add_done_callback(lambda done: done.cancelled() or done.exception())  # perhaps nobody else asks

    async def _ask(self, source: ReplySource) -> None:
        try:
            async with contextlib.aclosing(source.reply(self.messages, self.brief)) as pieces:
                async for piece in pieces:
                    self._pieces.put_nowait(piece)
        finally:
            self._pieces.put_nowait(None)

    async def pieces(self) -> AsyncGenerator[str | ToolCall]:
        """As a source gives them; raises as it does."""
        try:
            while (piece := await self._pieces.get()) is not None:
                yield piece
            await self._asking
        finally:
            self.close()

    def close(self) -> None:
        """Give up; idempotent."""
        self._asking.cancel()


def changed(brief: Brief, instructions: str | None, tools: Sequence[Tool] | None, config: LlmConfig) -> Brief:
    """A brief with what is not None in its place.

    Raises:
        EventError: that is too long, or two tools have one name.
    """
    instructions = brief.instructions if instructions is None else instructions.strip()
    tools = brief.tools if tools is None else tuple(tools)
    _check_length("instructions", instructions, config)
    _check_length("tools", json.dumps(tools), config)
    names = [tool["name"] for tool in tools]
    if twice := [name for name in names if names.count(name) > 1]:
        raise EventError("bad_tools", f"Two tools are called {twice[0]}: give each a name of its own.")
    # Who runs a tool of the server's may describe it, too, as OpenAI's libraries do: the server's word counts.
    of_server = {tool.name for tool in config.tools}
    return Brief(instructions, tuple(tool for tool in tools if tool["name"] not in of_server))


def _check_length(what: str, text: str, config: LlmConfig) -> None:
    if len(text) > config.max_history_chars:
        limit = config.max_history_chars
        raise EventError("message_too_large", f"{len(text)} characters of {what}; the limit is {limit}. Say less at once.")


class Mind:
    """The turns of one session, one after the other: one request at a time.

    Args:
        config: limits.

    Attributes:
        history: of the conversation.
        brief: what clients have added to the config's instructions and tools.
    """

    def __init__(self, source: ReplySource, config: LlmConfig, speaker: Speaker, log: SessionLog) -> None:
        self._source = source
        self._config = config
        self._speaker = speaker
        self._log = log
        self.history = History(config.max_history_chars)
        self.brief = Brief()
        self._waiting: deque[_Turn] = deque()
        self._running: tuple[_Turn, asyncio.Task[None]] | None = None
        self._outputs: dict[str, asyncio.Future[str]] = {}
        self._early: _Early | None = None
        self._changed = asyncio.Event()

    def check(self, message: UserMessage) -> None:
        """Raises ``EventError`` for what the user says where it is too long to be answered."""
        _check_length("a message", message.text, self._config)
        _check_length("instructions", message.instructions or "", self._config)

    def brief_of(self, update: SessionUpdate) -> Brief:
        """The brief after an update. Raises ``EventError`` as ``changed`` does."""
        return changed(self.brief, update.instructions, update.tools, self._config)

    def take_brief(self, brief: Brief) -> None:
        """From the next answer on."""
        self.brief = brief
        self.expect("")

    def expect(self, text: str) -> None:
        """The user will perhaps ask this next: the source is asked already, so that the answer comes sooner if it is so.

        Args:
            text: empty: nothing is expected any more.
        """
        messages = self.history.with_user(text)
        if self._early is not None and (not text or self._early.messages != messages):
            self._early.close()
            self._early = None
        if text and self._early is None and len(text) <= self._config.max_history_chars:
            self._early = _Early(self._source, messages, self.brief)

    def ask(self, reply_id: str, message: UserMessage) -> None:
        """The user says something. The answer goes into the reply of this id, when it is its turn."""
        self._waiting.append(_Turn(reply_id, message.text, message.instructions))
        self._changed.set()

    def take_output(self, output: FunctionCallOutput) -> None:
        """What came of a call of a tool.

        Raises:
            EventError: nothing waits for it, or not any more.
        """
        waiting = self._outputs.get(output.call_id)
        if waiting is None or waiting.done():
            raise EventError("unknown_call", f"No call {output.call_id!r:.80} waits for its output, or not any more.")
        waiting.set_result(output.output)

    def heard(self, done: ResponseDone) -> None:
        """A reply has ended, one of ours or another one. If it is being made up still, that ends, too."""
        self._waiting = deque(turn for turn in self._waiting if turn.reply_id != done.response_id)
        if self._running is not None and self._running[0].reply_id == done.response_id:
            self._running[1].cancel()
        self.history.add_heard(done.heard_text)
        self._changed.set()

    async def run(self) -> None:
        """Answer until it is cancelled."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                while self._waiting and self._speaker.is_next(self._waiting[0].reply_id):
                    await self._take(self._waiting.popleft())
        finally:
            self.expect("")

    async def _take(self, turn: _Turn) -> None:
        if turn.text.strip():
            self.history.add_user(turn.text)
        answering = asyncio.create_task(self._answer(turn))
        self._running = turn, answering
        try:
            await asyncio.wait((answering,))
        finally:
            self._running = None
            answering.cancel()
            await asyncio.wait((answering,))

    async def _answer(self, turn: _Turn) -> None:
        error: SourceError | None = None
        try:
            await self._make_up(turn)
        except SourceError as raised:
            error = raised
        except EventError as raised:
            error = SourceError("llm_broken", f"The answer cannot be spoken: {raised.message}")
        except Exception as raised:
            self._log.exception("an answer failed")
            error = SourceError("llm_broken", "The server failed to answer; its log says why.", type(raised).__name__)
        finally:
            self.history.end_turn()
        if error is not None:
            self._log.warning("%s: %s", error.code, error.detail)
        await self._speaker.finish(turn.reply_id, error)

    async def _make_up(self, turn: _Turn) -> None:
        answer = ""
        for _ in range(MAX_TOOL_USES + 1):
            calls: list[ToolCall] = []
            said_before = len(answer)
            brief = self.brief.and_also(turn.instructions)
            async with contextlib.aclosing(self._pieces_of(self.history.messages, brief)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, ToolCall):
                        calls.append(piece)
                        continue
                    kept = piece[: self._num_chars_left(answer, piece)]
                    answer += kept
                    for start in range(0, len(kept), MAX_PIECE_CHARS):
                        await self._speaker.say(turn.reply_id, kept[start : start + MAX_PIECE_CHARS])
                    if kept != piece:
                        self._log.info("the answer has %d characters: what follows is left out", len(answer))
                        return
            if not calls:
                return
            await self._speaker.flush(turn.reply_id)
            outputs = await self._call(turn, calls)
            self.history.add_tool_use(ToolUse(tuple(calls), outputs, answer[said_before:]))
        raise SourceError("llm_broken", f"The language model called tools more than {MAX_TOOL_USES} times for one answer.")

    def _pieces_of(self, messages: Sequence[Message], brief: Brief) -> AsyncGenerator[str | ToolCall]:
        """The reply to a conversation, which is on its way where it was expected."""
        early, self._early = self._early, None
        if early is not None and (early.messages, early.brief) == (messages, brief):
            return early.pieces()
        if early is not None:
            early.close()
        return self._source.reply(messages, brief)

    def _num_chars_left(self, answer: str, piece: str) -> int:
        """How much of a piece an answer still takes: to its limit, and from there to the end of a sentence, if it is near."""
        limit = self._config.max_answer_chars - len(answer)
        if len(piece) <= limit:
            return len(piece)
        if limit <= 0 and answer.endswith((".", "!", "?", "…", "\n")):
            return 0
        end = _SENTENCE_END.search(piece, max(0, limit - 1))
        return max(0, min(end.end() if end else len(piece), limit + MAX_SENTENCE_REST_CHARS))

    async def _call(self, turn: _Turn, calls: Sequence[ToolCall]) -> tuple[str, ...]:
        """Have tools called. Returns what came of each."""
        loop = asyncio.get_running_loop()
        self._outputs = {call.call_id: loop.create_future() for call in calls}
        try:
            for call in calls:
                self._speaker.call_tool(turn.reply_id, call)
            await asyncio.wait(self._outputs.values(), timeout=self._config.tool_timeout_s)
            return tuple(output.result() if output.done() else NO_OUTPUT for output in self._outputs.values())
        finally:
            self._outputs = {}
