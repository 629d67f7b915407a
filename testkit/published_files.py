"""Seeded random weights as files in the published layout and names: what ``avatar-rtc download inference`` would leave."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from model.adapters.mmaudio import bigvgan_shapes, mmaudio_vae_shapes
from model.adapters.ovi import to_published
from model.adapters.umt5 import umt5_shapes
from model.adapters.wan import wan_shapes
from model.config import (
    AudioStreamConfig,
    BigVGANConfig,
    DiTConfig,
    GeometryConfig,
    HalloLiveConfig,
    MMAudioVAEConfig,
    RolloutConfig,
    TowerConfig,
    UMT5Config,
    WanVAEConfig,
)
from model.dit.transformer import DualStreamTransformer
from model.hallo_live import AUDIO_VAE, GENERATOR, TEXT_ENCODER, TOKENIZER, VIDEO_VAE, VOCODER
from model.vae.bigvgan import antialias_filter

TINY = HalloLiveConfig(
    name="tiny-hallo-live",
    geometry=GeometryConfig(
        fps=25,
        sample_rate_hz=16_000,
        height_px=64,
        width_px=96,
        spatial_stride_px=16,
        temporal_stride_frames=4,
        first_latent_frames=1,
        patch_cells=2,
        audio_latent_samples=512,
        block_video_latents=2,
    ),
    dit=DiTConfig(
        video=TowerConfig(dim=48, ffn_dim=64, num_heads=2, latent_channels=48),
        audio=TowerConfig(dim=24, ffn_dim=32, num_heads=1, latent_channels=20, stem="conv", time_scale=0.2),
        num_layers=2,
        text_dim=16,
        freq_dim=16,
    ),
    rollout=RolloutConfig(window_latents=6),
    text=UMT5Config(
        vocab_size=128,
        dim=16,
        attention_dim=16,
        ffn_dim=24,
        num_heads=2,
        num_layers=1,
        num_buckets=8,
        max_distance=16,
        text_len=64,
    ),
    video_vae=WanVAEConfig(
        latent_channels=48,
        encoder_widths=(4, 4, 4, 4),
        decoder_widths=(4, 4, 8, 8),
        num_blocks=1,
        halves_time=(False, True, True),
    ),
    audio_vae=MMAudioVAEConfig(hidden_dim=8),
    vocoder=BigVGANConfig(initial_channels=64),
    audio_stream=AudioStreamConfig(left_latents=10, hold_back_latents=5),
)
"""All parts, at a size for tests; the channels of latents are the published ones."""

Shapes = Mapping[str, tuple[int, ...]]


class Dice:
    """Random weights of a size that keeps activations finite.

    Args:
        device: where they are drawn; a GPU draws 23 GB in seconds.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._generator = torch.Generator(device).manual_seed(seed)
        self._device = device

    def __call__(self, shapes: Shapes, dtype: torch.dtype) -> dict[str, Tensor]:
        return {name: self._tensor(name, shape).to(dtype).cpu() for name, shape in shapes.items()}

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        noise = torch.randn(shape, generator=self._generator, device=self._device)
        if name.endswith(".filter"):
            return antialias_filter().view(1, 1, -1)
        if name == "conv_post.weight_g":
            return torch.full_like(noise, 0.02)  # or the vocoder would only ever overdrive
        if name.endswith("modulation"):
            return noise / math.sqrt(shape[-1])
        if name.endswith(("_g", ".gamma", "data_std")) or (name.endswith(".weight") and len(shape) == 1):
            return 1 + 0.1 * noise
        if len(shape) < 2 or name.endswith("data_mean"):
            return 0.02 * noise
        return noise / math.sqrt(math.prod(shape[1:]))


def write_published_files(
    directory: Path,
    config: HalloLiveConfig,
    *,
    seed: int = 0,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write every file that a call needs.

    Args:
        dtype: of the transformer and the text encoder, which are published in bfloat16; the others always are in float32.
    """
    cells = config.geometry.patch_cells
    with torch.device("meta"):
        dit = to_published(DualStreamTransformer(config.dit, cells).state_dict(), cells)
    files: list[tuple[str, Shapes, torch.dtype]] = [
        (GENERATOR, {f"model.{name}": tuple(tensor.shape) for name, tensor in dit.items()}, dtype),
        (TEXT_ENCODER, umt5_shapes(config.text), dtype),
        (VIDEO_VAE, wan_shapes(config.video_vae), torch.float32),
        (AUDIO_VAE, mmaudio_vae_shapes(config.audio_vae), torch.float32),
        (VOCODER, bigvgan_shapes(config.vocoder), torch.float32),
    ]

    def write(number: int) -> None:
        name, shapes, kind = files[number]
        tensors = Dice(seed + number, device or torch.device("cpu"))(shapes, kind)
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"generator": tensors} if name == VOCODER else tensors, path)

    _write_tokenizer(directory / TOKENIZER)
    # Side by side, and without checksums, which nobody reads: they take longer than the writing.
    checksums = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        with ThreadPoolExecutor() as threads:
            list(threads.map(write, range(len(files))))
    finally:
        torch.serialization.set_crc32_options(checksums)


def _write_tokenizer(directory: Path) -> None:
    """A tokenizer of the published kind over letters, as no vocabulary is at hand."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), *((letter, -3.0) for letter in ("\u2581", *letters))]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))


def write_config(path: Path, config: HalloLiveConfig) -> None:
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
