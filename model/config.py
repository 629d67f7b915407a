"""Strict config types of a model: one YAML file describes one network, and travels with its weights.

An unknown key is an error, so that a typo never becomes a default.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from model.errors import ConfigError
from model.geometry import Geometry
from model.liveliness import CONTROLS
from model.yaml_text import parse_yaml


class Strict(BaseModel):
    """Frozen, and refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GeometryConfig(Strict):
    """See :class:`model.geometry.Geometry` for the meaning of each field."""

    fps: int
    sample_rate_hz: int
    height_px: int
    width_px: int
    spatial_stride_px: int
    temporal_stride_frames: int
    first_latent_frames: int
    patch_cells: int | tuple[int, int]
    audio_latent_samples: int
    block_video_latents: int

    def build(self) -> Geometry:
        return Geometry(**self.model_dump())


class TowerConfig(Strict):
    """One tower of the transformer.

    Attributes:
        dim: width; a multiple of num_heads.
        latent_channels: channels of the VAE latent that goes in and comes out.
        stem: ``linear`` for one projection a token; ``conv`` for the published audio tower's convolutional stem.
        time_scale, time_offset: rotary time of latent n is ``n * time_scale + time_offset``. Both towers and the text share one
            unit, so that equal times meet.
    """

    dim: int = Field(gt=0)
    ffn_dim: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    latent_channels: int = Field(gt=0)
    stem: str = Field(default="linear", pattern="^(linear|conv)$")
    time_scale: float = 1.0
    time_offset: float = 0.0

    @model_validator(mode="after")
    def _heads_fit(self) -> TowerConfig:
        if self.dim % self.num_heads or self.dim // self.num_heads % 2:
            raise ValueError(f"dim {self.dim} does not split into {self.num_heads} heads of even width")
        return self


class DiTConfig(Strict):
    """The dual-stream transformer.

    Attributes:
        text_dim: width of the text encoder's output.
        aligned_text: rotate text keys by the time at which they are spoken, and queries by their own time.
        rope_theta: base of the rotary frequency ladder.
        future_audio_latents: how far video may look ahead into the audio (future-expanding attention).
        output: what the heads predict, the ``velocity`` or the ``clean`` latents; either way the transformer returns velocities.
            Where a video token holds more values than the tower is wide, a velocity, mostly noise, cannot pass through it,
            and a clean latent can (arXiv 2511.13720).
        grid: rows and columns of a video latent's tokens, to give each place an embedding of its own. Without, only the other
            tokens tell a token where it is, which takes a first block of pure noise several layers to find out.
        control_channels: values a video latent that say how the face moves besides its mouth, see :mod:`model.liveliness`; 0 for
            none.
    """

    video: TowerConfig
    audio: TowerConfig
    num_layers: int = Field(gt=0)
    text_dim: int = Field(gt=0)
    freq_dim: int = 256
    eps: float = 1e-6
    rope_theta: float = 10_000.0
    aligned_text: bool = False
    future_audio_latents: int = 0
    output: Literal["velocity", "clean"] = "velocity"
    grid: tuple[int, int] | None = None
    control_channels: int = Field(default=0, ge=0)


class TextConfig(Strict):
    """The phoneme and scene encoders of pocket.

    Attributes:
        dim: width of both, equal to the transformer's ``text_dim``.
        num_phonemes, num_words: sizes of the alphabets; word 0 stands for every unknown word.
        num_phoneme_layers: residual convolutions over phonemes, kernel 5 each.
        num_scene_layers: transformer layers over the caption's words.
        num_scene_tokens: learned queries that sum the caption up.
        max_words: words of scene and voice together; more are cut.
        max_phonemes: phonemes read for a block, those in its window and around it.
        past_s, future_s: how far from a block's span phonemes stay visible.
    """

    dim: int
    num_phonemes: int
    num_words: int
    num_phoneme_layers: int
    num_scene_layers: int
    num_scene_tokens: int
    max_words: int
    max_phonemes: int
    past_s: float
    future_s: float

    @property
    def phoneme_radius(self) -> int:
        """Phonemes on either side that the convolutions see."""
        return 2 * self.num_phoneme_layers


