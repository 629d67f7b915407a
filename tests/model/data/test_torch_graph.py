"""A teacher's graph in PyTorch says what ONNX Runtime says: products and a recurrent layer in 8 bits, spectra of a signal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.data.torch_graph import TorchGraph

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

WIDTH, HIDDEN, WINDOW = 24, 16, 20


def graph(path: Path) -> None:
    """[T, WIDTH] -> a quantized product, two quantized recurrent directions, a convolution, and phases of short spectra."""
    from onnx import TensorProto, helper, numpy_helper

    dice = np.random.default_rng(0)
    constants: list[Any] = []

    def constant(name: str, value: np.ndarray | np.generic) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def bits(*shape: int) -> np.ndarray:
        # 7 of them: on processors without VNNI, ONNX Runtime adds pairs of products in 16 bits, which more would not fit into.
        return dice.integers(-63, 64, shape).astype(np.int8)

    def node(kind: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any) -> Any:
        return helper.make_node(kind, inputs, outputs, domain=domain, **attributes)

    zero = constant("zero", np.zeros((), np.int8))
    scale = constant("scale", np.float32(0.01))
    product = constant("product", bits(WIDTH, WIDTH))
    kernel = constant("kernel", (bits(WIDTH, WIDTH, 3) + 63).astype(np.uint8))
    kernel_zero = constant("kernel zero", np.uint8(60))
    directions = [constant(n, bits(2, size, 4 * HIDDEN)) for n, size in (("w", WIDTH), ("r", HIDDEN))]
    bias = constant("bias", dice.normal(size=(2, 8 * HIDDEN)).astype(np.float32) * 0.1)
    begin = constant("begin", np.zeros((2, 1, HIDDEN), np.float32))
    scales, zeros = constant("scales", np.full(2, 0.005, np.float32)), constant("zeros", np.zeros(2, np.int8))
    one, first = (constant(f"axis {i}", np.asarray([i])) for i in (1, 0))
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "q scale", "q zero"]),
        node("MatMulInteger", ["q", product, "q zero", zero], ["whole"]),
        node("Cast", ["whole"], ["number"], to=TensorProto.FLOAT),
        node("Mul", ["q scale", scale], ["both"]),
        node("Mul", ["number", "both"], ["y"]),
        node("Unsqueeze", ["y", one], ["row"]),
        node(
            "DynamicQuantizeLSTM",
            ["row", *directions, bias, "", begin, begin, "", scales, zeros, scales, zeros],
            ["states", "", ""],
            "com.microsoft",
            direction="bidirectional",
            hidden_size=HIDDEN,
        ),
        node("Transpose", ["y"], ["turned"], perm=[1, 0]),
        node("Unsqueeze", ["turned", first], ["plane"]),
        node("DynamicQuantizeLinear", ["plane"], ["p", "p scale", "p zero"]),
        node("ConvInteger", ["p", kernel, "p zero", kernel_zero], ["convolved"], kernel_shape=[3], pads=[1, 1], strides=[1]),
        node("Cast", ["convolved"], ["z"], to=TensorProto.FLOAT),
        node("Resize", ["plane", "", constant("half", np.asarray([1, 1, 0.5], np.float32))], ["short"], mode="linear"),
        node("Reshape", ["y", constant("line", np.asarray([1, -1, 1]))], ["signal"]),
        node("STFT", ["signal", constant("step", np.asarray(5)), constant("hann", np.hanning(WINDOW).astype(np.float32))], ["f"]),
        node("Slice", ["f", *(constant(n, np.asarray([i])) for n, i in (("from", 0), ("to", 1), ("of", 3)))], ["re"]),
        node("Squeeze", ["re", "of"], ["real"]),
        node("ReduceMean", ["y", one], ["mean"], keepdims=1),
    ]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("y", "states", "z", "short", "real", "mean")]
    made = helper.make_graph(
        nodes, "teacher", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", WIDTH])], outputs, constants
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=9), str(path))


@pytest.mark.parametrize("length", [12, 30])
def test_it_computes_what_onnx_runtime_does(tmp_path: Path, length: int) -> None:
    path = tmp_path / "teacher.onnx"
    graph(path)
    x = np.random.default_rng(length).normal(size=(length, WIDTH)).astype(np.float32)
    wanted = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    found = TorchGraph(path, torch.device("cpu"))({"x": x})
    names = ("y", "states", "z", "short", "real", "mean")
    for name, mine, theirs in zip(names, found, wanted, strict=True):
        assert mine.shape == theirs.shape, name
        error = float(np.linalg.norm(mine - theirs) / np.linalg.norm(theirs))
        # The recurrent layer alone is computed with activations that are not quantized: ONNX Runtime rounds them to 8 bits.
        assert error < (0.02 if name == "states" else 1e-5), (name, error)


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy")
    onnx.save(
        helper.make_model(helper.make_graph([helper.make_node("Mish", ["x"], ["y"], name="odd")], "g", [x], [y])),
        str(tmp_path / "g.onnx"),
    )
    with pytest.raises(NotImplementedError, match="Mish of node 'odd'"):
        TorchGraph(tmp_path / "g.onnx", torch.device("cpu"))
