"""The text encoder's published file: read in place, and refused where it is another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.adapters.umt5 import load_umt5
from model.config import UMT5Config
from model.errors import CheckpointError

CONFIG = UMT5Config(
    vocab_size=50, dim=16, attention_dim=24, ffn_dim=20, num_heads=4, num_layers=2, num_buckets=8, max_distance=16, text_len=12
)


def published(config: UMT5Config) -> dict[str, Tensor]:
    """Random numbers under the published names."""
    torch.manual_seed(0)
    d, a, f = config.dim, config.attention_dim, config.ffn_dim
    shapes: dict[str, tuple[int, ...]] = {"token_embedding.weight": (config.vocab_size, d), "norm.weight": (d,)}
    for index in range(config.num_layers):
        block = {
            "norm1": (d,),
            "attn.q": (a, d),
            "attn.k": (a, d),
            "attn.v": (a, d),
            "attn.o": (d, a),
            "norm2": (d,),
            "ffn.gate.0": (f, d),
            "ffn.fc1": (f, d),
            "ffn.fc2": (d, f),
            "pos_embedding.embedding": (config.num_buckets, config.num_heads),
        }
        shapes |= {f"blocks.{index}.{name}.weight": shape for name, shape in block.items()}
    return {name: torch.randn(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "models_t5_umt5-xxl-enc-bf16.pth"
    torch.save(published(CONFIG), path)
    return path


def test_every_number_arrives_once(path: Path) -> None:
    encoder, stored = load_umt5(path, CONFIG), published(CONFIG)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == sum(t.numel() for t in stored.values())
    assert {p.dtype for p in encoder.parameters()} == {torch.bfloat16}
    first = encoder.encoder.get_submodule("block.1.layer.1.DenseReluDense")
    assert torch.equal(first.get_parameter("wi_0.weight"), stored["blocks.1.ffn.gate.0.weight"])
    assert torch.equal(first.get_parameter("wi_1.weight"), stored["blocks.1.ffn.fc1.weight"])
    assert encoder.encoder.embed_tokens.weight is encoder.shared.weight
    ids = torch.tensor([[4, 5, 1]])
    assert encoder(input_ids=ids).last_hidden_state.isfinite().all()


def test_a_move_makes_one_embedding(path: Path) -> None:
    encoder = load_umt5(path, CONFIG, dtype=torch.float32).double()
    assert encoder.encoder.embed_tokens.weight is encoder.shared.weight
    assert encoder.shared.weight.dtype == torch.float64


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see what is mapped")
def test_on_the_cpu_nothing_is_copied(path: Path) -> None:
    encoder = load_umt5(path, CONFIG)
    starts = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if path.name in line]
    spans = [[int(edge, 16) for edge in line.split()[0].split("-")] for line in lines]
    assert all(any(low <= start < high for low, high in spans) for start in starts)


def test_another_file_is_refused_with_the_first_keys(path: Path) -> None:
    torch.save({"decoder.conv1.weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError) as refusal:
        load_umt5(path, CONFIG)
    message = str(refusal.value)
    assert path.name in message
    assert "22 of 22 keys missing (first: blocks.0.attn.k.weight)" in message
    assert "1 unexpected (first: decoder.conv1.weight)" in message


def test_a_file_of_another_size_is_refused(path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"0 unexpected \(first: none\)"):
        load_umt5(path, CONFIG.model_copy(update={"num_layers": 3}))
    with pytest.raises(CheckpointError, match=r"has shape \[50, 16\], the config asks for \[51, 16\]"):
        load_umt5(path, CONFIG.model_copy(update={"vocab_size": 51}))


def test_missing_and_damaged_files_are_named(path: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.pth is missing"):
        load_umt5(tmp_path / "nowhere.pth", CONFIG)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_umt5(path, CONFIG)
