"""Recognition on this machine: whisper-base, in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from avatar_rtc.ears.voice_activity import SAMPLE_RATE_HZ
from model.whisper import load_whisper

MARGIN_S = 4.0
"""Whisper was trained on half minutes, and takes 0.4 s of a core for one. So much more than was said is enough for it; with much
less it repeats itself."""
WINDOW_S = 30.0
MAX_TOKENS_PER_S = 8
"""Nobody speaks so fast: twelve words a second."""
LEAST_TOKENS = 16
NO_SPEECH = 0.6
UNLIKELY = -1.0
"""With at least that probability of no speech, and at most this logarithm of a token's, whisper has made something up. These and
the next are its authors' measures."""
REPETITIVE = 2.4
"""Text that is compressed more than this repeats itself."""
_FRAMES_PER_S = 100
NICENESS = 5
"""Where both want a core the face, which must not be late, gets three quarters of it (Linux)."""


class LocalWhisper:
    """Implements :class:`avatar_rtc.ears.recognizer.Recognizer`. One turn at a time; others wait.

    Args:
        language: code of the language that is spoken; None: it is guessed for each turn.

    Raises:
        ModuleNotFoundError: a package is not installed.
    """

    def __init__(self, language: str | None) -> None:
        from faster_whisper.tokenizer import Tokenizer

        self._language = language
        self._tokenizer_class: Any = Tokenizer
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recognize", initializer=_step_back)
        # Beside a face that is made on all cores a second thread gains little and disturbs more. The one that computes is begun
        # by the one that loads, and takes after it.
        self._model = self._thread.submit(load_whisper, "int8", num_threads=1).result()
        self._thread.submit(self._hear, np.zeros(SAMPLE_RATE_HZ, np.float32), MARGIN_S).result()  # the first time takes longer

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def recognize(self, samples: np.ndarray) -> str:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.transcribe, samples)

    def transcribe(self, samples: np.ndarray) -> str:
        """The same in this thread."""
        text = self._hear(samples, len(samples) / SAMPLE_RATE_HZ + MARGIN_S)
        if len(text.encode()) > REPETITIVE * len(zlib.compress(text.encode())):
            text = self._hear(samples, WINDOW_S)
        return text

    def _hear(self, samples: np.ndarray, window_s: float) -> str:
        features = self._model.feature_extractor(samples, padding=0)[:, : round(WINDOW_S * _FRAMES_PER_S)]
        num_frames = min(round(window_s * _FRAMES_PER_S), round(WINDOW_S * _FRAMES_PER_S))
        features = np.pad(features, ((0, 0), (0, max(0, num_frames - features.shape[1]))))
        encoded = self._model.encode(features)
        code = self._language or self._language_of(encoded)
        tokenizer = self._tokenizer_class(self._model.hf_tokenizer, True, task="transcribe", language=code)
        prompt = self._model.get_prompt(tokenizer, [], without_timestamps=True)
        (result,) = self._model.model.generate(
            encoded,
            [prompt],
            beam_size=5,
            max_length=len(prompt) + LEAST_TOKENS + round(MAX_TOKENS_PER_S * len(samples) / SAMPLE_RATE_HZ),
            return_scores=True,
            return_no_speech_prob=True,
        )
        if result.no_speech_prob > NO_SPEECH and result.scores[0] < UNLIKELY:
            return ""
        return str(tokenizer.decode([token for token in result.sequences_ids[0] if token < tokenizer.eot])).strip()

    def _language_of(self, encoded: object) -> str:
        ((best, *_),) = self._model.model.detect_language(encoded)
        return str(best[0]).strip("<|>")


def _step_back() -> None:
    """Give this thread, and those that it will begin, less of a core than the others; elsewhere than on Linux it would be all."""
    if sys.platform == "linux":
        os.nice(NICENESS)
