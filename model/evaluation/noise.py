"""Speech, background, and both together as listeners rate them (ITU-T P.835): DNSMOS, on speech whose pauses are cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from model.evaluation.film import SAMPLE_RATE_HZ, Array, Film
from model.evaluation.judge import Figure, Finding
from model.evaluation.voice import MIN_SPEECH_S, without_pauses

_RATINGS = {"dns_speech": "sig_mos", "dns_background": "bak_mos", "dns_overall": "ovrl_mos"}


class Noise:
    """Implements :class:`model.evaluation.judge.Judge`.

    Args:
        rate: ratings by the package's names, of float32 samples at 16 kHz.
    """

    figures = (
        Figure("dns_overall", "DNSMOS, overall of 5"),
        Figure("dns_speech", "  speech"),
        Figure("dns_background", "  background"),
    )

    def __init__(self, rate: Callable[[Array], Mapping[str, float]]) -> None:
        self._rate = rate

    def one(self, film: Film) -> Finding | None:
        speech = without_pauses(film.samples)
        if len(speech) < MIN_SPEECH_S * SAMPLE_RATE_HZ:
            return None
        rated = self._rate(speech.clip(-1, 1))
        ratings = {name: float(rated[theirs]) for name, theirs in _RATINGS.items()}
        return Finding({name: round(value, 2) for name, value in ratings.items()}, ratings)

    def all(self, found: Sequence[Finding]) -> Mapping[str, float]:
        return {name: float(np.mean([finding.kept[name] for finding in found])) for name in _RATINGS}


def load() -> Noise:
    from speechmos import dnsmos

    return Noise(lambda samples: dnsmos.run(samples, SAMPLE_RATE_HZ))
