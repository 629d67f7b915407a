"""What a checkpoint says of itself, weights aside: enough to serve where graphs of its networks were converted before.

A checkpoint is a directory: ``config.yaml``, ``words.txt``, ``card.md``, one ``.safetensors`` file a network, and :data:`RANGES`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from model.config import ModelConfig, load_yaml
from model.dit.history import HistoryShape
from model.errors import CheckpointError
from model.geometry import Geometry
from model.text.tokenizer import CaptionTokenizer

NETWORKS = ("dit", "text", "video_vae", "audio_vae")
"""Each has a file."""

RANGES = "ranges.safetensors"
"""What :mod:`model.quantisation` needs to know; where it is missing, nothing is computed in 8 bits."""


@dataclass(frozen=True)
class Description:
    """One model: immutable, shared by all streams.

    ``digest`` names the exact files that it came from; ``has_ranges`` says whether :data:`RANGES` is among them.
    """

    config: ModelConfig
    geometry: Geometry
    tokenizer: CaptionTokenizer
    digest: str
    has_ranges: bool

    @property
    def history_shape(self) -> HistoryShape:
        """Sizes of a stream's history."""
        tokens, sampling = self.geometry.tokens_per_video_latent, self.config.sampling
        return HistoryShape(
            self.config.dit,
            sampling.window_blocks - 1,
            tokens * self.geometry.block_video_latents,
            self.geometry.block_audio_latents,
            tokens if sampling.sink else 0,
        )

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """Of the unvoiced part of a block's voice: frames, bins, real and imaginary."""
        audio = self.config.audio_vae
        return self.geometry.block_samples // audio.hop_samples, audio.fft_samples // 2 + 1, 2


def read_description(directory: Path) -> Description:
    """Read all of a checkpoint but its weights.

    Raises:
        CheckpointError: a file is missing or does not fit the config; ConfigError: the config is wrong.
    """
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such checkpoint directory. Name one with config.yaml and *.safetensors in it")
    config = load_yaml(directory / "config.yaml", ModelConfig)
    words = directory / "words.txt"
    for path in (words, *(directory / f"{name}.safetensors" for name in NETWORKS)):
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: the checkpoint is incomplete, fetch it again")
    digest = hashlib.sha256((directory / "config.yaml").read_bytes() + words.read_bytes())
    files = [directory / f"{name}.safetensors" for name in NETWORKS]
    for path in [*files, *directory.glob(RANGES)]:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    tokenizer = CaptionTokenizer(words.read_text(encoding="utf-8").split(), config.text.max_words)
    if tokenizer.size > config.text.num_words:
        raise CheckpointError(
            f"{words} has {tokenizer.size} words, config.yaml allows {config.text.num_words}: the files do not belong together"
        )
    return Description(config, config.geometry.build(), tokenizer, digest.hexdigest(), (directory / RANGES).is_file())
