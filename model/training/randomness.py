"""Random numbers that depend on what they are for, and on nothing else.

Each sample of a run has a generator of its own, seeded by the run's seed, the learner and the sample's number. So a run that was
broken off goes on with the very numbers that it would have drawn, and neither how many processes share a step nor in how many
parts it is taken changes any.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def seed_of(*what: object) -> int:
    """A seed from 0 to 2^63 - 1 for whatever can be told by these words and numbers."""
    digest = hashlib.blake2b("/".join(map(str, what)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def generator(device: torch.device, *what: object) -> torch.Generator:
    """See :func:`seed_of`."""
    return torch.Generator(device).manual_seed(seed_of(*what))


def uniforms(dice: Sequence[torch.Generator], num: int) -> Tensor:
    """[B, num] from 0 to 1, a row a generator."""
    return torch.stack([torch.rand(num, generator=one, device=one.device) for one in dice])


def normals(dice: Sequence[torch.Generator], *shape: int) -> Tensor:
    """[B, *shape], standard normal, a sample a generator."""
    return torch.stack([torch.randn(shape, generator=one, device=one.device) for one in dice])


def pick(share: Tensor, num: Tensor | int) -> Tensor:
    """Of ``num`` the one in which a number from 0 to 1 falls: int64."""
    return (share * num).long().clamp(max=num - 1)


def order(num_samples: int, position: int, *what: object) -> int:
    """Which of ``num_samples`` comes at ``position`` of an endless sequence: each once, in another order each time round."""
    round_number, place = divmod(position, num_samples)
    return int(_permutation(num_samples, seed_of("order", round_number, *what))[place])


@lru_cache(maxsize=4)
def _permutation(num: int, seed: int) -> torch.Tensor:
    return torch.randperm(num, generator=torch.Generator().manual_seed(seed))
