"""pocket's parts in ONNX Runtime, exported from the same modules. Only measured: what is served is in :mod:`model.runtime`."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.checkpoint import Weights
from model.parts import PARTS, example_inputs
from model.runtime import CALLS


class ONNXRuntime:
    """Implements :class:`model.runtime.Runtime`.

    Args:
        weights: of pocket.
        num_threads: for one operator.
        int8: products of the transformer's passes in 8 bits, activations quantised as they come.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
    """

    def __init__(self, weights: Weights, num_threads: int, *, int8: bool = False) -> None:
        import onnx  # noqa: F401  the exporter needs it
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = num_threads, 1, 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others work on the same cores
        self._sessions: dict[str, Any] = {}
        examples = example_inputs(weights)
        self._memory_shapes: dict[str, list[tuple[int, ...]]] = {"pass": list(weights.history_shape.shapes)}
        for part, first in (("decode_video", 1), ("decode_audio", 2)):
            self._memory_shapes[part] = [tuple(x.shape) for x in examples[part][first:]]
        with tempfile.TemporaryDirectory() as scratch:
            for name, graph in _export(weights, Path(scratch)).items():
                if int8 and name == "pass":
                    from onnxruntime.quantization import quantize_dynamic

                    logging.disable(logging.WARNING)  # it advises to fold what the exporter has folded
                    quantize_dynamic(graph, graph, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True)
                    logging.disable(logging.NOTSET)
                self._sessions[name] = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
        # What a graph has no use for is no input of it.
        self._inputs = {name: [x.name for x in session.get_inputs()] for name, session in self._sessions.items()}

    def __call__(self, part: str, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        name, outputs = CALLS.get(part, (part, slice(None)))
        feed = {key: np.ascontiguousarray(inputs[int(key[1:])]) for key in self._inputs[name]}
        return tuple(self._sessions[name].run(None, feed)[outputs])

    def memory(self, part: str) -> list[np.ndarray]:
        return [np.zeros(shape, np.float32) for shape in self._memory_shapes[part]]

    def array(self, x: np.ndarray) -> np.ndarray:
        return x

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return x


def _export(weights: Weights, directory: Path) -> dict[str, Path]:
    """One graph a part. Input number i is called ``xi``."""
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator has no counterpart in ONNX
    paths = {}
    for part, inputs in example_inputs(weights).items():
        names = [f"x{i}" for i in range(len(inputs))]
        varying: dict[str, dict[int, str]] = {}
        if part == "durations":
            varying = {"x0": {1: "phonemes"}}
        paths[part] = directory / f"{part}.onnx"
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            # The exporter that traces: the other one needs one more package.
            module = PARTS[part](weights).eval()
            torch.onnx.export(
                module, inputs, paths[part], input_names=names, dynamic_axes=varying, opset_version=18, dynamo=False
            )
    return paths
