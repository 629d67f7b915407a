"""What all training stages share: a time budget, a learning-rate schedule, averaged weights, and resuming by the same command.

A stage's directory holds ``state.pt`` (everything needed to go on) and ``<stage>.safetensors`` (averaged weights, for use).
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

SAVE_EVERY_S = 120.0


def _more_than_none(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a time to train for: give more than 0")
    return value


def arguments(description: str) -> argparse.ArgumentParser:
    """The flags that every stage has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/model/pocket.yaml"), help="model config")
    parser.add_argument("--data", type=Path, required=True, help="directory made by model.training.prepare")
    parser.add_argument("--run", type=Path, required=True, help="where state and weights live; the same command resumes from it")
    parser.add_argument("--minutes", type=_more_than_none, required=True, help="stop, and save, after so long")
    parser.add_argument(
        "--cooldown", type=float, default=0.0, help="share of this piece over which the learning rate falls to 5 %%"
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--start", type=Path, metavar="CHECKPOINT", help="begin with this checkpoint's weights instead of random ones"
    )
    parser.add_argument("--no-graph", action="store_true", help="launch kernels one by one instead of replaying a CUDA graph")
    parser.add_argument("--no-compile", action="store_true", help="do not compile")
    return parser


@dataclass
class Piece:
    """One piece of a stage's training: iterate over it for step numbers until the time is up.

    Attributes:
        step: optimizer steps since the stage began, over all pieces.
    """

    minutes: float
    cooldown: float
    warmup_steps: int = 200
    step: int = 0
    started_s: float = field(default_factory=time.monotonic)
    first_step: int = 0
    saved_s: float = field(default_factory=time.monotonic)

    @property
    def progress(self) -> float:
        """Share of this piece's time that has passed."""
        return min(1.0, (time.monotonic() - self.started_s) / (self.minutes * 60))

    def __iter__(self) -> Iterator[int]:
        self.first_step = self.step
        while self.progress < 1:
            yield self.step
            self.step += 1

    def time_to_save(self) -> bool:
        """True every ``SAVE_EVERY_S``: whatever ends a machine then costs minutes, not the piece."""
        due = time.monotonic() - self.saved_s > SAVE_EVERY_S
        if due:
            self.saved_s = time.monotonic()
        return due

    def learning_rate(self, peak: float) -> float:
        rate = peak * min(1.0, (self.step + 1) / self.warmup_steps)
        if self.cooldown and self.progress > 1 - self.cooldown:
            rate *= max(0.05, (1 - self.progress) / self.cooldown)
        return rate

    def report(self, losses: Mapping[str, float]) -> None:
        passed_s = time.monotonic() - self.started_s
        rate = (self.step - self.first_step) / max(passed_s, 1e-3)
        print(
            f"{passed_s:5.0f} s  step {self.step:6d}  {rate:5.1f}/s  " + "  ".join(f"{k} {v:.4f}" for k, v in losses.items()),
            flush=True,
        )


class Averaged(Generic[M]):
    """Exponential moving average of weights, warming up with the number of steps."""

    def __init__(self, module: M, decay: float = 0.999) -> None:
        self.decay = decay
        self.module: M = copy.deepcopy(module).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, module: M, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        pairs = list(zip(self.module.parameters(), module.parameters(), strict=True))
        torch._foreach_lerp_([a for a, _ in pairs], [b.detach() for _, b in pairs], 1 - decay)
        for mine, theirs in zip(self.module.buffers(), module.buffers(), strict=True):
            mine.copy_(theirs)


class Graphed:
    """A training step that is recorded once as a CUDA graph and replayed: so small a model is otherwise bound by launches.

    Args:
        step: draws its own data, updates weights in place, and returns scalars; it must not wait for the device.
        enabled: False runs ``step`` as it is, as on a CPU.
    """

    WARM_UP = 4

    def __init__(self, step: Callable[[], dict[str, Tensor]], *, enabled: bool) -> None:
        self._step, self._enabled, self._calls = step, enabled and torch.cuda.is_available(), 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: dict[str, Tensor] = {}

    def __call__(self) -> dict[str, Tensor]:
        """The step's scalars, detached copies."""
        self._calls += 1
        if not self._enabled:
            result = self._step()
        elif self._calls <= self.WARM_UP:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                result = self._step()
            torch.cuda.current_stream().wait_stream(side)
        else:
            if self._graph is None:
                torch.cuda.synchronize()
                graph = torch.cuda.CUDAGraph()
                try:
                    with torch.cuda.graph(graph):
                        self._result = self._step()
                except RuntimeError as error:
                    print(f"no CUDA graph, going on without one: {error}", flush=True)
                    self._enabled = False
                    torch.cuda.synchronize()
                    return self()
                self._graph = graph
            self._graph.replay()
            result = self._result
        return {name: value.detach().clone() for name, value in result.items()}


def adamw(
    parameters: list[dict[str, Any]] | list[nn.Parameter], betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW whose learning rate lives on the device, so that a graph can be replayed with another one."""
    cuda = torch.cuda.is_available()
    rate = torch.tensor(1e-3, device="cuda") if cuda else 1e-3
    return torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=weight_decay, fused=cuda, capturable=cuda)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def save_state(path: Path, **parts: object) -> None:
    """Write everything to ``path`` in one go: a crash leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save(parts, temporary)
    os.replace(temporary, path)


def export(path: Path, module: nn.Module, dtype: torch.dtype = torch.bfloat16) -> None:
    """Weights for use: parameters in ``dtype``, buffers in float32."""
    buffers = {name for name, _ in module.named_buffers()}
    tensors: dict[str, Tensor] = {
        name: value.detach().cpu().contiguous().to(torch.float32 if name in buffers else dtype)
        for name, value in module.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def freeze_encoder(vae: M, averaged: Averaged[M], measure: Callable[[M], None], weights: Path, done: Path, step: int) -> None:
    """End the part of a VAE's stage in which its encoder learns: from now on its latents stay what they are.

    Args:
        vae: takes over the averaged encoder.
        measure: sets the statistics of the latents.
        weights: what the next stage reads; ``done`` tells it that it may.
    """
    vae.get_submodule("encoder").load_state_dict(averaged.module.get_submodule("encoder").state_dict())
    vae.get_submodule("encoder").requires_grad_(False)
    measure(vae)
    averaged.update(vae, step)
    export(weights, averaged.module, torch.float32)
    done.touch()
    print("encoder frozen", flush=True)


def default_device() -> torch.device:
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
