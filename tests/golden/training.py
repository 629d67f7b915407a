"""Checks of the training losses and their gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from model.adapters import ovi
from model.config import RolloutConfig
from model.dit.transformer import DualStreamTransformer
from model.rollout import Latents, RolloutShape
from model.sampling import NoiseTable
from model.training.dmd import Scorer, SelfRollout, critic_loss, generator_loss, noised, score_timesteps, self_rollout
from model.training.ode import STREAM_WEIGHTS, Trajectories, ode_loss
from model.training.rewards import Rewards, loss_scales, standardised
from model.training.views import BlockSizes
from testkit.golden import Fixture
from tests.golden.dit import channels_first, dit_config, load, padded, scripted


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


class Distillation:
    """One step of stage 2 as a fixture describes it: its three models, and its draws in their order."""

    def __init__(self, fixture: Fixture) -> None:
        self.fixture, self.config = fixture, fixture.meta["config"]
        config, stored = self.config, fixture.tensors
        assert config["warp_denoising_step"]
        assert config["same_step_across_blocks"]
        assert not config["last_step_only"]
        assert not config["ts_schedule"]
        assert config["denoising_loss_type"] == "flow"
        self.table = NoiseTable.shifted(config["timestep_shift"])
        self.draws = iter([(entry["call"], stored[f"draw{entry['draw']:03d}"]) for entry in fixture.meta["draws"]])
        self.generator = self.model("generator")
        self.real, self.fake = self.scorer("real_score"), self.scorer("fake_score")

    def model(self, name: str) -> DualStreamTransformer:
        config, weights = self.config, self.fixture.meta["weights"]
        size = "generator" if name == "generator" else "score"
        sizes = dit_config(config[f"{size}_video"], config[f"{size}_audio"], config["future_audio_frames"])
        tensors = self.fixture.state_dict(weights["state_dict"][name], weights["hash_prefix"][name])
        dit = load(self.fixture, sizes, config[f"{size}_video"]["patch_size"][1], tensors)
        return dit.requires_grad_(name == self.fixture.meta["grad_module"])

    def scorer(self, name: str) -> Scorer:
        stored, dit = self.fixture.tensors, self.model(name)
        prompt = dit.read_text(stored["in.prompt_embeds"], (None, None), None)
        if "in.negative_video_embeds" not in stored:
            return Scorer(dit, prompt)
        unwanted = stored["in.negative_video_embeds"], stored["in.negative_audio_embeds"]
        return Scorer(dit, prompt, dit.read_text(unwanted[0], (None, None), None, unwanted[1]))

    def integer(self) -> Tensor:
        call, drawn = next(self.draws)
        assert call.startswith("randint")
        return drawn

    def noise(self) -> Latents:
        """Of a whole clip."""
        (_, video), (_, audio) = next(self.draws), next(self.draws)
        return Latents(channels_first(video), audio)

    def rollout(self, *, detached: bool = False) -> Latents:
        config, ratio = self.config, self.config["audio_num_frame_per_block"] // self.config["video_num_frame_per_block"]
        (num_blocks,) = self.integer().tolist()
        noise = self.noise()
        exit_pass = self.integer().tolist()[0]
        rollout = SelfRollout(
            self.generator,
            RolloutConfig(
                steps=tuple(config["denoising_step_list"]),
                shift=config["timestep_shift"],
                context_timestep=config["context_noise"],
                window_latents=noise.video.shape[2],
            ),
            RolloutShape(noise.video.shape[3], noise.video.shape[4], ratio),
            self.generator.read_text(self.fixture.tensors["in.prompt_embeds"], (None, None), None),
            exit_pass,
            detached=detached,
        )
        blocks = [config["video_num_frame_per_block"]] * num_blocks
        return self_rollout(rollout, noise, blocks, scripted(noise for _, noise in self.draws))

    def timesteps(self) -> Tensor:
        return score_timesteps(self.integer().view(-1), self.config["timestep_shift"])


def check_rollout(step: Distillation, student: Latents, timesteps: Tensor, kind: str = "") -> None:
    fixture = step.fixture
    fixture.close(channels_first(student.video), "out.gen_video")
    fixture.close(student.audio, "out.gen_audio")
    fixture.close(timesteps.unsqueeze(1).expand(-1, student.video.shape[2]), f"out.video_{kind}timestep")
    fixture.close(timesteps.unsqueeze(1).expand(-1, student.audio.shape[1]), f"out.audio_{kind}timestep")


def check_generator_loss(fixture: Fixture) -> None:
    for norms in ("grad_norms", "grad_norms_history_detached"):
        if norms not in fixture.meta:
            continue
        step = Distillation(fixture)
        config = step.config
        student = step.rollout(detached=norms != "grad_norms")
        timesteps = step.timesteps()
        guidance_timesteps = step.timesteps() if config["use_decoupled_dmd"] else None
        noise = step.noise()
        assert next(step.draws, None) is None
        loss = generator_loss(
            student,
            noise,
            timesteps,
            step.real,
            step.fake,
            step.table,
            (config["video_guidance_scale"], config["audio_guidance_scale"]),
            guidance_timesteps=guidance_timesteps,
            weights=(config["video_loss_weight"], config["audio_loss_weight"]),
        )
        check_rollout(step, student, timesteps)
        noisy = noised(student, noise, timesteps, step.table)
        fixture.close(channels_first(noisy.video), "out.noisy_video")
        fixture.close(noisy.audio, "out.noisy_audio")
        fixture.close(channels_first(loss.gradient.video), "out.video_grad")
        fixture.close(loss.gradient.audio, "out.audio_grad")
        fixture.close(loss.gradient.video.abs().mean().view(1), "out.video_dmdtrain_gradient_norm")
        fixture.close(loss.gradient.audio.abs().mean().view(1), "out.audio_dmdtrain_gradient_norm")
        fixture.close(loss.total.view(1), "out.loss")
        close_number(fixture, loss.total, fixture.meta["loss"], "loss")
        loss.total.backward()
        check_gradients(fixture, published_gradients(step.generator), norms)


def check_critic_loss(fixture: Fixture) -> None:
    step = Distillation(fixture)
    with torch.no_grad():
        student = step.rollout()
    timesteps = step.timesteps()
    noise = step.noise()
    assert next(step.draws, None) is None
    weights = step.config["video_loss_weight"], step.config["audio_loss_weight"]
    loss = critic_loss(student, noise, timesteps, step.fake, step.table, weights=weights)
    check_rollout(step, student, timesteps, "critic_")
    fixture.close(loss.view(1), "out.loss")
    close_number(fixture, loss, fixture.meta["loss"], "loss")
    loss.backward()
    check_gradients(fixture, published_gradients(step.fake.dit))
