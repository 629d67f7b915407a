"""Data for stage 1: how the teacher gets from noise to a clip, and the states on its way that the student begins from.

Euler steps; guidance away from what is not wanted, for each stream as strong as it needs; and the unwanted pass leaves out a
layer, which makes it worse at what that layer does, so that guidance pushes towards it (skip-layer guidance).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch

from model.rollout import Latents
from model.sampling import NoiseTable, euler_step
from model.training.config import ODEInitStage, SamplingConfig, TrainConfig
from model.training.distributed import World
from model.training.dmd import Scores
from model.training.randomness import generator, normals
from model.training.subject import Network, Subject
from model.training.trajectories import Trajectory, write_file


@torch.no_grad()
def sample(
    teacher: Scores,
    noise: Latents,
    config: SamplingConfig,
    table: NoiseTable,
    kept: Collection[int],
    on_step: Callable[[int, int], None] = lambda done, of: None,
) -> list[Latents]:
    """The states that are kept, the noise first and the clip last; float32.

    Args:
        noise: video [B, C, F, h, w], audio [B, L, C].
        table, kept: see :meth:`model.training.subject.Subject.trajectory_plan`.
    """
    levels, states = [*table.levels.tolist(), 0.0], []
    video, audio, batch = noise.video.float(), noise.audio.float(), noise.video.shape[0]
    for step, (timestep, level, following) in enumerate(zip(table.timesteps.tolist(), levels, levels[1:], strict=False)):
        if step in kept:
            states.append(Latents(video, audio))
        noisy, times = Latents(video, audio), torch.full((batch,), timestep, device=video.device)
        right = teacher.flow(noisy, times)
        wrong = teacher.flow(noisy, times, unwanted=True, skip_layer=config.skip_layer)
        velocity = [
            w.float() + scale * (r.float() - w.float())
            for r, w, scale in zip((right.video, right.audio), (wrong.video, wrong.audio), config.guidance.pair, strict=True)
        ]
        video, audio = (euler_step(x, v, level, following) for x, v in zip((video, audio), velocity, strict=True))
        on_step(step + 1, config.steps)
    return [*states, Latents(video, audio)]


def sample_all(
    config: TrainConfig,
    stage: ODEInitStage,
    subject: Subject,
    open_teacher: Callable[[], Network],
    prompts: Sequence[str],
    world: World,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[int, int]:
    """Sample what is missing of our share of prompts into ``stage.trajectories``. Each process has a teacher of its own.

    Args:
        on_progress: hears how many Euler steps of all are done.

    Returns:
        How many were made, and how many were there.
    """
    directory, device = stage.trajectories, world.device
    directory.mkdir(parents=True, exist_ok=True)
    share = prompts[world.rank :: world.size]
    missing = [x for x in share if not (directory / subject.file_of(x, config.seed)).is_file()]
    if not missing:
        return 0, len(share)
    teacher, steps = open_teacher(), stage.sampling.steps
    table, kept = subject.trajectory_plan(steps)
    for first in range(0, len(missing), config.batch):
        batch = missing[first : first + config.batch]
        dice = [generator(device, "trajectory", config.seed, prompt) for prompt in batch]
        noise = Latents(*(normals(dice, *shape) for shape in subject.clip))

        def on_step(done: int, of: int, before: int = first * steps, num: int = len(batch)) -> None:
            on_progress(before + done * num, len(missing) * steps)

        with torch.no_grad():
            scores = subject.scores(teacher, subject.given(batch, device), guided=True)
        states = sample(scores, noise, stage.sampling, table, kept, on_step)
        video = torch.stack([x.video for x in states], dim=1).transpose(2, 3).to(torch.float16)
        audio = torch.stack([x.audio for x in states], dim=1).to(torch.float16)
        for prompt, one_video, one_audio in zip(batch, video, audio, strict=True):
            path = directory / subject.file_of(prompt, config.seed)
            write_file(path, Trajectory(prompt, one_video.contiguous(), one_audio.contiguous()), prompt)
    return len(missing), len(share) - len(missing)
