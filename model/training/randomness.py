"""Random numbers that depend on what they are for, and on nothing else.

Each sample of a run has a generator of its own, seeded by the run's seed, the learner and the sample's number. So a run that was
broken off goes on with the very numbers that it would have drawn, and neither how many processes share a step nor in how many
parts it is taken changes any.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch


def seed_of(*what: object) -> int:
    """A seed from 0 to 2^63 - 1 for whatever can be told by these words and numbers."""
    digest = hashlib.blake2b("/".join(map(str, what)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def generator(device: torch.device, *what: object) -> torch.Generator:
    """See :func:`seed_of`."""
    return torch.Generator(device).manual_seed(seed_of(*what))


def order(num_samples: int, position: int, *what: object) -> int:
    """Which of ``num_samples`` comes at ``position`` of an endless sequence: each once, in another order each time round."""
    round_number, place = divmod(position, num_samples)
    return int(_permutation(num_samples, seed_of("order", round_number, *what))[place])


@lru_cache(maxsize=4)
def _permutation(num: int, seed: int) -> torch.Tensor:
    return torch.randperm(num, generator=torch.Generator().manual_seed(seed))
