"""What runs the network's parts; and OpenVINO, which runs graphs converted from them, on a CPU much faster than PyTorch.

Nothing here needs PyTorch, and so a process that serves does without it.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from model.dit.history import Array

HALF_PRECISION = ("pass", "decode_video")
"""Parts that run in bfloat16 on CPUs that have it."""

Arithmetic = Literal["bfloat16", "int8", "float32"]
"""What graphs are converted for: bfloat16 in :data:`HALF_PRECISION`; float32 but for the picture decoder's convolutions, see
:mod:`model.quantisation`; float32."""

IN_WORDS: dict[Arithmetic, str] = {"bfloat16": "bfloat16", "int8": "float32, its pictures in 8 bits", "float32": "float32"}

PARTS = ("caption", "durations", "text", "modulate", "pass", "decode_video", "decode_audio")
"""See :mod:`model.parts`."""

CALLS: dict[str, tuple[str, slice]] = {"denoise": ("pass", slice(0, 2)), "remember": ("pass", slice(2, None))}
"""Parts that have a name for some of their outputs: velocities, and what is remembered of a clean block."""

_NUM_RESULTS = {"pass": 2, "decode_video": 1, "decode_audio": 1}
"""So many first outputs are results; what follows is remembered, and comes back as the last inputs of the next call."""

_FIRST_KEPT = {"pass": 2, "text": 0}
"""From this output on these parts give keys and values."""


class Runtime(Protocol):
    """Runs a part, see :mod:`model.parts`, by its name."""

    def __call__(self, part: str, *inputs: Any) -> tuple[Array, ...]:
        """Inputs are NumPy's arrays or the runtime's own. What ``remember`` gives is good until the next pass."""

    def memory(self, part: str) -> list[Array]:
        """What a stream that has not begun remembers of a part: zeros."""

    def array(self, x: np.ndarray) -> Array:
        """As the runtime computes with it."""

    def numpy(self, x: Array) -> np.ndarray:
        """And back."""


class OpenVINORuntime:
    """OpenVINO on a CPU.

    Args:
        graphs: directory with one converted graph a part, see :mod:`model.conversion`.
        num_threads: for one operator.
        half_precision: parts that may run in bfloat16. They do where the CPU computes in it; elsewhere it would only be imitated.
    """

    def __init__(self, graphs: Path, num_threads: int, half_precision: Collection[str] = HALF_PRECISION) -> None:
        import openvino

        self._openvino = openvino
        core = openvino.Core()
        if arithmetic() != "bfloat16":
            half_precision = ()
        self._requests: dict[str, Any] = {}
        for name in PARTS:
            # With what OpenVINO 2026.4 fuses of its own accord, a pass in bfloat16 is wrong on AVX-512: pictures are noise.
            exact = {"SNIPPETS_MODE": "DISABLE"} if name == "pass" and name in half_precision else {}
            properties = {
                **exact,
                "INFERENCE_NUM_THREADS": num_threads,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "bf16" if name in half_precision else "f32",
                # What it makes of a graph it keeps there, and is ready in a third of the time when it comes again. With weights:
                # the mode without gave other shapes to what the audio decoder remembers (2026.4).
                "CACHE_DIR": str(graphs / "compiled"),
                "CACHE_MODE": "OPTIMIZE_SPEED",
            }
            self._requests[name] = core.compile_model(str(graphs / f"{name}.xml"), "CPU", properties).create_infer_request()
        _let_go(graphs)
        # A pass in bfloat16 rounds what it reads of other blocks anyway. Kept rounded, pocket's result is the same to the last
        # bit, and no pass has to round the whole history again.
        self.keeps_half = self._requests["pass"].input_tensors[-1].element_type == openvino.Type.bf16
        self._lent: dict[str, list[Any]] = {name: [None] * len(r.input_tensors) for name, r in self._requests.items()}

    def __call__(self, part: str, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        name, wanted = CALLS.get(part, (part, slice(None)))
        request, lent = self._requests[name], self._lent[name]
        for i, x in enumerate(inputs):
            # A request does not keep what it is lent: so we do, until something else takes its place.
            if lent[i] is not x:
                lent[i] = x = np.ascontiguousarray(x)
                request.set_input_tensor(i, self._lend(x))
        request.start_async()
        request.wait()
        outputs = request.output_tensors
        first_kept = _FIRST_KEPT.get(name, len(outputs))
        return tuple(self._take(part, i >= first_kept, outputs[i].data) for i in range(len(outputs))[wanted])

    def _take(self, part: str, is_kept: bool, x: np.ndarray) -> np.ndarray:
        """An output out of the request's own memory, which its next run overwrites."""
        if is_kept and self.keeps_half:
            return round_to_half(x)
        return x if part == "remember" else x.copy()

    def memory(self, part: str) -> list[np.ndarray]:
        request, half = self._requests[part], self.keeps_half and part == "pass"
        num_kept = len(request.output_tensors) - _NUM_RESULTS[part]
        shapes = [tuple(tensor.shape) for tensor in request.input_tensors[-num_kept:]]
        return [np.zeros(shape, np.uint16 if half else np.float32) for shape in shapes]

    def array(self, x: np.ndarray) -> np.ndarray:
        return x

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return x

    def _lend(self, x: np.ndarray) -> Any:
        """The same memory as a tensor of OpenVINO. NumPy has no bfloat16, so that goes as what it is made of."""
        openvino = self._openvino
        if x.dtype == np.uint16:
            return openvino.Tensor(x.view(np.int16), list(x.shape), openvino.Type.bf16)
        return openvino.Tensor(x, shared_memory=True)


def _let_go(directory: Path) -> None:
    """Take what lies in this process's memory of a directory's files out of it (Linux; elsewhere nothing happens).

    OpenVINO maps graphs into memory, packs their weights for its products, and seldom looks at the files again. What it does look
    at comes back by itself."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return
    libc = ctypes.CDLL(None)
    for line in maps.read_text().splitlines():
        span, kind, _ = line.split(" ", 2)
        if str(directory) in line and kind == "r--s":
            start, end = (int(address, 16) for address in span.split("-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def arithmetic() -> Arithmetic:
    """In what OpenVINO is fastest on this CPU. Where it has bfloat16, and on ARM, nobody has measured what 8 bits would gain."""
    import openvino

    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" in capabilities:
        return "bfloat16"
    return "int8" if "INT8" in capabilities and platform.machine() in ("x86_64", "AMD64") else "float32"


def round_to_half(x: np.ndarray) -> np.ndarray:
    """float32 as the bits of the nearest bfloat16, uint16; of two that are equally near, the even one.

    OpenVINO, asked for outputs in bfloat16, cuts off."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    nearest = bits >> 16
    nearest &= 1
    nearest += bits
    nearest += 0x7FFF
    return (nearest >> 16).astype(np.uint16)
