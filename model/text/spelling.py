"""Reads words that no lexicon knows, letter by letter with their neighbours: a small convolutional net, in numpy.

``model.training.g2p`` trains it and says how; the weights lie in ``data/letters.npz``.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.text.phonemes import CONSONANTS, VOWELS

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
MAX_LETTERS = 24
"""Longer words are read in pieces of this length: nothing that long was ever learnt."""

_DOUBLED = re.compile(f"([{CONSONANTS}])\\1")
"""A doubled consonant letter is one sound: both letters may claim it."""

_ROWS = 8
"""Letters per matrix product: so few that the linear algebra library starts no threads, which would wait for busy cores."""

Array = NDArray[np.float32]


def _layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    centred: Array = x - x.mean(-1, keepdims=True)
    scaled: Array = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5) * weight + bias
    return scaled


@dataclass(frozen=True)
class _Layer:
    norm: tuple[Array, Array]
    conv: tuple[Array, Array]
    """[kernel, 1, width, width] and [width]."""
    out: tuple[Array, Array]


class SpellingReader:
    """The trained net. Immutable; ``read`` may be called from anywhere."""

    def __init__(self, arrays: dict[str, NDArray[np.generic]]) -> None:
        self._chunks = [str(c) for c in arrays["chunks"]]
        w = {name: value.astype(np.float32) for name, value in arrays.items() if name != "chunks"}
        self._embed = w["embed.weight"]
        depth = sum(name.startswith("convs.") and name.endswith(".bias") for name in w)
        width = self._embed.shape[1]
        self._kernel = w["convs.0.weight"].shape[1] // w["convs.0.weight"].shape[0]
        self._layers = [
            _Layer(
                norm=(w[f"norms.{i}.weight"], w[f"norms.{i}.bias"]),
                conv=(w[f"convs.{i}.weight"].T.reshape(self._kernel, 1, width, width), w[f"convs.{i}.bias"]),
                out=(w[f"outs.{i}.weight"].T, w[f"outs.{i}.bias"]),
            )
            for i in range(depth)
        ]
        self._norm = (w["norm.weight"], w["norm.bias"])
        self._head = (w["head.weight"].T, w["head.bias"])

    @classmethod
    def load(cls, path: Path = Path(__file__).parent / "data" / "letters.npz") -> SpellingReader:
        with np.load(path) as archive:
            return cls(dict(archive))

    def read(self, word: str) -> str:
        """Phonemes of a word in lower-case letters a to z, with one main stress."""
        pieces = (word[i : i + MAX_LETTERS] for i in range(0, len(word), MAX_LETTERS))
        return "".join(fix_stress(self._read_piece(piece)) for piece in pieces)

    def _read_piece(self, letters: str) -> str:
        length, width, kernel = len(letters), self._embed.shape[1], self._kernel
        half = kernel // 2
        rows = -(-length // _ROWS) * _ROWS
        x_RD = np.zeros((rows, width), np.float32)
        x_RD[:length] = self._embed[[ALPHABET.index(c) + 1 for c in letters]]
        padded = np.zeros((rows + 2 * half, width), np.float32)
        for layer in self._layers:
            padded[half : half + length] = _layer_norm(x_RD[:length], *layer.norm)
            windows = np.stack([padded[i : i + rows] for i in range(kernel)]).reshape(kernel, -1, _ROWS, width)
            hidden = np.maximum((windows @ layer.conv[0]).sum(0) + layer.conv[1], 0)
            x_RD += (hidden @ layer.out[0] + layer.out[1]).reshape(rows, width)
        logits = _layer_norm(x_RD, *self._norm).reshape(-1, _ROWS, width) @ self._head[0] + self._head[1]
        chosen = logits.reshape(rows, -1)[:length].argmax(-1)
        return _DOUBLED.sub(r"\1", "".join(self._chunks[i] for i in chosen))


def fix_stress(phonemes: str) -> str:
    """Exactly one main stress, the first that was heard: letters are classified one by one and may give two or none."""
    if "ˈ" not in phonemes:
        if "ˌ" in phonemes:
            return phonemes.replace("ˌ", "ˈ", 1)
        first_vowel = next((i for i, p in enumerate(phonemes) if p in VOWELS), None)
        return phonemes if first_vowel is None else f"{phonemes[:first_vowel]}ˈ{phonemes[first_vowel:]}"
    head, _, tail = phonemes.partition("ˈ")
    return f"{head}ˈ{tail.replace('ˈ', 'ˌ')}"


@functools.cache
def spelling_reader() -> SpellingReader:
    """The shipped net, loaded once a process."""
    return SpellingReader.load()
