"""pocket's parts in ONNX Runtime, exported from the same modules. Only measured: what is served is in :mod:`model.runtime`."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import Weights
from model.runtime import PARTS, example_inputs


class ONNXRuntime:
    """Implements :class:`model.runtime.Runtime`.

    Args:
        weights: of pocket.
        num_threads: for one operator.
        int8: products of the transformer's passes in 8 bits, activations quantised as they come.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
    """

    memory_dtype = torch.float32

    def __init__(self, weights: Weights, num_threads: int, *, int8: bool = False) -> None:
        import onnx  # noqa: F401  the exporter needs it
        import onnxruntime

        self.device = torch.device("cpu")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = num_threads, 1, 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others work on the same cores
        self._sessions: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as scratch:
            for name, graph in _export(weights, Path(scratch)).items():
                if int8 and name in ("denoise", "remember"):
                    from onnxruntime.quantization import quantize_dynamic

                    logging.disable(logging.WARNING)  # it advises to fold what the exporter has folded
                    quantize_dynamic(graph, graph, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True)
                    logging.disable(logging.NOTSET)
                self._sessions[name] = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
        # What a graph has no use for is no input of it.
        self._inputs = {name: [x.name for x in session.get_inputs()] for name, session in self._sessions.items()}

    def __call__(self, part: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        feed = {name: inputs[int(name[1:])].contiguous().numpy() for name in self._inputs[part]}
        return tuple(torch.from_numpy(x) for x in self._sessions[part].run(None, feed))


def _export(weights: Weights, directory: Path) -> dict[str, Path]:
    """One graph a part. Input number i is called ``xi``."""
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator has no counterpart in ONNX
    paths = {}
    for part, inputs in example_inputs(weights).items():
        names = [f"x{i}" for i in range(len(inputs))]
        varying: dict[str, dict[int, str]] = {}
        if part == "durations":
            varying = {"x0": {1: "phonemes"}}
        elif part == "text":
            varying = {name: {1: f"tokens_{name}"} for name in names if name != "x2"}
        elif part in ("denoise", "remember"):  # see model.runtime.convert_graphs
            varying = {"x9": {3: "text"}, **{name: {2: f"tokens_{name}"} for name in names[10:]}}
        paths[part] = directory / f"{part}.onnx"
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            # The exporter that traces: the other one needs one more package.
            module = PARTS[part](weights).eval()
            torch.onnx.export(
                module, inputs, paths[part], input_names=names, dynamic_axes=varying, opset_version=18, dynamo=False
            )
    return paths
