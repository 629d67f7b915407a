"""What is wrong with a checkpoint is said, with the file and what in it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from model.checkpoint import POCKET_DIR, read_weights
from model.chunk import StreamSettings
from model.config import GeometryConfig, ModelConfig, load_yaml
from model.errors import CheckpointError, ConfigError
from model.weight_files import in_8_bits
from tests.model.support import WORDS, next_chunk, open_pocket, tiny_config, write_checkpoint


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("intact"))


@pytest.fixture
def directory(intact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(intact, tmp_path / "copy"))


def refusal(directory: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_weights(directory)
    assert caught.value.code == "bad_checkpoint"
    return str(caught.value)


def test_an_intact_checkpoint_is_read_as_written(directory: Path) -> None:
    weights = read_weights(directory)
    assert weights.config.name == "tiny"
    assert weights.tokenizer.size == len(WORDS) + 2
    for name, network in (
        ("dit", weights.dit),
        ("text", weights.text),
        ("video_vae", weights.video_vae),
        ("audio_vae", weights.audio_vae),
    ):
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())
        state = network.state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in load_file(directory / f"{name}.safetensors").items())


def test_half_precision_is_widened(directory: Path) -> None:
    path = directory / "dit.safetensors"
    save_file({key: tensor.bfloat16() for key, tensor in load_file(path).items()}, path)
    assert {p.dtype for p in read_weights(directory).dit.parameters()} == {torch.float32}


def test_matrices_in_8_bits_are_numbers_again(directory: Path) -> None:
    """Each off by at most half a step of its row, and small or other tensors as they were."""
    path = directory / "dit.safetensors"
    before = load_file(path)
    stored = in_8_bits(before)
    save_file(stored, path)
    after = read_weights(directory).dit.state_dict()
    matrices = [name for name, x in stored.items() if x.dtype == torch.int8]
    assert matrices
    for name, x in before.items():
        if name in matrices:
            step = x.flatten(1).abs().amax(1) / 127
            error = (after[name] - x).flatten(1).abs().amax(1)
            assert (error <= step / 2 * (1 + 1e-4)).all(), name
        else:
            assert torch.equal(after[name], x)
    save_file({**stored, "nothing:scale": torch.ones(3)}, path)
    assert "the scales of nothing" in refusal(directory)


def test_the_digest_names_the_files(directory: Path) -> None:
    before = read_weights(directory).digest
    assert read_weights(directory).digest == before
    path = directory / "text.safetensors"
    save_file({key: tensor + 1e-3 for key, tensor in load_file(path).items()}, path)
    assert read_weights(directory).digest != before


def test_no_directory(tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name", ["words.txt", "dit.safetensors", "text.safetensors", "video_vae.safetensors", "audio_vae.safetensors"]
)
def test_a_missing_file(directory: Path, name: str) -> None:
    (directory / name).unlink()
    message = refusal(directory)
    assert str(directory / name) in message
    assert "missing" in message


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-100], lambda b: b"", lambda b: b"\xff" * 64 + b[64:]], ids=["cut", "empty", "garbled"]
)
def test_a_damaged_file(directory: Path, damage: Callable[[bytes], bytes]) -> None:
    path = directory / "text.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    message = refusal(directory)
    assert str(path) in message
    assert "damaged" in message


def test_foreign_and_missing_keys(directory: Path) -> None:
    path = directory / "dit.safetensors"
    tensors = load_file(path)
    del tensors["video_ends.head.bias"], tensors["video_ends.head.weight"]
    save_file(tensors | {"zebra": torch.zeros(1), "aardvark": torch.zeros(1)}, path)
    message = refusal(directory)
    assert str(path) in message
    assert "2 keys missing (first: video_ends.head.bias)" in message
    assert "2 unexpected (first: aardvark)" in message


def test_a_wrong_shape(directory: Path) -> None:
    path = directory / "dit.safetensors"
    save_file(load_file(path) | {"video_ends.head.bias": torch.zeros(7)}, path)
    message = refusal(directory)
    assert re.search(r"dit\.safetensors: video_ends\.head\.bias has shape \[7\], the config asks for \[16\]", message)


def test_too_many_words(directory: Path) -> None:
    path = directory / "words.txt"
    path.write_text(path.read_text() + "extra\n")
    message = refusal(directory)
    assert str(path) in message
    assert f"{len(WORDS) + 3} words" in message


# -- configs ---------------------------------------------------------------------------------------------------------------------


def config_refusal(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_yaml(path, ModelConfig)
    assert str(path) in str(caught.value)
    return str(caught.value)


def edited(section: str, **values: Any) -> str:
    raw = tiny_config()
    raw[section] |= values
    return yaml.safe_dump(raw)


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "config.yaml"))):
        load_yaml(tmp_path / "config.yaml", ModelConfig)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a: [1", "not valid YAML"),
        ("a: {b: 1,\n  b: 2}", "'b' stands in line 1 already"),
        ("- 1\n- 2\n", "list"),
        ("", "NoneType"),
        (edited("sampling", window_block=3), "sampling.window_block"),
        (edited("sampling", window_blocks=1), "sampling.window_blocks"),
        (edited("sampling", sink="perhaps"), "sampling.sink"),
        (edited("dit", num_layers=0), "dit.num_layers"),
        (edited("geometry", fps="fast"), "geometry.fps"),
        (edited("text", dim=None), "text.dim"),
    ],
)
def test_a_bad_config_is_named(tmp_path: Path, text: str, named: str) -> None:
    assert named in config_refusal(tmp_path / "config.yaml", text)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    raw = tiny_config()
    del raw["sampling"]["sink"], raw["geometry"]["fps"]
    message = config_refusal(tmp_path / "config.yaml", yaml.safe_dump(raw))
    assert "sampling.sink" in message
    assert "geometry.fps" in message


def test_a_config_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xff\xfe\x00 name")
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        load_yaml(path, ModelConfig)


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("sampling", {"timesteps": []}),
        ("sampling", {"timesteps": [0.5, 1.0]}),
        ("dit", {"text_dim": 32}),
        ("dit", {"video": tiny_config()["dit"]["video"] | {"num_heads": 5}}),
        ("audio_vae", {"latent_channels": 6}),
        ("video_vae", {"latent_channels": 6}),
    ],
    ids=["no steps", "rising steps", "text width", "heads", "audio channels", "video channels"],
)
def test_parts_that_do_not_fit_together_are_refused_before_the_first_block(
    tmp_path: Path, section: str, values: dict[str, Any]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(edited(section, **values), encoding="utf-8")
    with pytest.raises(ConfigError, match=section):
        load_yaml(path, ModelConfig)


def test_a_geometry_that_drifts_is_refused() -> None:
    raw = tiny_config()["geometry"] | {"fps": 24}
    with pytest.raises(ConfigError, match="drift"):
        GeometryConfig.model_validate(raw).build()


# -- the shipped one -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not (POCKET_DIR / "dit.safetensors").is_file(), reason="the weights are not in this checkout")
def test_pocket_shows_a_face_and_makes_a_sound() -> None:
    stream = open_pocket(read_weights(POCKET_DIR)).open(StreamSettings("A man in a bright office.", "a calm deep voice"))
    stream.push("a", "Hello there.")
    chunks = [next_chunk(stream) for _ in range(3)]
    assert chunks[0].frames.shape == (8, 384, 256)
    assert chunks[0].samples.shape == (7680,)
    assert all(60 < chunk.frames[:, :256].mean() < 220 and chunk.frames[:, :256].std() > 20 for chunk in chunks)
    assert max(int(abs(chunk.samples.astype(int)).max()) for chunk in chunks) > 1000
