"""Stage 2: distribution matching on the student's own rollouts, see :mod:`model.training.dmd`.

The generator and the critic each roll out a clip of their own samples. Which pass of a block has gradients is drawn for a whole
step: all blocks, samples and processes leave after the same pass, without a word between them, because all draw it from one seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from model.dit.transformer import DualStreamTransformer, TextMemory
from model.rollout import Latents
from model.training.config import DMDStage
from model.training.distributed import World
from model.training.dmd import (
    Scorer,
    SelfRollout,
    critic_loss,
    generator_loss,
    score_timesteps,
    self_rollout,
)
from model.training.hallo_live import HalloLive
from model.training.randomness import generator
from model.training.rewarding import Rewarding
from model.training.stage import Drawn, Loss

GENERATOR, CRITIC = "generator", "critic"
NUM_SCORE_TIMES = 1000


class DMD:
    """Implements :class:`model.training.stage.Stage`.

    Args:
        student, critic: where they will learn; ``teacher``: where it will score.
        prompts: that clips are rolled out of; their features are there.
        seed: the run's.
        rewarding: weighs rollouts by what they are worth, if there is one.
    """

    def __init__(
        self,
        config: DMDStage,
        subject: HalloLive,
        student: DualStreamTransformer,
        teacher: DualStreamTransformer,
        critic: DualStreamTransformer,
        prompts: Sequence[str],
        seed: int,
        world: World,
        rewarding: Rewarding | None = None,
    ) -> None:
        self._config, self._subject, self._world, self._seed = config, subject, world, seed
        self._student, self._teacher, self._critic, self._prompts = student, teacher, critic, prompts
        self.nets: Mapping[str, nn.Module] = {GENERATOR: student, CRITIC: critic}
        self._rewarding = rewarding
        self.num_samples = len(prompts)
        self.published_name, self.published = subject.published_name, subject.published
        unwanted = [subject.text([x], world.device).to(student.dtype) for x in (config.unwanted.video, config.unwanted.audio)]
        self._unwanted = unwanted[0], unwanted[1]

    def exit_pass(self, learner: str, update: int) -> int:
        """Of one update, the same in every process."""
        dice = generator(torch.device("cpu"), "exit", self._seed, learner, update)
        return int(torch.randint(len(self._subject.timesteps), (), generator=dice))

    def draw(self, learner: str, update: int, samples: Sequence[int], dice: Sequence[torch.Generator]) -> Drawn:
        """Prompts, noise of clips and of each pass to come, and at which noise they are scored."""
        subject, device = self._subject, self._world.device
        exit_pass = self.exit_pass(learner, update)
        (channels, num_video, *cells), (num_audio, audio_channels) = subject.clip
        block, ahead = subject.block, subject.model.dit.future_audio_latents

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
                left = subject.model.rollout.steps[exit_pass]
                tensors["guidance_time"] = torch.randint(left, (), generator=one, device=device)
            for i in range(exit_pass * subject.num_blocks):
                tensors[f"again_video_{i}"] = normal(block.video, channels, *cells)
                tensors[f"again_audio_{i}"] = normal(block.audio + ahead, audio_channels)
            return tensors

        each = [drawn_for(one) for one in dice]
        tensors = {name: torch.stack([x[name] for x in each]) for name in each[0]}
        text = subject.text([self._prompts[i] for i in samples], device).to(self._student.dtype)
        return Drawn({"text": text, "prompts": torch.tensor(samples), **tensors}, exit_pass)

    def loss(self, learner: str, drawn: Drawn) -> Loss:
        tensors = drawn.tensors
        noise = Latents(tensors["score_video"], tensors["score_audio"])
        timesteps = score_timesteps(tensors["score_time"], self._subject.model.rollout.shift)
        weights = self._config.weights.pair
        if learner == CRITIC:
            with torch.no_grad():
                clip = self._roll_out(drawn)
            prompt = _read(self._critic, tensors["text"])
            scorer = Scorer(self._critic, prompt)
            return Loss(critic_loss(clip, noise, timesteps, scorer, self._subject.table, weights=weights), {})
        clip = self._roll_out(drawn)
        with torch.no_grad():
            unwanted = self._teacher.read_text(*self._unwanted_for(clip))
            real = Scorer(self._teacher, _read(self._teacher, tensors["text"]), unwanted)
            fake = Scorer(self._critic, _read(self._critic, tensors["text"]))
        scales, figures = None, dict[str, Tensor]()
        if self._rewarding is not None:
            prompts = [self._prompts[i] for i in tensors["prompts"].tolist()]
            scales, figures = self._rewarding.scales(clip, prompts)
        guidance_timesteps = None
        if self._config.decoupled:
            guidance_timesteps = score_timesteps(tensors["guidance_time"], self._subject.model.rollout.shift)
        loss = generator_loss(
            clip,
            noise,
            timesteps,
            real,
            fake,
            self._subject.table,
            self._config.guidance.pair,
            guidance_timesteps=guidance_timesteps,
            weights=weights,
            scales=scales,
        )
        gradient = loss.gradient
        sizes = {"video gradient": gradient.video.abs().mean(), "audio gradient": gradient.audio.abs().mean()}
        return Loss(loss.total, sizes | figures)

    def _unwanted_for(self, clip: Latents) -> tuple[Tensor, tuple[None, None], None, Tensor]:
        video, audio = (x.expand(clip.video.shape[0], -1, -1) for x in self._unwanted)
        return video, (None, None), None, audio

    def _roll_out(self, drawn: Drawn) -> Latents:
        subject, tensors = self._subject, drawn.tensors
        rollout = SelfRollout(
            self._student,
            subject.model.rollout,
            subject.shape,
            _read(self._student, tensors["text"]),
            drawn.choice,
            detached=self._config.detached,
        )

        def again() -> Iterator[Tensor]:
            for i in range(drawn.choice * subject.num_blocks):
                yield tensors[f"again_video_{i}"].flatten(0, 1)
                yield tensors[f"again_audio_{i}"].flatten(0, 1)

        noises = again()
        noise = Latents(tensors["video"], tensors["audio"])
        return self_rollout(rollout, noise, [subject.block.video] * subject.num_blocks, lambda _: next(noises))


def _read(dit: DualStreamTransformer, text: Tensor) -> TextMemory:
    return dit.read_text(text, (None, None), None)
