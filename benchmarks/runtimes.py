"""pocket's block, part by part, on one runtime after the other. Its process must not have imported torch before OpenMP was told
not to spin, see :func:`benchmarks.rtf.main`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from avatar_rtc import resources
from avatar_rtc.config import load_config
from avatar_rtc.engine.api import OnProgress
from avatar_rtc.media.encode import make_video_encoder
from avatar_rtc.media.playout import VIDEO_CLOCK_HZ
from benchmarks.dialogue import Dialogue
from benchmarks.figures import percentile
from benchmarks.onnx_runtime import ONNXRuntime
from benchmarks.rtf import BASELINE, SHIPPED
from model.checkpoint import Weights, read_weights
from model.chunk import AVChunk, StreamSettings
from model.graph_cache import cached_graphs
from model.pocket import Pocket
from model.runtime import OpenVINORuntime, Runtime, round_to_half
from model.torch_runtime import TorchRuntime

COMPARED = ("denoise", "decode_video", "decode_audio")
TURN_BLOCKS = 4
"""So many blocks a runtime makes before the next one has its turn: as many as let its weights stay in the processor's caches."""


def report(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def eager(weights: Weights, num_threads: int) -> Runtime:
    torch.set_num_threads(num_threads)
    return TorchRuntime(weights, torch.device("cpu"))


RUNTIMES: dict[str, Callable[[Weights, Path, int], Runtime]] = {
    BASELINE: lambda weights, _, n: eager(weights, n),
    "ONNX Runtime float32": lambda weights, _, n: ONNXRuntime(weights, n),
    "ONNX Runtime, int8 transformer": lambda weights, _, n: ONNXRuntime(weights, n, int8=True),
    "OpenVINO float32": lambda weights, checkpoint, n: OpenVINORuntime(
        cached_graphs(checkpoint, weights, report, "float32"), n, half_precision=()
    ),
    SHIPPED: lambda weights, checkpoint, n: OpenVINORuntime(cached_graphs(checkpoint, weights, report), n),
}


def load_baseline(checkpoint: Path, num_threads: int, on_progress: OnProgress) -> Pocket:
    """A network as an engine loads it, without OpenVINO."""
    weights = read_weights(checkpoint)
    return Pocket(weights, eager(weights, num_threads))


class Timed:
    """A runtime that notes how long each part takes. Implements :class:`model.runtime.Runtime`.

    Attributes:
        taken_s: of each part, of each time.
        inputs: of each part, copies of the latest ones; kept while ``keeps`` is set.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.run = runtime
        self.memory, self.array, self.numpy = runtime.memory, runtime.array, runtime.numpy
        self.taken_s: dict[str, list[float]] = {}
        self.inputs: dict[str, list[np.ndarray]] = {}
        self.keeps = False

    def __call__(self, part: str, *inputs: Any) -> tuple[Any, ...]:
        asked, part = part, "denoise" if part == "pass" else part  # one that gives both is what the other would be alone
        if self.keeps:
            self.inputs[part] = [np.array(x) for x in inputs]
        start_s = time.perf_counter()
        outputs = self.run(asked, *inputs)
        self.taken_s.setdefault(part, []).append(time.perf_counter() - start_s)
        return outputs


class Lane:
    """One stream on one runtime, its pictures encoded, as fast as it goes.

    Attributes:
        block_s: of each block, seconds of making it.
        encoding_s: of each block, seconds of encoding its pictures.
    """

    def __init__(self, weights: Weights, runtime: Runtime, settings: StreamSettings, codec: str) -> None:
        self.runtime = Timed(runtime)
        model = Pocket(weights, self.runtime)
        self._stream = model.open(settings)
        self._dialogue = Dialogue()
        self._encoder = make_video_encoder(
            "H264" if codec == "H264" else "VP8", load_config(resources.server_config("pocket")).media.rates(model.info.fps)
        )
        self._num_frames = 0
        self._chunk: AVChunk | None = None
        self.warm_up_blocks = model.warm_up_chunks
        self.block_duration_s = model.info.block_duration_s
        self.forget()

    def forget(self) -> None:
        """What was measured so far."""
        self.runtime.taken_s = {}
        self.block_s: list[float] = []
        self.encoding_s: list[float] = []

    def make(self, num_blocks: int) -> None:
        for _ in range(num_blocks):
            start_s = time.perf_counter()
            line = self._dialogue.next_line(self._chunk)
            if line is not None:
                self._stream.push(f"reply-{self._num_frames}", line)
            while (chunk := self._stream.step()) is None:
                pass
            made_s = time.perf_counter()
            self._encode(chunk)
            self._chunk = chunk
            self.block_s.append(made_s - start_s)
            self.encoding_s.append(time.perf_counter() - made_s)

    def _encode(self, chunk: AVChunk) -> None:
        for picture in chunk.frames:
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts, frame.time_base = self._num_frames * VIDEO_CLOCK_HZ // chunk.fps, Fraction(1, VIDEO_CLOCK_HZ)
            self._encoder.encode(frame)
            self._num_frames += 1

    def row(self) -> dict[str, Any]:
        """Milliseconds, and real-time factors with the encoder."""
        taken_s = dict(self.runtime.taken_s)
        taken_s |= {"block": self.block_s, "encode": self.encoding_s}
        factors = [(a + b) / self.block_duration_s for a, b in zip(self.block_s, self.encoding_s, strict=True)]
        return {
            "blocks": len(self.block_s),
            "ms": {part: _spread([1000 * s for s in seconds], 2) for part, seconds in taken_s.items()},
            "rtf": _spread(factors, 3),
        }


def _spread(values: list[float], digits: int) -> dict[str, float]:
    return {"p50": round(percentile(values, 0.5), digits), "p95": round(percentile(values, 0.95), digits)}


def relative_l2(ours: Sequence[Any], reference: Sequence[Any]) -> float:
    """Of all outputs of a part together."""
    a, b = (np.concatenate([np.asarray(x, np.float64).ravel() for x in outputs]) for outputs in (ours, reference))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def error(runtime: Runtime, oracle: Runtime, part: str, inputs: Sequence[np.ndarray], num_kept: int = 0) -> float:
    """Of one part, given what the oracle was given.

    Args:
        num_kept: so many last inputs are keys and values, which a runtime may keep rounded.
    """
    kept = inputs[len(inputs) - num_kept :]
    if isinstance(runtime, OpenVINORuntime) and runtime.keeps_half:
        kept = [round_to_half(x) for x in kept]
    return relative_l2(runtime(part, *inputs[: len(inputs) - num_kept], *kept), oracle(part, *inputs))


def race(lanes: dict[str, Lane], num_blocks: int, report: Callable[[str], None]) -> None:
    """Let all lanes make at least ``num_blocks`` blocks with a full history, in turns, so that a busy moment hits all alike."""
    for name, lane in lanes.items():
        report(f"{name}: filling its history")
        lane.make(lane.warm_up_blocks)
        lane.forget()
    turns = -(-num_blocks // TURN_BLOCKS)
    for turn in range(turns):
        report(f"turn {turn + 1} of {turns}")
        for lane in lanes.values():
            lane.make(TURN_BLOCKS)


def measure(checkpoint: Path, num_blocks: int, num_threads: int, codec: str) -> dict[str, Any]:
    """One row a runtime, by its name; of one that is not installed, why it is missing."""
    config = load_config(resources.server_config("pocket"))
    avatar = config.avatars[0]
    voice = next(voice.voice for voice in config.voices if voice.id == avatar.voice)
    weights = read_weights(checkpoint)
    lanes: dict[str, Lane] = {}
    rows: dict[str, Any] = {}
    for name, load in RUNTIMES.items():
        report(f"{name}: loading")
        try:
            lanes[name] = Lane(weights, load(weights, checkpoint, num_threads), StreamSettings(avatar.scene, voice), codec)
        except ImportError as missing:
            rows[name] = {"missing": str(missing)}
    race(lanes, num_blocks, report)
    rows |= {name: lane.row() for name, lane in lanes.items()}
    baseline = lanes[BASELINE].runtime
    baseline.keeps = True
    lanes[BASELINE].make(1)
    inputs = baseline.inputs
    for name, lane in lanes.items():
        rows[name]["speed"] = round(rows[BASELINE]["ms"]["block"]["p50"] / rows[name]["ms"]["block"]["p50"], 2)
        rows[name]["relative_l2"] = {
            part: round(
                error(
                    lane.runtime.run, baseline.run, part, inputs[part], 12 * weights.config.dit.num_layers * (part == "denoise")
                ),
                5,
            )
            for part in COMPARED
        }
    return {name: rows[name] for name in RUNTIMES}
