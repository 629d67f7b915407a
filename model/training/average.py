"""Moving average of what trains, in float32, over whatever part of it this process holds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from model.training.config import AverageConfig
from model.training.distributed import local


class Average:
    """Begins as a copy of the weights at ``config.from_step``; before that there is none.

    Attributes:
        tensors: by name; sharded as the weights are. Empty before it begins.
        updates: since it began.
    """

    def __init__(self, config: AverageConfig) -> None:
        self.config = config
        self.tensors: dict[str, Tensor] = {}
        self.updates = 0

    @torch.no_grad()
    def begin(self, parameters: Mapping[str, Tensor]) -> None:
        self.tensors = {name: p.detach().to(torch.float32, copy=True) for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor], step: int) -> None:
        """After the optimizer's step ``step``."""
        if step < self.config.from_step:
            return
        if not self.tensors:
            self.begin(parameters)
            return
        self.updates += 1
        decay = self.config.decay
        if self.config.warm_up:
            decay = min(decay, (1 + self.updates) / (10 + self.updates))
        new = [local(p).to(torch.float32) for p in parameters.values()]
        torch._foreach_lerp_([local(x) for x in self.tensors.values()], new, 1 - decay)
