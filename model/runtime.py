"""The network's parts as functions of tensors, and two ways to run them: PyTorch as it is, or ONNX Runtime on graphs exported from it.

There is one implementation of the network. ONNX Runtime is about twice as fast on CPUs; PyTorch runs on GPUs and is the oracle.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from model.checkpoint import Weights
from model.dit.attention import KeyValue
from model.dit.block import StreamView
from model.dit.cache import CacheShape, History, StackedMemory, stack, unstack
from model.dit.rope import RotaryTable
from model.dit.transformer import TextMemory
from model.vae.causal import Memory

_GRAPH_VERSION = 1
"""Raise it when a change of code changes the exported graphs."""


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
    """Phonemes with durations, and a summary -> text as both towers see it: two of [layers, 2, 1, H, Q + S, K]."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.text, self.dit = weights.text, weights.dit

    def forward(
        self, ids: Tensor, durations_s: Tensor, summary: Tensor, video_cos: Tensor, video_sin: Tensor, audio_cos: Tensor, audio_sin: Tensor
    ) -> tuple[Tensor, Tensor]:
        phonemes = self.text.phonemes(ids, durations_s, torch.ones_like(ids, dtype=torch.bool))
        tables = RotaryTable(video_cos, video_sin), RotaryTable(audio_cos, audio_sin)
        memory = self.dit.read_text(torch.cat((summary, phonemes), dim=1), tables, None)
        return tuple(torch.stack([torch.stack(kv) for kv in side]) for side in (memory.video, memory.audio))  # type: ignore[return-value]


class Denoise(nn.Module):
    """One pass of the transformer over one block: two velocities, and what the layers remember of the block.

    Inputs in order: video [1, C, F, h, w]; audio [1, L, C]; timestep [1] on the 0..1000 scale; cosines and sines of video tokens, of video
    tokens for text, of audio tokens; text of the video and of the audio tower; which text is visible, bool [1, 1, 1, S]; the four parts of
    the history.
    """

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.dit = weights.dit

    def forward(self, video: Tensor, audio: Tensor, timestep: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        video_table, video_text_table, audio_table = (RotaryTable(rest[i], rest[i + 1]) for i in (0, 2, 4))
        video_text, audio_text, visible = rest[6:9]
        layers = range(len(video_text))
        flow = self.dit(
            video,
            audio,
            timestep[:, None].expand(-1, video.shape[2]),
            timestep[:, None].expand(-1, audio.shape[1]),
            StreamView(video_table, video_text_table, None, visible, None),
            StreamView(audio_table, audio_table, None, visible, None),
            TextMemory(
                tuple(KeyValue(video_text[i, 0], video_text[i, 1]) for i in layers),
                tuple(KeyValue(audio_text[i, 0], audio_text[i, 1]) for i in layers),
                visible,
            ),
            unstack(StackedMemory(*rest[9:13])),
        )
        return flow.video, flow.audio, *stack(flow.memory)


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
    "decode_video": DecodeVideo,
    "decode_audio": DecodeAudio,
}


class Runtime(Protocol):
    """Runs a part by its name."""

    device: torch.device

    def __call__(self, part: str, *inputs: Tensor) -> tuple[Tensor, ...]: ...


