"""Caption words to numbers: a small closed vocabulary, learned with the network and shipped beside its weights."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from model.errors import PromptError

_WORD = re.compile(r"[a-z]+")
SEPARATOR = 1
"""Stands between the scene and the voice."""
_FIRST_WORD = 2


class CaptionTokenizer:
    """Word-level tokens of a scene and a voice; 0 is padding and unknown words are left out.

    Args:
        words: the vocabulary, in the order of its ids.
        max_words: length of the result.
    """

    def __init__(self, words: Sequence[str], max_words: int) -> None:
        self._ids = {word: i + _FIRST_WORD for i, word in enumerate(words)}
        self._max_words = max_words

    @property
    def size(self) -> int:
        return len(self._ids) + _FIRST_WORD

    def __call__(self, scene: str, voice: str) -> np.ndarray:
        """int64 [max_words].

        Raises:
            PromptError: not a single word of the scene, or of the voice, is known.
        """
        for name, text, example in (
            ("scene", scene, "A young woman with long red hair in a library."),
            ("voice", voice, "a warm, clear female voice"),
        ):
            if not self._words(text):
                raise PromptError(
                    f'The {name} "{text:.60}" has no word that this model knows. Write plain English, such as "{example}"'
                )
        voice_ids = self._words(voice)[: self._max_words // 3]
        scene_ids = self._words(scene)[: self._max_words - 1 - len(voice_ids)]
        ids = [*scene_ids, SEPARATOR, *voice_ids]
        return np.asarray(ids + [0] * (self._max_words - len(ids)), np.int64)

    def _words(self, text: str) -> list[int]:
        return [self._ids[w] for w in _WORD.findall(text.lower()) if w in self._ids]
