"""From text to chunks: weights shared by all, one stream a speaker, block after block.

A block goes: read the text around it; denoise it in a few passes over the history; decode sound and pictures; hand out the chunk;
then one pass over the clean block, which becomes history. That last pass belongs to no chunk, so it is done first thing in the
next block. Networks that were trained so do without it: history is then what the last denoise pass saw.

This side computes next to nothing: it keeps arrays, says when something is, and draws noise.
"""

from __future__ import annotations

import copy
import ctypes
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.cached_rollout import Block, CachedRollout
from model.chunk import AVChunk, StreamInfo, StreamSettings
from model.description import Description, read_description
from model.dit.history import HIDDEN, Array, History
from model.dit.positions import Ladder
from model.errors import PromptError
from model.graph_cache import Report, cached_graphs, chosen_arithmetic
from model.liveliness import LOOK_AHEAD_S, Liveliness, per_latent, resting_smile
from model.noise import Noise
from model.runtime import IN_WORDS, OpenVINORuntime, Runtime
from model.text.phonemes import IDS, PAUSE_ID
from model.text.planner import Planner
from model.text.track import PAUSE, PAUSE_S

WARM_UP_CHUNKS = 4
"""The first one prepares kernels and touches memory; a longer history costs no more than an empty one."""


class Pocket:
    """A loaded model. Implements :class:`model.stream.Model`."""

    def __init__(self, description: Description, runtime: Runtime) -> None:
        self.description, self.run = description, runtime
        g, config = description.geometry, description.config
        rates = (g.fps, g.sample_rate_hz, g.block_frames, g.block_samples)
        self.info = StreamInfo(config.name, g.width_px, g.height_px, *rates)
        self.warm_up_chunks = WARM_UP_CHUNKS
        self.first_video_memory, self.first_audio_memory = runtime.memory("decode_video"), runtime.memory("decode_audio")
        video, audio = config.dit.video, config.dit.audio
        self.video_ladder = Ladder(video.dim // video.num_heads, config.dit.rope_theta)
        self.audio_ladder = Ladder(audio.dim // audio.num_heads, config.dit.rope_theta)
        # Modulation depends on nothing but the noise level, 0 for the clean pass.
        levels = {level for interval in config.sampling.intervals for level in interval}
        self.modulation = {level: runtime("modulate", np.full(1, 1000.0 * level, np.float32)) for level in levels}

    def open(self, settings: StreamSettings) -> PocketStream:
        return PocketStream(self, settings)


@dataclass(frozen=True)
class _View:
    """What a block's passes are given besides its latents, and what became known with it."""

    tables: Sequence[np.ndarray]
    text_mask: np.ndarray
    text: Sequence[Array]
    control: Sequence[np.ndarray]
    speaking: bool
    liveliness: Liveliness


@dataclass(frozen=True)
class _Passes:
    """The network, over one stream's history. Implements :class:`model.cached_rollout.Passes`."""

    model: Pocket
    history: History

    def __call__(self, part: str, block: Block[_View], level: float) -> tuple[Array, ...]:
        view = block.view
        return self.model.run(
            part,
            block.video,
            block.audio,
            *self.model.modulation[level],
            *view.control,
            *view.tables,
            view.text_mask,
            *self.history.masks,
            *view.text,
            *self.history.arrays,
        )


class PocketStream:
    """One speaker. Implements :class:`model.stream.Stream`."""

    def __init__(self, model: Pocket, settings: StreamSettings) -> None:
        self._model = model
        self._planner = Planner(self._durations)
        self._index = 0
        self._liveliness = Liveliness(np.random.default_rng(settings.seed), resting_smile(settings.scene), model.info.fps)
        self._begin_look(settings)

    def _begin_look(self, settings: StreamSettings) -> None:
        """Forget what was seen and heard so far: the next block is the first one of this look and voice.

        Raises:
            model.errors.PromptError: the model does not know a word of them, or there is a picture; nothing has changed.
        """
        model = self._model
        if settings.image is not None:
            raise PromptError("This model draws its own faces and cannot begin with a picture. Describe who is to be seen.")
        caption = model.description.tokenizer(settings.scene, settings.voice)
        self._settings = settings
        self._noise = Noise(settings.seed)
        self._liveliness.smile = resting_smile(settings.scene)
        (self._summary,) = model.run("caption", caption[np.newaxis])
        self._history = History(model.description.history_shape, model.run.memory("pass"))
        self._video_memory, self._audio_memory = model.first_video_memory, model.first_audio_memory
        passes, sampling = _Passes(model, self._history), model.description.config.sampling
        self._rollout: CachedRollout[_View] = CachedRollout(passes, sampling, self._history)

    # What the service asks for

    @property
    def stage(self) -> str:
        if self._rollout.block is None:
            return "text" if self._rollout.is_cache_current else "dit"
        return "dit" if self._rollout.passes_left else "vae"

    def push(self, reply_id: str, text: str, *, last: bool = True) -> float:
        # A block in work has already read its text. If it only listens it is begun again, so that the line is heard sooner; if it
        # speaks, the line waits for the next one.
        block = self._rollout.block
        waits = block is not None and block.view.speaking
        start_s = self._start_s + (float(self._model.description.geometry.block_duration_s) if waits else 0.0)
        length_s = self._planner.push(reply_id, text, start_s, last=last)
        if not waits:
            self._rollout.give_up()
        return length_s

    def update(self, settings: StreamSettings) -> None:
        if settings != self._settings:
            self._begin_look(settings)

    def cancel(self) -> None:
        self._planner.cancel(self._start_s)
        self._rollout.give_up()
        # The sound that was cut off does not ring on: with its memory the decoder would end the phoneme that it was in.
        self._audio_memory = self._model.first_audio_memory

    def close(self) -> None:
        self._rollout.give_up()

    @property
    def due_s(self) -> float:
        return math.inf  # text may come until a chunk is asked for

    def work(self) -> None:
        pass

    def step(self, deadline_s: float | None = None) -> AVChunk | None:
        rollout = self._rollout
        if rollout.block is None:
            if rollout.is_cache_current:
                self._begin_block()
            else:
                rollout.update_cache()
        elif rollout.passes_left:
            rollout.denoise()
        else:
            return self._finish()
        return None

    # The life of a block

    @property
    def _start_s(self) -> float:
        """When the block in work, or the next one, begins."""
        return self._index * float(self._model.description.geometry.block_duration_s)

    def _begin_block(self) -> None:
        model = self._model
        geometry, dit = model.description.geometry, model.description.config.dit
        num_video, num_audio = geometry.block_video_latents, geometry.block_audio_latents
        video_times = (self._index * num_video + np.arange(num_video)) * dit.video.time_scale + dit.video.time_offset
        audio_times = (self._index * num_audio + np.arange(num_audio)) * dit.audio.time_scale + dit.audio.time_offset
        tables = (
            *model.video_ladder.video_rows(video_times, geometry.grid_height, geometry.grid_width),
            *model.video_ladder.time_rows(np.repeat(video_times, geometry.tokens_per_video_latent)),
            *model.audio_ladder.time_rows(audio_times),
        )
        noise = self._noise.draw((1, dit.video.latent_channels, num_video, geometry.latent_height, geometry.latent_width))
        audio_noise = self._noise.draw((1, num_audio, dit.audio.latent_channels))
        speaking = self._planner.speaks(self._start_s, self._start_s + float(geometry.block_duration_s))
        text_mask, text = self._read_text()
        liveliness, control = self._move()
        view = _View([t[np.newaxis] for t in tables], text_mask, text, control, speaking, liveliness)
        self._rollout.begin(model.run.array(noise), model.run.array(audio_noise), view)

    def _move(self) -> tuple[Liveliness, Sequence[np.ndarray]]:
        """How the face moves in the next block, for networks that are told so. The block may yet be begun again."""
        geometry = self._model.description.geometry
        if not self._model.description.config.dit.control_channels:
            return self._liveliness, ()
        liveliness = copy.deepcopy(self._liveliness)
        end_s = self._start_s + float(geometry.block_duration_s) + LOOK_AHEAD_S
        rows = liveliness.advance(geometry.block_frames, self._planner.visible(max(0.0, self._start_s - 1), end_s))
        return liveliness, (per_latent(rows, geometry.temporal_stride_frames)[np.newaxis],)

    def _read_text(self) -> tuple[np.ndarray, Sequence[Array]]:
        """Which text is visible to the next block, to be added to scores, and its keys and values in all layers."""
        model = self._model
        config, geometry = model.description.config.text, model.description.geometry
        latent_s = geometry.audio_latent_samples / geometry.sample_rate_hz
        start_s, end_s = self._start_s - config.past_s, self._start_s + float(geometry.block_duration_s) + config.future_s
        # Convolutions over phonemes see their neighbours, also those just outside the window.
        track = self._planner.visible(max(0.0, start_s - 3), end_s + config.max_phonemes * PAUSE_S)
        centres_s = np.array([(a + b) / 2 for _, a, b in track])
        inside = np.nonzero((start_s - latent_s / 2 <= centres_s - latent_s / 2) & (centres_s - latent_s / 2 < end_s))[0]
        # Always equally many, because shapes are fixed; those outside the window are masked.
        low = max(0, int(inside[0]) - config.phoneme_radius)
        track, centres_s = track[low : low + config.max_phonemes], centres_s[low : low + config.max_phonemes]
        ids = np.array([[PAUSE_ID if p == PAUSE else IDS[p] for p, _, _ in track]])
        lengths_s = np.array([[b - a for _, a, b in track]], np.float32)
        num_summary = config.num_scene_tokens
        times = np.concatenate((np.zeros(num_summary), centres_s / latent_s - 0.5))
        timed = np.arange(len(times)) >= num_summary
        tables = (*model.video_ladder.time_rows(times, timed), *model.audio_ladder.time_rows(times, timed))
        near = (start_s <= centres_s - latent_s / 2) & (centres_s - latent_s / 2 < end_s)
        mask = np.where(np.concatenate((np.ones(num_summary, bool), near)), 0, HIDDEN).astype(np.float32)
        text = model.run("text", ids, lengths_s, self._summary, *(t[np.newaxis] for t in tables))
        return mask.reshape(1, 1, 1, -1), text

    def _durations(self, phonemes: str) -> list[float]:
        run = self._model.run
        ids = np.array([[PAUSE_ID, *(IDS[p] for p in phonemes), PAUSE_ID]])
        (seconds,) = run("durations", ids, self._summary)
        return [float(s) for s in run.numpy(seconds)[0, 1:-1]]

    def _finish(self) -> AVChunk:
        block = self._rollout.finish()
        run, geometry = self._model.run, self._model.description.geometry
        breath = self._noise.draw((1, *self._model.description.noise_shape))
        samples, *self._audio_memory = run("decode_audio", block.audio, breath, *self._audio_memory)
        pictures, *self._video_memory = run("decode_video", block.video, *self._video_memory)
        start_s = self._start_s
        speaking, marks = self._planner.marks_between(
            start_s, start_s + float(geometry.block_duration_s), geometry.sample_rate_hz
        )
        chunk = AVChunk(
            self._index,
            run.numpy(pictures)[0],
            run.numpy(samples)[0].astype(np.int16),
            geometry.fps,
            geometry.sample_rate_hz,
            speaking,
            tuple(marks),
        )
        self._liveliness = block.view.liveliness
        self._index += 1
        return chunk


def load(checkpoint_dir: Path, num_threads: int, report: Report | None = None) -> Pocket:
    """Load a checkpoint and make it ready: in PyTorch on a GPU, else in OpenVINO, or in PyTorch where that is not installed.

    Raises:
        model.errors.CheckpointError, model.errors.ConfigError: see :func:`model.checkpoint.read_weights`.
    """
    if has_gpu():
        return _load_torch(checkpoint_dir, "cuda")
    if importlib.util.find_spec("openvino") is None:
        if report:
            report("OpenVINO is not installed: PyTorch does its work, several times slower")
        return _load_torch(checkpoint_dir, "cpu", num_threads)
    description = read_description(checkpoint_dir)
    if report:
        report(f"{description.config.name} computes in {IN_WORDS[chosen_arithmetic(description)]}")
    return Pocket(description, OpenVINORuntime(cached_graphs(checkpoint_dir, description, report), num_threads))


def _load_torch(checkpoint_dir: Path, device: str, num_threads: int | None = None) -> Pocket:
    import torch

    from model.checkpoint import read_weights
    from model.torch_runtime import TorchRuntime

    if num_threads is not None:
        torch.set_num_threads(num_threads)
    weights = read_weights(checkpoint_dir)
    return Pocket(weights, TorchRuntime(weights, torch.device(device)))


def has_gpu() -> bool:
    """Whether PyTorch finds one. It is not asked where there is no driver, because asking takes seconds and its memory."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return False
    import torch

    return torch.cuda.is_available()
