"""What a pocket-sized network may differ in: patches that are not square, clean latents for output, places, told movement."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from model.config import ModelConfig
from model.dit.transformer import DualStreamTransformer, Flow
from model.liveliness import CONTROLS
from model.training.objective import Sequence, masked_forward
from model.training.views import TextBatch
from tests.model.support import normal, randomise, tiny_config

NUM_CONTROLS = 4 * len(CONTROLS)


def config_of(geometry: dict[str, Any] | None = None, **dit: Any) -> ModelConfig:
    raw = tiny_config()
    raw["geometry"] |= geometry or {}
    raw["dit"] |= dit
    return ModelConfig.model_validate(raw)


def network_of(config: ModelConfig) -> DualStreamTransformer:
    torch.manual_seed(0)
    dit = DualStreamTransformer(config.dit, config.geometry.patch_cells).requires_grad_(False)
    randomise(dit)
    return dit


def run(dit: DualStreamTransformer, config: ModelConfig, video: Tensor, control: Tensor, level: float = 500.0) -> Flow:
    """Two blocks of video over audio and text that are always the same."""
    geometry = config.geometry.build()
    audio = normal(1, 2 * geometry.block_audio_latents, config.dit.audio.latent_channels, seed=1)
    times = torch.zeros(1, 3, dtype=torch.float64)
    text = TextBatch(normal(1, 3, config.text.dim, seed=2), times, times.bool(), torch.ones(1, 3, dtype=torch.bool))
    return masked_forward(
        dit, config, geometry, Sequence(video, audio, control, torch.tensor([[0, 1]])), text, torch.full((1, 2), level)
    )


def no_control(channels: int = 0) -> Tensor:
    return torch.zeros(1, 4, channels)


@pytest.mark.parametrize("patch", [1, 2, (2, 3), (1, 2), (4, 2)])
def test_patches_come_apart_and_together(patch: int | tuple[int, int]) -> None:
    config = config_of({"patch_cells": patch})
    geometry, dit = config.geometry.build(), network_of(config)
    video = normal(2, 4, 3, geometry.latent_height, geometry.latent_width)
    tokens = dit.patchify(video)
    assert tokens.shape[1] == 3 * geometry.tokens_per_video_latent
    torch.testing.assert_close(dit.unpatchify(tokens, video.shape), video, rtol=0, atol=0)
    rows, columns = dit.patch_cells
    torch.testing.assert_close(tokens[:, 0].unflatten(1, (rows, columns, 4)), video[:, :, 0, :rows, :columns].permute(0, 2, 3, 1))


def test_a_clean_prediction_comes_out_as_its_velocity() -> None:
    config = config_of(output="clean")
    dit = network_of(config)
    as_it_is = network_of(config_of())
    as_it_is.load_state_dict(dit.state_dict())
    video = normal(1, 4, 4, 4, 6)
    for level in (1000.0, 250.0):
        velocity, clean = (
            run(dit, config, video, no_control(), level).video,
            run(as_it_is, config, video, no_control(), level).video,
        )
        torch.testing.assert_close(video - velocity * level / 1000, clean, rtol=1e-4, atol=1e-5)
    assert run(dit, config, video, no_control(), 0.0).video.isfinite().all(), "history is read at level 0"


def test_a_place_has_an_embedding_of_its_own() -> None:
    config = config_of(grid=(2, 3))
    dit, video = network_of(config), normal(1, 4, 4, 4, 6)
    before = dit.video_ends.stem(dit.patchify(video))
    seen: list[Tensor] = []
    handle = dit.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    run(dit, config, video, no_control())
    handle.remove()
    torch.testing.assert_close((seen[0] - before)[0].unflatten(0, (4, 6)), dit.place.expand(4, -1, -1))


def test_movement_is_told_to_its_own_latent_and_the_past_never_hears_of_it() -> None:
    config = config_of(control_channels=NUM_CONTROLS)
    dit, video = network_of(config), normal(1, 4, 4, 4, 6)
    control = no_control(NUM_CONTROLS)
    told = control.clone()
    told[:, 2] = 1.0  # the second block's first latent
    difference = (run(dit, config, video, told).video - run(dit, config, video, control).video).abs().amax((0, 1, 3, 4))
    assert difference[:2].max() == 0
    assert difference[2] > 1e-3


@pytest.mark.parametrize(
    ("dit", "message"),
    [({"grid": (3, 3)}, "dit.grid is"), ({"control_channels": 5}, "dit.control_channels is 5"), ({"output": "noise"}, "output")],
)
def test_options_that_do_not_fit_are_refused(dit: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(**dit)
