"""Checks of the training losses and their gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from model.adapters import ovi
from model.dit.transformer import DualStreamTransformer
from model.sampling import NoiseTable
from model.training.ode import STREAM_WEIGHTS, BlockSizes, Trajectories, ode_loss
from model.training.rewards import Rewards, loss_scales, standardised
from tests.golden.dit import channels_first, dit_config, load, padded
from tests.golden.fixture import Fixture


def published_gradients(dit: DualStreamTransformer) -> dict[str, Tensor]:
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in dit.named_parameters()}
    return ovi.to_published(gradients, dit.patch_cells)


def close_number(fixture: Fixture, actual: Tensor | float, expected: float, name: str) -> None:
    """Of a number that is stored in the JSON file."""
    tolerance = fixture.meta["tolerance_fp32"]
    value = actual.item() if isinstance(actual, Tensor) else actual
    allowed = tolerance["atol"] + tolerance["rtol"] * abs(expected)
    assert abs(value - expected) <= allowed, f"{fixture.path.stem}: {name} is {value}, expected {expected}"


def check_gradients(fixture: Fixture, gradients: dict[str, Tensor], norms: str = "grad_norms") -> None:
    """The norm of every parameter's gradient, and those that are stored whole."""
    expected = fixture.meta[norms]
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        close_number(fixture, gradient.norm(), expected[name], f"{norms} of {name}")
    if norms == "grad_norms":
        total = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
        close_number(fixture, total, fixture.meta["grad_norm_total"], "grad_norm_total")
        for key in fixture.tensors:
            if key.startswith("grad."):
                fixture.close(gradients[key.removeprefix("grad.")], key)


def check_ode_loss(fixture: Fixture) -> None:
    config, stored = fixture.meta["config"], fixture.tensors
    sizes = dit_config(config["video"], config["audio"], config["future_audio_frames"])
    dit = load(fixture, sizes, config["video"]["patch_size"][1]).requires_grad_(True)
    block = BlockSizes(config["video_num_frame_per_block"], config["audio_num_frame_per_block"])
    table = NoiseTable.shifted(config["timestep_shift"])
    assert config["warp_denoising_step"]
    trajectories = Trajectories(stored["in.video_ode_latent"].transpose(2, 3), stored["in.audio_ode_latent"])
    loss = ode_loss(
        dit,
        trajectories,
        stored["in.drawn_index"][:, :: block.video],
        dit.read_text(stored["in.prompt_embeds"], (None, None), None),
        block,
        table.warped(config["denoising_step_list"]),
        table,
        padded_audio=padded(stored["in.audio_ode_latent"].shape[2]),
        weights=(config["video_loss_weight"], config["audio_loss_weight"]),
    )
    loss.total.backward()
    fixture.close(loss.total.view(1), "out.loss")
    close_number(fixture, loss.total, fixture.meta["loss"], "loss")
    fixture.close(loss.video.view(1), "out.video_loss")
    fixture.close(loss.audio.view(1), "out.audio_loss")
    distance = loss.clean_video - trajectories.video[:, -1]
    fixture.close(distance.square().flatten(1).mean(dim=1), "out.unnormalized_loss")
    fixture.close(loss.video_timesteps.mean(dim=1), "out.mean_timestep")
    fixture.close(channels_first(loss.noisy_video), "out.noisy_video")
    fixture.close(loss.noisy_audio, "out.noisy_audio")
    fixture.close(channels_first(loss.clean_video), "out.video_x0")
    fixture.close(loss.clean_audio, "out.audio_x0")
    check_gradients(fixture, published_gradients(dit))


def check_rewards(fixture: Fixture) -> None:
    stored = fixture.tensors
    gradients = stored["in.video_grad"], stored["in.audio_grad"]
    for case in fixture.meta["cases"]:
        name = case["name"]
        ta, vq, mq, audio, sync = (stored[f"{name}.in.{key}"] for key in ("ta", "vq", "mq", "audio", "sync"))
        fixture.close(standardised(sync), f"{name}.out.sync_norm")
        fixture.close(standardised(audio), f"{name}.out.audio_norm")
        scales = loss_scales(Rewards(ta, vq, mq, audio, sync), case["beta"], case["reward_types"])
        for stream, scale in zip(("video", "audio"), scales, strict=True):
            fixture.close(scale, f"{name}.out.{stream}_scale")
        losses = (0.5 * gradient.double().square().mean() * scale for gradient, scale in zip(gradients, scales, strict=True))
        video, audio = losses
        fixture.close(STREAM_WEIGHTS[0] * video + STREAM_WEIGHTS[1] * audio, f"{name}.out.loss_both")
