"""The published text encoder against its stored numbers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.adapters.umt5 import load_umt5
from model.config import UMT5Config
from model.text.umt5 import clean, encode
from testkit.golden import Fixture


def check_umt5(fixture: Fixture) -> None:
    config = fixture.meta["config"]
    ours = UMT5Config(
        vocab_size=config["vocab"],
        dim=config["dim"],
        attention_dim=config["dim_attn"],
        ffn_dim=config["dim_ffn"],
        num_heads=config["num_heads"],
        num_layers=config["num_layers"],
        num_buckets=config["num_buckets"],
        max_distance=config["hf"]["relative_attention_max_distance"],
        text_len=config["published"]["text_len"],
    )
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "encoder.pth"
        torch.save(fixture.state_dict(), path)
        encoder = load_umt5(path, ours)
        _check_outputs(fixture, encoder, ours)
    for case in fixture.meta["text_clean"]:
        assert clean(case["in"]) == case["out"]


def _check_outputs(fixture: Fixture, encoder: Any, config: UMT5Config) -> None:
    stored = fixture.tensors
    ids, mask = stored["in.ids"], stored["in.mask"]
    conditioning = encode(encoder, ids, mask, config.text_len)
    assert conditioning.shape == (len(ids), config.text_len, config.dim)
    assert not conditioning[:, ids.shape[1] :].any()
    for name, expected in stored.items():
        if name.startswith("in.") or name == "bucket.relative_position":
            continue
        fixture.close(_actual(name, expected, encoder, stored, conditioning), name)
    # The wrapper encodes no more filling than it has to; that must not change anything.
    for row, length in enumerate(fixture.meta["lengths"]):
        alone = encode(encoder, ids[row : row + 1, :length], mask[row : row + 1, :length], config.text_len)
        torch.testing.assert_close(alone[0], conditioning[row], **fixture.meta["tolerance_fp32"])


def _actual(name: str, expected: Tensor, encoder: Any, stored: dict[str, Tensor], conditioning: Tensor) -> Tensor:
    """What we compute for a stored output."""
    ids, mask = stored["in.ids"], stored["in.mask"]
    if name == "bucket.index":
        return encoder.encoder.block[0].layer[0].SelfAttention._relative_position_bucket(stored["bucket.relative_position"])
    if name.startswith("out.position_bias_block"):
        block = int(name.removeprefix("out.position_bias_block"))
        return encoder.encoder.block[block].layer[0].SelfAttention.compute_bias(*expected.shape[-2:])
    if name == "out.hidden_zeroed":
        return conditioning[:, : ids.shape[1]]
    if name == "out.hidden":
        return encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    if name.startswith("out.hidden_nomask_first"):
        return encoder(input_ids=ids[:, : expected.shape[1]]).last_hidden_state
    raise AssertionError(f"{name} is stored, but not checked")
