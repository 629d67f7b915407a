"""Stage 2: distribution matching on the student's own rollouts, see :mod:`model.training.dmd`.

The generator and the critic each roll out a clip of their own samples. Which pass of a block has gradients is drawn for a whole
step: all blocks, samples and processes leave after the same pass, without a word between them, because all draw it from one seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from model.rollout import Latents
from model.training.config import DMDStage
from model.training.distributed import World
from model.training.dmd import critic_loss, generator_loss, score_timesteps
from model.training.randomness import generator
from model.training.rewarding import Rewarding
from model.training.stage import Drawn, Loss, Stage
from model.training.subject import Network, Subject

GENERATOR, CRITIC = "generator", "critic"
NUM_SCORE_TIMES = 1000


class DMD(Stage):
    """See the module's text.

    Args:
        student, critic: where they will learn; ``teacher``: where it will score.
        prompts: that clips are rolled out of.
        seed: the run's.
        rewarding: weighs rollouts by what they are worth, if there is one.
    """

    def __init__(
        self,
        config: DMDStage,
        subject: Subject,
        student: Network,
        teacher: Network,
        critic: Network,
        prompts: Sequence[str],
        seed: int,
        world: World,
        rewarding: Rewarding | None = None,
    ) -> None:
        self._config, self._subject, self._world, self._seed = config, subject, world, seed
        self._student, self._teacher, self._critic, self._prompts = student, teacher, critic, prompts
        self.nets = {GENERATOR: student, CRITIC: critic}
        self._rewarding = rewarding
        self.num_samples = len(prompts)

    def published_name(self, name: str) -> str:
        return self._subject.published_name(name)

    def published(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._subject.published(tensors)

    def exit_pass(self, learner: str, update: int) -> int:
        """Of one update, the same in every process."""
        dice, exits = generator(torch.device("cpu"), "exit", self._seed, learner, update), self._subject.exits
        return exits[int(torch.randint(len(exits), (), generator=dice))]

    def _num_again(self, exit_pass: int) -> int:
        """Passes of a clip whose noise is drawn anew."""
        return exit_pass * self._subject.num_blocks if self._subject.num_renoised_audio else 0

    def draw(self, learner: str, update: int, samples: Sequence[int], dice: Sequence[torch.Generator]) -> Drawn:
        """Prompts, noise of clips and of each pass to come, and at which noise they are scored."""
        subject, device = self._subject, self._world.device
        exit_pass = self.exit_pass(learner, update)
        (channels, num_video, *cells), (num_audio, audio_channels) = subject.clip

        def drawn_for(one: torch.Generator) -> dict[str, Tensor]:
            def normal(*shape: int) -> Tensor:
                return torch.randn(shape, generator=one, device=device)

            tensors = {
                "video": normal(channels, num_video, *cells),
                "audio": normal(num_audio, audio_channels),
                "score_video": normal(channels, num_video, *cells),
                "score_audio": normal(num_audio, audio_channels),
                "score_time": torch.randint(NUM_SCORE_TIMES, (), generator=one, device=device),
            }
            if self._config.decoupled:
                # Below the level of the pass that the rollout left after.
                tensors["guidance_time"] = torch.randint(subject.steps[exit_pass], (), generator=one, device=device)
            for i in range(self._num_again(exit_pass)):
                tensors[f"again_video_{i}"] = normal(subject.block.video, channels, *cells)
                tensors[f"again_audio_{i}"] = normal(subject.num_renoised_audio, audio_channels)
            return tensors

        each = [drawn_for(one) for one in dice]
        tensors = {name: torch.stack([x[name] for x in each]) for name in each[0]}
        given = subject.given([self._prompts[i] for i in samples], device)
        return Drawn({**tensors, **given, "prompts": torch.tensor(samples)}, exit_pass)

    def loss(self, learner: str, drawn: Drawn) -> Loss:
        tensors, subject, config = drawn.tensors, self._subject, self._config
        noise = Latents(tensors["score_video"], tensors["score_audio"])
        timesteps = score_timesteps(tensors["score_time"], subject.shift)
        weights = config.weights.pair
        if learner == CRITIC:
            with torch.no_grad():
                clip = self._roll_out(drawn)
            fake = subject.scores(self._critic, tensors)
            return Loss(critic_loss(clip, noise, timesteps, fake, subject.table, weights=weights), {})
        clip = self._roll_out(drawn)
        with torch.no_grad():
            real = subject.scores(self._teacher, tensors, guided=True)
            fake = subject.scores(self._critic, tensors)
        scales, figures = None, dict[str, Tensor]()
        if self._rewarding is not None:
            prompts = subject.described([self._prompts[i] for i in tensors["prompts"].tolist()])
            scales, figures = self._rewarding.scales(clip, prompts)
        guidance_timesteps = score_timesteps(tensors["guidance_time"], subject.shift) if config.decoupled else None
        loss = generator_loss(
            clip,
            noise,
            timesteps,
            real,
            fake,
            subject.table,
            config.guidance.pair,
            guidance_timesteps=guidance_timesteps,
            weights=weights,
            scales=scales,
        )
        gradient = loss.gradient
        sizes = {"video gradient": gradient.video.abs().mean(), "audio gradient": gradient.audio.abs().mean()}
        return Loss(loss.total, sizes | figures)

    def _roll_out(self, drawn: Drawn) -> Latents:
        tensors = drawn.tensors

        def again() -> Iterator[Tensor]:
            for i in range(self._num_again(drawn.choice)):
                yield tensors[f"again_video_{i}"].flatten(0, 1)
                yield tensors[f"again_audio_{i}"].flatten(0, 1)

        noise, detached = Latents(tensors["video"], tensors["audio"]), self._config.detached
        return self._subject.roll_out(self._student, tensors, noise, drawn.choice, again(), detached=detached)
