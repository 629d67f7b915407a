"""The picture decoder's 3 x 3 convolutions in 8 bits, which processors without bfloat16 compute faster than float32.

Such a convolution reads bytes: what lies between the least and the largest value that each of its channels was seen to take
(``ranges.safetensors`` of a checkpoint, see :mod:`model.training.ranges`). Some channels reach a hundred times further than
others, so each is divided by a number of its own first, and its weights are multiplied by it (SmoothQuant, arXiv 2211.10438). All
else stays in float32: norms, residuals, 1 x 1 convolutions, and what is remembered from block to block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from model.errors import CheckpointError

KERNEL = (3, 3)
"""Of the convolutions that are meant. A picture meets them one after the other."""

SMOOTHING = 0.6
"""How far channels are evened out: with 1 they all reach equally far, and weights have it as hard as inputs had."""

LARGEST_WEIGHT = 63
"""Without VNNI products of bytes are added in pairs in 16 bits, which 2 * 255 * 63 still fits and 2 * 255 * 127 does not."""


def quantise(graph: Any, ranges: Sequence[np.ndarray]) -> None:
    """Have the 3 x 3 convolutions of a graph computed in 8 bits.

    Args:
        ranges: of each of them in their order, [2, C]: least and largest value of each channel that it reads.

    Raises:
        CheckpointError: the ranges are of another network.
    """
    from openvino.passes import ConstantFolding, Manager

    folding = Manager()
    folding.register_pass(ConstantFolding())  # weights are reshaped on their way
    folding.run_passes(graph)
    convolutions = [node for node in graph.get_ordered_ops() if node.get_type_name() == "Convolution" and _is_meant(node)]
    if [node.input_value(1).get_shape()[1] for node in convolutions] != [x.shape[1] for x in ranges]:
        raise CheckpointError(
            "ranges.safetensors is of another network: python -m model.training.ranges CHECKPOINT makes it anew"
        )
    for node, (least, largest) in zip(convolutions, ranges, strict=True):
        _quantise(node, least, largest)
    graph.validate_nodes_and_infer_types()


def _is_meant(convolution: Any) -> bool:
    return tuple(convolution.input_value(1).get_shape())[2:] == KERNEL


def _quantise(convolution: Any, least_C: np.ndarray, largest_C: np.ndarray) -> None:
    from openvino import opset13 as ops

    weight = np.array(convolution.input_value(1).get_node().data)
    reach_C = np.maximum(np.maximum(-least_C, largest_C), 1e-6)
    scale_C = reach_C**SMOOTHING / np.maximum(np.abs(weight).max(axis=(0, 2, 3)), 1e-6) ** (1 - SMOOTHING)
    least, largest = min(0.0, (least_C / scale_C).min()), max(0.0, (largest_C / scale_C).max())
    step = (largest - least) / 255
    least = step * round(least / step)  # 0 is a byte: there are borders of it
    ends = least, least + 255 * step
    scale_1C11 = scale_C.reshape(1, -1, 1, 1)
    x = _rounded(
        convolution.input_value(0), [end * scale_1C11 for end in ends], [np.full((1, 1, 1, 1), end) for end in ends], 256
    )
    weight = weight * scale_1C11
    end = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) * (127 / LARGEST_WEIGHT)
    w = _rounded(ops.constant(weight.astype(np.float32)).output(0), [-end, end], [-end, end], 255)
    convolution.input(0).replace_source_output(x)
    convolution.input(1).replace_source_output(w)


def _rounded(x: Any, ends: list[np.ndarray], new_ends: list[np.ndarray], levels: int) -> Any:
    """``x`` between two ends, as one of so many numbers between two others."""
    from openvino import opset13 as ops

    return ops.fake_quantize(x, *(ops.constant(end.astype(np.float32)) for end in (*ends, *new_ends)), levels).output(0)
