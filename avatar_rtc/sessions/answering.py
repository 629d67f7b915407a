"""What a mind makes up goes into a session's conversation, in turn with commands; its calls of tools become events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from avatar_rtc.config import LlmConfig
from avatar_rtc.event_log import EventLog
from avatar_rtc.logs import SessionLog
from avatar_rtc.mind.mind import Mind
from avatar_rtc.mind.source import Brief, Message, ReplySource, SourceError, ToolCall
from avatar_rtc.sessions.conversation import Conversation, Playhead
from avatar_rtc.sessions.reply import Reply
from signaling.vocabulary import EventError, FunctionCall, ResponseCreate, ResponseDone, UserMessage

FULL_PAUSE_S = 0.25
"""What is made up is so far ahead of what is heard that no more of it may wait: it is tried again after this."""
Change = Callable[[Playhead], None]
"""Changes a conversation; told where playing is then."""


class Answering:
    """What a session answers by its mind, if it has one. Implements :class:`avatar_rtc.mind.mind.Speaker`.

    Args:
        in_turn: has the conversation changed when it is its turn, and what follows carried out; raises what the change raises.
        source, config: of the mind; None: there is none.
    """

    def __init__(
        self,
        conversation: Conversation,
        events: EventLog,
        in_turn: Callable[[Change], Awaitable[None]],
        log: SessionLog,
        source: ReplySource | None,
        config: LlmConfig | None,
    ) -> None:
        self._conversation = conversation
        self._events = events
        self._in_turn = in_turn
        self._mind = None if source is None or config is None else Mind(source, config, self, log)

    @property
    def mind(self) -> Mind:
        """The mind. Raises ``EventError`` where there is none."""
        if self._mind is None:
            raise EventError("no_llm", "This server has no language model. Set llm in its config, or use response.create.")
        return self._mind

    @property
    def messages(self) -> Sequence[Message]:
        """What the mind is told of the conversation."""
        return () if self._mind is None else self._mind.history.messages

    @property
    def brief(self) -> Brief:
        """What it is told besides."""
        return Brief() if self._mind is None else self._mind.brief

    def recall(self, messages: Sequence[Message], brief: Brief) -> None:
        """The conversation was somewhere else before."""
        if self._mind is not None:
            self._mind.history.recall(messages)
            self._mind.take_brief(brief)

    def ask(self, message: UserMessage, at: Playhead, item_id: str | None = None) -> None:
        """The user says something: a reply is opened, and filled when it is its turn. Raises ``EventError``.

        Args:
            item_id: of the turn, where it was spoken. Such a one is said once more where there is no mind.
        """
        if self._mind is None and item_id is not None:
            return self._conversation.echo(message, at, item_id)
        self.mind.check(message)
        self.mind.ask(self._conversation.answer(message, at, item_id), message)

    def expect(self, text: str) -> None:
        """The user will perhaps say this; see :meth:`avatar_rtc.mind.mind.Mind.expect`. What is heard meanwhile counts, too, so
        as long as something is said nothing is expected."""
        if self._mind is not None:
            self._mind.expect("" if self._conversation.is_busy else text)

    def heard(self, done: ResponseDone) -> None:
        """A reply has ended, whoever wanted it."""
        if self._mind is not None:
            self._mind.heard(done)

    async def run(self) -> None:
        """Answer until it is cancelled."""
        if self._mind is not None:
            await self._mind.run()

    # The speaker.

    def is_next(self, reply_id: str) -> bool:
        return self._conversation.is_next(reply_id)

    async def say(self, reply_id: str, piece: str) -> None:
        command = ResponseCreate(mode="append", id=reply_id, input=piece, more=True)
        while True:
            try:
                return await self._in_turn(lambda at: self._conversation.receive(command, at))
            except EventError as error:
                if error.code != "queue_full":
                    raise
            await asyncio.sleep(FULL_PAUSE_S)

    async def flush(self, reply_id: str) -> None:
        await self._in_turn(lambda at: self._conversation.change_answer(reply_id, Reply.flush, at))

    async def finish(self, reply_id: str, error: SourceError | None) -> None:
        def end(reply: Reply) -> None:
            reply.end_answer(error)

        await self._in_turn(lambda at: self._conversation.change_answer(reply_id, end, at))

    def call_tool(self, reply_id: str, call: ToolCall) -> None:
        self._events.append(FunctionCall(response_id=reply_id, call_id=call.call_id, name=call.name, arguments=call.arguments))