class VideoVAEConfig(Strict):
    """Causal video VAE.

    Attributes:
        encoder_widths: from half the picture's resolution down to the latent grid, one entry a resolution.
        decoder_widths: the same, but the first entry is of the resolution from which the head makes pictures.
        head_scale: rows and columns of half-resolution pixels that the decoder's head makes of each place. With 1 the last
            convolutions run at half the picture's resolution, with 2 at a quarter of it, for 0.6 of the work.
    """

    latent_channels: int
    encoder_widths: tuple[int, ...]
    decoder_widths: tuple[int, ...]
    head_scale: Literal[1, 2, 4] = 1

    @model_validator(mode="after")
    def _resolutions_fit(self) -> VideoVAEConfig:
        wanted = len(self.encoder_widths) - self.head_scale.bit_length() + 1
        if len(self.decoder_widths) != wanted:
            raise ValueError(
                f"{len(self.encoder_widths)} encoder_widths and head_scale {self.head_scale} need {wanted} decoder_widths, "
                f"got {len(self.decoder_widths)}"
            )
        return self


class AudioVAEConfig(Strict):
    """Audio VAE and vocoder; all convolutions of the decoder are causal."""

    latent_channels: int
    num_mels: int
    hop_samples: int
    fft_samples: int
    encoder_dim: int
    decoder_dim: int
    decoder_ffn_dim: int
    num_latent_blocks: int
    num_frame_blocks: int


class MelConfig(Strict):
    """The log-mel spectrogram that the published audio VAE encodes and its vocoder reads. Defaults are the published values."""

    sample_rate_hz: int = Field(default=16_000, gt=0)
    fft_samples: int = Field(default=1024, gt=0)
    hop_samples: int = Field(default=256, gt=0)
    num_mels: int = Field(default=80, gt=0)
    min_hz: float = Field(default=0.0, ge=0)
    max_hz: float = Field(default=8000.0, gt=0)


class MMAudioVAEConfig(Strict):
    """The published 1-D audio VAE. Defaults are those of ``v1-16.pth``.

    Attributes:
        hidden_dim: width of the outermost level.
        width_multipliers: width of each level over ``hidden_dim``, from the mel side inwards.
        num_res_blocks: of a level of the encoder; the decoder has one more.
        down_levels: levels after which the encoder halves the rate.
    """

    num_mels: int = Field(default=80, gt=0)
    latent_channels: int = Field(default=20, gt=0)
    hidden_dim: int = Field(default=384, gt=0)
    width_multipliers: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int = Field(default=2, gt=0)
    down_levels: tuple[int, ...] = (0,)

    @property
    def frames_per_latent(self) -> int:
        return 2 ** len(self.down_levels)


class BigVGANConfig(Strict):
    """The published vocoder. Defaults are those of ``best_netG.pt``.

    Attributes:
        initial_channels: width before the first upsampling, halved by each.
        upsample_kernels: of the transposed convolutions; each exceeds its rate by an even number.
        res_dilations: for each of ``res_kernels``, the dilations of its residual pairs.
    """

    num_mels: int = Field(default=80, gt=0)
    initial_channels: int = Field(default=1536, gt=0)
    upsample_rates: tuple[int, ...] = (4, 4, 2, 2, 2, 2)
    upsample_kernels: tuple[int, ...] = (8, 8, 4, 4, 4, 4)
    res_kernels: tuple[int, ...] = (3, 7, 11)
    res_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))

    @model_validator(mode="after")
    def _lists_fit(self) -> BigVGANConfig:
        if len(self.upsample_rates) != len(self.upsample_kernels):
            raise ValueError(f"{len(self.upsample_rates)} upsample_rates, but {len(self.upsample_kernels)} upsample_kernels")
        pairs = zip(self.upsample_rates, self.upsample_kernels, strict=True)
        if any(kernel < rate or (kernel - rate) % 2 for rate, kernel in pairs):
            raise ValueError("each of upsample_kernels must exceed its rate by an even number")
        if len(self.res_kernels) != len(self.res_dilations):
            raise ValueError(f"{len(self.res_kernels)} res_kernels, but {len(self.res_dilations)} res_dilations")
        return self

    @property
    def hop_samples(self) -> int:
        return prod(self.upsample_rates)


class WanVAEConfig(Strict):
    """The published causal video VAE (Wan2.2).

    Attributes:
        encoder_widths, decoder_widths: channels from half the picture's resolution down to the latent grid, one a resolution.
        num_blocks: residual blocks a resolution in the encoder; the decoder has one more.
        halves_time: which of the encoder's steps from one resolution to the next also halve time; the decoder undoes them.
    """

    latent_channels: int = Field(gt=0)
    encoder_widths: tuple[int, ...]
    decoder_widths: tuple[int, ...]
    num_blocks: int = Field(gt=0)
    halves_time: tuple[bool, ...]

    @model_validator(mode="after")
    def _lengths_fit(self) -> WanVAEConfig:
        steps = len(self.halves_time)
        if len(self.encoder_widths) != steps + 1 or len(self.decoder_widths) != steps + 1:
            raise ValueError(
                f"{steps} entries of halves_time need {steps + 1} widths, got {len(self.encoder_widths)} of the encoder "
                f"and {len(self.decoder_widths)} of the decoder"
            )
        return self


