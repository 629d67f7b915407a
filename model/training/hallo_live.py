"""The published model as a subject of training: its networks, its clips, its text."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from model.adapters import ovi
from model.adapters.hallo_live import load_critic, load_generator
from model.adapters.mova import begin_with
from model.config import DiTConfig, HalloLiveConfig, load_yaml
from model.dit.transformer import DualStreamTransformer, TextMemory
from model.errors import ConfigError
from model.geometry import Geometry
from model.hallo_live import TEXT_ENCODER, TOKENIZER
from model.rollout import Latents, RolloutShape
from model.sampling import NoiseTable
from model.text.prompt_table import film_name
from model.training.config import RANDOM, HalloLiveSubject
from model.training.distributed import World
from model.training.dmd import Scorer, SelfRollout, self_rollout
from model.training.features import Encodes, PromptFeatures, on_loan
from model.training.ode import Forward, clip_forward
from model.training.randomness import generator
from model.training.subject import Given
from model.training.teacher import kept_states, teacher_table
from model.training.views import BlockSizes


class HalloLive:
    """Implements :class:`model.training.subject.Subject`; its networks are transformers.

    Attributes:
        weights: directory of files.
    """

    def __init__(self, config: HalloLiveSubject, seed: int) -> None:
        self._config, self._seed = config, seed
        self.weights: Path = config.weights
        self.model = load_yaml(config.model, HalloLiveConfig)
        self._teacher_dit = load_yaml(config.teacher_model or config.model, HalloLiveConfig).dit
        g: Geometry = self.model.geometry.build()
        num_video = config.video_latents or self.model.rollout.window_latents
        if num_video % g.block_video_latents or num_video > self.model.rollout.window_latents:
            raise ConfigError(
                f"subject.video_latents: {num_video} must be a multiple of a block's {g.block_video_latents} "
                f"and at most the window's {self.model.rollout.window_latents}"
            )
        ratio = g.audio_latents_per_video_latent
        dit = self.model.dit
        self.geometry = g
        self.clip = (
            (dit.video.latent_channels, num_video, g.latent_height, g.latent_width),
            (num_video * ratio, dit.audio.latent_channels),
        )
        self.shape = RolloutShape(g.latent_height, g.latent_width, ratio)
        self.block = BlockSizes(g.block_video_latents, g.block_audio_latents)
        self.num_blocks = num_video // g.block_video_latents
        self.table = NoiseTable.shifted(self.model.rollout.shift)
        self.timesteps: Sequence[float] = self.table.warped(self.model.rollout.steps)
        self.steps: Sequence[int] = self.model.rollout.steps
        self.shift = self.model.rollout.shift
        self.exits: Sequence[int] = range(len(self.timesteps))
        self.num_renoised_audio = self.block.audio + dit.future_audio_latents
        self.features = PromptFeatures(config.text_features, self.model.text.text_len)

    def net(
        self,
        role: str,
        device: torch.device,
        dtype: torch.dtype,
        report: Callable[[str], None] = lambda _: None,
    ) -> DualStreamTransformer:
        """A network as its file has it, mapped; ``role`` is one of the config's starts.

        Args:
            device, dtype: of random weights, if it begins with such.

        Raises:
            CheckpointError: the file is missing, or another's.
        """
        starts, patch_cells = self._config.starts, self.model.geometry.patch_cells
        start, config = getattr(starts, role), self.model.dit if role == "student" else self._teacher_dit
        if start == RANDOM:
            return random_net(config, patch_cells, device, dtype, self._seed, role)
        path = self.weights / start
        if role == "student" and starts.audio_tower is not None:
            dit = random_net(config, patch_cells, device, dtype, self._seed, role)
            report(begin_with(dit, path, self.weights / starts.audio_tower))
            return dit
        if role == "student":
            return load_generator(path, config, patch_cells)
        if role == "critic" and path.suffix == ".pt":
            return load_critic(path, config, patch_cells)
        return ovi.load_teacher(path, config, patch_cells)

    def prepare_text(
        self, prompts: Sequence[str], world: World, on_progress: Callable[[int, int], None] = lambda done, of: None
    ) -> None:
        """Features of all prompts and of what is not wanted, made where they are missing; the encoder is in memory meanwhile, and
        not afterwards."""

        def open_encoder() -> contextlib.AbstractContextManager[Encodes]:
            from model.adapters.umt5 import load_umt5
            from model.text.umt5 import TextEncoder, UMT5Tokenizer

            tokenizer = UMT5Tokenizer(self.weights / TOKENIZER, self.model.text)
            encoder = load_umt5(self.weights / TEXT_ENCODER, self.model.text, device=world.device)
            return on_loan(TextEncoder(tokenizer, encoder, self.model.text))

        unwanted = self._config.unwanted
        self.features.make([*prompts, unwanted.video, unwanted.audio], open_encoder, world, on_progress)

    def text(self, prompts: Sequence[str], device: torch.device) -> Tensor:
        """[B, S, D], after :meth:`prepare_text`."""
        return torch.stack([self.features.read(prompt) for prompt in prompts]).to(device)

    def described(self, prompts: Sequence[str]) -> list[str]:
        return list(prompts)

    def given(self, prompts: Sequence[str], device: torch.device) -> dict[str, Tensor]:
        return {"text": self.text(prompts, device)}

    def forward(self, net: DualStreamTransformer, given: Given) -> Forward:
        return partial(clip_forward, net, text=self.read(net, given), block=self.block)

    def scores(self, net: DualStreamTransformer, given: Given, *, guided: bool = False) -> Scorer:
        return Scorer(net, self.read(net, given), self._read_unwanted(net, given) if guided else None)

    def read(self, net: DualStreamTransformer, given: Given) -> TextMemory:
        return net.read_text(given["text"].to(net.dtype), (None, None), None)

    def _read_unwanted(self, net: DualStreamTransformer, given: Given) -> TextMemory:
        num, device = given["text"].shape[0], given["text"].device
        video, audio = (
            self.text([x], device).to(net.dtype).expand(num, -1, -1)
            for x in (self._config.unwanted.video, self._config.unwanted.audio)
        )
        return net.read_text(video, (None, None), None, audio)

    def roll_out(
        self,
        net: DualStreamTransformer,
        given: Given,
        noise: Latents,
        exit_pass: int,
        again: Iterator[Tensor],
        *,
        detached: bool,
    ) -> Latents:
        rollout = SelfRollout(net, self.model.rollout, self.shape, self.read(net, given), exit_pass, detached=detached)
        return self_rollout(rollout, noise, [self.block.video] * self.num_blocks, lambda _: next(again))

    def trajectory_plan(self, num_steps: int) -> tuple[NoiseTable, list[int]]:
        return teacher_table(num_steps, self.shift), kept_states(num_steps, len(self.timesteps) + 1)

    def file_of(self, prompt: str, seed: int) -> str:
        """As its film is called, with another ending."""
        return str(Path(film_name(prompt, self.geometry.height_px, self.geometry.width_px, seed)).with_suffix(".pt"))

    @staticmethod
    def published_name(name: str) -> str:
        return ovi.published_name(name)

    def published(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return ovi.to_published(tensors, self.model.geometry.patch_cells)


def random_net(
    config: DiTConfig, patch_cells: int | tuple[int, int], device: torch.device, dtype: torch.dtype, *what: object
) -> DualStreamTransformer:
    """Random weights that keep activations finite, drawn where they will be; the same for the same ``what``."""
    with torch.device("meta"):
        dit = DualStreamTransformer(config, patch_cells)
    dice = generator(device, "start", *what)
    tensors: dict[str, Tensor] = {}
    for name, x in dit.state_dict().items():
        if x.ndim == 1:
            tensors[name] = torch.full(x.shape, 1.0 if name.endswith("weight") else 0.0, device=device, dtype=dtype)
        else:
            fan_in = x.shape[-1] if name.endswith("modulation") else x[0].numel()
            tensors[name] = torch.randn(x.shape, generator=dice, device=device, dtype=dtype) / fan_in**0.5
    dit.load_state_dict(tensors, assign=True)
    return dit.requires_grad_(False).eval()
