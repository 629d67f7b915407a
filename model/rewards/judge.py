"""What a judge of clips is, and how its memory is lent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Clip:
    """A decoded rollout.

    Attributes:
        frames: uint8 [T, H, W, 3], RGB; ``fps`` of them a second.
        samples: float32 [N] in [-1, 1], ``sample_rate_hz`` of them a second.
        prompt: that it was made of.
    """

    frames: Tensor
    fps: int
    samples: Tensor
    sample_rate_hz: int
    prompt: str


class Judge(Protocol):
    """Judges clips by one kind of reward; see :data:`model.training.rewards.KINDS`.

    Attributes:
        module: its network, or all of them.
    """

    module: nn.Module

    def __call__(self, clips: Sequence[Clip]) -> Mapping[str, Tensor]:
        """Rewards by the names of :class:`model.training.rewards.Rewards`, float32 [B] each, on any device."""


@contextmanager
def lent(module: nn.Module, device: torch.device, *, offload: bool) -> Iterator[None]:
    """A network on a device; with ``offload`` back on the CPU afterwards, and its memory given back."""
    module.to(device)
    try:
        yield
    finally:
        if offload and device.type != "cpu":
            module.to("cpu")
            torch.cuda.empty_cache()
