"""A checkpoint is a directory: ``config.yaml``, ``words.txt``, ``card.md`` and one ``.safetensors`` file a network.

Loading is strict. What is missing, damaged or foreign is named.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from model.config import ModelConfig, load_yaml
from model.dit.transformer import DualStreamTransformer
from model.errors import CheckpointError
from model.geometry import Geometry
from model.text.encoder import TextEncoder
from model.text.tokenizer import CaptionTokenizer
from model.vae.audio import AudioVAE
from model.vae.video import VideoVAE
from model.weight_files import fill, read_tensors

POCKET_DIR = Path(__file__).parent / "weights" / "pocket"


@dataclass(frozen=True)
class Weights:
    """One loaded model: immutable, shared by all streams.

    ``digest`` names the exact files that it came from.
    """

    config: ModelConfig
    geometry: Geometry
    tokenizer: CaptionTokenizer
    dit: DualStreamTransformer
    text: TextEncoder
    video_vae: VideoVAE
    audio_vae: AudioVAE
    digest: str


def read_weights(directory: Path) -> Weights:
    """Load a checkpoint for use: all networks in float32, in evaluation mode. Encoders of the VAEs are not part of it.

    Raises:
        CheckpointError: a file is missing, damaged or does not fit the config; ConfigError: the config is wrong.
    """
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such checkpoint directory. Name one with config.yaml and *.safetensors in it")
    config = load_yaml(directory / "config.yaml", ModelConfig)
    geometry = config.geometry.build()
    words = directory / "words.txt"
    if not words.is_file():
        raise CheckpointError(f"{words} is missing: the checkpoint is incomplete, fetch it again")
    digest = hashlib.sha256((directory / "config.yaml").read_bytes() + words.read_bytes())
    dit, text = DualStreamTransformer(config.dit, config.geometry.patch_cells), TextEncoder(config.text)
    video_vae, audio_vae = VideoVAE(config.video_vae), AudioVAE(config.audio_vae, geometry.sample_rate_hz)
    del video_vae.encoder, audio_vae.encoder
    for name, module in (("dit", dit), ("text", text), ("video_vae", video_vae), ("audio_vae", audio_vae)):
        digest.update(_load(directory / f"{name}.safetensors", module))
        module.requires_grad_(False).eval()
    tokenizer = CaptionTokenizer(words.read_text(encoding="utf-8").split(), config.text.max_words)
    if tokenizer.size > config.text.num_words:
        raise CheckpointError(
            f"{words} has {tokenizer.size} words, config.yaml allows {config.text.num_words}: the files do not belong together"
        )
    return Weights(config, geometry, tokenizer, dit, text, video_vae, audio_vae, digest.hexdigest())


def _load(path: Path, module: nn.Module) -> bytes:
    """Fill ``module`` from ``path``; returns a digest of the file."""
    fill(module, read_tensors(path), path, dtype=torch.float32)
    return hashlib.sha256(path.read_bytes()).digest()
