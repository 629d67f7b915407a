"""What all who listen share: the network that finds speech, and the recogniser."""

from __future__ import annotations

from collections.abc import Callable

from avatar_rtc.config import ListenConfig
from avatar_rtc.ears.listener import Heard, IsEcho, Listener
from avatar_rtc.ears.recognizer import Recognizer
from avatar_rtc.ears.voice_activity import VoiceModel
from avatar_rtc.logs import SessionLog


def make_recognizer(config: ListenConfig) -> Recognizer:
    """The recogniser that a config names.

    Raises:
        avatar_rtc.errors.ServerConfigError: it cannot be asked.
        ModuleNotFoundError: what it needs is not installed.
    """
    # Either takes a while to load.
    if config.recognizer == "local":
        from avatar_rtc.ears.whisper import LocalWhisper

        return LocalWhisper(config.language)
    from avatar_rtc.ears.transcriptions import Transcriptions

    return Transcriptions(config)


class Ears:
    """Makes listeners. Errors as in ``make_recognizer``."""

    def __init__(self, config: ListenConfig) -> None:
        self.config = config
        self._voice = VoiceModel()
        self._recognizer = make_recognizer(config)

    def listener(self, is_echo: IsEcho, tell: Callable[[Heard], None], log: SessionLog) -> Listener:
        """For one microphone; see ``Listener``."""
        return Listener(self._recognizer, self.config, self._voice.listen(), is_echo, tell, log)

    async def close(self) -> None:
        """Let go of the recogniser."""
        await self._recognizer.close()
