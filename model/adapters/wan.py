"""The published video VAE's file, ``Wan2.2_VAE.pth``: its names end here.

The file holds both halves, 704.7 M parameters in float32 (2.82 GB). Each half is loaded by itself, and only its part is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from model.config import WanVAEConfig
from model.errors import CheckpointError
from model.vae.wan import WanDecoder, WanEncoder
from model.weight_files import fill, read_tensors

WAN22 = WanVAEConfig(
    latent_channels=48,
    encoder_widths=(160, 320, 640, 640),
    decoder_widths=(256, 512, 1024, 1024),
    num_blocks=2,
    halves_time=(False, True, True),
)
"""The published size."""

LATENT_MEAN = (
    *(-0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891),
    *(0.157, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502),
    *(-0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.123, -0.0313, -0.1649, 0.0117, 0.0723),
    *(-0.2839, -0.2083, -0.052, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667),
)
LATENT_STD = (
    *(0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.499, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901),
    *(0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659),
    *(0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944),
    *(0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.06, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744),
)
"""Of each latent channel. The file does not hold them."""

_STATISTICS = ("latent_mean", "latent_inverse_std")
_RENAMED = (
    (r"^project\.", "conv2."),
    (r"^posterior\.", "conv1."),
    (r"^stem\.conv\.", "{half}.conv1."),
    (r"^norm\.gain$", "{half}.head.0.gamma"),
    (r"^head\.conv\.", "{half}.head.2."),
    (r"^middle\.before\.", "{half}.middle.0."),
    (r"^middle\.attention\.", "{half}.middle.1."),
    (r"^middle\.after\.", "{half}.middle.2."),
    (r"^stages\.(\d+)\.blocks\.(\d+)\.", r"{half}.{way}.\1.{way}.\2."),
    (r"^stages\.(\d+)\.(?:up|down)\.", r"{half}.{way}.\1.{way}.{step}."),
    (r"\.norm1\.gain$", ".residual.0.gamma"),
    (r"\.conv1\.conv\.", ".residual.2."),
    (r"\.norm2\.gain$", ".residual.3.gamma"),
    (r"\.conv2\.conv\.", ".residual.6."),
    (r"\.norm\.gain$", ".norm.gamma"),
    (r"\.qkv\.", ".to_qkv."),
    (r"\.out\.", ".proj."),
    (r"\.space\.", ".resample.1."),
    (r"\.time\.(?:conv\.)?", ".time_conv."),
)
"""From our names to the published ones, applied in this order."""

M = TypeVar("M", WanEncoder, WanDecoder)


def load_wan_encoder(
    path: Path, config: WanVAEConfig = WAN22, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> WanEncoder:
    """As :func:`load_wan_decoder`, pictures to latents."""
    with torch.device("meta"):
        encoder = WanEncoder(config)
    return _load(encoder, path, device, dtype)


def load_wan_decoder(
    path: Path, config: WanVAEConfig = WAN22, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> WanDecoder:
    """Build the decoder from the published file, which is mapped, not read: in float32 on the CPU nothing is copied.

    Args:
        device: where it shall compute; the CPU if None.
        dtype: of the weights; as the file has them if None.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else; the message has the names that the file uses.
    """
    with torch.device("meta"):
        decoder = WanDecoder(config)
    return _load(decoder, path, device, dtype)


def published_names(module: WanEncoder | WanDecoder) -> dict[str, str]:
    """Name in ``Wan2.2_VAE.pth`` -> our name, of everything that the file holds for this half."""
    if isinstance(module, WanEncoder):
        half, way, step = "encoder", "downsamples", module.config.num_blocks
    else:
        half, way, step = "decoder", "upsamples", module.config.num_blocks + 1
    names = {}
    for ours in module.state_dict():
        published = ours
        for pattern, replacement in _RENAMED:
            published = re.sub(pattern, replacement, published)
        if ours not in _STATISTICS:
            names[published.format(half=half, way=way, step=step)] = ours
    return names


def wan_shapes(config: WanVAEConfig) -> dict[str, tuple[int, ...]]:
    """Every published name and shape of a VAE of this config, both halves."""
    shapes: dict[str, tuple[int, ...]] = {}
    with torch.device("meta"):
        halves = WanEncoder(config), WanDecoder(config)
    for half in halves:
        ours = half.state_dict()
        shapes |= {name: tuple(_published_shape(name, ours[mine].shape)) for name, mine in published_names(half).items()}
    return shapes


def _load(module: M, path: Path, device: torch.device | None, dtype: torch.dtype | None) -> M:
    fill_wan(module, read_tensors(path), path, dtype=dtype)
    return module if device is None else module.to(device)


def fill_wan(module: WanEncoder | WanDecoder, found: Mapping[str, Any], path: Path, *, dtype: torch.dtype | None = None) -> None:
    """Put its half of a published file's tensors into ``module``, which may be on the meta device.

    Args:
        found: all that the file holds, or what it holds of this half.
        path: of the file, for messages.
        dtype: of the weights afterwards; None keeps the file's.

    Raises:
        CheckpointError: names missing or unexpected, or a shape that differs.
    """
    names = published_names(module)
    wanted = module.state_dict()
    half, other = ("encoder", ("decoder.", "conv2.")) if isinstance(module, WanEncoder) else ("decoder", ("encoder.", "conv1."))
    missing = [name for name in names if name not in found]
    unexpected = [name for name in found if name not in names and not str(name).startswith(other)]
    if missing or unexpected:
        raise CheckpointError(
            f"{path} is not the video VAE that was expected here (Wan2.2_VAE.pth). Of the {half}'s {len(names)} keys, "
            f"{len(missing)} missing (first: {missing[0] if missing else 'none'}), {len(unexpected)} unexpected "
            f"(first: {unexpected[0] if unexpected else 'none'})"
        )
    tensors = {}
    for published, ours in names.items():
        tensor, shape = found[published], _published_shape(published, wanted[ours].shape)
        if not isinstance(tensor, Tensor) or tensor.shape != shape:
            holds = f"shape {list(tensor.shape)}" if isinstance(tensor, Tensor) else f"a {type(tensor).__name__}"
            raise CheckpointError(f"{path}: {published} has {holds}, the config asks for {list(shape)}")
        tensors[ours] = tensor.view(wanted[ours].shape)
    for name, value in zip(_STATISTICS, _statistics(), strict=True):
        tensors[name] = value
    fill(module, tensors, path, dtype=dtype)
    module.requires_grad_(False).eval()


def _statistics() -> tuple[Tensor, Tensor]:
    return torch.tensor(LATENT_MEAN), 1 / torch.tensor(LATENT_STD)


def _published_shape(name: str, shape: torch.Size) -> torch.Size:
    """The file keeps gains and linear layers as if they were convolutions over a picture or a clip."""
    if name.endswith(".gamma"):
        return torch.Size((*shape, *[1] * (2 if name.endswith(".norm.gamma") else 3)))
    if name.endswith((".to_qkv.weight", ".proj.weight")):
        return torch.Size((*shape, 1, 1))
    return shape
