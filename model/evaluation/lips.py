"""Whether the mouth follows the voice: films, looked at without knowing the model.

The measure is a plain one. Faces stand nearly still, so a fixed upright strip holds the middle of the mouth. What has there
neither the colour above the lips nor that of the chin is lip, teeth or the dark between: its height is the *opening*, less that
of the closed mouth before anything is said. It is compared with the loudness of the voice in dB, over whole recordings: at the
best lag, and with the loudness of other recordings instead (*shuffled*). Loudness says little about which shape a mouth has, so
that correlations are far from 1; what counts is where they peak, and that they vanish when shuffled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.evaluation.film import SAMPLE_RATE_HZ, Film
from model.evaluation.judge import Figure, Finding

STRIP_TOP, STRIP_BOTTOM, STRIP_LEFT, STRIP_RIGHT = 0.575, 0.75, 0.45, 0.55
"""The middle of the mouth with a little skin above and below, as shares of the picture's height and width."""
SAME_COLOUR = 30.0
"""Colours nearer to each other, in RGB of 0 to 255, are the same."""
HOP_S = 0.01
WINDOW_S = 0.16
QUIET_DB = -45.0
"""Below this the voice is silent; full scale is 0."""
REST_S = 0.1
"""Before the first sound, by so much, the mouth is still closed."""
CLOSED_AFTER_S = 0.4
"""Silence counts from so long after the last sound."""
OPEN_FROM = 0.02
"""An opening of this share of the picture's height is an open mouth."""
LAGS_MS = tuple(range(-300, 301, 20))


Array = np.ndarray[Any, np.dtype[np.float64]]
Choice = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Recording:
    """What was seen and heard.

    Attributes:
        times_s: middle of each picture.
        opening: of the mouth in each, as a share of the picture's height.
        loudness_db: every ``HOP_S`` from 0.
    """

    times_s: Array
    opening: Array
    loudness_db: Array

    def loudness_at(self, times_s: Array) -> Array:
        found: Array = np.interp(times_s, np.arange(len(self.loudness_db)) * HOP_S, self.loudness_db)
        return found

    def silent(self) -> Choice:
        """Which pictures come ``CLOSED_AFTER_S`` or longer after the last sound, and before the next."""
        voiced_s = np.flatnonzero(self.loudness_db > QUIET_DB) * HOP_S
        last = np.searchsorted(voiced_s, self.times_s) - 1
        return (last >= 0) & (self.times_s - voiced_s[np.maximum(last, 0)] > CLOSED_AFTER_S)

    def spoken(self) -> Choice:
        return self.loudness_at(self.times_s) > QUIET_DB


def measure(film: Film) -> Recording:
    """Of a film that begins before anything is said.

    Raises:
        ValueError: it does not, so that the closed mouth cannot be seen; or nothing is said at all.
    """
    loudness_db = loudness(film.samples.astype(np.float64), SAMPLE_RATE_HZ)
    _, height, width, _ = film.pictures.shape
    rows = slice(round(STRIP_TOP * height), round(STRIP_BOTTOM * height))
    columns = slice(round(STRIP_LEFT * width), round(STRIP_RIGHT * width))
    strips = film.pictures[:, rows, columns].astype(np.float64)
    voiced = np.flatnonzero(loudness_db > QUIET_DB)
    if not len(voiced):
        raise ValueError(f"nothing is said in {film.path}")
    rest = film.times_s < voiced[0] * HOP_S - REST_S
    if not rest.any():
        raise ValueError(f"{film.path} begins with speech: record it with 'avatar-rtc say --record'")
    mouth = mouth_heights(strips, skin_colours(strips[rest])) / height
    return Recording(film.times_s, mouth - np.median(mouth[rest]), loudness_db)


def skin_colours(strips: Array) -> tuple[Array, Array]:
    """Colour above the lips and that of the chin, RGB, of strips [N, H, W, 3] with a closed mouth."""
    above, chin = (np.median(strips[:, part], axis=(0, 1, 2)) for part in (slice(None, 2), slice(-5, None)))
    return above, chin


def mouth_heights(strips: Array, skin: tuple[Array, Array]) -> Array:
    """Rows of each strip [N, H, W, 3] that have no colour of the skin."""
    distance = np.min([np.linalg.norm(strips - colour, axis=-1) for colour in skin], axis=0)
    heights: Array = (distance > SAME_COLOUR).sum(1).mean(1)
    return heights


def loudness(samples: Array, rate_hz: int) -> Array:
    """dB of ``WINDOW_S`` around every ``HOP_S``, not below ``QUIET_DB`` less 5."""
    window = round(rate_hz * WINDOW_S)
    power = np.convolve(samples**2, np.ones(window) / window, "same")[:: round(rate_hz * HOP_S)]
    found: Array = np.maximum(10 * np.log10(np.maximum(power, 1e-12)), QUIET_DB - 5)
    return found


def _standard(values: Array) -> Array:
    standard: Array = (values - values.mean()) / max(float(values.std()), 1e-9)
    return standard


def correlation(seen: list[Recording], heard: list[Recording], lag_ms: int) -> float:
    """Of openings with the loudness ``lag_ms`` earlier, each pair over the length of the shorter one, weighted by length."""
    edge_s = max(LAGS_MS) / 1000
    products = []
    for face, voice in zip(seen, heard, strict=True):
        end_s = min(face.times_s[-1], len(voice.loudness_db) * HOP_S) - edge_s
        inside = (face.times_s > edge_s) & (face.times_s < end_s)
        loudness_db = voice.loudness_at(face.times_s[inside] - lag_ms / 1000)
        products.append(_standard(face.opening[inside]) * _standard(loudness_db))
    return float(np.concatenate(products).mean())


def compare(recordings: list[Recording], others: list[Recording]) -> dict[str, Any]:
    """The table's row of some recordings; ``others`` lend their voices for the shuffled pairing."""
    at_lag = {lag_ms: correlation(recordings, recordings, lag_ms) for lag_ms in LAGS_MS}
    best_ms = max(LAGS_MS, key=lambda lag_ms: at_lag[lag_ms])
    foreign = [correlation([face], [voice], best_ms) for face in recordings for voice in others if voice is not face]
    silent = np.concatenate([recording.opening[recording.silent()] for recording in recordings])
    spoken = np.concatenate([recording.opening[recording.spoken()] for recording in recordings])
    return {
        "best_lag_ms": best_ms,
        "correlation": round(at_lag[best_ms], 3),
        "shuffled": round(float(np.mean(foreign)), 3) if foreign else None,
        "open_speaking": round(float((spoken > OPEN_FROM).mean()), 3),
        "open_silent": round(float((silent > OPEN_FROM).mean()), 3) if len(silent) else None,
    }


class Lips:
    """Implements :class:`model.evaluation.judge.Judge`; of films that begin with a closed mouth."""

    figures = (
        Figure("best_lag_ms", "mouth behind the voice, ms", ".0f"),
        Figure("correlation", "  opening and loudness, correlation"),
        Figure("shuffled", "  with another film's loudness"),
        Figure("open_silent", "mouth open in silence", ".0%"),
    )

    def one(self, film: Film) -> Finding | None:
        try:
            recording = measure(film)
        except ValueError:
            return None
        found = compare([recording], [])
        return Finding({name: found[name] for name in ("best_lag_ms", "correlation")}, recording)

    def all(self, found: Sequence[Finding]) -> Mapping[str, float]:
        recordings = [finding.kept for finding in found]
        figures = compare(recordings, recordings)
        return {figure.name: figures[figure.name] for figure in self.figures if figures[figure.name] is not None}


def load() -> Lips:
    return Lips()