class AudioStreamConfig(Strict):
    """How the published audio decoder, which looks both ways, decodes a stream that has no end.

    Attributes:
        left_latents: decoded again before new ones, for their context. The decoder's attention looks back over half of them; the
            other half feeds the convolutions, which reach back 41 latents.
        hold_back_latents: newest latents that make no sound yet, because their right context is missing. They delay the voice;
            five are a video latent of the published model. The attention looks ahead over half of them. With random weights a
            seam's error is 45 dB under the voice at ten, 20 dB at five.
    """

    left_latents: int = Field(default=120, ge=0)
    hold_back_latents: int = Field(default=10, ge=0)


class SamplingConfig(Strict):
    """Few-step flow matching.

    Attributes:
        timesteps: noise levels in (0, 1], falling; one denoise pass each.
        window_blocks: blocks that a new block sees, itself included.
        sink: whether the stream's first latent stays visible for ever.
        clean_pass: whether a block is remembered by a pass of its own over the clean block. Without, history is what the block's
            last denoise pass saw: a pass less a block, for a network that was trained so.
    """

    timesteps: tuple[float, ...]
    window_blocks: int = Field(gt=1)
    sink: bool
    clean_pass: bool = True

    @field_validator("timesteps")
    @classmethod
    def _fall(cls, timesteps: tuple[float, ...]) -> tuple[float, ...]:
        levels = (*timesteps, 0.0)
        if not timesteps or timesteps[0] > 1 or any(a <= b for a, b in pairwise(levels)):
            raise ValueError(f"must fall from at most 1 and stay above 0, got {list(timesteps)}")
        return timesteps

    @property
    def intervals(self) -> list[tuple[float, float]]:
        """Each denoise pass as (from, to): the noise levels, falling, then 0."""
        return list(pairwise((*self.timesteps, 0.0)))


class ModelConfig(Strict):
    """Everything about one network."""

    name: str
    geometry: GeometryConfig
    dit: DiTConfig
    text: TextConfig
    video_vae: VideoVAEConfig
    audio_vae: AudioVAEConfig
    sampling: SamplingConfig

    @model_validator(mode="after")
    def _parts_fit(self) -> ModelConfig:
        dit, video, audio = self.dit, self.video_vae, self.audio_vae
        pairs = (
            ("dit.text_dim", dit.text_dim, "text.dim", self.text.dim),
            ("dit.video.latent_channels", dit.video.latent_channels, "video_vae.latent_channels", video.latent_channels),
            ("dit.audio.latent_channels", dit.audio.latent_channels, "audio_vae.latent_channels", audio.latent_channels),
            (
                "geometry.audio_latent_samples",
                self.geometry.audio_latent_samples,
                "2 x audio_vae.hop_samples",
                2 * audio.hop_samples,
            ),
        )
        for name, value, other, other_value in pairs:
            if value != other_value:
                raise ValueError(f"{name} is {value}, but {other} is {other_value}")
        geometry = self.geometry.build()
        grid, controls = (geometry.grid_height, geometry.grid_width), geometry.temporal_stride_frames * len(CONTROLS)
        if dit.grid not in (None, grid):
            raise ValueError(f"dit.grid is {dit.grid}, but the geometry makes it {grid}")
        if dit.control_channels not in (0, controls):
            raise ValueError(f"dit.control_channels is {dit.control_channels}: 0 or {controls}, {len(CONTROLS)} a picture")
        return self


class UMT5Config(Strict):
    """The published text encoder.

    Attributes:
        dim: width of a token.
        attention_dim: width of queries, keys and values, all heads together.
        num_buckets, max_distance: of the relative positions that each layer has a bias for.
        text_len: tokens that condition the transformer: longer prompts are cut, shorter ones filled with zeros.
    """

    vocab_size: int = Field(default=256384, gt=0)
    dim: int = Field(default=4096, gt=0)
    attention_dim: int = Field(default=4096, gt=0)
    ffn_dim: int = Field(default=10240, gt=0)
    num_heads: int = Field(default=64, gt=0)
    num_layers: int = Field(default=24, gt=0)
    num_buckets: int = Field(default=32, gt=0)
    max_distance: int = Field(default=128, gt=0)
    text_len: int = Field(default=512, gt=0)

    @model_validator(mode="after")
    def _heads_divide(self) -> UMT5Config:
        if self.attention_dim % self.num_heads:
            raise ValueError(f"attention_dim {self.attention_dim} is no multiple of num_heads {self.num_heads}")
        return self


