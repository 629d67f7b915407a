"""One microphone and its recogniser, without a network: what is told when, and what the recogniser is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import numpy as np
import pytest

from avatar_rtc.config import ListenConfig
from avatar_rtc.ears.listener import Heard, Listener, Paused
from avatar_rtc.ears.recognizer import RecognitionError
from avatar_rtc.ears.voice_activity import BLOCK_SAMPLES, VoiceActivity
from avatar_rtc.logs import SessionLog
from signaling.vocabulary import InputTranscript, InputTranscriptFailed, InputTranscriptUpdated, SpeechStarted, SpeechStopped

LOUD, SILENT = np.full(BLOCK_SAMPLES, 0.5, np.float32), np.zeros(BLOCK_SAMPLES, np.float32)
TURN = [LOUD] * 20 + [SILENT] * 20


class Loudness:
    """In the place of a network."""

    def probability(self, block: np.ndarray) -> float:
        return float(block.max() > 0.1)


class Recogniser:
    def __init__(self, answer: Callable[[int], Awaitable[str]]) -> None:
        self.asked: list[int] = []
        self._answer = answer

    async def recognize(self, samples: np.ndarray) -> str:
        self.asked.append(len(samples) // BLOCK_SAMPLES)
        return await self._answer(len(self.asked))

    async def close(self) -> None:
        pass


class Microphone:
    """Blocks of a listener, and what it tells."""

    def __init__(self) -> None:
        self.told: list[Heard] = []
        self.blocks: asyncio.Queue[np.ndarray | None] = asyncio.Queue()

    async def hear(self, *blocks: np.ndarray) -> None:
        """Blocks come, and what can be done about each is done."""
        for block in blocks:
            self.blocks.put_nowait(block)
            for _ in range(10):
                await asyncio.sleep(0)

    def told_of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.told if isinstance(event, kind)]

    async def all(self) -> AsyncIterator[np.ndarray]:
        while (block := await self.blocks.get()) is not None:
            yield block


@asynccontextmanager
async def listening(
    recogniser: Recogniser, is_echo: Callable[[np.ndarray], bool] = lambda heard: False, **config: Any
) -> AsyncIterator[Microphone]:
    microphone = Microphone()
    voice = cast(VoiceActivity, Loudness())
    log = SessionLog("test")
    listener = Listener(recogniser, ListenConfig(**config), voice, is_echo, microphone.told.append, log)
    life = asyncio.create_task(listener.listen(microphone.all()))
    try:
        yield microphone
        microphone.blocks.put_nowait(None)
        async with asyncio.timeout(5):
            await life
    finally:
        life.cancel()
        await asyncio.wait((life,))


async def hears(number: int) -> str:
    return f"words {number}"


async def test_words_come_while_somebody_speaks_and_are_whole_when_the_turn_ends() -> None:
    recogniser = Recogniser(hears)
    async with listening(recogniser) as microphone:
        await microphone.hear(*[SILENT] * 30, *[LOUD] * 26, *[SILENT] * 20)
    item_id = microphone.told_of(SpeechStarted)[0].item_id
    assert microphone.told == [
        SpeechStarted(item_id=item_id, audio_start_ms=20 * 32),  # 0.3 s before it was loud
        InputTranscriptUpdated(item_id=item_id, text="words 1"),
        InputTranscriptUpdated(item_id=item_id, text="words 2"),
        Paused(item_id, "words 2"),
        SpeechStopped(item_id=item_id, audio_end_ms=56 * 32),
        InputTranscript(item_id=item_id, text="words 2"),
    ]
    # After half a second of speech, and in the pause: when the turn is over its words are there.
    assert recogniser.asked == [10 + 16, 10 + 26 + 5]


async def test_who_goes_on_after_a_pause_is_recognised_again() -> None:
    recogniser = Recogniser(hears)
    async with listening(recogniser) as microphone:
        await microphone.hear(*[LOUD] * 20, *[SILENT] * 10, *[LOUD] * 3, *[SILENT] * 20)
    assert [event.text for event in microphone.told_of(InputTranscript)] == [f"words {len(recogniser.asked)}"]
    assert recogniser.asked[-1] == 33 + 5


@pytest.mark.parametrize(("text", "end_ms"), [("I would like to...", 1024), ("Well,", 1024), ("That is all.", 512), ("Yes", 512)])
async def test_who_pauses_in_the_middle_of_a_sentence_has_twice_as_long(text: str, end_ms: int) -> None:
    async def hears(number: int) -> str:
        return text

    async with listening(Recogniser(hears)) as microphone:
        await microphone.hear(*[LOUD] * 10, *[SILENT] * (end_ms // 32 - 1))
        assert not microphone.told_of(SpeechStopped)
        await microphone.hear(SILENT)
        assert microphone.told_of(SpeechStopped)
    assert bool(microphone.told_of(Paused)) is (end_ms == 512), "nobody need think of an answer to half a sentence"


async def test_without_partials_each_turn_is_recognised_once() -> None:
    recogniser = Recogniser(hears)
    async with listening(recogniser, partials=False) as microphone:
        await microphone.hear(*TURN, *TURN)
    assert len(recogniser.asked) == 2
    assert [type(event) for event in microphone.told] == [SpeechStarted, SpeechStopped, InputTranscript] * 2


async def test_a_slow_recogniser_is_asked_less_often_and_turns_stay_in_order() -> None:
    answers = asyncio.Event()

    async def slowly(number: int) -> str:
        await answers.wait()
        return f"words {number}"

    recogniser = Recogniser(slowly)
    async with listening(recogniser) as microphone:
        await microphone.hear(*TURN * 6)
        assert recogniser.asked == [16]
        failed = microphone.told_of(InputTranscriptFailed)
        assert [event.code for event in failed] == ["recognizer_behind"] * 3
        answers.set()
        await microphone.hear(*[SILENT] * 5)
    started = [event.item_id for event in microphone.told_of(SpeechStarted)]
    assert [event.item_id for event in microphone.told_of(InputTranscript)] == started[:3]
    assert [event.item_id for event in failed] == started[3:]


async def test_a_failure_is_told_in_words_and_the_next_turn_is_heard() -> None:
    async def fails(number: int) -> str:
        if number == 1:
            raise RecognitionError("recognizer_unreachable", "It cannot be reached.")
        if number == 2:
            raise RuntimeError("a surprise")
        return "At last."

    recogniser = Recogniser(fails)
    async with listening(recogniser, partials=False) as microphone:
        await microphone.hear(*TURN * 3)
    assert [event.code for event in microphone.told_of(InputTranscriptFailed)] == ["recognizer_unreachable", "not_recognized"]
    assert [event.text for event in microphone.told_of(InputTranscript)] == ["At last."]


async def test_an_echo_begins_no_turn() -> None:
    recogniser = Recogniser(hears)
    async with listening(recogniser, is_echo=lambda heard: True) as microphone:
        await microphone.hear(*TURN)
    assert microphone.told == []


async def test_a_microphone_that_goes_away_leaves_nothing_behind() -> None:
    async def never(number: int) -> str:
        await asyncio.Event().wait()
        return ""

    before = len(asyncio.all_tasks())
    async with listening(Recogniser(never)) as microphone:
        await microphone.hear(*TURN)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before
