"""Looks and voices that a config offers, and what a caller makes of them."""

from __future__ import annotations

import secrets
from typing import Any

from avatar_rtc.config import ServerConfig
from model.chunk import StreamSettings
from model.text.prompt import MAX_PROMPT_CHARS
from signaling.errors import UnknownAvatar, Unprocessable
from signaling.service import NewSession


class Presets:
    """The looks and voices of a config. The first look is the default."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._avatars = {avatar.id: avatar for avatar in config.avatars}
        self._voices = {voice.id: voice.voice for voice in config.voices}

    @property
    def avatar_ids(self) -> list[str]:
        return list(self._avatars)

    def as_json(self) -> dict[str, Any]:
        """For ``GET /v1/avatars``."""
        return {
            "avatars": [
                {"id": avatar.id, "name": avatar.name, "scene": avatar.scene, "voice": self._voices[avatar.voice]}
                for avatar in self._config.avatars
            ],
            "voices": [voice.model_dump() for voice in self._config.voices],
        }

    def settings(self, wanted: NewSession) -> StreamSettings:
        """Who is seen and heard.

        Raises:
            signaling.errors.UnknownAvatar, signaling.errors.Unprocessable: that cannot be had.
        """
        avatar = self._avatars.get(wanted.avatar) if wanted.avatar else self._config.avatars[0]
        if avatar is None:
            raise UnknownAvatar(f"There is no avatar {wanted.avatar!r:.80}. Choose one of {', '.join(self._avatars)}.")
        scene = wanted.scene or avatar.scene
        voice = self._voices.get(wanted.voice, wanted.voice) if wanted.voice else self._voices[avatar.voice]
        for what, text in (("scene", scene), ("voice", voice)):
            if not text.strip() or len(text) > MAX_PROMPT_CHARS:
                raise Unprocessable(f"The {what} must have 1 to {MAX_PROMPT_CHARS} characters.", code="bad_prompt")
        return StreamSettings(scene, voice, seed=seed_of(self._config, scene, otherwise=secrets.randbits(31)))


def seed_of(config: ServerConfig, scene: str, *, otherwise: int) -> int:
    """A preset's, told by its scene; ``otherwise`` where it has none, and for scenes that are no preset's."""
    return next((a.seed for a in config.avatars if a.scene == scene and a.seed is not None), otherwise)
