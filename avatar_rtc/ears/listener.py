"""Listens to one microphone: blocks in, the events of a turn out, while a recogniser makes words of what was said so far."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass

import numpy as np

from avatar_rtc.config import ListenConfig
from avatar_rtc.ears.echo import HEARD_BLOCKS
from avatar_rtc.ears.recognizer import RecognitionError, Recognizer
from avatar_rtc.ears.turn_detector import STILL_VOICED, Started, Stopped, TurnDetector
from avatar_rtc.ears.voice_activity import BLOCK_MS, VoiceActivity
from avatar_rtc.logs import SessionLog
from signaling.vocabulary import InputTranscript, InputTranscriptFailed, InputTranscriptUpdated, SpeechStarted, SpeechStopped


@dataclass(frozen=True)
class Paused:
    """Somebody pauses, perhaps for good: so far a turn has these words."""

    item_id: str
    text: str


Heard = SpeechStarted | SpeechStopped | InputTranscriptUpdated | InputTranscript | InputTranscriptFailed | Paused
IsEcho = Callable[[np.ndarray], bool]
"""Whether the latest blocks of a microphone, float32 [S] at 16 kHz, end with nothing but the avatar's own voice."""

PARTIAL_EVERY_MS = 500
SETTLED_MS = 160
"""After so much silence a turn may be over: what was said is recognised now, so that its words are there when it is."""
SHARE = 2
"""A recogniser is asked for words on the way half of the time at most: where it computes, a face is made, too."""
GOES_ON = ("...", "…", ",", ";", ":", "-", "–", "—")
"""So ends what is no whole sentence. A full stop or a question mark says little: recognisers end most pauses with one."""
MAX_WAITING_TURNS = 3


@dataclass
class _Turn:
    """What somebody says at once.

    Attributes:
        num_voiced: blocks up to the end of its speech so far.
        num_asked: blocks that it had when it was last recognised; before that, those before its speech.
        num_recognized: ``num_voiced`` then.
        text, error: what came of that.
        is_over: nothing is added any more.
    """

    item_id: str
    blocks: list[np.ndarray]
    num_voiced: int = 0
    num_asked: int = 0
    num_recognized: int = 0
    text: str = ""
    error: RecognitionError | None = None
    is_over: bool = False

    @property
    def num_silent(self) -> int:
        """Blocks since the end of its speech so far."""
        return len(self.blocks) - self.num_voiced

    @property
    def is_current(self) -> bool:
        """Whether ``text`` is all that was said so far."""
        return self.num_recognized >= self.num_voiced

    @property
    def is_unfinished(self) -> bool:
        """Whether it plainly goes on."""
        return self.is_current and self.text.endswith(GOES_ON)


class Listener:
    """Turns of one microphone, one after the other, each told once it is recognised.

    Args:
        voice: of this microphone.
        tell: hears what happens.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        config: ListenConfig,
        voice: VoiceActivity,
        is_echo: IsEcho,
        tell: Callable[[Heard], None],
        log: SessionLog,
    ) -> None:
        self._recognizer = recognizer
        self._takes_partials = config.partials
        self._voice = voice
        self._is_echo = is_echo
        self._tell = tell
        self._log = log
        self._detector = TurnDetector(BLOCK_MS, config.end_of_turn_ms)
        self._latest: deque[np.ndarray] = deque(maxlen=HEARD_BLOCKS)
        self._turn: _Turn | None = None
        self._waiting: deque[_Turn] = deque()
        self._news = asyncio.Event()
        self._took_s = 0.0

    async def listen(self, blocks: AsyncIterable[np.ndarray]) -> None:
        """To the end of a microphone."""
        async with asyncio.TaskGroup() as group:
            recognizing = group.create_task(self._recognize_all())
            async for block in blocks:
                self._hear(block)
            recognizing.cancel()

    def _hear(self, block: np.ndarray) -> None:
        self._latest.append(block)
        probability = self._voice.probability(block)
        if probability >= STILL_VOICED and self._is_echo(np.concatenate(self._latest)):
            probability = 0.0
        change = self._detector.hear(probability, is_unfinished=self._turn is not None and self._turn.is_unfinished)
        if isinstance(change, Started):
            num_blocks = self._detector.num_blocks - change.block
            num_before = num_blocks - self._detector.num_voiced
            self._turn = _Turn(f"item-{secrets.token_hex(4)}", list(self._latest)[-num_blocks:], num_asked=num_before)
            self._tell(SpeechStarted(item_id=self._turn.item_id, audio_start_ms=change.block * BLOCK_MS))
        elif self._turn is not None:
            self._turn.blocks.append(block)
        if self._turn is None:
            return
        self._turn.num_voiced = len(self._turn.blocks) - self._detector.num_silent
        if isinstance(change, Stopped):
            self._end_turn(self._turn, change.block * BLOCK_MS)
        self._news.set()

    def _end_turn(self, turn: _Turn, at_ms: int) -> None:
        self._turn = None
        turn.is_over = True
        self._tell(SpeechStopped(item_id=turn.item_id, audio_end_ms=at_ms))
        if len(self._waiting) < MAX_WAITING_TURNS:
            self._waiting.append(turn)
        else:
            self._tell(
                _failed(turn, RecognitionError("recognizer_behind", "More is said than can be recognised. Wait a little."))
            )

    async def _recognize_all(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while (turn := self._next()) is not None:
                await self._recognize(turn)

    def _next(self) -> _Turn | None:
        """What is to be recognised now: what is over before what goes on."""
        if self._waiting:
            return self._waiting[0]
        turn = self._turn
        if turn is None or not self._takes_partials or turn.is_current:
            return None
        if turn.num_silent:
            return turn if turn.num_silent * BLOCK_MS >= SETTLED_MS else None  # else it would be busy when it counts
        every_ms = max(PARTIAL_EVERY_MS, SHARE * self._took_s * 1000)
        return turn if (len(turn.blocks) - turn.num_asked) * BLOCK_MS >= every_ms else None

    async def _recognize(self, turn: _Turn) -> None:
        """Recognise what is new of a turn, and tell it."""
        if not turn.is_current:
            turn.num_asked, num_voiced = len(turn.blocks), turn.num_voiced
            begun_s = time.monotonic()
            text, turn.error = await self._words_of(np.concatenate(turn.blocks))
            self._took_s = time.monotonic() - begun_s
            turn.num_recognized = num_voiced
            if text not in ("", turn.text) and not turn.is_over:
                self._tell(InputTranscriptUpdated(item_id=turn.item_id, text=text))
            turn.text = text
            if text and turn is self._turn and turn.num_silent and turn.is_current and not turn.is_unfinished:
                self._tell(Paused(turn.item_id, text))
        if turn.is_over and turn.is_current:
            self._waiting.remove(turn)
            self._tell(InputTranscript(item_id=turn.item_id, text=turn.text) if turn.error is None else _failed(turn, turn.error))

    async def _words_of(self, samples: np.ndarray) -> tuple[str, RecognitionError | None]:
        try:
            return await self._recognizer.recognize(samples), None
        except RecognitionError as error:
            self._log.warning("%s: %s", error.code, error.detail)
            return "", error
        except Exception as error:
            self._log.exception("recognition failed")
            message = "What was said could not be recognised; the server's log says why."
            return "", RecognitionError("not_recognized", message, type(error).__name__)


def _failed(turn: _Turn, error: RecognitionError) -> InputTranscriptFailed:
    return InputTranscriptFailed(item_id=turn.item_id, code=error.code, message=error.message)
