"""The parts as OpenVINO's graphs, weights inside. They are converted once a machine, in a process of its own, because that needs
PyTorch and its memory, which serving does not.

    python -m model.conversion CHECKPOINT DIRECTORY [--for bfloat16]
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from model.checkpoint import Weights, read_weights
from model.errors import ModelError
from model.parts import PARTS, example_inputs
from model.quantisation import quantise
from model.runtime import Arithmetic

Report = Callable[[str], None]

_SCRATCH = ".converting-"


def convert_graphs(weights: Weights, directory: Path, arithmetic: Arithmetic = "float32", report: Report | None = None) -> None:
    """Write one graph a part to a directory that then exists whole or not at all.

    Args:
        arithmetic: with bfloat16 keys and values are kept in it; 8 bits need a checkpoint with ranges.
        report: hears of each part.
    """
    import openvino

    examples = example_inputs(weights)
    with _alone_in(directory.parent):
        for remains in directory.parent.glob(f"{_SCRATCH}*"):  # of a conversion that was killed
            shutil.rmtree(remains, ignore_errors=True)
        if directory.is_dir():  # somebody else was faster
            return
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=directory.parent))
        try:
            for i, name in enumerate(PARTS, 1):
                if report:
                    report(f"{name}, {i} of {len(PARTS)}")
                graph = convert(weights, name, examples[name], arithmetic)
                openvino.save_model(graph, str(scratch / f"{name}.xml"), compress_to_fp16=False)
            os.replace(scratch, directory)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """While others wait who want to convert into the same directory, which comes to be."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def convert(weights: Weights, name: str, inputs: tuple[Tensor, ...], arithmetic: Arithmetic) -> Any:
    """The graph of one part, given :func:`model.parts.example_inputs` of it."""
    import openvino

    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator has no counterpart in OpenVINO
    graph = trace(PARTS[name](weights).eval(), inputs)
    shapes: dict[int, Any] = {i: list(x.shape) for i, x in enumerate(inputs)}
    if name == "durations":
        shapes[0] = [1, -1]
    graph.reshape({i: openvino.PartialShape(shape) for i, shape in shapes.items()})
    if arithmetic != "bfloat16":
        spell_out_gelu(graph)
    elif name == "pass":
        graph = with_half_memory(graph, 12 * weights.config.dit.num_layers)
    if arithmetic == "int8" and name == "decode_video" and weights.ranges:
        quantise(graph, [x.numpy() for x in weights.ranges])
    return graph


def trace(part: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """A part as a graph. By the frontend itself: ``openvino.convert_model`` does nothing else, but tells its makers of it."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        frontend = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchScriptPythonDecoder(part, example_input=inputs, trace_kwargs={"check_trace": False})
        return frontend.convert(frontend.load(decoder))  # which asks the decoder as it goes


def with_half_memory(graph: Any, count: int) -> Any:
    """The graph with its last inputs, the keys and values, in bfloat16."""
    from openvino import Type
    from openvino.preprocess import PrePostProcessor

    ends = PrePostProcessor(graph)
    for i in range(len(graph.inputs) - count, len(graph.inputs)):
        ends.input(i).tensor().set_element_type(Type.bf16)
    return ends.build()


def spell_out_gelu(graph: Any) -> None:
    """GELU in its tanh form as ``x * sigmoid(2 z)``, which is the same. As one operation it would move into the product before
    it, which then runs in a kernel half as fast on processors without bfloat16."""
    from openvino import opset13 as ops

    for node in graph.get_ordered_ops():
        if node.get_type_name() == "Gelu" and node.get_attributes()["approximation_mode"] == "TANH":
            x = node.input_value(0)
            cube = ops.multiply(ops.multiply(x, x), x)
            z = ops.add(x, ops.multiply(cube, ops.constant(np.float32(0.044715))))
            y = ops.multiply(x, ops.sigmoid(ops.multiply(z, ops.constant(np.float32(1.5957691216057308)))))
            node.output(0).replace(y.output(0))


def _end_with_input() -> None:
    """End this process in an orderly way when the other end of its standard input is closed, however that came."""

    def watch() -> None:
        while os.read(0, 1):  # not through a file object, whose lock would stand in the way of this process's end
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="directory of the checkpoint")
    parser.add_argument("directory", type=Path, help="where to put the graphs; must not exist")
    parser.add_argument("--for", dest="arithmetic", choices=get_args(Arithmetic), default="float32", help="what they compute in")
    parser.add_argument("--child", action="store_true", help="end when standard input is closed")
    options = parser.parse_args()

    def leave(*_: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)  # on the way out, what is half written is removed

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    if options.child:
        _end_with_input()

    def tell(**what: str) -> None:
        print(json.dumps(what), flush=True)

    try:
        weights = read_weights(options.checkpoint)
        convert_graphs(weights, options.directory, options.arithmetic, report=lambda part: tell(part=part))
    except ModelError as error:
        tell(error=str(error))
        raise SystemExit(1) from None
    except OSError as error:
        tell(
            error=f"cannot write converted graphs to {options.directory.parent} ({error.strerror or error}): make room there and "
            "make it writable, or point XDG_CACHE_HOME elsewhere"
        )
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
