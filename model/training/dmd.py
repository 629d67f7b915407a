"""Stage 2, distribution matching on the student's own rollouts (DMD2, arXiv 2405.14867; Self Forcing, arXiv 2506.08009), for two
streams.

The student generates a clip block by block, as it does when it serves. Two bidirectional models score it at some noise level: the
real one knows the data, the fake one follows the student. Where their clean predictions differ, the student is to move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import RolloutConfig
from model.dit.attention import KeyValue, Pieces
from model.dit.block import LayerMemory, LayerPast
from model.dit.transformer import DualStreamTransformer, Flow, TextMemory
from model.rollout import Draw, Latents, Rollout, RolloutShape, audio_window
from model.sampling import NoiseTable, add_noise, clean_from_velocity, shift_levels
from model.training.ode import STREAM_WEIGHTS
from model.training.teacher import whole_forward

LOWEST_TIMESTEP, HIGHEST_TIMESTEP = 20.0, 980.0
"""Where scores are compared: neither end of the scale tells anything."""

Memory = tuple[LayerMemory, ...]


class StraightThroughContext:
    """Video of earlier blocks for rollouts with gradients: the clean pass gives the values, but gradients go to the pass that
    made the block, as they do where the clean pass overwrites its keys and values in place (the published trainer).

    Args:
        detached: let no gradient reach earlier blocks.
    """

    def __init__(self, detached: bool) -> None:
        self.num_latents = 0
        self._detached = detached
        self._blocks: list[list[tuple[KeyValue, KeyValue]]] = []

    def past(self) -> list[LayerPast] | None:
        if not self._blocks:
            return None
        layers = zip(*self._blocks, strict=True)
        return [
            LayerPast(Pieces(tuple(own for own, _ in layer)), None, Pieces(tuple(cross for _, cross in layer)), None)
            for layer in layers
        ]

    def commit(self, num_latents: int) -> None:
        self.num_latents += num_latents

    def clear(self) -> None:
        self.num_latents = 0
        self._blocks.clear()

    def drop(self, start: int, stop: int) -> None:
        raise ValueError("a training rollout has to fit its window: raise rollout.window_latents")

    def keep(self, made: Memory, clean: Memory) -> None:
        """Remember a block by what its last denoise pass and its clean pass left."""
        pairs = zip(made, clean, strict=True)
        self._blocks.append(
            [(self._through(m.video_self, c.video_self), self._through(m.video_cross, c.video_cross)) for m, c in pairs]
        )

    def _through(self, made: KeyValue, clean: KeyValue) -> KeyValue:
        if self._detached:
            return KeyValue(clean.key.detach(), clean.value.detach())
        # In this order nothing is rounded: what is added is 0.
        return KeyValue(*(c.detach() + (m - m.detach()) for m, c in zip(made, clean, strict=True)))


class SelfRollout(Rollout):
    """The serving loop with gradients through one pass of each block.

    Args:
        exit_pass: the pass with gradients, and the last one of each block.
        detached: stop gradients between blocks. Otherwise they flow as in the published trainer: through the keys and values of
            earlier video and, only if the first pass is the exit, through finished audio.
    """

    def __init__(
        self,
        dit: DualStreamTransformer,
        config: RolloutConfig,
        shape: RolloutShape,
        text: TextMemory,
        exit_pass: int,
        *,
        detached: bool = False,
    ) -> None:
        self._kept = StraightThroughContext(detached)
        super().__init__(dit, config, shape, text, self._kept)
        self._exit_pass, self._detached = exit_pass, detached
        self._memory: Memory = ()

    def forward(self, video: Tensor, audio: Tensor, timestep: float, num_history: int, *, split: bool = False) -> Flow:
        flow = super().forward(video, audio, timestep, num_history, split=split)
        self._memory = flow.memory
        return flow

    def block(self, video_noise: Tensor, audio_noise: Tensor, draw: Draw) -> Latents:
        """The next block, finished and remembered."""
        if self._exit_pass > 0 or self._detached:
            self.finished_audio = self.finished_audio.detach()
        self.begin(video_noise, audio_noise)
        with torch.no_grad():
            for _ in range(self._exit_pass):
                self.denoise(draw)
        latents = self.denoise(draw, leave=True)
        assert latents is not None
        made = self._memory
        with torch.no_grad():
            self.update_cache()
        self._kept.keep(made, self._memory)
        return latents


def self_rollout(rollout: SelfRollout, noise: Latents, blocks: Sequence[int], draw: Draw) -> Latents:
    """A whole clip from its noise; ``blocks`` are video latents of each block."""
    start, ratio, finished = 0, rollout.shape.audio_per_video, []
    for num_video in blocks:
        window = audio_window(noise.audio, start * ratio, num_video * ratio, rollout.dit.config.future_audio_latents)
        finished.append(rollout.block(noise.video[:, :, start : start + num_video], window, draw))
        start += num_video
    return Latents(torch.cat([b.video for b in finished], dim=2), torch.cat([b.audio for b in finished], dim=1))


def score_timesteps(drawn: Tensor, shift: float) -> Tensor:
    """Timesteps at which the scores are compared, from integers drawn uniformly from 0 to 999."""
    return (1000 * shift_levels(drawn / 1000, shift)).clamp(LOWEST_TIMESTEP, HIGHEST_TIMESTEP)


def noised(clean: Latents, noise: Latents, timesteps: Tensor, table: NoiseTable) -> Latents:
    """Both streams of each sample at its timestep [B]."""
    level = table.level(timesteps)
    return Latents(
        add_noise(clean.video, noise.video, level.view(-1, 1, 1, 1, 1)), add_noise(clean.audio, noise.audio, level.view(-1, 1, 1))
    )


class Scores(Protocol):
    """A bidirectional model that has read a prompt and, for guidance, what is not wanted."""

    def flow(self, noisy: Latents, timesteps: Tensor, *, unwanted: bool = False, skip_layer: int | None = None) -> Flow:
        """Velocities of noisy clips; one timestep a sample [B].

        Args:
            unwanted: as what is not wanted would have them.
            skip_layer: left out, for skip-layer guidance.
        """


@dataclass(frozen=True)
class Scorer:
    """The published model's; its texts as it reads them."""

    dit: DualStreamTransformer
    prompt: TextMemory
    unwanted: TextMemory | None = None

    def flow(self, noisy: Latents, timesteps: Tensor, *, unwanted: bool = False, skip_layer: int | None = None) -> Flow:
        text, times = self.unwanted if unwanted else self.prompt, timesteps.view(-1, 1)
        assert text is not None, "guidance needs a text of what is not wanted"
        video, audio = (x.to(self.dit.dtype) for x in (noisy.video, noisy.audio))
        return whole_forward(self.dit, video, audio, times, times, text, skip_layer)


