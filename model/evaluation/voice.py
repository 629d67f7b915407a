"""How natural a voice sounds: DistilMOS on windows that are full of speech.

The network looks at 7.68 s and fills up what is shorter with silence, which lowers its answer by up to half a point. So pauses
are cut to 0.3 s, and what is still shorter than a window is repeated until the window is full.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from model.evaluation.film import SAMPLE_RATE_HZ, Array, Film
from model.evaluation.judge import Figure, Finding
from model.evaluation.speech import load_mos

WINDOW_SAMPLES = 122_880
PAUSE_S = 0.3
"""Longer ones are cut to this."""
HOP_S = 0.02
QUIET = 10 ** (-45 / 20)
"""Root mean square below which a stretch is silent; full scale is 1."""
MIN_SPEECH_S = 1.0
"""Of less nothing can be said."""


def without_pauses(samples: Array, pause_s: float = PAUSE_S) -> Array:
    """Speech [N] with silences of at most ``pause_s``, none of them at the ends; 16 kHz."""
    hop = round(HOP_S * SAMPLE_RATE_HZ)
    hops = samples[: len(samples) // hop * hop].reshape(-1, hop)
    voiced = np.sqrt(np.square(hops).mean(axis=1)) > QUIET
    # Of a silence its beginning and its end stay, half a pause of each.
    half = round(pause_s / HOP_S / 2)
    near = np.convolve(voiced, np.ones(2 * half + 1), "same")[: len(voiced)] > 0 if len(voiced) else voiced
    spoken = np.flatnonzero(voiced)
    if not len(spoken):
        return samples[:0]
    near[: spoken[0]] = near[spoken[-1] + 1 :] = False
    return np.asarray(hops[near].reshape(-1))


def filled_windows(speech: Array) -> list[Array]:
    """Windows of :data:`WINDOW_SAMPLES`, as many as cover speech [N]; of shorter speech one, in which it is repeated."""
    if len(speech) < WINDOW_SAMPLES:
        return [np.resize(speech, WINDOW_SAMPLES)]
    num = -(-len(speech) // WINDOW_SAMPLES)
    starts = np.linspace(0, len(speech) - WINDOW_SAMPLES, num).round().astype(int)
    return [speech[start : start + WINDOW_SAMPLES] for start in starts]


class VoiceQuality:
    """Implements :class:`model.evaluation.judge.Judge`.

    Args:
        score: 1 to 5, of float32 samples at 16 kHz.
    """

    figures = (Figure("mos", "voice, DistilMOS of 5"), Figure("mos_lowest", "  lowest voice"))

    def __init__(self, score: Callable[[Array], float]) -> None:
        self._score = score

    def one(self, film: Film) -> Finding | None:
        speech = without_pauses(film.samples)
        if len(speech) < MIN_SPEECH_S * SAMPLE_RATE_HZ:
            return None
        mos = float(np.mean([self._score(window) for window in filled_windows(speech)]))
        return Finding({"mos": round(mos, 2)}, (film.prompt.voice, mos))

    def all(self, found: Sequence[Finding]) -> Mapping[str, float]:
        by_voice: dict[str | None, list[float]] = {}
        for finding in found:
            voice, mos = finding.kept
            by_voice.setdefault(voice, []).append(mos)
        return {
            "mos": float(np.mean([finding.kept[1] for finding in found])),
            "mos_lowest": min(float(np.mean(scores)) for scores in by_voice.values()),
        }


def load() -> VoiceQuality:
    return VoiceQuality(load_mos())
