"""Where pocket's networks come from: a checkpoint, another run, or a file of weights that a run exported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.errors import CheckpointError
from model.training.clips import wait_for
from model.vae.audio import AudioVAE
from model.vae.video import VideoVAE
from model.weight_files import fill, read_tensors

ENCODER_FILE = "encoder.safetensors"
"""In the directory of a VAE's run as soon as its encoder is frozen: the encoder, and the statistics of its latents."""
STATISTICS = ("latent_mean", "latent_std")
Kind = Literal["video", "audio"]


def encoder_file(checkpoint: Path, kind: Kind) -> Path:
    """Where the encoder of a checkpoint's VAE lies."""
    return checkpoint.with_name(f"{checkpoint.name}_encoders") / f"{kind}.safetensors"


def exported(run: Path, *learners: str) -> Path:
    """The newest weights that a run exported of the first of ``learners`` that it has, averaged ones first.

    Raises:
        CheckpointError: there are none.
    """
    steps = sorted((run / "weights").glob("step_*"), reverse=True)
    for directory in steps:
        for name in (f"{learner}{ending}" for learner in learners for ending in ("_ema", "")):
            if (directory / f"{name}.safetensors").is_file():
                return directory / f"{name}.safetensors"
    raise CheckpointError(f"{run} is neither a checkpoint nor a run that has exported weights of {' or '.join(learners)}")


def read_speaker(place: Path) -> tuple[dict[str, Tensor], Path]:
    """Transformer and text side, their names beginning with ``dit.`` and ``text.``; and where they came from."""
    if (place / "dit.safetensors").is_file():
        parts = {name: read_tensors(place / f"{name}.safetensors") for name in ("dit", "text")}
        return {f"{name}.{key}": x for name, tensors in parts.items() for key, x in tensors.items()}, place
    path = place if place.is_file() else exported(place, "student", "generator")
    return {name: x for name, x in read_tensors(path).items() if name.startswith(("dit.", "text."))}, path


def make_vae(config: ModelConfig, kind: Kind) -> VideoVAE | AudioVAE:
    """Untrained."""
    if kind == "video":
        return VideoVAE(config.video_vae)
    return AudioVAE(config.audio_vae, config.geometry.sample_rate_hz)


def take_vae(vae: VideoVAE | AudioVAE, place: Path, kind: Kind) -> bool:
    """Give a VAE the encoder, and the statistics of latents, of a checkpoint or of a run; its decoder too where that fits.

    Returns:
        Whether the decoder did.

    Raises:
        CheckpointError: a file is missing, or the encoder does not fit.
    """
    file = place / f"{kind}_vae.safetensors"
    if file.is_file():
        rest, path = read_tensors(file), encoder_file(place, kind)
        has_encoder = any(name.startswith("encoder.") for name in rest)  # as one that was never parted from its decoder
        found = rest if has_encoder else read_tensors(path) | rest
        encoder = {name: x for name, x in found.items() if name in STATISTICS or name.startswith("encoder.")}
    else:
        path = place / ENCODER_FILE
        encoder, rest = read_tensors(path), read_tensors(exported(place, "vae"))
    own = vae.state_dict()
    wanted = {name: x for name, x in rest.items() if name not in encoder and not name.startswith("encoder.")}
    others = {name: x for name, x in own.items() if name not in STATISTICS and not name.startswith("encoder.")}
    fits = {name: x.shape for name, x in wanted.items()} == {name: x.shape for name, x in others.items()}
    fill(vae, encoder | (wanted if fits else others), path, dtype=torch.float32)
    return fits


def load_encoder(place: Path, kind: Kind, config: ModelConfig, device: torch.device) -> VideoVAE | AudioVAE:
    """A VAE for encoding: a checkpoint's, or of a run of its stage, which is waited for until its encoder is frozen."""
    vae = make_vae(config, kind)
    if (place / f"{kind}_vae.safetensors").is_file():
        take_vae(vae, place, kind)
    else:
        path = wait_for(place / ENCODER_FILE)
        own = {name: x for name, x in vae.state_dict().items() if name not in STATISTICS and not name.startswith("encoder.")}
        fill(vae, read_tensors(path) | own, path, dtype=torch.float32)
    return vae.to(device).requires_grad_(False).eval()


def encoder_tensors(vae: nn.Module) -> Mapping[str, Tensor]:
    """What :data:`ENCODER_FILE` holds."""
    return {name: x for name, x in vae.state_dict().items() if name in STATISTICS or name.startswith("encoder.")}
