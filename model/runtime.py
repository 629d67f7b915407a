"""The network's parts as functions of tensors, and two ways to run them.

There is one implementation of the network. PyTorch runs it as it is, on GPUs and as the oracle; OpenVINO runs graphs converted
from it, two to three times as fast on a CPU.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from model.checkpoint import Weights
from model.dit.attention import KeyValue
from model.dit.block import LayerMemory, StreamView
from model.dit.cache import CacheShape, History
from model.dit.rope import RotaryTable
from model.dit.transformer import Flow, TextMemory
from model.errors import CheckpointError
from model.vae.causal import Memory

_GRAPH_VERSION = 2
"""Raise it when a change of code changes the converted graphs."""

Report = Callable[[str], None]


class Caption(nn.Module):
    """Caption words [1, W] -> summary [1, Q, D]."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.text = weights.text

    def forward(self, words: Tensor) -> tuple[Tensor]:
        return (self.text.caption(words),)


class Durations(nn.Module):
    """Phonemes [1, S] and a summary -> seconds [1, S]."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.text = weights.text

    def forward(self, ids: Tensor, summary: Tensor) -> tuple[Tensor]:
        return (self.text.predict_durations_s(ids, torch.ones_like(ids, dtype=torch.bool), summary),)


class Text(nn.Module):
    """Phonemes with durations, and a summary -> keys and values of all layers: the video tower's, then the audio tower's."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.text, self.dit = weights.text, weights.dit

    def forward(self, ids: Tensor, durations_s: Tensor, summary: Tensor, *tables: Tensor) -> tuple[Tensor, ...]:
        phonemes = self.text.phonemes(ids, durations_s, torch.ones_like(ids, dtype=torch.bool))
        pair = RotaryTable(*tables[:2]), RotaryTable(*tables[2:])
        memory = self.dit.read_text(torch.cat((summary, phonemes), dim=1), pair, None)
        return tuple(tensor for side in (memory.video, memory.audio) for kv in side for tensor in kv)


