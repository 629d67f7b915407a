"""How sharp the face is, how steady its light, and how near a film comes to the drawn one that it was decoded from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from model.evaluation.film import Array, Film, read_film
from model.evaluation.judge import Figure, Finding

EVERY = 10
"""Pictures of which one is looked at."""
FACE = ((0.2, 0.85), (0.22, 0.78))
"""As shares of the picture's height and width."""


def luma(pictures: Array) -> Array:
    """[T, H, W], 0 to 255, of RGB pictures [T, H, W, 3]."""
    return np.asarray(pictures @ np.array((0.299, 0.587, 0.114), np.float32))


def detail(grey: Array) -> float:
    """Mean size of the Laplacian of pictures [T, H, W]: how much is sharp."""
    inner = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return float(np.abs(4 * inner - around).mean())


class Picture:
    """Implements :class:`model.evaluation.judge.Judge`."""

    figures = (
        Figure("detail", "sharpness of the face (mean Laplacian)", ".2f", shared=True),
        Figure("light", "brightness of 255", ".1f", shared=True),
        Figure("psnr", "luma against the same drawn film, dB", ".1f"),
    )

    def one(self, film: Film) -> Finding | None:
        grey = luma(film.pictures[::EVERY])
        _, height, width = grey.shape
        rows, columns = (slice(int(a * n), int(b * n)) for (a, b), n in zip(FACE, (height, width), strict=True))
        figures = {"detail": detail(grey[:, rows, columns]), "light": float(grey.mean())}
        if film.truth is not None:
            true = luma(read_film(film.truth, film.prompt).pictures[::EVERY])
            num = min(len(true), len(grey))
            figures["psnr"] = float(10 * np.log10(255**2 / max(1e-9, np.square(true[:num] - grey[:num]).mean())))
        return Finding({name: round(value, 2) for name, value in figures.items()}, figures)

    def all(self, found: Sequence[Finding]) -> Mapping[str, float]:
        return {name: float(np.mean([finding.kept[name] for finding in found])) for name in found[0].kept}


def load() -> Picture:
    return Picture()
