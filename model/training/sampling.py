"""Data for stage 1: how the teacher gets from noise to a clip, and the states on its way that the student begins from.

Euler steps; guidance away from what is not wanted, for each stream as strong as it needs; and the unwanted pass leaves out a
layer, which makes it worse at what that layer does, so that guidance pushes towards it (skip-layer guidance).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from model.dit.transformer import DualStreamTransformer, TextMemory
from model.rollout import Latents
from model.sampling import euler_step
from model.text.prompt_table import film_name
from model.training.config import ODEInitStage, SamplingConfig, TrainConfig
from model.training.distributed import World, dtype_of, spread
from model.training.hallo_live import HalloLive
from model.training.randomness import generator
from model.training.teacher import kept_states, teacher_table, whole_forward
from model.training.trajectories import Trajectory, write_file


@torch.no_grad()
def sample(
    teacher: DualStreamTransformer,
    prompt: TextMemory,
    unwanted: TextMemory,
    noise: Latents,
    config: SamplingConfig,
    shift: float,
    num_states: int,
    on_step: Callable[[int, int], None] = lambda done, of: None,
) -> list[Latents]:
    """The ``num_states`` states that are kept, the noise first and the clip last; float32.

    Args:
        noise: video [B, C, F, h, w], audio [B, L, C].
        shift: of the student's noise levels, see :func:`model.training.teacher.teacher_table`.
    """
    table = teacher_table(config.steps, shift)
    levels = [*table.levels.tolist(), 0.0]
    kept, states = set(kept_states(config.steps, num_states)), []
    video, audio, batch = noise.video.float(), noise.audio.float(), noise.video.shape[0]
    for step, (timestep, level, following) in enumerate(zip(table.timesteps.tolist(), levels, levels[1:], strict=False)):
        if step in kept:
            states.append(Latents(video, audio))
        times = torch.full((batch, 1), timestep, device=video.device)
        given = video.to(teacher.dtype), audio.to(teacher.dtype), times, times
        right = whole_forward(teacher, *given, prompt)
        wrong = whole_forward(teacher, *given, unwanted, config.skip_layer)
        velocity = [
            w.float() + scale * (r.float() - w.float())
            for r, w, scale in zip((right.video, right.audio), (wrong.video, wrong.audio), config.guidance.pair, strict=True)
        ]
        video, audio = (euler_step(x, v, level, following) for x, v in zip((video, audio), velocity, strict=True))
        on_step(step + 1, config.steps)
    return [*states, Latents(video, audio)]


def file_of(prompt: str, subject: HalloLive, seed: int) -> str:
    """As its film is called, with another ending."""
    return str(Path(film_name(prompt, subject.geometry.height_px, subject.geometry.width_px, seed)).with_suffix(".pt"))


def sample_all(
    config: TrainConfig,
    stage: ODEInitStage,
    prompts: Sequence[str],
    world: World,
    report: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
    on_prompts: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[int, int]:
    """Sample what is missing of our share of prompts into ``stage.trajectories``. Each process has a teacher of its own.

    Args:
        on_progress: hears how many Euler steps of all are done.

    Returns:
        How many were made, and how many were there.
    """
    subject, directory, device = HalloLive(config.subject, config.seed), stage.trajectories, world.device
    directory.mkdir(parents=True, exist_ok=True)
    share = prompts[world.rank :: world.size]
    missing = [x for x in share if not (directory / file_of(x, subject, config.seed)).is_file()]
    unwanted_prompts = stage.sampling.unwanted.video, stage.sampling.unwanted.audio
    subject.prepare_text([*prompts, *unwanted_prompts], world, on_prompts)
    if not missing:
        return 0, len(share)
    report("loading the teacher")
    teacher = spread(subject.net("teacher", device, dtype_of(config.precision.compute)), config.precision, World.alone(device))

    def read(video: str, audio: str) -> TextMemory:
        of_video, of_audio = (subject.text([x], device).to(teacher.dtype) for x in (video, audio))
        return teacher.read_text(of_video, (None, None), None, of_audio)

    with torch.no_grad():
        unwanted = read(*unwanted_prompts)
    steps = stage.sampling.steps
    for number, prompt in enumerate(missing):
        dice = generator(device, "trajectory", config.seed, prompt)
        noise = Latents(*(torch.randn(1, *shape, generator=dice, device=device) for shape in subject.clip))
        with torch.no_grad():
            memory = read(prompt, prompt)

        def on_step(done: int, of: int, before: int = number * steps) -> None:
            on_progress(before + done, len(missing) * steps)

        num_states = len(subject.timesteps) + 1
        shift = subject.model.rollout.shift
        states = sample(teacher, memory, unwanted, noise, stage.sampling, shift, num_states, on_step)
        video = torch.stack([x.video[0] for x in states]).transpose(1, 2).contiguous()
        audio = torch.stack([x.audio[0] for x in states])
        path = directory / file_of(prompt, subject, config.seed)
        write_file(path, Trajectory(prompt, video.to(torch.float16), audio.to(torch.float16)), prompt)
    return len(missing), len(share) - len(missing)
