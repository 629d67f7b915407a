"""Stage 1: the student learns to jump to the end of the teacher's trajectories, see :mod:`model.training.ode`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from model.errors import TrainingError
from model.training.config import ODEInitStage
from model.training.distributed import World
from model.training.ode import Trajectories, jump_loss
from model.training.stage import Drawn, Loss, Stage
from model.training.subject import Network, Subject
from model.training.trajectories import TrajectorySet, open_trajectories


class ODEInit(Stage):
    """See the module's text.

    Args:
        student: where it will learn.
        trajectories: see :func:`model.training.trajectories.open_trajectories`; of the subject's clips.
    """

    def __init__(
        self, config: ODEInitStage, subject: Subject, student: Network, trajectories: TrajectorySet, world: World
    ) -> None:
        self._config, self._subject, self._student, self._world = config, subject, student, world
        self._trajectories = trajectories
        self._timesteps = torch.tensor(subject.timesteps, device=world.device)
        self.nets = {"student": student}
        self.num_samples = len(trajectories)

    def published_name(self, name: str) -> str:
        return self._subject.published_name(name)

    def published(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._subject.published(tensors)

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
                **subject.given([x.prompt for x in found], device),
            }
        )

    def loss(self, learner: str, drawn: Drawn) -> Loss:
        subject, tensors = self._subject, drawn.tensors
        loss = jump_loss(
            subject.forward(self._student, tensors),
            Trajectories(tensors["video"], tensors["audio"]),
            tensors["states"],
            subject.block,
            self._timesteps,
            subject.table,
            weights=self._config.weights.pair,
        )
        return Loss(loss.total, {"video loss": loss.video, "audio loss": loss.audio})


def open_data(config: ODEInitStage, subject: Subject) -> TrajectorySet:
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
                "sample them with this subject, or correct subject.model and the length of its clips"
            )
    return found
