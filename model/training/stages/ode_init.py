"""Stage 1: the student learns to jump to the end of the teacher's trajectories, see :mod:`model.training.ode`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from model.dit.transformer import DualStreamTransformer
from model.errors import TrainingError
from model.training.config import ODEInitStage
from model.training.distributed import World
from model.training.hallo_live import HalloLive
from model.training.ode import Trajectories, ode_loss
from model.training.stage import Drawn, Loss
from model.training.trajectories import TrajectorySet, open_trajectories


class ODEInit:
    """Implements :class:`model.training.stage.Stage`.

    Args:
        student: where it will learn.
        trajectories: see :func:`model.training.trajectories.open_trajectories`; of the subject's clips.
    """

    def __init__(
        self, config: ODEInitStage, subject: HalloLive, student: DualStreamTransformer, trajectories: TrajectorySet, world: World
    ) -> None:
        self._config, self._subject, self._student, self._world = config, subject, student, world
        self._trajectories = trajectories
        self.nets: Mapping[str, nn.Module] = {"student": student}
        self.num_samples = len(trajectories)
        self.published_name, self.published = subject.published_name, subject.published

    def draw(self, learner: str, update: int, samples: Sequence[int], dice: Sequence[torch.Generator]) -> Drawn:
        """A trajectory each, and for each of its blocks one of the states before the last."""
        subject, device, dtype = self._subject, self._world.device, self._student.dtype
        found = [self._trajectories[i] for i in samples]
        states = [torch.randint(len(subject.timesteps), (subject.num_blocks,), generator=d, device=device) for d in dice]
        return Drawn(
            {
                "video": torch.stack([x.video for x in found]).to(device, dtype).transpose(2, 3),
                "audio": torch.stack([x.audio for x in found]).to(device, dtype),
                "states": torch.stack(states),
                "text": subject.text([x.prompt for x in found], device).to(dtype),
            }
        )

    def loss(self, learner: str, drawn: Drawn) -> Loss:
        subject, tensors = self._subject, drawn.tensors
        text = self._student.read_text(tensors["text"], (None, None), None)
        trajectories = Trajectories(tensors["video"], tensors["audio"])
        loss = ode_loss(
            self._student,
            trajectories,
            tensors["states"],
            text,
            subject.block,
            subject.timesteps,
            subject.table,
            weights=self._config.weights.pair,
        )
        return Loss(loss.total, {"video loss": loss.video, "audio loss": loss.audio})


def open_data(config: ODEInitStage, subject: HalloLive) -> TrajectorySet:
    """The stage's trajectories.

    Raises:
        TrainingError: they are of other clips than the subject's.
    """
    found = open_trajectories(config.trajectories)
    video, audio = subject.clip
    states = len(subject.timesteps) + 1
    wanted = (states, video[1], video[0], *video[2:]), (states, *audio)
    first = found[0]
    for name, x, shape in (("video", first.video, wanted[0]), ("audio", first.audio, wanted[1])):
        if tuple(x.shape) != shape:
            raise TrainingError(
                f"{config.trajectories}: {name} trajectories are {list(x.shape)}, the model asks for {list(shape)}: "
                "sample them with this subject, or correct subject.model and subject.video_latents"
            )
    return found
