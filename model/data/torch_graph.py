"""An ONNX graph of a speech teacher, run operator by operator by PyTorch: on a GPU, for making hours of speech.

ONNX Runtime runs Kokoro's graph on processors only, at a fraction of real time a core. Here the graph's 8-bit products are
computed in float32, whose results are the same whole numbers, so that a GPU's usual products serve.

Only the operators of the teachers' graphs are known; shapes are computed on the host, so that the device need not be waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Operator = Callable[..., Any]


class TorchGraph:
    """A graph of which every operator is looked up once and then called.

    Args:
        path: ONNX file.
        device: where tensors live; those of integers that only shapes are made of stay on the host.
        outputs: names of tensors to return, inner ones too; the graph's own by default.

    Raises:
        NotImplementedError: the graph has an operator that no teacher needs.
    """

    def __init__(self, path: Path, device: torch.device, outputs: Sequence[str] | None = None) -> None:
        import onnx
        from onnx import helper, numpy_helper

        graph = onnx.load(str(path)).graph
        self._device = device
        self._outputs = list(outputs or [o.name for o in graph.output])
        self._constants: dict[str, Any] = {}
        for tensor in graph.initializer:
            value = torch.from_numpy(numpy_helper.to_array(tensor).copy())
            on_host = value.dtype == torch.int64 and value.numel() <= 16
            self._constants[tensor.name] = value if on_host else value.to(device)
        makers = {output: node for node in graph.node for output in node.output}
        needed: set[int] = set()
        wanted = list(self._outputs)
        while wanted:
            maker = makers.get(wanted.pop())
            if maker is not None and id(maker) not in needed:
                needed.add(id(maker))
                wanted += maker.input
        self._steps: list[tuple[Operator, list[str], list[str], dict[str, Any]]] = []
        for node in graph.node:
            if id(node) not in needed:
                continue
            if node.op_type not in _OPERATORS:
                raise NotImplementedError(f"{path.name}: the operator {node.op_type} of node {node.name!r}")
            values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            for name, value in values.items():
                if isinstance(value, onnx.TensorProto):
                    values[name] = torch.from_numpy(numpy_helper.to_array(value).copy())
            operator, inputs = self._with_weights(node.op_type, list(node.input))
            step = (operator, inputs, list(node.output), values)
            if all(name in self._constants for name in node.input if name):
                self._run(step, self._constants)
            else:
                self._steps.append(step)
        read = {name for _, inputs, _, _ in self._steps for name in inputs}
        self._constants = {name: x for name, x in self._constants.items() if name in read or name in self._outputs}
        # Names whose last reader has run are dropped, or a sentence would hold gigabytes.
        last = {name: i for i, (_, inputs, _, _) in enumerate(self._steps) for name in inputs}
        kept = {*self._constants, *self._outputs}
        self._done_after: list[list[str]] = [[] for _ in self._steps]
        for name, i in last.items():
            if name and name not in kept:
                self._done_after[i].append(name)

    def _with_weights(self, kind: str, inputs: list[str]) -> tuple[Operator, list[str]]:
        """An operator and what it reads when a run begins: its 8-bit weights, which are constants, are made numbers of once."""
        constants: list[Any] = [self._constants.get(name) for name in inputs]
        if kind in ("MatMulInteger", "ConvInteger") and constants[1] is not None:
            weight = _whole(constants[1], constants[3] if len(inputs) > 3 else None)
            plain = torch.matmul if kind == "MatMulInteger" else _conv
            return (lambda x, **how: plain(x, weight, **how)), inputs[:1]
        if kind == "DynamicQuantizeLSTM":
            weights = _lstm_weights(*constants[1:4], *constants[8:])
            return (lambda x, h, c, **_: _lstm(x, h, c, weights)), [inputs[0], *inputs[5:7]]
        return _OPERATORS[kind], inputs

    def _run(self, step: tuple[Operator, list[str], list[str], dict[str, Any]], values: dict[str, Any]) -> None:
        operator, inputs, outputs, attributes = step
        arguments = [values[name] if name else None for name in inputs]
        if any(isinstance(x, Tensor) and x.device != _HOST for x in arguments):
            arguments = [
                x.to(self._device) if isinstance(x, Tensor) and x.device == _HOST and operator not in _TAKE_SHAPES else x
                for x in arguments
            ]
        result = operator(*arguments, **attributes)
        if len(outputs) == 1 and not isinstance(result, tuple):
            values[outputs[0]] = result
        else:
            values.update({name: x for name, x in zip(outputs, result, strict=False) if name})

    @torch.inference_mode()
    def __call__(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs of one run."""
        values = dict(self._constants)
        for name, array in feed.items():
            values[name] = torch.from_numpy(array).to(self._device)
        for step, done in zip(self._steps, self._done_after, strict=True):
            self._run(step, values)
            for name in done:
                values.pop(name, None)
        return [values[name].cpu().numpy() for name in self._outputs]