def predict_clean(scores: Scores, noisy: Latents, timesteps: Tensor, table: NoiseTable, *, unwanted: bool = False) -> Latents:
    """Clean latents as a bidirectional model sees them; one timestep a sample [B]."""
    flow, level = scores.flow(noisy, timesteps, unwanted=unwanted), table.level(timesteps)
    return Latents(
        clean_from_velocity(noisy.video, flow.video, level.view(-1, 1, 1, 1, 1)),
        clean_from_velocity(noisy.audio, flow.audio, level.view(-1, 1, 1)),
    )


@dataclass(frozen=True)
class GeneratorLoss:
    """The loss, and the direction that each stream is to leave: normalised, detached."""

    total: Tensor
    gradient: Latents


def generator_loss(
    student: Latents,
    noise: Latents,
    timesteps: Tensor,
    real: Scores,
    fake: Scores,
    table: NoiseTable,
    guidance: tuple[float, float],
    *,
    guidance_timesteps: Tensor | None = None,
    weights: tuple[float, float] = STREAM_WEIGHTS,
    scales: tuple[Tensor, Tensor] | None = None,
) -> GeneratorLoss:
    """Half the squared distance from where the scores say the rollout should be.

    Args:
        student: the rollout, with gradients.
        noise, timesteps: of the comparison; one timestep a sample [B].
        guidance: of the real score, video and audio.
        guidance_timesteps: add guidance as the real score sees it at these timesteps instead (decoupled DMD, arXiv 2511.22677).
        scales: [B] of either stream: what each sample's losses are multiplied by, from rewards.
    """
    with torch.no_grad():
        noisy = noised(student, noise, timesteps, table)
        wrong = _streams(predict_clean(fake, noisy, timesteps, table))
        right, push = _guided(real, noisy, timesteps, table, guidance)
        # Decoupled or not, gradients are measured by the distance from the guided prediction at the first timesteps.
        distances = [x.double() - r - p for x, r, p in zip(_streams(student), right, push, strict=True)]
        if guidance_timesteps is not None:
            _, push = _guided(real, noised(student, noise, guidance_timesteps, table), guidance_timesteps, table, guidance)
        gradients = [_normalised(w.double() - r - p, d) for w, r, p, d in zip(wrong, right, push, distances, strict=True)]
    each = [
        0.5 * F.mse_loss(x.double(), (x.double() - g).detach(), reduction="none").flatten(1).mean(dim=1)
        for x, g in zip(_streams(student), gradients, strict=True)
    ]
    losses = [x.mean() if scales is None else (x * scales[i]).mean() for i, x in enumerate(each)]
    return GeneratorLoss(weights[0] * losses[0] + weights[1] * losses[1], Latents(*gradients))


def _guided(
    real: Scores, noisy: Latents, timesteps: Tensor, table: NoiseTable, guidance: tuple[float, float]
) -> tuple[list[Tensor], list[Tensor]]:
    """The real score's conditional predictions, and what guidance adds to them; float64, video and audio."""
    right = [x.double() for x in _streams(predict_clean(real, noisy, timesteps, table))]
    unwanted = _streams(predict_clean(real, noisy, timesteps, table, unwanted=True))
    return right, [(scale - 1) * (r - u.double()) for r, u, scale in zip(right, unwanted, guidance, strict=True)]


def _streams(latents: Latents) -> tuple[Tensor, Tensor]:
    return latents.video, latents.audio


def _normalised(difference: Tensor, distance: Tensor) -> Tensor:
    """By the mean distance of each sample from where the real score sees it (DMD, equation 8)."""
    size = distance.abs().flatten(1).mean(dim=1).view(-1, *[1] * (distance.ndim - 1))
    return torch.nan_to_num(difference / size)


def critic_loss(
    student: Latents,
    noise: Latents,
    timesteps: Tensor,
    fake: Scores,
    table: NoiseTable,
    *,
    weights: tuple[float, float] = STREAM_WEIGHTS,
) -> Tensor:
    """Flow matching of the fake score on a rollout, which is taken as it is."""
    clean = Latents(student.video.detach(), student.audio.detach())
    flow = fake.flow(noised(clean, noise, timesteps, table), timesteps)
    video = F.mse_loss(flow.video.float(), noise.video - clean.video)
    audio = F.mse_loss(flow.audio.float(), noise.audio - clean.audio)
    return weights[0] * video + weights[1] * audio
