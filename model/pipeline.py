"""From text to chunks: weights shared by all, one stream a speaker, block after block.

A block goes: read the text around it; denoise it in a few passes over the history; decode sound and pictures; hand out the chunk;
then one pass over the clean block, which becomes history. That last pass belongs to no chunk, so it is done first thing in the
next block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model import runtime as runtimes
from model.checkpoint import Weights, read_weights
from model.chunk import AVChunk, StreamInfo, StreamSettings
from model.dit.cache import History
from model.dit.rope import RotaryTable
from model.errors import PromptError
from model.sampling import euler_step, intervals
from model.text.phonemes import IDS, PAUSE_ID
from model.text.planner import Planner
from model.text.track import PAUSE, PAUSE_S
from model.vae.video import unpack_i420


class Pocket:
    """A loaded model. Implements :class:`model.stream.Model`."""

    def __init__(self, weights: Weights, runtime: runtimes.Runtime) -> None:
        self.weights, self.run = weights, runtime
        g, dit = weights.geometry, weights.config.dit
        rates = (g.fps, g.sample_rate_hz, g.block_frames, g.block_samples)
        self.info = StreamInfo(weights.config.name, g.width_px, g.height_px, *rates)
        self.warm_up_chunks = weights.config.sampling.window_blocks + 2
        video = torch.zeros(1, dit.video.latent_channels, g.block_video_latents, g.latent_height, g.latent_width)
        audio = torch.zeros(1, dit.audio.latent_channels, g.block_audio_latents)
        noise = torch.zeros(1, *self.noise_shape)
        video_memory = runtimes.first_memory(runtimes.DecodeVideo(weights).cpu(), video)
        audio_memory = runtimes.first_memory(runtimes.DecodeAudio(weights).cpu(), audio, noise)
        self.first_video_memory = [m.to(runtime.device) for m in video_memory]
        self.first_audio_memory = [m.to(runtime.device) for m in audio_memory]

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        config = self.weights.config.audio_vae
        return self.weights.geometry.block_samples // config.hop_samples, config.fft_samples // 2 + 1, 2

    def open(self, settings: StreamSettings) -> PocketStream:
        return PocketStream(self, settings)


@dataclass
class _Block:
    """A block in work."""

    video: Tensor
    audio: Tensor
    tables: tuple[Tensor, ...]
    text: tuple[Tensor, ...]
    speaking: bool
    passes: int = 0


class PocketStream:
    """One speaker. Implements :class:`model.stream.Stream`."""

    def __init__(self, model: Pocket, settings: StreamSettings) -> None:
        self._model = model
        self._intervals = intervals(model.weights.config.sampling.timesteps)
        self._planner = Planner(self._durations)
        self._index = 0
        self._begin_look(settings)

    def _begin_look(self, settings: StreamSettings) -> None:
        """Forget what was seen and heard so far: the next block is the first one of this look and voice.

        Raises:
            model.errors.PromptError: the model does not know a word of them, or there is a picture; nothing has changed.
        """
        model, device = self._model, self._model.run.device
        if settings.still is not None:
            raise PromptError("This model draws its own faces and cannot begin with a picture. Describe who is to be seen.")
        caption = model.weights.tokenizer(settings.scene, settings.voice)
        self._settings = settings
        self._generator = torch.Generator().manual_seed(settings.seed)
        words = torch.from_numpy(caption).unsqueeze(0).to(device)
        (self._summary,) = model.run("caption", words)
        self._history = History(runtimes.cache_shape(model.weights), device, model.run.memory_dtype)
        self._video_memory, self._audio_memory = model.first_video_memory, model.first_audio_memory
        self._unfinished: _Block | None = None
        self._block: _Block | None = None

    # What the service asks for

    @property
    def stage(self) -> str:
        if self._block is None:
            return "text" if self._unfinished is None else "dit"
        return "dit" if self._block.passes < len(self._intervals) else "vae"

    def push(self, reply_id: str, text: str, *, last: bool = True) -> float:
        # A block in work has already read its text. If it only listens it is begun again, so that the line is heard sooner; if it
        # speaks, the line waits for the next one.
        waits = self._block is not None and self._block.speaking
        start_s = self._start_s + (float(self._model.weights.geometry.block_duration_s) if waits else 0.0)
        length_s = self._planner.push(reply_id, text, start_s, last=last)
        if not waits:
            self._block = None
        return length_s

    def update(self, settings: StreamSettings) -> None:
        if settings != self._settings:
            self._begin_look(settings)

    def cancel(self) -> None:
        self._planner.cancel(self._start_s)
        self._block = None

    def close(self) -> None:
        self._block = self._unfinished = None

    @property
    def due_s(self) -> float:
        return math.inf  # text may come until a chunk is asked for

    def work(self) -> None:
        pass

    def step(self, deadline_s: float | None = None) -> AVChunk | None:
        if self._block is None:
            if self._unfinished is not None:
                self._remember(self._unfinished)
                self._unfinished = None
                return None
            self._block = self._begin_block()
            return None
        if self._block.passes < len(self._intervals):
            self._denoise(self._block)
            return None
        return self._finish(self._block)

    # The life of a block

    @property
    def _start_s(self) -> float:
        """When the block in work, or the next one, begins."""
        return self._index * float(self._model.weights.geometry.block_duration_s)

    def _begin_block(self) -> _Block:
        weights, run = self._model.weights, self._model.run
        geometry, dit = weights.geometry, weights.dit
        video_index = self._index * geometry.block_video_latents + torch.arange(geometry.block_video_latents, dtype=torch.float64)
        audio_index = self._index * geometry.block_audio_latents + torch.arange(geometry.block_audio_latents, dtype=torch.float64)
        video, video_text = dit.video_tables(video_index.unsqueeze(0), geometry.grid_height, geometry.grid_width)
        audio, _ = dit.audio_tables(audio_index.unsqueeze(0))
        assert video_text is not None
        tables = tuple(t.to(run.device) for table in (video, video_text, audio) for t in (table.cos, table.sin))
        shape = (1, weights.config.dit.video.latent_channels, len(video_index), geometry.latent_height, geometry.latent_width)
        noise = torch.randn(shape, generator=self._generator)
        audio_noise = torch.randn((1, len(audio_index), weights.config.dit.audio.latent_channels), generator=self._generator)
        speaking = self._planner.speaks(self._start_s, self._start_s + float(geometry.block_duration_s))
        return _Block(noise.to(run.device), audio_noise.to(run.device), tables, self._read_text(), speaking)

    def _read_text(self) -> tuple[Tensor, ...]:
        """Which text is visible to the next block, and its keys and values in all layers."""
        weights, run = self._model.weights, self._model.run
        config, geometry = weights.config.text, weights.geometry
        latent_s = geometry.audio_latent_samples / geometry.sample_rate_hz
        start_s, end_s = self._start_s - config.past_s, self._start_s + float(geometry.block_duration_s) + config.future_s
        # Convolutions over phonemes see their neighbours, also those just outside the window.
        track = self._planner.visible(max(0.0, start_s - 3), end_s + config.max_phonemes * PAUSE_S)
        centres_s = [(a + b) / 2 for _, a, b in track]
        radius = weights.text.phonemes.radius
        inside = [i for i, c in enumerate(centres_s) if start_s - latent_s / 2 <= c - latent_s / 2 < end_s]
        # Always equally many, because a new length makes the runtime prepare new kernels; those outside the window are masked.
        low = max(0, inside[0] - radius)
        high = max(low + config.max_phonemes, inside[-1] + 1 + radius)
        track, centres_s = track[low:high], centres_s[low:high]
        ids = torch.tensor([[PAUSE_ID if p == PAUSE else IDS[p] for p, _, _ in track]])
        lengths = torch.tensor([[b - a for _, a, b in track]], dtype=torch.float32)
        num_summary = config.num_scene_tokens
        times = torch.tensor([[0.0] * num_summary + [c / latent_s - 0.5 for c in centres_s]], dtype=torch.float64)
        timed = torch.arange(times.shape[1]).unsqueeze(0) >= num_summary
        tables = weights.dit.text_tables(times, timed)
        near = [start_s <= (c - latent_s / 2) < end_s for c in centres_s]
        visible = torch.tensor([True] * num_summary + near).view(1, 1, 1, -1)
        flat = [t.to(run.device) for table in tables if isinstance(table, RotaryTable) for t in (table.cos, table.sin)]
        return visible.to(run.device), *run("text", ids.to(run.device), lengths.to(run.device), self._summary, *flat)

    def _durations(self, phonemes: str) -> list[float]:
        run = self._model.run
        ids = torch.tensor([[PAUSE_ID, *(IDS[p] for p in phonemes), PAUSE_ID]], device=run.device)
        (seconds,) = run("durations", ids, self._summary)
        return [float(s) for s in seconds[0, 1:-1]]

    def _pass(self, part: str, block: _Block, level: float) -> tuple[Tensor, ...]:
        run = self._model.run
        timestep = torch.full((1,), 1000.0 * level, device=run.device)
        return run(part, block.video, block.audio, timestep, *block.tables, *block.text, *self._history.view())

    def _denoise(self, block: _Block) -> None:
        level, next_level = self._intervals[block.passes]
        video, audio = self._pass("denoise", block, level)
        block.video = euler_step(block.video, video, level, next_level)
        block.audio = euler_step(block.audio, audio, level, next_level)
        block.passes += 1

    def _remember(self, block: _Block) -> None:
        self._history.commit(self._pass("remember", block, 0.0))

    def _finish(self, block: _Block) -> AVChunk:
        run, geometry = self._model.run, self._model.weights.geometry
        breath = torch.randn((1, *self._model.noise_shape), generator=self._generator).to(run.device)
        wave, *audio_memory = run("decode_audio", block.audio.transpose(1, 2), breath, *self._audio_memory)
        pictures, *video_memory = run("decode_video", block.video, *self._video_memory)
        self._audio_memory, self._video_memory = audio_memory, video_memory
        start_s = self._start_s
        speaking, marks = self._planner.tell(start_s, start_s + float(geometry.block_duration_s), geometry.sample_rate_hz)
        chunk = AVChunk(
            self._index,
            unpack_i420(pictures)[0].cpu().numpy(),
            (wave[0].clamp(-1, 1) * 32767).cpu().numpy().astype(np.int16),
            geometry.fps,
            geometry.sample_rate_hz,
            speaking,
            tuple(marks),
        )
        self._block, self._unfinished = None, block
        self._index += 1
        return chunk


def load(checkpoint_dir: Path, num_threads: int, report: runtimes.Report | None = None) -> Pocket:
    """Load a checkpoint and make it ready.

    Raises:
        model.errors.CheckpointError, model.errors.ConfigError: see :func:`model.checkpoint.read_weights`.
    """
    weights = read_weights(checkpoint_dir)
    return Pocket(weights, runtimes.choose_runtime(weights, num_threads, report))
