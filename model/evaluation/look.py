"""Whether the face that is seen is the one that the prompt asks for, by the reader of :mod:`model.evaluation.faces`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from model.data.captions import asked
from model.data.face import choices
from model.evaluation.faces import FaceReader, load_reader
from model.evaluation.film import Film
from model.evaluation.judge import Figure, Finding

PICTURES_PER_S = 2
GROUPS: Mapping[str, tuple[str, ...]] = {
    "eyes": ("eye_colour",),
    "glasses": ("glasses",),
    "beard": ("beard",),
    "hair": ("hair_style", "hair_colour"),
    "clothes": ("garment", "garment_colour"),
    "place": ("place", "light"),
    "person": ("presentation", "age", "skin", "earrings"),
}
"""Attributes of a look that are told together."""


class LookAsAsked:
    """Implements :class:`model.evaluation.judge.Judge`; of square pictures, as the drawn ones are."""

    figures = (
        Figure("look_right", "look as asked", ".1%"),
        *(Figure(f"look_{group}", f"  {group}", ".0%") for group in GROUPS),
        Figure("mood_right", "mood as asked", ".0%"),
    )

    def __init__(self, reader: FaceReader) -> None:
        self._reader = reader

    def one(self, film: Film) -> Finding | None:
        _, height, width, _ = film.pictures.shape
        wanted = asked(film.prompt.scene or "")
        if height != width or not wanted:
            return None
        every = max(1, round(film.fps / PICTURES_PER_S))
        odds = self._reader.read(film.pictures[::every]).looks
        seen = {name: choices(name)[int(np.argmax(odds[name].mean(axis=0)))] for name in wanted}
        wrong = {name: f"{seen[name]}, not {wanted[name]}" for name in wanted if seen[name] != wanted[name]}
        return Finding({"attributes": len(wanted), "wrong": wrong}, {name: name not in wrong for name in wanted})

    def all(self, found: Sequence[Finding]) -> Mapping[str, float]:
        right = [(name, bool(is_right)) for finding in found for name, is_right in finding.kept.items()]
        groups = {f"look_{group}": names for group, names in GROUPS.items()} | {"mood_right": ("mood",)}
        groups["look_right"] = tuple(name for names in GROUPS.values() for name in names)
        told = {group: [is_right for name, is_right in right if name in names] for group, names in groups.items()}
        return {group: float(np.mean(some)) for group, some in told.items() if some}


def load() -> LookAsAsked:
    return LookAsAsked(load_reader())