class RolloutConfig(Strict):
    """How the published model generates, block after block.

    Attributes:
        steps: of 1000 equally spaced training steps, falling, one denoise pass each; ``shift`` moves them towards noise.
        context_timestep: timestep, on the 0..1000 scale, that is told of finished latents: of the audio before a block, and of
            the block itself in the pass that makes it history.
        window_latents: video latents that are ever in view at once, those of the block in work included; no position reaches
            further, so it is at most the length that the model was trained on.
        sink_latents: so many of a stream's first latents never leave the view.
        continuation: what leaves a full window. ``roll``: the oldest block after the sink; ``restart``: all but the last latent.
        rollback: where a new line or an interruption begins. ``latent``: what is made but not yet due is taken back, picture and
            sound together; ``block``: after the block that was made last.
        split_passes: whether two devices share a pass while the decoders, which have the second one, rest: a line is answered
            sooner. The second device holds the video tower's weights and a stream's video once more, 17 GB at the published size.
            None: where there are two.
    """

    steps: tuple[int, ...] = (1000, 750, 500, 250)
    shift: float = Field(default=5.0, gt=0)
    context_timestep: float = Field(default=0.0, ge=0, le=1000)
    window_latents: int = Field(default=30, gt=0)
    sink_latents: int = Field(default=0, ge=0)
    continuation: str = Field(default="roll", pattern="^(roll|restart)$")
    rollback: str = Field(default="latent", pattern="^(latent|block)$")
    split_passes: bool | None = None

    @field_validator("steps")
    @classmethod
    def _fall(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if not steps or steps[0] > 1000 or any(a <= b for a, b in pairwise((*steps, 0))):
            raise ValueError(f"must fall from at most 1000 and stay above 0, got {list(steps)}")
        return steps


class HalloLiveConfig(Strict):
    """Everything about the published model, in one of its sizes.

    Attributes:
        float8: round the video tower's large products to 8 bits when it is loaded: faster on GPUs that have them, and not exact.
    """

    name: str
    geometry: GeometryConfig
    dit: DiTConfig
    rollout: RolloutConfig
    text: UMT5Config
    video_vae: WanVAEConfig
    audio_vae: MMAudioVAEConfig
    vocoder: BigVGANConfig
    audio_stream: AudioStreamConfig = AudioStreamConfig()
    float8: bool = False

    @model_validator(mode="after")
    def _parts_fit(self) -> HalloLiveConfig:
        dit, rollout, block = self.dit, self.rollout, self.geometry.block_video_latents
        pairs = (
            ("dit.text_dim", dit.text_dim, "text.dim", self.text.dim),
            ("dit.video.latent_channels", dit.video.latent_channels, "video_vae.latent_channels", self.video_vae.latent_channels),
            ("dit.audio.latent_channels", dit.audio.latent_channels, "audio_vae.latent_channels", self.audio_vae.latent_channels),
            ("audio_vae.num_mels", self.audio_vae.num_mels, "vocoder.num_mels", self.vocoder.num_mels),
            (
                "geometry.audio_latent_samples",
                self.geometry.audio_latent_samples,
                "the audio decoder's",
                self.audio_vae.frames_per_latent * self.vocoder.hop_samples,
            ),
        )
        for name, value, other, other_value in pairs:
            if value != other_value:
                raise ValueError(f"{name} is {value}, but {other} is {other_value}")
        if rollout.sink_latents + block + 1 > rollout.window_latents:
            raise ValueError(
                f"rollout.window_latents {rollout.window_latents} has no room for sink_latents {rollout.sink_latents}, "
                f"a block of {block} and a latent before it"
            )
        return self


T = TypeVar("T", bound=BaseModel)


def load_yaml(path: Path, kind: type[T]) -> T:
    """Parse a YAML file into a config type.

    Raises:
        ConfigError: no file, no YAML, or a key that is unknown, missing or out of range; the message names all of them.
    """
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected keys and values, got {type(raw).__name__}")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}" for e in error.errors())
        raise ConfigError(f"{path}: {problems}") from None