class Denoise(nn.Module):
    """One pass of the transformer over one block: the two velocities.

    Inputs in order: video [1, C, F, h, w]; audio [1, L, C]; timestep [1] on the 0..1000 scale; cosines and sines of video tokens,
    of video tokens for text, of audio tokens; which text is visible, bool [1, 1, 1, S]; the outputs of :class:`Text`; the
    history, layer by layer, four memories of a key and a value each.
    """

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.dit = weights.dit

    def forward(self, video: Tensor, audio: Tensor, timestep: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        flow = self.flow(video, audio, timestep, rest)
        return flow.video, flow.audio

    def flow(self, video: Tensor, audio: Tensor, timestep: Tensor, rest: tuple[Tensor, ...]) -> Flow:
        video_table, video_text_table, audio_table = (RotaryTable(rest[i], rest[i + 1]) for i in (0, 2, 4))
        visible, num_layers = rest[6], len(self.dit.layers)
        pairs = [KeyValue(*rest[i : i + 2]) for i in range(7, len(rest), 2)]
        video_text, audio_text, past = pairs[:num_layers], pairs[num_layers : 2 * num_layers], pairs[2 * num_layers :]
        timesteps = timestep[:, None]  # one for the whole block, so that modulation is computed once
        return self.dit(
            video,
            audio,
            timesteps,
            timesteps,
            StreamView(video_table, video_text_table, None, visible, None),
            StreamView(audio_table, audio_table, None, visible, None),
            TextMemory(tuple(video_text), tuple(audio_text), visible),
            [LayerMemory(*past[i : i + 4]) for i in range(0, len(past), 4)],
        )


class Remember(Denoise):
    """The same pass over a clean block, for what the layers remember of it, in the order of the history."""

    def forward(self, video: Tensor, audio: Tensor, timestep: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        return tuple(t for layer in self.flow(video, audio, timestep, rest).memory for kv in layer for t in kv)


class DecodeVideo(nn.Module):
    """Latents [1, C, F, h, w] and the decoder's memory -> packed pictures and the new memory."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.vae = weights.video_vae

    def forward(self, latents: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        memory = Memory(past)
        return self.vae.decode(latents, memory), *memory.present


class DecodeAudio(nn.Module):
    """Latents [1, C, L], noise and the decoder's memory -> wave [1, S] and the new memory."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.vae = weights.audio_vae

    def forward(self, latents: Tensor, noise: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        memory = Memory(past)
        return self.vae.decode(latents, noise, memory), *memory.present


PARTS: dict[str, type[nn.Module]] = {
    "caption": Caption,
    "durations": Durations,
    "text": Text,
    "denoise": Denoise,
    "remember": Remember,
    "decode_video": DecodeVideo,
    "decode_audio": DecodeAudio,
}
HALF_PRECISION = ("denoise", "remember", "decode_video")
"""Parts that run in bfloat16 on CPUs that have it."""
FIRST_MEMORY_INPUT = {"denoise": 10, "remember": 10}
"""From this input on these parts read keys and values."""
_WRITES_MEMORY = ("text", "remember")
"""Parts whose outputs are keys and values."""


class Runtime(Protocol):
    """Runs a part by its name."""

    device: torch.device
    memory_dtype: torch.dtype
    """Of keys and values, the text's and the history's."""

    def __call__(self, part: str, *inputs: Tensor) -> tuple[Tensor, ...]: ...


class TorchRuntime:
    """The parts as they are, on any device."""

    memory_dtype = torch.float32

    def __init__(self, weights: Weights, device: torch.device) -> None:
        self.device = device
        self._parts = {name: part(weights).to(device).eval() for name, part in PARTS.items()}

    @torch.inference_mode()
    def __call__(self, part: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        result: tuple[Tensor, ...] = self._parts[part](*inputs)
        return result


class OpenVINORuntime:
    """OpenVINO on a CPU.

    Args:
        graphs: directory with one converted graph a part, see :func:`convert_graphs`.
        num_threads: for one operator.
        half_precision: parts that may run in bfloat16. They do where the CPU computes in it; elsewhere it would only be imitated.
    """

    def __init__(self, graphs: Path, num_threads: int, half_precision: Collection[str] = HALF_PRECISION) -> None:
        import openvino

        self.device = torch.device("cpu")
        self._openvino = openvino
        core = openvino.Core()
        if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            half_precision = ()
        # A pass in bfloat16 rounds what it reads of other blocks anyway. Kept rounded, pocket's result is the same to the last
        # bit, and no pass has to round the whole history again.
        self.memory_dtype = torch.bfloat16 if set(FIRST_MEMORY_INPUT) <= set(half_precision) else torch.float32
        self._requests: dict[str, Any] = {}
        for name in PARTS:
            properties = {
                "INFERENCE_NUM_THREADS": num_threads,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "bf16" if name in half_precision else "f32",
            }
            graph = core.read_model(str(graphs / f"{name}.xml"))
            if self.memory_dtype == torch.bfloat16 and name in FIRST_MEMORY_INPUT:
                graph = _with_half_inputs(graph, FIRST_MEMORY_INPUT[name])
            self._requests[name] = core.compile_model(graph, "CPU", properties).create_infer_request()

    def __call__(self, part: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        request = self._requests[part]
        lent = [self._lend(x) for x in inputs]
        for i, tensor in enumerate(lent):  # the same as a dictionary given to infer, at half its price
            request.set_input_tensor(i, tensor)
        request.infer(share_outputs=True)
        outputs = [torch.from_numpy(tensor.data) for tensor in request.output_tensors]
        # They lie in the request's own memory, which its next run overwrites: hence a copy, and only one. PyTorch rounds to the
        # nearest; OpenVINO, asked for outputs in bfloat16, cuts off.
        return tuple(x.to(self.memory_dtype if part in _WRITES_MEMORY else x.dtype, copy=True) for x in outputs)

    def _lend(self, x: Tensor) -> Any:
        """The same memory as a tensor of OpenVINO. NumPy has no bfloat16, so that goes as what it is made of."""
        x, openvino = x.contiguous(), self._openvino
        if x.dtype == torch.bfloat16:
            return openvino.Tensor(x.view(torch.int16).numpy(), list(x.shape), openvino.Type.bf16)
        return openvino.Tensor(x.numpy(), shared_memory=True)


def _with_half_inputs(graph: Any, first: int) -> Any:
    """The graph, with its inputs from ``first`` on in bfloat16."""
    from openvino import Type
    from openvino.preprocess import PrePostProcessor

    ends = PrePostProcessor(graph)
    for i in range(first, len(graph.inputs)):
        ends.input(i).tensor().set_element_type(Type.bf16)
    return ends.build()


def first_memory(part: nn.Module, *inputs: Tensor) -> list[Tensor]:
    """The decoder memory of a stream that has not begun: zeros of the shapes that ``part`` leaves behind."""
    with torch.inference_mode():
        return [torch.zeros_like(m) for m in part(*inputs)[1:]]


def cache_shape(weights: Weights) -> CacheShape:
    """Sizes of a stream's history."""
    geometry, sampling = weights.geometry, weights.config.sampling
    tokens = geometry.tokens_per_video_latent
    return CacheShape(
        weights.config.dit,
        sampling.window_blocks - 1,
        tokens * geometry.block_video_latents,
        geometry.block_audio_latents,
        tokens if sampling.sink else 0,
    )


def example_inputs(weights: Weights) -> dict[str, tuple[Tensor, ...]]:
    """Inputs of every part, as a stream gives them in its second block."""
    config, geometry = weights.config, weights.geometry
    dit, num_text = config.dit, config.text.num_scene_tokens + 20
    words, ids = torch.ones(1, config.text.max_words, dtype=torch.long), torch.ones(1, 20, dtype=torch.long)
    summary = torch.zeros(1, config.text.num_scene_tokens, config.text.dim)
    num_latents, grid = geometry.block_video_latents, (geometry.grid_height, geometry.grid_width)
    video = torch.zeros(1, dit.video.latent_channels, num_latents, geometry.latent_height, geometry.latent_width)
    audio = torch.zeros(1, geometry.block_audio_latents, dit.audio.latent_channels)
    video_tables = weights.dit.video_tables(torch.zeros(1, num_latents), *grid)
    audio_table, _ = weights.dit.audio_tables(torch.zeros(1, geometry.block_audio_latents))
    times = torch.zeros(1, num_text)
    text_tables = weights.dit.text_tables(times, times.bool())
    tables = tuple(t for table in (*video_tables, audio_table) if table is not None for t in (table.cos, table.sin))
    flat_text_tables = tuple(t for table in text_tables if table is not None for t in (table.cos, table.sin))
    text_inputs = (ids, torch.ones(1, 20), summary, *flat_text_tables)
    visible = torch.ones(1, 1, 1, num_text, dtype=torch.bool)
    history = History(cache_shape(weights), torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        first = (video, audio, torch.zeros(1), *tables, visible, *Text(weights)(*text_inputs))
        history.commit(Remember(weights)(*first, *history.view()))
    denoise = (*first, *(m.clone() for m in history.view()))
    audio_latents = audio.transpose(1, 2).contiguous()
    noise = torch.zeros(1, geometry.block_samples // config.audio_vae.hop_samples, config.audio_vae.fft_samples // 2 + 1, 2)
    return {
        "caption": (words,),
        "durations": (ids, summary),
        "text": text_inputs,
        "denoise": denoise,
        "remember": denoise,
        "decode_video": (video, *first_memory(DecodeVideo(weights), video)),
        "decode_audio": (audio_latents, noise, *first_memory(DecodeAudio(weights), audio_latents, noise)),
    }


def convert_graphs(weights: Weights, directory: Path) -> None:
    """Write one OpenVINO graph a part, weights inside, to a directory that then exists whole or not at all."""
    import openvino

    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator has no counterpart in OpenVINO
    examples = example_inputs(weights)
    varying: dict[str, Callable[[int, list[int]], list[int]]] = {
        "durations": lambda i, shape: [shape[0], -1] if i == 0 else shape,
        "text": lambda i, shape: [shape[0], -1, *shape[2:]] if i != 2 else shape,
        # Text and history vary along their tokens, the last axis but one; visibility along the last.
        "denoise": lambda i, shape: shape if i < 9 else [*shape[:-1], -1] if i == 9 else [*shape[:-2], -1, shape[-1]],
    }
    varying["remember"] = varying["denoise"]
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=directory.parent))
    try:
        for name, part in PARTS.items():
            shapes = [list(x.shape) for x in examples[name]]
            change = varying.get(name, lambda _, shape: shape)
            with warnings.catch_warnings(), torch.inference_mode():
                warnings.simplefilter("ignore")
                graph = openvino.convert_model(part(weights).eval(), example_input=examples[name])
            graph.reshape({i: openvino.PartialShape(change(i, shape)) for i, shape in enumerate(shapes)})
            openvino.save_model(graph, str(scratch / f"{name}.xml"), compress_to_fp16=False)
        try:
            os.replace(scratch, directory)
        except OSError:  # somebody else was faster
            if not directory.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def cached_graphs(weights: Weights, report: Report | None = None) -> Path:
    """The directory of converted graphs of these weights; they are converted on first use."""
    import openvino

    versions = f"{_GRAPH_VERSION} {torch.__version__} {openvino.__version__}"
    digest = hashlib.sha256(f"{versions} {weights.digest}".encode()).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "avatar-rtc"
    directory = base / f"{weights.config.name}-{digest}"
    if not directory.is_dir():
        if report:
            report("converting the network for this machine, once; this takes about half a minute")
        try:
            convert_graphs(weights, directory)
        except OSError as error:
            raise CheckpointError(
                f"cannot write converted graphs to {base} ({error.strerror}): make it writable, or point XDG_CACHE_HOME elsewhere"
            ) from None
    return directory


def choose_runtime(weights: Weights, num_threads: int, report: Report | None = None) -> Runtime:
    """The fastest runtime on this machine: PyTorch on a GPU, else OpenVINO, or PyTorch where that is not installed."""
    if torch.cuda.is_available():
        return TorchRuntime(weights, torch.device("cuda"))
    torch.set_num_threads(num_threads)
    if importlib.util.find_spec("openvino") is None:
        if report:
            report("OpenVINO is not installed: PyTorch does its work, several times slower")
        return TorchRuntime(weights, torch.device("cpu"))
    return OpenVINORuntime(cached_graphs(weights, report), num_threads)
