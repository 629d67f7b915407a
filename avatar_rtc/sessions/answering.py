"""What a mind makes up goes into a session's conversation, in turn with commands; its calls of tools become events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from avatar_rtc.event_log import EventLog
from avatar_rtc.mind.source import SourceError, ToolCall
from avatar_rtc.sessions.conversation import Conversation, Playhead
from signaling.vocabulary import EventError, FunctionCall, ResponseCreate

FULL_PAUSE_S = 0.25
"""What is made up is so far ahead of what is heard that no more of it may wait: it is tried again after this."""
InTurn = Callable[[Callable[[Playhead], None]], Awaitable[None]]
"""Has a conversation changed when it is its turn, and what follows carried out; raises what the change raises."""


class Answering:
    """Implements :class:`avatar_rtc.mind.mind.Speaker`."""

    def __init__(self, conversation: Conversation, events: EventLog, in_turn: InTurn) -> None:
        self._conversation = conversation
        self._events = events
        self._in_turn = in_turn

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

    async def finish(self, reply_id: str, error: SourceError | None) -> None:
        await self._in_turn(lambda at: self._conversation.end_answer(reply_id, error, at))

    def call_tool(self, reply_id: str, call: ToolCall) -> None:
        self._events.append(FunctionCall(response_id=reply_id, call_id=call.call_id, name=call.name, arguments=call.arguments))
