"""What the loop asks of a stage: samples to learn from, and a loss of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from model.training.optimizers import Learner


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


class Stage(ABC):
    """One stage of training.

    A stage may have phases: what learns in a later one is not what learned before it. When it is over is a matter of the time
    that a run has taken; that one has begun is part of a checkpoint.

    Attributes:
        nets: those that learn, by their learner's name, in the order in which they learn within a step.
        num_samples: in its data.
        phase: that is under way.
    """

    nets: Mapping[str, nn.Module]
    num_samples: int
    phase: int = 0

    @abstractmethod
    def draw(self, learner: str, update: int, samples: Sequence[int], dice: Sequence[torch.Generator]) -> Drawn:
        """Data and noise for a part of a step.

        Args:
            update: how often the learner has learned; what is drawn once for all samples is drawn by it.
            samples: which of the data; ``dice`` has a generator for each, for whatever is drawn for it.
        """

    @abstractmethod
    def loss(self, learner: str, drawn: Drawn) -> Loss:
        """A loss of what :meth:`draw` gave; its gradients reach the learner's net."""

    def published_name(self, name: str) -> str:
        """Of a parameter of ours."""
        return name

    def published(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A net's tensors under their published names, in their published shapes."""
        return dict(tensors)

    def phase_at(self, seconds: float) -> int:
        """The phase that is to be under way once a run has taken so long."""
        return self.phase

    def begin(self, phase: int) -> None:
        """Let the phase be under way, its weights being there."""
        self.phase = phase

    def turn(self, learners: Mapping[str, Learner]) -> None:  # noqa: B027 - a stage of one phase has none to turn to
        """Make of the weights of one phase those that the next one begins with."""

    def learns(self, learner: str) -> bool:
        """Whether a learner learns in this phase."""
        return True

    def rate_share(self, learner: str) -> float:
        """Of the learner's learning rates, in this phase."""
        return 1.0

    def hand_over(self, directory: Path) -> None:  # noqa: B027 - most have nothing that others wait for
        """Leave in a run's directory what other stages wait for, if it is done and not there."""

    def measure(self, learners: Mapping[str, Learner]) -> dict[str, float]:
        """Figures of what was learned, whenever it is saved."""
        return {}
