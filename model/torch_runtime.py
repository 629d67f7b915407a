"""The parts in PyTorch: on GPUs, as the oracle, and where OpenVINO is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.checkpoint import Weights
from model.parts import PARTS, example_inputs
from model.runtime import CALLS


class TorchRuntime:
    """The parts as they are, on any device. Implements :class:`model.runtime.Runtime` with tensors."""

    def __init__(self, weights: Weights, device: torch.device) -> None:
        self._device = device
        inputs = {"decode_video": 1, "decode_audio": 2}
        examples = example_inputs(weights)
        self._memory_shapes: dict[str, list[tuple[int, ...]]] = {
            part: [tuple(x.shape) for x in examples[part][first:]] for part, first in inputs.items()
        }
        self._memory_shapes["pass"] = list(weights.history_shape.shapes)
        self._parts = {name: part(weights).to(device).eval() for name, part in PARTS.items()}

    @torch.inference_mode()
    def __call__(self, part: str, *inputs: Any) -> tuple[Tensor, ...]:
        name, outputs = CALLS.get(part, (part, slice(None)))
        result: tuple[Tensor, ...] = self._parts[name](*(self.array(x) for x in inputs))
        return result[outputs]

    def memory(self, part: str) -> list[Tensor]:
        return [torch.zeros(tuple(shape), device=self._device) for shape in self._memory_shapes[part]]

    def array(self, x: Any) -> Tensor:
        return torch.as_tensor(x, device=self._device)

    def numpy(self, x: Tensor) -> np.ndarray:
        return x.cpu().numpy()
