"""Replies of any server that speaks OpenAI's chat completions: OpenAI's own, Ollama, llama.cpp's, vLLM and others."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import openai

from avatar_rtc.config import LlmConfig, api_key_of
from avatar_rtc.mind.source import Brief, Message, Said, SourceError, ToolCall
from signaling.dialects.frames import MAX_MESSAGE_BYTES, well_formed

MAX_ARGUMENTS_CHARS = MAX_MESSAGE_BYTES // 4
"""So that a call of a tool fits into an event."""


class ChatCompletions:
    """Implements :class:`avatar_rtc.mind.source.ReplySource`. Nobody is asked before the first reply is wanted.

    Raises:
        avatar_rtc.errors.ServerConfigError: the environment lacks the API key.
    """

    def __init__(self, config: LlmConfig) -> None:
        self._config = config
        self._key = key = api_key_of("llm", config.api_key_env)
        # Without a key of ours the library would take that of its own environment variable, whoever is asked.
        self._client = openai.AsyncOpenAI(base_url=config.base_url, api_key=key or "none", max_retries=0, timeout=None)
        self._tools: list[Any] = [tool.model_dump() for tool in config.tools]

    async def close(self) -> None:
        await self._client.close()

    async def reply(self, messages: Sequence[Message], brief: Brief) -> AsyncGenerator[str | ToolCall]:
        is_answering = False
        calls = _Calls()
        create: Any = self._client.chat.completions.create
        try:
            async with asyncio.timeout(self._config.token_timeout_s) as patience:
                async with await create(**self._request(messages, brief)) as stream:
                    async for chunk in stream:
                        patience.reschedule(None)
                        is_answering = True
                        for delta in _deltas(chunk):
                            calls.add(delta)
                            if text := _text(delta):
                                yield text
                        patience.reschedule(asyncio.get_running_loop().time() + self._config.token_timeout_s)
            for call in calls.finished():
                yield call
        except TimeoutError:
            waited = f"Nothing came from the language model for {self._config.token_timeout_s:g} s."
            raise SourceError("llm_timeout", waited) from None
        except openai.APIStatusError as error:
            raise self._refusal(error) from None
        except openai.APIConnectionError as error:
            if is_answering:
                raise self._broken("broke off its answer", error) from None
            raise SourceError("llm_unreachable", "The language model cannot be reached.", self._detail(error)) from None
        except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
            raise self._broken("sent what is no chat completion", error) from None

    def _request(self, messages: Sequence[Message], brief: Brief) -> dict[str, Any]:
        system = Brief(self._config.instructions).and_also(brief.instructions).instructions
        request = {
            "model": self._config.model,
            "messages": [{"role": "system", "content": system}, *_wire(messages)],
            "stream": True,
            "extra_body": self._config.extra_body,
        }
        if tools := [*self._tools, *brief.tools]:
            request["tools"] = [{"type": "function", "function": tool} for tool in tools]
        return request

    def _refusal(self, error: openai.APIStatusError) -> SourceError:
        status = error.status_code
        if status == 429:
            return SourceError("llm_busy", "The language model takes no more requests now (HTTP 429).", self._detail(error))
        if status >= 500:
            return SourceError("llm_unreachable", f"The language model's server failed (HTTP {status}).", self._detail(error))
        hint = "; the server's log says why"
        return SourceError("llm_refused", f"The language model refused the request (HTTP {status}{hint}).", self._detail(error))

    def _broken(self, what: str, error: Exception) -> SourceError:
        return SourceError("llm_broken", f"The language model {what}.", self._detail(error))

    def _detail(self, error: Exception) -> str:
        cause = f" ({error.__cause__})" if isinstance(error, openai.APIConnectionError) and error.__cause__ else ""
        detail = f"{self._config.base_url}: {type(error).__name__}: {error}{cause}"
        return detail.replace(self._key, "***") if self._key else detail


class _Calls:
    """Puts together the calls of tools whose names and arguments come in pieces."""

    def __init__(self) -> None:
        self._parts: dict[int, dict[str, str]] = {}

    def add(self, delta: Any) -> None:
        for position, part in enumerate(delta.tool_calls or ()):
            index = part.index if isinstance(part.index, int) else position
            call = self._parts.setdefault(index, {"id": "", "name": "", "arguments": ""})
            call["id"] = call["id"] or part.id or ""
            if part.function is not None:
                call["name"] += part.function.name or ""
                call["arguments"] += part.function.arguments or ""
            if len(call["arguments"]) > MAX_ARGUMENTS_CHARS:
                raise ValueError(f"arguments of a tool with more than {MAX_ARGUMENTS_CHARS} characters")

    def finished(self) -> list[ToolCall]:
        """In their order, each with an id of its own."""
        calls: dict[str, ToolCall] = {}
        for _, part in sorted(self._parts.items()):
            call_id = well_formed(part["id"])
            if not call_id or call_id in calls or len(call_id) > 128:
                call_id = f"call-{secrets.token_hex(4)}"
            calls[call_id] = ToolCall(call_id, well_formed(part["name"]), well_formed(part["arguments"]))
        return list(calls.values())


def _deltas(chunk: Any) -> list[Any]:
    return [choice.delta for choice in (chunk.choices or ())[:1] if choice.delta is not None]


def _text(delta: Any) -> str:
    text = delta.content or getattr(delta, "refusal", None) or ""
    if not isinstance(text, str):
        raise TypeError(f"content is {type(text).__name__}")
    return well_formed(text)


def _wire(messages: Sequence[Message]) -> list[dict[str, Any]]:
    wire: list[dict[str, Any]] = []
    for message in messages:
        if isinstance(message, Said):
            wire.append({"role": message.role, "content": message.text})
            continue
        calls = [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.calls
        ]
        wire.append({"role": "assistant", "content": message.text or None, "tool_calls": calls})
        wire += [
            {"role": "tool", "tool_call_id": call.call_id, "content": output}
            for call, output in zip(message.calls, message.outputs, strict=True)
        ]
    return wire
