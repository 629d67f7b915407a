"""A network small enough for tests, with random weights that are far from zero everywhere, and its checkpoint on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from model.checkpoint import Weights, read_weights
from model.chunk import AVChunk, StreamSettings
from model.config import ModelConfig
from model.dit.transformer import DualStreamTransformer
from model.liveliness import CONTROLS
from model.pocket import Pocket, PocketStream
from model.text.encoder import TextEncoder
from model.text.phonemes import NUM_IDS
from model.torch_runtime import TorchRuntime
from model.vae.audio import AudioVAE
from model.vae.video import VideoVAE

torch.set_num_threads(1)  # tensors this small gain nothing from more, and lose much where cores are busy

WORDS = ("man", "woman", "red", "office", "deep", "warm", "voice")
MAN = StreamSettings("A man in an office.", "a deep voice", seed=1)
WOMAN = StreamSettings("A woman in red.", "a warm voice", seed=2)


def tiny_config(**sampling: Any) -> dict[str, Any]:
    """As ``config.yaml`` holds it: 8 kHz, 96 x 64 px, blocks of 2 video latents (12 tokens) and 8 audio latents."""
    return {
        "name": "tiny",
        "geometry": {
            "fps": 25,
            "sample_rate_hz": 8000,
            "height_px": 64,
            "width_px": 96,
            "spatial_stride_px": 16,
            "temporal_stride_frames": 4,
            "first_latent_frames": 4,
            "patch_cells": 2,
            "audio_latent_samples": 320,
            "block_video_latents": 2,
        },
        "dit": {
            "num_layers": 2,
            "text_dim": 24,
            "freq_dim": 16,
            "rope_theta": 400.0,
            "aligned_text": True,
            "video": {
                "dim": 48,
                "ffn_dim": 64,
                "num_heads": 2,
                "latent_channels": 4,
                "time_scale": 4.0,
                "time_offset": 1.5,
            },
            "audio": {"dim": 72, "ffn_dim": 64, "num_heads": 3, "latent_channels": 5},
        },
        "text": {
            "dim": 24,
            "num_phonemes": NUM_IDS,
            "num_words": len(WORDS) + 2,
            "num_phoneme_layers": 2,
            "num_scene_layers": 1,
            "num_scene_tokens": 3,
            "max_words": 12,
            "max_phonemes": 64,
            "past_s": 0.64,
            "future_s": 0.96,
        },
        "video_vae": {"latent_channels": 4, "encoder_widths": [4, 4, 8, 8], "decoder_widths": [4, 6, 8, 12]},
        "audio_vae": {
            "latent_channels": 5,
            "num_mels": 16,
            "hop_samples": 160,
            "fft_samples": 640,
            "encoder_dim": 8,
            "decoder_dim": 16,
            "decoder_ffn_dim": 24,
            "num_latent_blocks": 1,
            "num_frame_blocks": 1,
        },
        "sampling": {"timesteps": [1.0, 0.5], "window_blocks": 3, "sink": True, **sampling},
    }


def tiny_model(*, num_layers: int = 2, future_audio_latents: int = 0, **sampling: Any) -> ModelConfig:
    raw = tiny_config(**sampling)
    raw["dit"] |= {"num_layers": num_layers, "future_audio_latents": future_audio_latents}
    return ModelConfig.model_validate(raw)


def randomise(module: nn.Module, seed: int = 0) -> None:
    """What starts at zero, as the heads do, would hide every leak."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def tiny_networks(config: ModelConfig) -> dict[str, nn.Module]:
    """By the names of their files."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks: dict[str, nn.Module] = {
            "dit": DualStreamTransformer(config.dit, config.geometry.patch_cells),
            "text": TextEncoder(config.text),
            "video_vae": VideoVAE(config.video_vae),
            "audio_vae": AudioVAE(config.audio_vae, config.geometry.sample_rate_hz),
        }
    for seed, network in enumerate(networks.values()):
        randomise(network, seed)
        network.requires_grad_(False).eval()
    return networks


def other_config() -> dict[str, Any]:
    """The same with all that a network may have and the shipped one has not."""
    raw = tiny_config(clean_pass=False)
    raw["geometry"]["patch_cells"] = [2, 3]
    raw["dit"] |= {"output": "clean", "grid": [2, 2], "control_channels": 4 * len(CONTROLS)}
    raw["video_vae"] |= {"decoder_widths": [6, 8, 12], "head_scale": 2}
    return raw


def write_checkpoint(directory: Path, raw: dict[str, Any] | None = None, **sampling: Any) -> Path:
    """A complete checkpoint of random weights; ``raw`` in place of the tiny config."""
    directory.mkdir(parents=True, exist_ok=True)
    raw = raw or tiny_config(**sampling)
    (directory / "config.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    (directory / "words.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    for name, network in tiny_networks(ModelConfig.model_validate(raw)).items():
        tensors = {key: value for key, value in network.state_dict().items() if not key.startswith("encoder.")}
        save_file(tensors, directory / f"{name}.safetensors")
    return directory


def tiny_weights(directory: Path, raw: dict[str, Any] | None = None, **sampling: Any) -> Weights:
    return read_weights(write_checkpoint(directory, raw, **sampling))


def open_pocket(weights: Weights) -> Pocket:
    return Pocket(weights, TorchRuntime(weights, torch.device("cpu")))


def next_chunk(stream: PocketStream) -> AVChunk:
    """Steps until a block is done."""
    for _ in range(20):
        chunk = stream.step()
        if chunk is not None:
            return chunk
    raise AssertionError("no chunk in 20 steps")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
