"""A student of another size begins with what fits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model.adapters.mova import begin_with, ovi_name
from model.adapters.ovi import to_published
from model.errors import CheckpointError
from model.training.hallo_live import random_net
from tests.model.published import PATCH_CELLS, tiny_dit, tiny_dit_config


def test_the_audio_tower_comes_from_one_file_and_what_fits_from_the_other(tmp_path: Path) -> None:
    teacher = to_published(tiny_dit().state_dict(), PATCH_CELLS)
    narrow = tiny_dit_config()
    config = narrow.model_copy(update={"video": narrow.video.model_copy(update={"ffn_dim": 32})})
    student = random_net(config, PATCH_CELLS, torch.device("cpu"), torch.float32, 0)
    before = {name: x.clone() for name, x in to_published(dict(student.named_parameters()), PATCH_CELLS).items()}
    mova = {name.removeprefix("audio_model."): x + 1 for name, x in teacher.items() if name.startswith("audio_model.")}
    mova = {name.replace("modulation.modulation", "modulation"): x for name, x in mova.items() if "fusion" not in name}
    for name, tensors in (("ovi", teacher), ("mova", mova)):
        (tmp_path / name).mkdir()
        save_file({k: x.contiguous() for k, x in tensors.items()}, tmp_path / name / "model.safetensors")
    said = begin_with(student, tmp_path / "ovi" / "model.safetensors", tmp_path / "mova" / "model.safetensors")
    assert f"{len(mova)} of {len(mova)} tensors of model.safetensors in mova" in said
    after = to_published(dict(student.named_parameters()), PATCH_CELLS)
    of_mova = {ovi_name(name) for name in mova}
    assert "audio_model.blocks.0.modulation.modulation" in of_mova
    assert "audio_model.head.modulation" in of_mova
    for name, x in after.items():
        if name in of_mova:
            torch.testing.assert_close(x, teacher[name] + 1, msg=name)
        elif "video_model" in name and ".ffn." in name and not name.endswith("ffn.2.bias"):
            assert torch.equal(x, before[name]), name
        else:
            assert torch.equal(x, teacher[name]), name
    save_file({"other": torch.zeros(1)}, tmp_path / "mova" / "model.safetensors")
    with pytest.raises(CheckpointError, match="has nothing that fits the student"):
        begin_with(student, tmp_path / "ovi" / "model.safetensors", tmp_path / "mova" / "model.safetensors")
