"""Stages begin where they are told to, and resume from their own state."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from model.data.speech import Utterance
from model.errors import CheckpointError
from model.training import audio_vae
from model.training.assemble import encoder_file
from model.training.prepare import LEVEL_DB, levelled
from tests.model.support import tiny_model, tiny_networks, write_checkpoint


def spoken(voice: str, level: float) -> Utterance:
    samples = (np.sin(np.arange(24_000) * 0.05) * level * 32767).astype(np.int16)
    return Utterance(voice, "Hello.", "hɛlO", np.full(6, 7, np.int16), samples)


def test_voices_come_to_one_level_and_keep_their_own_differences() -> None:
    quiet, loud, louder = levelled([spoken("clara", 0.05), spoken("theo", 0.2), spoken("theo", 0.4)])
    level_db = [10 * np.log10(np.square(u.samples / 32768).mean()) for u in (quiet, loud, louder)]
    assert level_db[0] == pytest.approx(LEVEL_DB, abs=0.1)
    assert level_db[2] - level_db[1] == pytest.approx(6.02, abs=0.1)
    assert 10 * np.log10(np.mean(10 ** (np.asarray(level_db[1:]) / 10))) == pytest.approx(LEVEL_DB, abs=0.1)


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A checkpoint with its encoders beside it."""
    directory = write_checkpoint(tmp_path / "start")
    tensors = tiny_networks(tiny_model())["audio_vae"].state_dict()
    encoder_file(directory, "audio").parent.mkdir()
    save_file({k: v for k, v in tensors.items() if k.startswith("encoder.")}, encoder_file(directory, "audio"))
    return directory


def run_audio(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start: Path) -> dict[str, torch.Tensor]:
    """A piece too short for a single step."""
    (tmp_path / "utterances.pkl").write_bytes(pickle.dumps([spoken("clara", 0.1)] * 5))
    flags = f"--config {start}/config.yaml --data {tmp_path} --run {tmp_path}/run --minutes 1e-9 --no-compile --start {start}"
    monkeypatch.setattr("sys.argv", ["audio_vae", *flags.split()])
    audio_vae.main()
    return load_file(tmp_path / "run" / "audio_vae.safetensors")


def test_a_stage_begins_with_a_checkpoint_and_then_with_its_own_state(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start: Path
) -> None:
    exported = run_audio(monkeypatch, tmp_path, start)
    for name, value in tiny_networks(tiny_model())["audio_vae"].state_dict().items():
        torch.testing.assert_close(exported[name], value, rtol=0.01, atol=0.01)  # parameters are exported in bfloat16
    assert (tmp_path / "run" / "audio_encoder.done").exists()
    state = torch.load(tmp_path / "run" / "audio_vae.pt")
    state["averaged"]["decoder.norm.bias"] += 1
    torch.save(state, tmp_path / "run" / "audio_vae.pt")
    resumed = run_audio(monkeypatch, tmp_path, start)
    torch.testing.assert_close(resumed["decoder.norm.bias"], exported["decoder.norm.bias"] + 1)


def test_a_checkpoint_without_its_encoder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start: Path) -> None:
    encoder_file(start, "audio").unlink()
    with pytest.raises(CheckpointError, match=r"audio\.safetensors is missing"):
        run_audio(monkeypatch, tmp_path, start)
