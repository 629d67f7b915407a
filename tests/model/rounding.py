"""How far apart two correct computations in float32 may be: derived here and now, from this network on this processor.

The order of sums, fused multiplications and approximations of exp differ between processors, libraries and numbers of threads.
What a network makes of it differs from part to part by four orders of magnitude: the vocoder counts the harmonics under each
sample in whole numbers, and rounding alone can add one. So no constant is right everywhere. Instead the part is computed exactly,
in float64, and then some times in float32, with weights and inputs off by a few roundings: that is how far rounding leads.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from model.checkpoint import Weights

M = TypeVar("M", bound=nn.Module)

NUM_DRAWS = 8
ROUNDING = 2.0**-24
"""The most that one rounding to float32 changes a number, relative to it."""
ROUNDINGS = 4
"""So many draws are off by: a part is a chain of several, and an approximation of exp may cost two in one step."""
EXACT: dict[str, Any] = {"atol": 1e-10, "rtol": 1e-10}
"""What is equal but for the order of sums, in float64."""
SLACK = 2.0
"""Draws only sample what can happen."""


class InDouble(TorchFunctionMode):
    """What a network does in float32 on purpose it does in float64 here, if its weights and inputs are.

    For what must be equal but for the order of sums: rounding is then far below any mistake, on every processor.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.float:
            return args[0].double()
        args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
        return func(*args, **{key: torch.float64 if value is torch.float32 else value for key, value in kwargs.items()})


@torch.inference_mode()
def exactly(module: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Outputs of a part, in float64."""
    with InDouble():
        outputs: tuple[Tensor, ...] = copy.deepcopy(module).double()(*(_widened(x) for x in inputs))
    return outputs


@torch.inference_mode()
def nudged(module: M, seed: int) -> M:
    """A copy whose weights are off by up to :data:`ROUNDINGS`."""
    generator, other = torch.Generator().manual_seed(seed), copy.deepcopy(module)
    for tensor in (*other.parameters(), *other.buffers()):
        tensor.copy_(_nudge(tensor, generator))
    return other


def nudged_weights(weights: Weights, seed: int) -> Weights:
    """The same of a whole checkpoint."""
    networks = {name: nudged(getattr(weights, name), seed) for name in ("dit", "text", "video_vae", "audio_vae")}
    return replace(weights, **networks)


@torch.inference_mode()
def largest_errors(module: nn.Module, inputs: Sequence[Tensor], truth: Sequence[Tensor]) -> list[float]:
    """Of each output the largest relative L2 distance from the truth that rounding led to in some draws."""
    draws = [errors(module(*inputs), truth)]
    for seed in range(NUM_DRAWS):
        generator = torch.Generator().manual_seed(seed)
        draws.append(errors(nudged(module, seed)(*(_nudge(x, generator) for x in inputs)), truth))
    return [max(column) for column in zip(*draws, strict=True)]


def reach_of_rounding(nudged_output: Tensor, output: Tensor) -> float:
    """What any value of an output may be off by, of which one with nudged weights is given."""
    return SLACK * float((nudged_output - output).abs().max())


def errors(outputs: Sequence[Tensor | np.ndarray], truth: Sequence[Tensor]) -> list[float]:
    """Relative L2 distance of each output from the truth; of one that is nothing but zeros, the L2 norm."""
    pairs = zip(outputs, truth, strict=True)
    wide = ((torch.as_tensor(ours).double(), exact.double()) for ours, exact in pairs)
    return [float((ours - exact).norm() / (exact.norm() or 1.0)) for ours, exact in wide]


def check_within_rounding(outputs: Sequence[Tensor | np.ndarray], module: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Fail unless ``outputs`` are what ``module`` makes of ``inputs``, up to what rounding does to it."""
    truth = exactly(module, inputs)
    allowed = [SLACK * (error + ROUNDINGS * ROUNDING) for error in largest_errors(module, inputs, truth)]
    for i, (found, limit) in enumerate(zip(errors(outputs, truth), allowed, strict=True)):
        assert found <= limit, f"output {i} is {found:.2e} from the truth; rounding explains {limit:.2e}"


def _widened(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def _nudge(x: Tensor, generator: torch.Generator) -> Tensor:
    if not x.is_floating_point():
        return x
    return x * (1 + ROUNDINGS * ROUNDING * (2 * torch.rand(x.shape, generator=generator) - 1))
