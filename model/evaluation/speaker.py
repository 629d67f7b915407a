"""Whether a voice is the same speaker in all films that ask for it, and other voices are others: embeddings by Resemblyzer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np

from model.evaluation.film import SAMPLE_RATE_HZ, Array, Film
from model.evaluation.judge import Figure, Finding
from model.evaluation.voice import MIN_SPEECH_S, without_pauses


class SpeakerLikeness:
    """Implements :class:`model.evaluation.judge.Judge`.

    Args:
        embed: a vector of length 1, of float32 samples at 16 kHz.
    """

    figures = (
        Figure("speaker_same", "likeness of films in one voice (cosine)"),
        Figure("speaker_other", "  of films in different voices"),
    )

    def __init__(self, embed: Callable[[Array], Array]) -> None:
        self._embed = embed

    def one(self, film: Film) -> Finding | None:
        speech = without_pauses(film.samples)
        if film.prompt.voice is None or len(speech) < MIN_SPEECH_S * SAMPLE_RATE_HZ:
            return None
        return Finding({}, (film.prompt.voice, self._embed(speech)))

    def all(self, found: Sequence[Finding]) -> Mapping[str, float]:
        pairs: dict[str, list[float]] = {"speaker_same": [], "speaker_other": []}
        for (voice, one), (other_voice, other) in combinations([finding.kept for finding in found], 2):
            pairs["speaker_same" if voice == other_voice else "speaker_other"].append(float(one @ other))
        return {name: float(np.mean(values)) for name, values in pairs.items() if values}


def load() -> SpeakerLikeness:
    from resemblyzer import VoiceEncoder

    return SpeakerLikeness(VoiceEncoder("cpu", verbose=False).embed_utterance)
