"""The checks follow the metadata: they run on fixtures of other names, sizes and block lengths than those that are provided.

A fixture of another size is a provided one with another config, random inputs, and what the check computes as its outputs. That
proves no number, only that nothing in a check is made for the sizes that it was written with.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.adapters import ovi
from model.dit.transformer import DualStreamTransformer
from testkit.golden import Check, Fixture, pairs_in
from tests.golden import dit
from tests.golden.test_fixtures import check_of

QUICK = ("scheduler", "hp_dmd_rewards", "pipeline_latents_b2_f0")
PAIR = ("bigvgan16k_small", "mmaudio_vae16k_small")
"""The first goes with the second."""


@pytest.fixture
def provided(request: pytest.FixtureRequest) -> Callable[[str], Fixture]:
    """A provided fixture by its name."""
    directory = Path(request.config.getoption("golden"))
    if not pairs_in(directory):
        pytest.skip(f"no golden fixtures in {directory}")
    return lambda name: Fixture.read(directory / f"{name}.json")


def test_files_may_have_any_name(provided: Callable[[str], Fixture], tmp_path: Path) -> None:
    shutil.copy(provided(QUICK[0]).path.parent / "weights.py", tmp_path)
    for number, name in enumerate(QUICK + PAIR):
        source = provided(name).path
        for suffix in (".json", ".safetensors"):
            shutil.copy(source.with_suffix(suffix), tmp_path / f"{number}-renamed{suffix}")
    found = {fixture.meta["fixture"]: fixture for fixture in map(Fixture.read, pairs_in(tmp_path))}
    assert set(found) == set(QUICK + PAIR)
    for name in QUICK:
        check_of(found[name])(found[name])
    assert found[PAIR[0]].sibling(PAIR[1]).path == found[PAIR[1]].path


@dataclass(frozen=True)
class Recording(Fixture):
    """Keeps what is computed where a fixture compares."""

    computed: dict[str, Tensor] = field(default_factory=dict)

    def close(self, actual: Tensor, expected: str, *, name: str | None = None) -> None:
        self.computed[expected] = actual


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def resized(fixture: Fixture, **changes: Any) -> Recording:
    """``fixture`` with another config, the weights that it asks for and no tensors."""
    config = {**fixture.meta["config"], **changes}
    tower = {"num_layers": 1, "text_dim": 24, "freq_dim": 32}
    config["video"] = {**config["video"], **tower, "dim": 96, "ffn_dim": 40, "num_heads": 2, "in_dim": 6, "out_dim": 6}
    config["audio"] = {**config["audio"], **tower, "dim": 144, "ffn_dim": 72, "num_heads": 3, "in_dim": 7, "out_dim": 7}
    cells = config["video"]["patch_size"][1]
    with torch.device("meta"):
        model = DualStreamTransformer(dit.dit_config(config["video"], config["audio"], config["future_audio_frames"]), cells)
    shapes = {name: list(tensor.shape) for name, tensor in ovi.to_published(model.state_dict(), cells).items()}
    weights = {**fixture.meta["weights"], "salt": "another", "state_dict": shapes}
    return Recording(fixture.path, {**fixture.meta, "config": config, "weights": weights}, {})


def run_twice(fixture: Recording, check: Check) -> None:
    """First for what is to be stored, then against it."""
    check(fixture)
    assert fixture.computed
    check(Fixture(fixture.path, fixture.meta, fixture.tensors | fixture.computed))


@pytest.mark.parametrize(("block", "num_blocks", "ahead"), [(1, 4, 3), (3, 2, 17)])
def test_pipelines_of_other_sizes(provided: Callable[[str], Fixture], block: int, num_blocks: int, ahead: int) -> None:
    frames, batch, (height, width) = block * num_blocks, 2, (6, 8)
    fixture = resized(
        provided("pipeline_latents_b2_f0"),
        future_audio_frames=ahead,
        timestep_shift=3.0,
        denoising_step_list=[1000, 600, 300],
        context_noise=30,
        video_num_frame_per_block=block,
        audio_num_frame_per_block=5 * block,
        num_output_frames=frames,
        batch=batch,
        latent_hw=[height, width],
    )
    draws = [
        shape
        for _ in range(num_blocks)
        for _ in range(2)
        for shape in ((batch * block, 6, height, width), (batch * (5 * block + ahead), 7))
    ]
    fixture.meta["draws"] = [{"draw": number} for number in range(len(draws))]
    fixture.tensors.update({f"draw{number:03d}": normal(*shape) for number, shape in enumerate(draws)})
    fixture.tensors["in.prompt_embeds"] = normal(batch, 9, 24)
    fixture.tensors["in.video_noise"] = normal(batch, frames, 6, height, width)
    fixture.tensors["in.audio_noise"] = normal(batch, 5 * frames, 7)
    run_twice(fixture, dit.check_pipeline)


def test_a_stream_of_other_sizes(provided: Callable[[str], Fixture]) -> None:
    blocks, ahead, (height, width) = [(1, 5), (4, 20), (2, 10)], 4, (2, 8)
    sizes = [list(pair) for pair in blocks]
    fixture = resized(
        provided("causal_fusion_kv_f5"),
        blocks_video_frames_audio_tokens=sizes,
        latent_hw=[height, width],
        future_audio_frames=ahead,
        denoising_step_list=[1000, 400],
    )
    calls, history = [], 0
    for number, (video, audio) in enumerate(blocks):
        for _ in range(3):
            calls.append({"video_frames": video, "audio_tokens_in_call": history + audio + ahead})
        fixture.tensors[f"renoise.block{number}.step0.video"] = normal(video, 6, height, width)
        fixture.tensors[f"renoise.block{number}.step0.audio"] = normal(audio + ahead, 7)
        history += audio
    fixture.meta["calls"] = calls
    fixture.tensors["prompt_embeds"] = normal(1, 11, 24)
    fixture.tensors["video_noise"] = normal(1, 7, 6, height, width)
    fixture.tensors["audio_noise"] = normal(1, 35, 7)
    fixture.tensors["cache.layer0.video_self.k"] = fixture.tensors["textcache.layer0.audio.v"] = torch.empty(0)
    run_twice(fixture, dit.check_streaming)
