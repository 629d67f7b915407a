"""Who learns, and how fast: groups of parameters by name, their schedule, and the refusal of what is not finite."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from model.errors import ConfigError
from model.training.average import Average
from model.training.config import LearnerConfig, ScheduleConfig
from model.training.distributed import World, whole

LAST_SHARE = 0.05
"""Of a learning rate after its cool-down."""


def choose(module: nn.Module, config: LearnerConfig, published_name: Callable[[str], str]) -> None:
    """Let of a network's parameters those learn that the config names.

    Raises:
        ConfigError: it names none.
    """
    for name, parameter in module.named_parameters():
        public = published_name(name)
        chosen = config.trainable is None or re.search(config.trainable, public)
        parameter.requires_grad_(bool(chosen) and not (config.frozen and re.search(config.frozen, public)))
    if not any(p.requires_grad for p in module.parameters()):
        raise ConfigError(f"no parameter's name fits trainable: {config.trainable!r} without frozen: {config.frozen!r}")


@dataclass
class Learner:
    """One network that learns, with all that goes with it.

    Attributes:
        parameters: those that learn, by our names.
        updates: optimizer steps so far.
        samples: that it has learned from, those of all processes together.
    """

    name: str
    module: nn.Module
    config: LearnerConfig
    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.AdamW
    average: Average | None
    updates: int = 0
    samples: int = 0
    _peaks: Sequence[float] = field(default_factory=list)

    @staticmethod
    def of(name: str, module: nn.Module, config: LearnerConfig, published_name: Callable[[str], str]) -> Learner:
        """Of a network that is where it will learn, after :func:`choose`.

        Raises:
            ConfigError: a parameter has no learning rate.
        """
        parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
        for own, parameter in parameters.items():
            public = published_name(own)
            pattern = next((p for p in config.learning_rates if re.search(p, public)), None)
            if pattern is None:
                raise ConfigError(f"learners.{name}.learning_rates: no pattern fits {public}; add one, or freeze it")
            groups.setdefault((pattern, config.decays == "all" or parameter.ndim > 1), []).append(parameter)
        peaks = [config.learning_rates[pattern] for pattern, _ in groups]
        # In as few kernels as there are: those of small networks are all launches.
        fused = all(p.is_cuda and not isinstance(p, DTensor) for p in parameters.values())
        optimizer = torch.optim.AdamW(
            [
                {"params": members, "lr": peak, "weight_decay": config.weight_decay if decays else 0.0}
                for ((_, decays), members), peak in zip(groups.items(), peaks, strict=True)
            ],
            betas=config.betas,
            eps=config.eps,
            foreach=None if fused else True,
            fused=fused or None,
        )
        average = None if config.average is None else Average(config.average)
        return Learner(name, module, config, parameters, optimizer, average, _peaks=peaks)

    def zero(self, *, stay: bool) -> None:
        """No gradients; ``stay`` where they are, at zero, for a record to find them there."""
        if not stay:
            self.optimizer.zero_grad()
            return
        for parameter in self.parameters.values():
            if not parameter.requires_grad:
                parameter.grad = None
            elif parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        torch._foreach_zero_([p.grad for p in self.parameters.values() if p.grad is not None])

    def share_gradients(self, world: World) -> None:
        """Their mean over processes, where each has the whole network. Those of networks that are spread are shared already."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None and not isinstance(p.grad, DTensor)]
        if world.size == 1 or not gradients:
            return
        mean = world.sum(torch.cat([x.flatten() for x in gradients])) / world.size
        for gradient, part in zip(gradients, mean.split([x.numel() for x in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The network with its average's weights meanwhile; as it is where there is none."""
        average = {} if self.average is None else self.average.tensors
        kept = {name: p.detach().clone() for name, p in self.parameters.items()}
        try:
            self.put(average)
            yield
        finally:
            self.put(kept)

    @torch.no_grad()
    def put(self, tensors: Mapping[str, Tensor]) -> None:
        """Some of the parameters."""
        for name, x in tensors.items():
            self.parameters[name].copy_(x)

    def gradient_norm(self) -> Tensor:
        """Of all gradients of all processes."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        return whole(torch.nn.utils.get_total_norm(gradients)) if gradients else torch.zeros(())

    def learn(self, norm: Tensor, step: int, rate: float) -> None:
        """One optimizer step, its gradients clipped. ``norm`` is theirs, ``rate`` the share of the peak learning rates."""
        torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), self.config.clip_norm, norm)
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * rate
        self.optimizer.step()
        self.updates += 1
        if self.average is not None:
            self.average.update(self.parameters, step)

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """The optimizer's state by our names; made, if it has none yet."""
        for parameter in self.parameters.values():
            state = self.optimizer.state[parameter]
            if not state:
                fused = self.optimizer.defaults["fused"]
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device if fused else None)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return {name: dict(self.optimizer.state[parameter]) for name, parameter in self.parameters.items()}


def rate_at(step: int, max_steps: int, schedule: ScheduleConfig) -> float:
    """Share of the peak learning rates in a step."""
    rate = min(1.0, (step + 1) / schedule.warmup_steps) if schedule.warmup_steps else 1.0
    return rate * rate_before(max_steps - step, schedule.cooldown_steps)


def rate_before(left: float, cooldown: float) -> float:
    """Share of the learning rates when so much is left, of which the last ``cooldown`` lets them fall."""
    return min(1.0, max(LAST_SHARE, left / cooldown)) if cooldown else 1.0
