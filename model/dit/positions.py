"""Rotary angles on the host, for what serves without PyTorch: one ladder of frequencies, and the tables of a block's tokens.

:class:`model.dit.rope.Rope` is the same ladder in PyTorch, on any device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Rows = tuple[np.ndarray, np.ndarray]
"""Cosines and sines of tokens, each float32 [T, head_dim]."""


@dataclass(frozen=True)
class Ladder:
    """Frequencies of one head size: which pairs of its channels turn with time, which with rows and with columns."""

    head_dim: int
    theta: float

    @property
    def num_space_pairs(self) -> int:
        """Pairs for rows, and as many for columns."""
        return self.head_dim // 6

    @property
    def num_time_pairs(self) -> int:
        return self.head_dim // 2 - 2 * self.num_space_pairs

    @property
    def num_time_channels(self) -> int:
        return 2 * self.num_time_pairs

    def time_rows(self, times: np.ndarray, timed: np.ndarray | None = None) -> Rows:
        """Of tokens that have only a time, float64 [T] in rotary units; where ``timed`` is False they have not even that."""
        still = np.zeros((len(times), self.num_space_pairs))
        cos, sin = _rows(_angles(times, self.num_time_pairs, self.theta), still, still)
        if timed is not None:
            cos[~timed, : self.num_time_channels] = sin[~timed, : self.num_time_channels] = 0
        return cos, sin

    def video_rows(self, times: np.ndarray, grid_height: int, grid_width: int) -> Rows:
        """Of all tokens of latents at ``times`` [L]: latent-major, then row, then column."""
        time = _angles(times, self.num_time_pairs, self.theta)
        rows, columns = (_angles(np.arange(n), self.num_space_pairs, self.theta) for n in (grid_height, grid_width))
        return _rows(
            np.repeat(time, grid_height * grid_width, axis=0),
            np.tile(np.repeat(rows, grid_width, axis=0), (len(times), 1)),
            np.tile(columns, (len(times) * grid_height, 1)),
        )


def _angles(positions: np.ndarray, num_pairs: int, theta: float) -> np.ndarray:
    """In float64, so that a position of 10**7 is as exact as one of 10."""
    return np.multiply.outer(positions.astype(np.float64), theta ** (-np.arange(num_pairs) / num_pairs))


def _rows(time: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> Rows:
    both = np.repeat(np.concatenate((time, rows, columns), axis=1), 2, axis=1)
    return np.cos(both).astype(np.float32), np.sin(both).astype(np.float32)
