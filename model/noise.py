"""Normally distributed noise of a seed: the numbers that PyTorch's generator gives on a CPU, without PyTorch.

A Mersenne twister (MT19937) of the seed's low 32 bits gives uniform numbers of 24 bits. They are taken in groups of 16, of which
the first eight are radii and the others angles of eight pairs (Box and Muller); a rest of fewer than 16 is filled up by making
the last 16 numbers anew. So a stream is the same in every runtime, but for the last bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_GROUP = 16


class Noise:
    """An endless sequence of standard normal numbers.

    Args:
        seed: any whole number; as in PyTorch, only 32 bits of it count.
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.MT19937()
        # The old interface seeds as the generator's authors do; the new one stirs the seed first.
        self._bits.state = np.random.RandomState(seed & 0xFFFFFFFF).get_state(legacy=False)  # type: ignore[assignment]

    def draw(self, shape: Sequence[int]) -> np.ndarray:
        """The next numbers, float32.

        Raises:
            ValueError: fewer than 16, which PyTorch makes another way.
        """
        size = math.prod(shape)
        if size < _GROUP:
            raise ValueError(f"noise comes in pieces of at least {_GROUP} numbers, not {size}")
        uniform = self._uniform(size)
        whole = size - size % _GROUP
        normal = np.empty(size, np.float32)
        normal[:whole] = _normal(uniform[:whole])
        if whole < size:
            normal[-_GROUP:] = _normal(self._uniform(_GROUP))
        return normal.reshape(shape)

    def _uniform(self, size: int) -> np.ndarray:
        """In [0, 1), float32."""
        return (self._bits.random_raw(size) & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)


def _normal(uniform: np.ndarray) -> np.ndarray:
    pairs = uniform.reshape(-1, 2, _GROUP // 2)
    radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - pairs[:, 0]))
    angle = np.float32(2 * math.pi) * pairs[:, 1]
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1).reshape(-1)
