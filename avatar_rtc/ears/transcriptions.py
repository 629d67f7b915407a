"""Recognition by any server that has OpenAI's transcriptions: OpenAI's own, speaches, whisper.cpp's, vLLM and others."""

from __future__ import annotations

import io
import wave
from typing import Any

import numpy as np
import openai

from avatar_rtc.config import ListenConfig, api_key_of
from avatar_rtc.ears.recognizer import RecognitionError
from avatar_rtc.ears.voice_activity import SAMPLE_RATE_HZ
from signaling.dialects.frames import well_formed


class Transcriptions:
    """Implements :class:`avatar_rtc.ears.recognizer.Recognizer`.

    Args:
        config: whose ``recognizer`` is the server's base URL.

    Raises:
        avatar_rtc.errors.ServerConfigError: the environment lacks the API key.
    """

    def __init__(self, config: ListenConfig) -> None:
        self._config = config
        self._key = api_key_of("listen", config.api_key_env)
        # Without a key of ours the library would take that of its own environment variable, whoever is asked.
        self._client = openai.AsyncOpenAI(
            base_url=config.recognizer, api_key=self._key or "none", max_retries=0, timeout=config.timeout_s
        )

    async def close(self) -> None:
        await self._client.close()

    async def recognize(self, samples: np.ndarray) -> str:
        create: Any = self._client.audio.transcriptions.create
        language = {} if self._config.language is None else {"language": self._config.language}
        try:
            answer = await create(
                model=self._config.model, file=("speech.wav", _wav(samples)), response_format="json", **language
            )
            return well_formed(answer.text).strip()
        except openai.APITimeoutError as error:
            waited = f"The recogniser has not answered within {self._config.timeout_s:g} s."
            raise RecognitionError("recognizer_timeout", waited, self._detail(error)) from None
        except openai.APIStatusError as error:
            message = f"The recogniser refused the recording (HTTP {error.status_code}; the server's log says why)."
            if error.status_code >= 500:
                message = f"The recogniser's server failed (HTTP {error.status_code})."
                raise RecognitionError("recognizer_unreachable", message, self._detail(error)) from None
            raise RecognitionError("recognizer_refused", message, self._detail(error)) from None
        except openai.APIConnectionError as error:
            raise RecognitionError("recognizer_unreachable", "The recogniser cannot be reached.", self._detail(error)) from None
        except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
            raise RecognitionError("not_recognized", "The recogniser sent what is no transcript.", self._detail(error)) from None

    def _detail(self, error: Exception) -> str:
        cause = f" ({error.__cause__})" if isinstance(error, openai.APIConnectionError) and error.__cause__ else ""
        detail = f"{self._config.recognizer}: {type(error).__name__}: {error}{cause}"
        return detail.replace(self._key, "***") if self._key else detail


def _wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE_HZ)
        writer.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return file.getvalue()
