"""Ovi's names of the dual-stream transformer, which Hallo-Live keeps: they end here.

Published tower by tower, ours layer by layer:

    video_model.patch_embedding.weight [D, C, 1, p, p]   video_ends.stem.weight [D, p * p * C]
    audio_model.patch_embedding.2.w1.weight              audio_ends.stem.w1.weight
    audio_model.blocks.7.modulation.modulation           layers.7.audio.modulation
    video_model.head.head.weight                         video_ends.head.weight

All other names differ only in the order of their parts; the file of the bidirectional model has no prefix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from model.config import DiTConfig
from model.dit.transformer import DualStreamTransformer
from model.errors import CheckpointError
from model.geometry import patch_shape
from model.weight_files import fill, read_tensors

_ENDS = {
    "stem.conv": "patch_embedding.0",
    "stem.w1": "patch_embedding.2.w1",
    "stem.w2": "patch_embedding.2.w2",
    "stem.w3": "patch_embedding.2.w3",
    "stem": "patch_embedding",
    "head": "head.head",
}
"""Modules outside the layers whose published name is another."""
_MODULATION = {"layers": "modulation.modulation", "ends": "head.modulation"}


def published_name(name: str) -> str:
    """The published name of one of our parameters."""
    if layer := re.fullmatch(r"layers\.(\d+)\.(video|audio)\.(.+)", name):
        number, tower, rest = layer.groups()
        return f"{tower}_model.blocks.{number}.{_MODULATION['layers'] if rest == 'modulation' else rest}"
    ends = re.fullmatch(r"(video|audio)_ends\.(.+)", name)
    assert ends is not None, name
    tower, rest = ends.groups()
    module, _, parameter = rest.rpartition(".")
    return f"{tower}_model.{f'{_ENDS.get(module, module)}.{parameter}' if module else _MODULATION['ends']}"


def to_published(tensors: Mapping[str, Tensor], patch_cells: int | tuple[int, int]) -> dict[str, Tensor]:
    """Parameters, or their gradients, under their published names and in the published shapes; views."""
    return {published_name(name): _patches_outside(name, tensor, patch_cells) for name, tensor in tensors.items()}


def _patches_outside(name: str, tensor: Tensor, patch_cells: int | tuple[int, int]) -> Tensor:
    """[D, p * p * C] -> [D, C, 1, p, p] if it is the video stem's weight."""
    if name != "video_ends.stem.weight":
        return tensor
    return tensor.unflatten(1, (*patch_shape(patch_cells), -1)).permute(0, 3, 1, 2).unsqueeze(2)


def _patches_inside(name: str, tensor: Tensor) -> Tensor:
    return tensor.squeeze(2).permute(0, 2, 3, 1).flatten(1) if name == "video_ends.stem.weight" else tensor


def build(
    config: DiTConfig,
    patch_cells: int | tuple[int, int],
    tensors: Mapping[str, Tensor],
    path: Path,
    *,
    expected: str,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> DualStreamTransformer:
    """A transformer of these published tensors. On the CPU, and without ``dtype``, nothing but the video stem is copied.

    Args:
        tensors: under bare published names, as :func:`to_published` makes them.
        path: where they came from; ``expected`` says in words what was expected there. For messages.
        device: where it shall compute; the CPU if None.
        dtype: what it shall compute in; as the file has it if None.

    Raises:
        CheckpointError: a name is missing or unknown, or a shape differs; names and shapes are the published ones.
    """
    with torch.device("meta"):
        dit = DualStreamTransformer(config, patch_cells)
    ours = {published_name(name): name for name in dit.state_dict()}
    wanted = to_published(dit.state_dict(), patch_cells)
    missing, unexpected = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or unexpected:
        first_missing, first_unexpected = (names[0] if names else "none" for names in (missing, unexpected))
        raise CheckpointError(
            f"{path} is not {expected}: {len(missing)} of {len(wanted)} keys missing (first: {first_missing}), "
            f"{len(unexpected)} unexpected (first: {first_unexpected})"
        )
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path} is not {expected}: {name} is no tensor but a {type(tensor).__name__}")
        shape, asked = list(tensor.shape), list(wanted[name].shape)
        if shape != asked:
            raise CheckpointError(f"{path} is not {expected}: {name} has shape {shape}, the config asks for {asked}")
    fill(dit, {ours[name]: _patches_inside(ours[name], tensor) for name, tensor in tensors.items()}, path, dtype=dtype)
    dit.requires_grad_(False).eval()
    return dit if device is None else dit.to(device)


def load_teacher(
    path: Path,
    config: DiTConfig,
    patch_cells: int | tuple[int, int],
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> DualStreamTransformer:
    """The bidirectional model that Hallo-Live learned from, ``Ovi/model.safetensors``; see :func:`build`."""
    expected = "the bidirectional Ovi model that was expected here (Ovi/model.safetensors)"
    return build(config, patch_cells, read_tensors(path), path, expected=expected, device=device, dtype=dtype)
