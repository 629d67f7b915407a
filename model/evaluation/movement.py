"""How much a face moves besides its mouth, by the reader of :mod:`model.evaluation.faces`: standard deviations within a film."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from model.evaluation.faces import FaceReader, load_reader
from model.evaluation.film import Array, Film
from model.evaluation.judge import Figure, Finding

CLOSED, OPEN = 0.5, 0.25
"""A lid that is closed more than the first has begun a blink, and more open than the second has ended it."""
_SPREADS = {
    **{"turns": ("yaw", 180 / np.pi), "nods": ("pitch", 180 / np.pi)},
    **{"gaze": ("gaze_x", 1.0), "brows": ("brow", 1.0), "smiles": ("smile", 1.0)},
}
MIN_S = 2.0
"""Of a shorter film nothing can be said."""


def count_blinks(lid: Array) -> int:
    """Of a lid [T], 0 where it is open and 1 where it is closed."""
    num, closed = 0, False
    for value in lid:
        if not closed and value > CLOSED:
            num, closed = num + 1, True
        elif value < OPEN:
            closed = False
    return num


class Movement:
    """Implements :class:`model.evaluation.judge.Judge`; of square pictures, as the drawn ones are."""

    figures = (
        Figure("blinks", "blinks a minute", ".1f", shared=True),
        Figure("gaze", "gaze to the sides (s.d.)", ".3f", shared=True),
        Figure("turns", "head turns, degrees (s.d.)", ".2f", shared=True),
        Figure("nods", "head nods, degrees (s.d.)", ".2f", shared=True),
        Figure("brows", "brows (s.d.)", ".3f", shared=True),
        Figure("smiles", "smile (s.d.)", ".3f", shared=True),
    )

    def __init__(self, reader: FaceReader) -> None:
        self._reader = reader

    def one(self, film: Film) -> Finding | None:
        _, height, width, _ = film.pictures.shape
        if height != width or film.duration_s < MIN_S:
            return None
        poses = self._reader.read(film.pictures).poses
        blinks = count_blinks(poses["blink"])
        moved = {name: float(poses[pose].std() * unit) for name, (pose, unit) in _SPREADS.items()}
        return Finding({"blinks": blinks}, (blinks, film.duration_s, moved))

    def all(self, found: Sequence[Finding]) -> Mapping[str, float]:
        minutes = sum(finding.kept[1] for finding in found) / 60
        figures = {"blinks": sum(finding.kept[0] for finding in found) / minutes}
        return figures | {name: float(np.mean([finding.kept[2][name] for finding in found])) for name in found[0].kept[2]}


def load() -> Movement:
    return Movement(load_reader())
