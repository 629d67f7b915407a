"""The published text encoder's file, ``models_t5_umt5-xxl-enc-bf16.pth``: its names end here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.config import UMT5Config
from model.errors import CheckpointError
from model.text.umt5 import build_umt5
from model.weight_files import fill, read_tensors

if TYPE_CHECKING:
    from transformers import UMT5EncoderModel

EMBEDDING, TIED_EMBEDDING = "shared.weight", "encoder.embed_tokens.weight"

_TOP = {EMBEDDING: "token_embedding.weight", "encoder.final_layer_norm.weight": "norm.weight"}
_BLOCK = {
    "layer.0.layer_norm": "norm1",
    "layer.0.SelfAttention.q": "attn.q",
    "layer.0.SelfAttention.k": "attn.k",
    "layer.0.SelfAttention.v": "attn.v",
    "layer.0.SelfAttention.o": "attn.o",
    "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
    "layer.1.layer_norm": "norm2",
    "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
    "layer.1.DenseReluDense.wi_1": "ffn.fc1",
    "layer.1.DenseReluDense.wo": "ffn.fc2",
}
"""From transformers' names to the published ones."""


def load_umt5(
    path: Path, config: UMT5Config, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> UMT5EncoderModel:
    """Build the encoder from its file, which is mapped, not read: on the CPU nothing is copied.

    Args:
        device: where it shall compute; the CPU if None.
        dtype: what it shall compute in; as the file has it if None.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else.
    """
    encoder = build_umt5(config)
    names = {_published(name): name for name in encoder.state_dict() if name != TIED_EMBEDDING}
    found: Mapping[str, Tensor] = read_tensors(path)
    missing, unexpected = sorted(names.keys() - found.keys()), sorted(found.keys() - names.keys())
    if missing or unexpected:
        raise CheckpointError(
            f"{path} is not the encoder of UMT5-XXL that was expected here (models_t5_umt5-xxl-enc-bf16.pth): "
            f"{len(missing)} of {len(names)} keys missing (first: {missing[0] if missing else 'none'}), "
            f"{len(unexpected)} unexpected (first: {unexpected[0] if unexpected else 'none'})"
        )
    tensors = {name: found[published] for published, name in names.items()}
    tensors[TIED_EMBEDDING] = tensors[EMBEDDING]
    fill(encoder, tensors, path, dtype=dtype)
    # One parameter again, not two over the same numbers: otherwise a move to another device would make two copies.
    encoder.encoder.embed_tokens.weight = encoder.shared.weight
    encoder.requires_grad_(False)
    if device is not None:
        torch.nn.Module.to(encoder, device)
    return encoder


def umt5_shapes(config: UMT5Config) -> dict[str, tuple[int, ...]]:
    """Every published name and shape of an encoder of this config."""
    tensors = build_umt5(config).state_dict()
    return {_published(name): tuple(tensor.shape) for name, tensor in tensors.items() if name != TIED_EMBEDDING}


def _published(name: str) -> str:
    """The published name of one of transformers' parameters."""
    if name in _TOP:
        return _TOP[name]
    match = re.fullmatch(r"encoder\.block\.(\d+)\.(.+)\.weight", name)
    assert match is not None, name
    return f"blocks.{match[1]}.{_BLOCK[match[2]]}.weight"
