"""Hallo-Live's generator file: which of its entries, and without the prefixes that trainers leave behind.

The names themselves are Ovi's, see :mod:`model.adapters.ovi`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.adapters import ovi
from model.config import DiTConfig
from model.dit.transformer import DualStreamTransformer
from model.errors import CheckpointError
from model.weight_files import read_tensors

_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
_PREFIX = "model."
EXPECTED = "the Hallo-Live generator that was expected here (Hallo-Live/hallolive_dit.pt, or a trainer's model.pt)"


def load_generator(
    path: Path,
    config: DiTConfig,
    patch_cells: int | tuple[int, int],
    *,
    ema: bool = True,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> DualStreamTransformer:
    """The generator of a ``.pt`` or ``.safetensors`` file, mapped rather than read; see :func:`model.adapters.ovi.build`.

    Args:
        ema: of a trainer's checkpoint take the averaged weights where it has them.
    """
    entry = _entry(read_tensors(path), ("generator_ema", "generator") if ema else ("generator",), path)
    return ovi.build(config, patch_cells, bare_names(entry, path), path, expected=EXPECTED, device=device, dtype=dtype)


def load_critic(
    path: Path,
    config: DiTConfig,
    patch_cells: int | tuple[int, int],
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> DualStreamTransformer:
    """The critic of a second-stage trainer's checkpoint.

    Raises:
        CheckpointError: also where the checkpoint has none.
    """
    found = read_tensors(path)
    if "critic" not in found:
        raise CheckpointError(f"{path} has no critic: name a checkpoint of the second training stage (model.pt)")
    expected = "a trainer's checkpoint with a critic (model.pt)"
    entry = bare_names(_entry(found, ("critic",), path), path)
    return ovi.build(config, patch_cells, entry, path, expected=expected, device=device, dtype=dtype)


def _entry(found: dict[str, Any], names: tuple[str, ...], path: Path) -> dict[str, Any]:
    """The first of ``names`` that the file has, or the whole file."""
    entry = next((found[name] for name in names if name in found), found)
    if not isinstance(entry, dict):
        raise CheckpointError(f"{path} is not {EXPECTED}: where named tensors should be it holds a {type(entry).__name__}")
    return entry


def bare_names(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """``tensors`` without what FSDP, activation checkpointing and the compiler put into names, nor the leading ``model.``.

    Raises:
        CheckpointError: two names become one.
    """
    bare: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = key
        for wrapper in _WRAPPERS:
            name = name.replace(wrapper, "")
        name = name.removeprefix(_PREFIX)
        if name in bare:
            raise CheckpointError(f"{path} holds {name} twice, once as {key}: fetch it again")
        bare[name] = tensor
    return bare
