"""VideoReward's published file: a Qwen2-VL that was tuned with adapters (LoRA), as PEFT names it, merged into plain weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from model.errors import CheckpointError

HEAD = "rm_head.weight"
_DOWN, _UP = ".lora_A.default.weight", ".lora_B.default.weight"


def to_plain(tensors: Mapping[str, Tensor], lora: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Weights of transformers' ``Qwen2VLModel``, and of the head as :data:`HEAD`.

    Args:
        tensors: as published. Names of transformers before and after 4.52 are known.
        lora: the file's ``peft_lora_config``: what adapters are scaled by.
        path: where they came from, for messages.

    Raises:
        CheckpointError: an adapter of another kind, or one without what it adapts.
    """
    rank, alpha = float(lora.get("lora_r", 16)), float(lora.get("lora_alpha", 32))
    scale = alpha / (math.sqrt(rank) if lora.get("use_rslora") else rank)
    plain: dict[str, Tensor] = {}
    adapters: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        bare = name.removeprefix("base_model.model.")
        if ".original_module." in bare:
            continue  # what was trained whole is beside it
        bare = bare.replace(".modules_to_save.default.", ".").replace(".base_layer.", ".")
        if "lora_" in bare:
            adapters[bare] = tensor
        elif (own := _own_name(bare)) is not None:
            plain[own] = tensor
    for name, up in adapters.items():
        if name.endswith(_DOWN):
            continue
        module = name.removesuffix(_UP)
        down, adapted = adapters.get(module + _DOWN), _own_name(f"{module}.weight")
        if not name.endswith(_UP) or down is None or adapted not in plain:
            raise CheckpointError(f"{path}: {name} is an adapter of another kind than those of linear layers")
        weight = plain[adapted]
        plain[adapted] = (weight.float() + scale * (up.float() @ down.float())).to(weight.dtype)
    return plain


def _own_name(name: str) -> str | None:
    """Of ``Qwen2VLModel``; None for what only a model that writes text has."""
    if name.startswith("lm_head."):
        return None
    bare = name.removeprefix("model.")
    if bare.startswith(("embed_tokens.", "layers.", "norm.")):
        return f"language_model.{bare}"
    return bare
