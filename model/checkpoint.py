"""A checkpoint with its weights, see :mod:`model.description`.

Loading is strict: what is missing, damaged or foreign is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.config import ModelConfig
from model.description import NETWORKS, RANGES, Description, read_description
from model.dit.transformer import DualStreamTransformer
from model.geometry import Geometry
from model.text.encoder import TextEncoder
from model.vae.audio import AudioVAE
from model.vae.video import VideoVAE
from model.weight_files import fill, read_tensors

POCKET_DIR = Path(__file__).parent / "weights" / "pocket"


@dataclass(frozen=True)
class Weights(Description):
    """A model with its networks.

    ``ranges`` are what :func:`model.quantisation.quantise` takes; none where a checkpoint has none.
    """

    dit: DualStreamTransformer
    text: TextEncoder
    video_vae: VideoVAE
    audio_vae: AudioVAE
    ranges: tuple[Tensor, ...] = ()


def make_networks(config: ModelConfig, geometry: Geometry) -> tuple[DualStreamTransformer, TextEncoder, VideoVAE, AudioVAE]:
    """Untrained networks in the order of :data:`NETWORKS`. Encoders of the VAEs are not part of a checkpoint."""
    video_vae, audio_vae = VideoVAE(config.video_vae), AudioVAE(config.audio_vae, geometry.sample_rate_hz)
    del video_vae.encoder, audio_vae.encoder
    return DualStreamTransformer(config.dit, config.geometry.patch_cells), TextEncoder(config.text), video_vae, audio_vae


def read_weights(directory: Path) -> Weights:
    """Load a checkpoint for use: all networks in float32, in evaluation mode.

    Raises:
        CheckpointError: a file is missing, damaged or does not fit the config; ConfigError: the config is wrong.
    """
    found = read_description(directory)
    networks = make_networks(found.config, found.geometry)
    for name, network in zip(NETWORKS, networks, strict=True):
        path = directory / f"{name}.safetensors"
        fill(network, read_tensors(path), path, dtype=torch.float32)
        network.requires_grad_(False).eval()
    ranges = read_tensors(directory / RANGES) if found.has_ranges else {}
    in_order = tuple(ranges[name] for name in sorted(ranges))
    return Weights(found.config, found.geometry, found.tokenizer, found.digest, found.has_ranges, *networks, in_order)