_HOST = torch.device("cpu")
_TYPES = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool}


def _ints(x: Tensor | None) -> list[int]:
    return [] if x is None else [int(n) for n in x.flatten().tolist()]


def _gather(x: Tensor, index: Tensor, axis: int = 0) -> Tensor:
    axis %= x.ndim
    flat = index.long().flatten()
    chosen = x.index_select(axis, torch.where(flat < 0, flat + x.shape[axis], flat))
    return chosen.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])


def _split(x: Tensor, sizes: Tensor | None = None, *, axis: int = 0) -> tuple[Tensor, ...]:
    return tuple(x.split(_ints(sizes), axis)) if sizes is not None else x.chunk(2, axis)


def _unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    places = _ints(axes)
    for axis in sorted(a % (x.ndim + len(places)) for a in places):
        x = x.unsqueeze(axis)
    return x


def _squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(_ints(axes)))


def _slice(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    lows, highs = _ints(starts), _ints(ends)
    places, strides = _ints(axes) or list(range(len(lows))), _ints(steps) or [1] * len(lows)
    for low, high, axis, stride in zip(lows, highs, places, strides, strict=True):
        chosen = range(x.shape[axis])[slice(low, None if stride < 0 and high < -x.shape[axis] else high, stride)]
        if stride > 0:
            x = x[(slice(None),) * (axis % x.ndim) + (slice(chosen.start, chosen.stop, stride),)]
        else:
            x = x.index_select(axis, torch.tensor(list(chosen), device=x.device))
    return x


def _reshape(x: Tensor, shape: Tensor, allowzero: int = 0) -> Tensor:
    return x.reshape([x.shape[i] if n == 0 and not allowzero else n for i, n in enumerate(_ints(shape))])


def _expand(x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, _ints(shape)))


def _constant_of_shape(shape: Tensor, value: Tensor) -> Tensor:
    return value.expand(_ints(shape)).clone()


def _div(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() or b.is_floating_point() else "trunc")


