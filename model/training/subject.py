"""What stages 1 and 2 ask of the model that they train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from model.rollout import Latents
from model.sampling import NoiseTable
from model.training.dmd import Scores
from model.training.ode import Forward
from model.training.views import BlockSizes

Network = Any
"""A subject's own kind of network: an ``nn.Module`` with the type of its latents as ``dtype``."""
Given = Mapping[str, Tensor]
"""What networks read of prompts: tensors by name, a row a prompt."""


class Subject(Protocol):
    """A model that is trained.

    Attributes:
        clip: shapes of a sample's video [C, F, h, w] and audio [L, C].
        block: latents of a block; ``num_blocks`` a clip.
        table, timesteps: noise levels, and the student's denoise passes; ``steps`` are these as of 1000 equal ones.
        shift: of levels at which scores are compared.
        exits: passes after which a rollout may leave a block.
        num_renoised_audio: audio latents that are noised anew after a pass that is not the last one, with a block's video; 0
            where a pass goes on from what the one before left.
    """

    clip: tuple[tuple[int, int, int, int], tuple[int, int]]
    block: BlockSizes
    num_blocks: int
    table: NoiseTable
    timesteps: Sequence[float]
    steps: Sequence[int]
    shift: float
    exits: Sequence[int]
    num_renoised_audio: int

    def described(self, prompts: Sequence[str]) -> list[str]:
        """What judges of rollouts are told of prompts."""

    def given(self, prompts: Sequence[str], device: torch.device) -> dict[str, Tensor]:
        """What networks read of prompts."""

    def forward(self, net: Network, given: Given) -> Forward:
        """The student under block-causal masks, once it has read what it is given."""

    def scores(self, net: Network, given: Given, *, guided: bool = False) -> Scores:
        """A bidirectional network that has read what it is given; ``guided``: what is not wanted, too."""

    def roll_out(
        self, net: Network, given: Given, noise: Latents, exit_pass: int, again: Iterator[Tensor], *, detached: bool
    ) -> Latents:
        """A clip as the student makes it when it serves, with gradients through one pass of each block.

        Args:
            exit_pass: the pass with gradients, and the last one of each block.
            again: noise for passes before it, video and audio in turns, batch and time flattened.
            detached: stop gradients between blocks.
        """

    def trajectory_plan(self, num_steps: int) -> tuple[NoiseTable, list[int]]:
        """Noise levels of a teacher's Euler steps, one to 0 left out, and the states that are kept, by the number of steps before
        them: those at the student's levels, then the clip."""

    def file_of(self, prompt: str, seed: int) -> str:
        """Of a prompt's trajectory."""

    def published_name(self, name: str) -> str: ...

    def published(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
