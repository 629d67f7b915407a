"""Files of named tensors, and filling a module from them: strict, and without a second copy in memory.

Matrices can be stored in 8 bits, one scale a row (:func:`in_8_bits`); whoever reads them gets numbers again.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from model.errors import CheckpointError

SCALE = ":scale"
"""Ends the name of a stored matrix's scales."""
_LEAST_ROW = 64


def in_8_bits(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors for storing: matrices as int8 [rows, ...] with a float32 scale a row beside each, all others as they are.

    A row's largest value becomes 127, so none is off by more than 1/254 of it. Rows of fewer than 64 values, which would save
    little, and what is no matrix of floating-point numbers stay as they are.
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.ndim < 2 or not tensor.is_floating_point() or tensor[0].numel() < _LEAST_ROW:
            stored[name] = tensor
            continue
        rows = tensor.float().flatten(1)
        scale = rows.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        stored[name] = (rows / scale[:, None]).round().to(torch.int8).view(tensor.shape).contiguous()
        stored[name + SCALE] = scale
    return stored


def _as_numbers(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undoes :func:`in_8_bits`, to float32.

    Raises:
        ValueError: a scale belongs to no matrix of as many rows.
    """
    scales = {name.removesuffix(SCALE): stored[name] for name in stored if name.endswith(SCALE)}
    tensors = {name: x for name, x in stored.items() if not name.endswith(SCALE)}
    for name, scale in scales.items():
        if name not in tensors or tensors[name].shape[:1] != scale.shape:
            raise ValueError(f"the scales of {name} belong to no matrix of {scale.numel()} rows")
        matrix = tensors[name]
        tensors[name] = matrix.float() * scale.view(-1, *[1] * (matrix.ndim - 1))
    return tensors


def read_tensors(path: Path) -> dict[str, Any]:
    """What a ``.safetensors`` or a torch file holds, mapped into memory rather than read, unless it is stored in 8 bits.

    A torch file's dictionary is returned as it is: training checkpoints nest theirs.

    Raises:
        CheckpointError: no such file; damaged or truncated; not a dictionary.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: the checkpoint is incomplete, fetch it again")
    try:
        if path.suffix == ".safetensors":
            return _as_numbers(load_file(path))
        found = torch.load(path, "cpu", weights_only=True, mmap=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is damaged or no file of weights ({reason}): fetch it again") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, not named tensors: is it the right file?")
    return found


def fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, *, dtype: torch.dtype | None = None) -> None:
    """Put ``tensors`` in place of the module's parameters and buffers, which may be on the meta device.

    Args:
        tensors: exactly the module's ``state_dict`` by name and shape. They are kept, not copied, unless ``dtype`` changes them.
        path: where they came from, for messages.
        dtype: of the floating-point ones afterwards; None keeps each as it is.

    Raises:
        CheckpointError: names missing and unexpected, or a shape that differs.
    """
    wanted = module.state_dict()
    missing, unexpected = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or unexpected:
        first_missing, first_unexpected = (names[0] if names else "none" for names in (missing, unexpected))
        raise CheckpointError(
            f"{path} does not fit this model: {len(missing)} keys missing (first: {first_missing}), "
            f"{len(unexpected)} unexpected (first: {first_unexpected})"
        )
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{path}: {name} has shape {list(tensor.shape)}, the config asks for {list(wanted[name].shape)}"
            )
    if dtype is not None:
        tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
    module.load_state_dict(dict(tensors), assign=True)
