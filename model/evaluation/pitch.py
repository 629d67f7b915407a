"""Whether a woman or a man is heard, as the prompt asks: the median pitch of what is spoken."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from model.evaluation.film import SAMPLE_RATE_HZ, Film
from model.evaluation.judge import Figure, Finding
from model.training.pitch import track_pitch

HOP_SAMPLES = 160
BORDER_HZ = 155.0
"""Between a man's usual pitch and a woman's."""
_WOMEN, _MEN = re.compile(r"\b(female|woman|woman's|girl|lady)\b"), re.compile(r"\b(male|man|man's|boy|gentleman)\b")


def asked_gender(description: str | None) -> str | None:
    """``female`` or ``male``, where a voice's description says so."""
    text = (description or "").lower()
    if _WOMEN.search(text):
        return "female"
    return "male" if _MEN.search(text) else None


def median_pitch_hz(samples: np.ndarray) -> float | None:
    """Of what is voiced in float32 samples [N] at 16 kHz; None where nothing is."""
    wave = torch.from_numpy(samples).unsqueeze(0)
    num = max(1, len(samples) // HOP_SAMPLES - 1)
    pitch_hz, voiced = track_pitch(wave, HOP_SAMPLES, SAMPLE_RATE_HZ, offset_samples=0, num_frames=num)
    found = pitch_hz[voiced]
    return float(found.median()) if len(found) else None


class Pitch:
    """Implements :class:`model.evaluation.judge.Judge`."""

    figures = (Figure("gender_right", "woman's or man's voice as asked", ".0%"),)

    def one(self, film: Film) -> Finding | None:
        asked, pitch_hz = asked_gender(film.prompt.voice), median_pitch_hz(film.samples)
        if pitch_hz is None or asked is None:
            return None
        return Finding({"pitch_hz": round(pitch_hz)}, ("female" if pitch_hz > BORDER_HZ else "male") == asked)

    def all(self, found: Sequence[Finding]) -> Mapping[str, float]:
        return {"gender_right": float(np.mean([finding.kept for finding in found]))}


def load() -> Pitch:
    return Pitch()