def _quantize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Activations as whole numbers from -255 to 255, zero point taken off, with their scale."""
    low, high = torch.aminmax(x)
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low) / 255
    zero = (-low / scale).round().clamp(0, 255)
    return (x / scale).round().add(zero).clamp(0, 255).sub(zero), scale, torch.zeros_like(scale)


def _whole(x: Tensor, zero: Tensor | None) -> Tensor:
    """Weights as the numbers they stand for, before their scale."""
    x = x.float()
    return x if zero is None else x - zero.float()


def _dequantize(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    return _whole(x, zero) * scale


def _matmul_integer(a: Tensor, b: Tensor, _: Tensor | None = None, zero: Tensor | None = None) -> Tensor:
    """Of two activations; weights are taken care of beforehand. Zero points of activations are taken off already."""
    return a @ _whole(b, zero)


def _sides(pads: Sequence[int]) -> tuple[list[int], int | list[int]]:
    """Padding before a convolution, and its own where both sides are equal."""
    half = len(pads) // 2
    low, high = list(pads[:half]), list(pads[half:])
    if low == high:
        return [], low
    return [n for pair in zip(reversed(low), reversed(high), strict=True) for n in pair], 0


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    pads: Sequence[int] = (0, 0),
    strides: Sequence[int] = (1,),
    dilations: Sequence[int] = (1,),
    group: int = 1,
    **_: object,
) -> Tensor:
    before, padding = _sides(pads)
    convolve = F.conv1d if weight.ndim == 3 else F.conv2d
    x = F.pad(x, before) if before else x
    return convolve(x, weight, bias, list(strides), padding, list(dilations), group)


def _conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    pads: Sequence[int] = (0, 0),
    strides: Sequence[int] = (1,),
    dilations: Sequence[int] = (1,),
    group: int = 1,
    output_padding: Sequence[int] = (0,),
    **_: object,
) -> Tensor:
    return F.conv_transpose1d(
        x, weight, bias, list(strides), list(pads[: len(pads) // 2]), list(output_padding), group, list(dilations)
    )


def _lstm_weights(w: Tensor, r: Tensor, bias: Tensor, *scales_and_zeros: Tensor) -> list[Tensor]:
    """What PyTorch wants for two directions: input, recurrent, and their two biases each. ONNX has [2, I, 4 H]."""
    w_scale, w_zero, r_scale, r_zero = (x.flatten() for x in scales_and_zeros)
    weights: list[Tensor] = []
    for d in range(2):
        for matrix, scale, zero in ((w, w_scale, w_zero), (r, r_scale, r_zero)):
            weights.append(_in_torch_order(_dequantize(matrix[d], scale[d % len(scale)], zero[d % len(zero)]).T))
        weights += [_in_torch_order(b) for b in bias[d].chunk(2)]
    return weights


def _lstm(x: Tensor, h: Tensor, c: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """[T, B, I] -> [T, 2, B, H]."""
    y, h_n, c_n = torch.lstm(x, (h.to(x.device), c.to(x.device)), weights, True, 1, 0.0, False, True, False)
    return y.unflatten(-1, (2, -1)).transpose(1, 2), h_n, c_n


def _in_torch_order(gates: Tensor) -> Tensor:
    """ONNX orders the gates i, o, f, c; PyTorch i, f, g, o."""
    i, o, f, c = gates.chunk(4)
    return torch.cat((i, f, c, o)).contiguous()


def _layer_norm(x: Tensor, gain: Tensor, bias: Tensor | None = None, *, epsilon: float, **_: object) -> Tensor:
    return F.layer_norm(x, gain.shape, gain, bias, epsilon)


def _skip_layer_norm(
    x: Tensor, skip: Tensor, gain: Tensor, beta: Tensor, bias: Tensor | None = None, *, epsilon: float
) -> Tensor:
    x = x + skip
    return F.layer_norm(x if bias is None else x + bias, gain.shape, gain, beta, epsilon)


def _fast_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


def _reduce(mean: bool) -> Operator:
    def reduce(x: Tensor, axes: Tensor | None = None, *, keepdims: int = 1, **_: object) -> Tensor:
        places = _ints(axes) or list(range(x.ndim))
        return x.mean(places, bool(keepdims)) if mean else x.sum(places, bool(keepdims))

    return reduce


def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype, device=limit.device)


def _cumsum(x: Tensor, axis: Tensor, **_: object) -> Tensor:
    return x.cumsum(int(axis))


def _resize(
    x: Tensor, _roi: Tensor | None, scales: Tensor | None, sizes: Tensor | None = None, *, mode: bytes, **_: object
) -> Tensor:
    length = _ints(sizes)[-1] if sizes is not None else int(x.shape[-1] * float(scales.flatten()[-1]))  # type: ignore[union-attr]
    if mode == b"nearest":
        return F.interpolate(x, length, mode="nearest")
    factor = float(scales.flatten()[-1]) if scales is not None and scales.numel() else length / x.shape[-1]
    return F.interpolate(x, scale_factor=factor, mode="linear", align_corners=False, recompute_scale_factor=False)


def _pad(x: Tensor, pads: Tensor, *_: object, mode: bytes) -> Tensor:
    low, high = _ints(pads)[x.ndim - 1], _ints(pads)[-1]
    flat = x.reshape(1, -1, x.shape[-1])
    return F.pad(flat, (low, high), mode=mode.decode()).reshape(*x.shape[:-1], -1)


def _stft(x: Tensor, step: Tensor, window: Tensor, length: Tensor | None = None, *, onesided: int = 1) -> Tensor:
    size = window.shape[0]
    frames = x.reshape(x.shape[0], -1).unfold(-1, size, int(step)) * window
    spectrum = torch.view_as_real(torch.fft.rfft(frames) if onesided else torch.fft.fft(frames))
    # Where phases are asked for, an imaginary part of nought counts as positive; the graph's arctangent takes it for negative.
    return spectrum + torch.tensor([0.0, 1e-7], device=x.device)


def _scatter_nd(x: Tensor, index: Tensor, updates: Tensor, **_: object) -> Tensor:
    x = x.clone()
    x[tuple(index.long().unbind(-1))] = updates
    return x


def _fused_matmul(a: Tensor, b: Tensor, *, transA: int, transB: int, alpha: float, **_: object) -> Tensor:
    return alpha * ((a.mT if transA else a) @ (b.mT if transB else b))


_OPERATORS: dict[str, Operator] = {
    "Shape": lambda x, start=0, end=None: torch.tensor(x.shape[start:end], dtype=torch.int64),
    "Gather": _gather,
    "Split": _split,
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _quantize,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Transpose": lambda x, perm: x.permute(*perm),
    "MatMulInteger": _matmul_integer,
    "MatMul": lambda a, b: a @ b,
    "FusedMatMul": _fused_matmul,
    "Mul": lambda a, b: a * b,
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Div": _div,
    "Concat": lambda *xs, axis: torch.cat(xs, axis),
    "Slice": _slice,
    "Cast": lambda x, to, **_: x.to(_TYPES[to]),
    "Equal": lambda a, b: a == b,
    "Less": lambda a, b: a < b,
    "Greater": lambda a, b: a > b,
    "GreaterOrEqual": lambda a, b: a >= b,
    "And": lambda a, b: a & b,
    "Where": torch.where,
    "ConstantOfShape": _constant_of_shape,
    "ConvInteger": _conv,  # for its name: weights are constants
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DynamicQuantizeLSTM": _lstm,  # likewise
    "Expand": _expand,
    "Floor": lambda x: x.floor() if x.is_floating_point() else x,
    "Round": torch.round,
    "Clip": lambda x, low=None, high=None: torch.clamp(x, low, high),
    "Reshape": _reshape,
    "LayerNormalization": _layer_norm,
    "SkipLayerNormalization": _skip_layer_norm,
    "FastGelu": _fast_gelu,
    "LeakyRelu": lambda x, alpha: F.leaky_relu(x, alpha),
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Softmax": lambda x, axis: x.softmax(axis),
    "Sqrt": torch.sqrt,
    "Pow": lambda a, b: a**b,
    "Exp": torch.exp,
    "Sin": torch.sin,
    "Cos": torch.cos,
    # A phase is the arctangent of a quotient. Where a spectrum is exactly nought, it is any.
    "Atan": lambda x: torch.atan(x.nan_to_num(0.0)),
    "ReduceMean": _reduce(mean=True),
    "ReduceSum": _reduce(mean=False),
    "CumSum": _cumsum,
    "Range": _range,
    "Resize": _resize,
    "Pad": _pad,
    "STFT": _stft,
    "NonZero": lambda x: x.nonzero().T,
    "ScatterND": _scatter_nd,
}
_TAKE_SHAPES: frozenset[Operator] = frozenset(
    _OPERATORS[kind]
    for kind in "Split Unsqueeze Squeeze Slice Reshape Expand Range Resize Pad STFT CumSum ReduceMean ReduceSum".split()
)
"""Operators whose small inputs are numbers for the host: nothing is copied to the device for them."""