class TorchRuntime:
    """The parts as they are, on any device."""

    def __init__(self, weights: Weights, device: torch.device) -> None:
        self.device = device
        self._parts = {name: part(weights).to(device).eval() for name, part in PARTS.items()}

    @torch.inference_mode()
    def __call__(self, part: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        result: tuple[Tensor, ...] = self._parts[part](*inputs)
        return result


class OnnxRuntime:
    """ONNX Runtime on a CPU. Threads do not spin, because media threads share the cores with them.

    Args:
        graphs: directory with one ``.onnx`` file a part, see :func:`export_graphs`.
        num_threads: for one operator.
    """

    def __init__(self, graphs: Path, num_threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self.device = torch.device("cpu")
        self._sessions: dict[str, Any] = {
            name: onnxruntime.InferenceSession(str(graphs / f"{name}.onnx"), options, providers=["CPUExecutionProvider"]) for name in PARTS
        }
        self._names = {name: [i.name for i in session.get_inputs()] for name, session in self._sessions.items()}

    def __call__(self, part: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        feed = {name: x.contiguous().numpy() for name, x in zip(self._names[part], inputs, strict=True)}
        return tuple(torch.from_numpy(y) for y in self._sessions[part].run(None, feed))


def first_memory(part: nn.Module, *inputs: Tensor) -> list[Tensor]:
    """The decoder memory of a stream that has not begun: zeros of the shapes that ``part`` leaves behind."""
    with torch.inference_mode():
        return [torch.zeros_like(m) for m in part(*inputs)[1:]]


def example_inputs(weights: Weights) -> dict[str, tuple[Tensor, ...]]:
    """Inputs of every part, as a stream gives them."""
    config, geometry = weights.config, weights.geometry
    dit, num_text = config.dit, config.text.num_scene_tokens + 20
    words, ids = torch.ones(1, config.text.max_words, dtype=torch.long), torch.ones(1, 20, dtype=torch.long)
    summary = torch.zeros(1, config.text.num_scene_tokens, config.text.dim)
    video = torch.zeros(1, dit.video.latent_channels, geometry.block_video_latents, geometry.latent_height, geometry.latent_width)
    audio = torch.zeros(1, geometry.block_audio_latents, dit.audio.latent_channels)
    video_tables = weights.dit.video_tables(torch.zeros(1, geometry.block_video_latents), geometry.grid_height, geometry.grid_width)
    audio_table, _ = weights.dit.audio_tables(torch.zeros(1, geometry.block_audio_latents))
    times = torch.zeros(1, num_text)
    text_tables = weights.dit.text_tables(times, times.bool())
    assert video_tables[1] is not None
    assert text_tables[0] is not None
    assert text_tables[1] is not None
    text_inputs = (ids, torch.ones(1, 20), summary, text_tables[0].cos, text_tables[0].sin, text_tables[1].cos, text_tables[1].sin)
    with torch.inference_mode():
        text = Text(weights)(*text_inputs)
    history = History(cache_shape(weights), torch.device("cpu"), torch.float32)
    tables = (video_tables[0].cos, video_tables[0].sin, video_tables[1].cos, video_tables[1].sin, audio_table.cos, audio_table.sin)
    visible = torch.ones(1, 1, 1, num_text, dtype=torch.bool)
    first = (video, audio, torch.zeros(1), *tables, *text, visible)
    with torch.inference_mode():
        history.commit(StackedMemory(*Denoise(weights)(*first, *history.view())[2:]))
    audio_latents = audio.transpose(1, 2).contiguous()
    noise = torch.zeros(1, geometry.block_samples // config.audio_vae.hop_samples, config.audio_vae.fft_samples // 2 + 1, 2)
    return {
        "caption": (words,),
        "durations": (ids, summary),
        "text": text_inputs,
        "denoise": (*first, *(m.clone() for m in history.view())),
        "decode_video": (video, *first_memory(DecodeVideo(weights), video)),
        "decode_audio": (audio_latents, noise, *first_memory(DecodeAudio(weights), audio_latents, noise)),
    }


def cache_shape(weights: Weights) -> CacheShape:
    geometry, sampling = weights.geometry, weights.config.sampling
    tokens = geometry.tokens_per_video_latent
    return CacheShape(
        weights.config.dit,
        sampling.window_blocks - 1,
        tokens * geometry.block_video_latents,
        geometry.block_audio_latents,
        tokens if sampling.sink else 0,
    )


_DYNAMIC: dict[str, dict[int, dict[int, str]]] = {
    "durations": {0: {1: "phonemes"}},
    "text": {0: {1: "phonemes"}, 1: {1: "phonemes"}} | {i: {1: "text"} for i in range(3, 7)},
    "denoise": {9: {4: "text"}, 10: {4: "text"}, 11: {3: "text"}} | {i: {4: f"past{i}"} for i in range(12, 16)},
}
"""For each part, the axes of its inputs that vary."""


def export_graphs(weights: Weights, directory: Path) -> None:
    """Write one ONNX graph a part, weights inside, to a directory that then exists whole or not at all."""
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator has no counterpart in ONNX
    examples = example_inputs(weights)
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=directory.parent))
    try:
        for name, part in PARTS.items():
            inputs = examples[name]
            names = [f"in{i}" for i in range(len(inputs))]
            axes = {f"in{i}": dynamic for i, dynamic in _DYNAMIC.get(name, {}).items()}
            with warnings.catch_warnings(), torch.inference_mode():
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    part(weights).eval(), inputs, str(scratch / f"{name}.onnx"), input_names=names, dynamic_axes=axes, opset_version=18, dynamo=False
                )
        try:
            os.replace(scratch, directory)
        except OSError:  # somebody else was faster
            if not directory.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def cached_graphs(weights: Weights, *, report: Any = None) -> Path:
    """The directory of exported graphs of these weights; they are exported on first use."""
    digest = hashlib.sha256(f"{_GRAPH_VERSION} {torch.__version__} {weights.digest}".encode()).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "avatar-rtc"
    directory = base / f"{weights.config.name}-{digest}"
    if not directory.is_dir():
        if report:
            report("exporting graphs for ONNX Runtime, once")
        export_graphs(weights, directory)
    return directory


def runtime(weights: Weights, num_threads: int, *, report: Any = None) -> Runtime:
    """The fastest runtime on this machine: PyTorch on a GPU, else ONNX Runtime."""
    if torch.cuda.is_available():
        return TorchRuntime(weights, torch.device("cuda"))
    torch.set_num_threads(num_threads)
    return OnnxRuntime(cached_graphs(weights, report=report), num_threads)


