"""Published files of the transformer: every spelling of names loads, and what does not belong is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from model.adapters import hallo_live, ovi
from model.config import HalloLiveConfig, load_yaml
from model.dit.transformer import DualStreamTransformer
from model.errors import CheckpointError
from tests.model.published import PATCH_CELLS, tiny_dit, tiny_dit_config

CONFIGS = Path(__file__).parents[3] / "configs" / "model"


@pytest.fixture(scope="module")
def dit() -> DualStreamTransformer:
    return tiny_dit()


@pytest.fixture(scope="module")
def published(dit: DualStreamTransformer) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in ovi.to_published(dit.state_dict(), PATCH_CELLS).items()}


def load(path: Path, **options: Any) -> DualStreamTransformer:
    return hallo_live.load_generator(path, tiny_dit_config(), PATCH_CELLS, **options)


def check_equal(loaded: DualStreamTransformer, dit: DualStreamTransformer) -> None:
    expected = dit.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    assert not any(p.requires_grad or p.is_meta for p in loaded.parameters())


def prefixed(tensors: dict[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    return {rename(name): tensor for name, tensor in tensors.items()}


RENAMES: dict[str, Callable[[str], str]] = {
    "bare": lambda name: name,
    "model": lambda name: f"model.{name}",
    "fsdp": lambda name: "_fsdp_wrapped_module.model." + name.replace("self_attn.", "self_attn._fsdp_wrapped_module."),
    "checkpointed": lambda name: "model." + name.replace(".blocks.0.", ".blocks.0._checkpoint_wrapped_module."),
    "compiled": lambda name: f"_orig_mod.model._fsdp_wrapped_module.{name}",
}


@pytest.mark.parametrize("rename", RENAMES.values(), ids=RENAMES)
@pytest.mark.parametrize("nest", [None, "generator", "generator_ema"])
def test_every_spelling_loads(
    tmp_path: Path, dit: DualStreamTransformer, published: dict[str, Tensor], rename: Callable[[str], str], nest: str | None
) -> None:
    path, tensors = tmp_path / "model.pt", prefixed(published, rename)
    torch.save(tensors if nest is None else {nest: tensors}, path)
    check_equal(load(path), dit)


@pytest.mark.parametrize("rename", [RENAMES["bare"], RENAMES["model"]])
def test_safetensors_load(
    tmp_path: Path, dit: DualStreamTransformer, published: dict[str, Tensor], rename: Callable[[str], str]
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(prefixed(published, rename), path)
    check_equal(load(path), dit)


def test_the_teacher_and_the_critic_load(tmp_path: Path, dit: DualStreamTransformer, published: dict[str, Tensor]) -> None:
    save_file(published, tmp_path / "model.safetensors")
    check_equal(ovi.load_teacher(tmp_path / "model.safetensors", tiny_dit_config(), PATCH_CELLS), dit)
    path = tmp_path / "model.pt"
    torch.save({"generator": {}, "critic": prefixed(published, RENAMES["fsdp"])}, path)
    check_equal(hallo_live.load_critic(path, tiny_dit_config(), PATCH_CELLS), dit)


def test_the_average_is_taken_where_there_is_one(
    tmp_path: Path, dit: DualStreamTransformer, published: dict[str, Tensor]
) -> None:
    path = tmp_path / "model.pt"
    zeros = {name: torch.zeros_like(tensor) for name, tensor in published.items()}
    torch.save({"generator": zeros, "generator_ema": published, "critic": zeros}, path)
    check_equal(load(path), dit)
    assert all(not p.any() for p in load(path, ema=False).parameters())


def test_weights_are_kept_where_they_lie(published: dict[str, Tensor]) -> None:
    built = ovi.build(tiny_dit_config(), PATCH_CELLS, published, Path("f"), expected="it")
    addresses = {tensor.data_ptr() for tensor in published.values()}
    assert [n for n, p in built.named_parameters() if p.data_ptr() not in addresses] == ["video_ends.stem.weight"]


def test_types_are_the_files_or_as_asked(tmp_path: Path, published: dict[str, Tensor]) -> None:
    path = tmp_path / "model.pt"
    torch.save({name: tensor.bfloat16() for name, tensor in published.items()}, path)
    assert {p.dtype for p in load(path).parameters()} == {torch.bfloat16}
    assert {p.dtype for p in load(path, dtype=torch.float32).parameters()} == {torch.float32}


def without(tensors: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name not in names}


MISSING = "video_model.blocks.1.ffn.0.bias"
WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "a key less": (lambda t: without(t, MISSING), rf"1 of \d+ keys missing \(first: {MISSING}\), 0 unexpected \(first: none\)"),
    "a key more": (
        lambda t: {**t, "model.decoder.x": torch.zeros(1)},
        r"0 of \d+ keys missing .*1 unexpected \(first: decoder.x",
    ),
    "another model": (
        lambda _: {"a.weight": torch.zeros(2)},
        r"keys missing \(first: audio_model.*1 unexpected \(first: a.weight",
    ),
    "another size": (
        lambda t: {**t, "video_model.patch_embedding.weight": torch.zeros(48, 7, 1, 2, 2)},
        r"video_model.patch_embedding.weight has shape \[48, 7, 1, 2, 2\], the config asks for \[48, 6, 1, 2, 2\]",
    ),
    "the same twice": (lambda t: {**t, f"model.{MISSING}": torch.zeros(64)}, rf"holds {MISSING} twice"),
    "no tensor": (lambda t: {**t, MISSING: 3.0}, f"{MISSING} is no tensor but a float"),
    "another nest": (lambda t: {"generator": [1, 2]}, "holds a list"),
    "only a critic": (lambda t: {"critic": t}, r"1 unexpected \(first: critic\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_told(tmp_path: Path, published: dict[str, Tensor], name: str) -> None:
    change, message = WRONG[name]
    path = tmp_path / "model.pt"
    torch.save(change(published), path)
    with pytest.raises(CheckpointError, match=message) as error:
        load(path)
    assert str(path) in str(error.value)


def test_a_missing_or_truncated_file_is_told(tmp_path: Path, published: dict[str, Tensor]) -> None:
    for name, save in (("model.pt", torch.save), ("model.safetensors", save_file)):
        path = tmp_path / name
        with pytest.raises(CheckpointError, match=f"{name} is missing"):
            load(path)
        save(published, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(CheckpointError, match=f"{name} is damaged"):
            load(path)


def test_a_checkpoint_without_critic_is_told(tmp_path: Path, published: dict[str, Tensor]) -> None:
    torch.save({"generator": published}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="has no critic"):
        hallo_live.load_critic(tmp_path / "model.pt", tiny_dit_config(), PATCH_CELLS)


@pytest.mark.parametrize(
    ("size", "total", "dim"), [("hallo_live", 11_660_753_108, 3072), ("hallo_live_1_3b", 3_254_132_948, 1536)]
)
def test_the_published_sizes(size: str, total: int, dim: int) -> None:
    config = load_yaml(CONFIGS / f"{size}.yaml", HalloLiveConfig)
    geometry = config.geometry.build()
    assert geometry.tokens_per_video_latent == 496
    assert (geometry.block_frames, geometry.block_audio_latents, geometry.block_samples) == (24, 30, 15360)
    with torch.device("meta"):
        dit = DualStreamTransformer(config.dit, geometry.patch_cells)
    published = ovi.to_published(dit.state_dict(), geometry.patch_cells)
    assert len(published) == 2073
    assert sum(tensor.numel() for tensor in published.values()) == total
    shapes = {name: list(tensor.shape) for name, tensor in published.items()}
    assert shapes["video_model.patch_embedding.weight"] == [dim, 48, 1, 2, 2]
    assert shapes["audio_model.patch_embedding.0.weight"] == [dim, 20, 7]
    assert shapes["audio_model.patch_embedding.2.w2.weight"] == [dim, {3072: 8192, 1536: 4096}[dim], 7]
    assert shapes["video_model.blocks.29.modulation.modulation"] == [1, 6, dim]
    assert shapes["audio_model.blocks.0.cross_attn.pre_attn_norm_fusion.weight"] == [dim]
    assert shapes["video_model.head.modulation"] == [1, 2, dim]
    assert shapes["video_model.head.head.weight"] == [192, dim]
    assert shapes["audio_model.head.head.bias"] == [20]
