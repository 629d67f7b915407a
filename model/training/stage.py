"""What the loop asks of a stage: samples to learn from, and a loss of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Drawn:
    """What a loss is computed from, all chance in it.

    Attributes:
        tensors: by name, on the device; a sample more adds to their first dimension.
        choice: what the host decided, such as the pass with gradients; all else that decides what is run is in the shapes.
    """

    tensors: dict[str, Tensor]
    choice: int = 0


@dataclass(frozen=True)
class Loss:
    """A loss, and what the log says of it: scalars, on the device."""

    total: Tensor
    figures: dict[str, Tensor]


class Stage(Protocol):
    """One stage of training.

    Attributes:
        nets: those that learn, by their learner's name, in the order in which they learn within a step.
        num_samples: in its data.
    """

    nets: Mapping[str, nn.Module]
    num_samples: int

    def draw(self, learner: str, update: int, samples: Sequence[int], dice: Sequence[torch.Generator]) -> Drawn:
        """Data and noise for a part of a step.

        Args:
            update: how often the learner has learned; what is drawn once for all samples is drawn by it.
            samples: which of the data; ``dice`` has a generator for each, for whatever is drawn for it.
        """

    def loss(self, learner: str, drawn: Drawn) -> Loss: ...

    def published_name(self, name: str) -> str:
        """Of a parameter of ours."""

    def published(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A net's tensors under their published names, in their published shapes."""
