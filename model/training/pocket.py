"""pocket as a subject of training: its networks, its clips, and the stream that it is, with gradients."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from model.cached_rollout import Block, CachedRollout
from model.config import ModelConfig, SamplingConfig, load_yaml
from model.data.clips import ClipSet
from model.data.face import Look
from model.dit.attention import KeyValue, Pieces
from model.dit.block import LayerMemory, LayerPast, StreamView
from model.dit.masks import time_window
from model.dit.rope import Rope
from model.dit.transformer import DualStreamTransformer, Flow, TextMemory
from model.errors import CheckpointError, ConfigError, TrainingError
from model.rollout import Latents
from model.sampling import NoiseTable
from model.text.encoder import TextEncoder
from model.text.tokenizer import SEPARATOR
from model.training.clips import ClipLatents, ClipTexts, open_clips
from model.training.config import PocketSubject
from model.training.distributed import dtype_of
from model.training.looks import LatentReader
from model.training.objective import Sequence as LatentSequence
from model.training.objective import sequence_forward
from model.training.ode import Forward
from model.training.starts import Kind, load_encoder, make_vae, read_speaker, take_vae
from model.training.subject import Given
from model.training.views import BlockSizes, TextBatch
from model.vae.audio import AudioVAE
from model.vae.video import VideoVAE
from model.weight_files import fill

_PROMPT = re.compile(r"clip (\d+) from block (\d+)")


class Speaker(nn.Module):
    """Transformer and text side, which learn together.

    Args:
        labels: with what reads a look off its caption and off latents, helpers that are thrown away.
    """

    def __init__(self, config: ModelConfig, *, labels: bool = False) -> None:
        super().__init__()
        self.dit = DualStreamTransformer(config.dit, config.geometry.patch_cells)
        self.text = TextEncoder(config.text)
        if labels:
            geometry = config.geometry.build()
            self.labels = nn.ModuleDict({name: nn.Linear(config.text.dim, n) for name, n in Look.cardinalities().items()})
            self.reader = LatentReader(config.dit.video.latent_channels, geometry.latent_height, geometry.latent_width)

    @property
    def dtype(self) -> torch.dtype:
        """Of latents."""
        return self.dit.dtype

    def read(self, given: Given) -> TextBatch:
        """Encode phonemes and captions; see :meth:`model.training.clips.ClipTexts.text`."""
        summary = self.text.caption(given["caption"])
        phonemes = self.text.phonemes(given["ids"], given["durations_s"], given["text_mask"])
        none = given["times"].new_zeros(*summary.shape[:2])
        return TextBatch(
            torch.cat((summary, phonemes), dim=1),
            torch.cat((none, given["times"]), dim=1),
            torch.cat((none.bool(), torch.ones_like(given["text_mask"])), dim=1),
            torch.cat((~none.bool(), given["text_mask"]), dim=1),
        )


def without_caption(caption: Tensor) -> Tensor:
    """Captions [B, W] of nobody, as they are learned now and then: what guidance leads away from."""
    return F.pad(caption.new_full((len(caption), 1), SEPARATOR), (0, caption.shape[1] - 1))


def _model(config: PocketSubject) -> ModelConfig:
    """
    Raises:
        ConfigError: there is no such config, or its passes do not fall.
    """
    model = load_yaml(config.model, ModelConfig)
    if config.timesteps is None:
        return model
    try:
        sampling = SamplingConfig.model_validate({**model.sampling.model_dump(), "timesteps": config.timesteps})
    except ValidationError as error:
        raise ConfigError(f"subject.timesteps: {error.errors()[0]['msg'].lower()}") from None
    return model.model_copy(update={"sampling": sampling})


class Pocket:
    """Implements :class:`model.training.subject.Subject`; its networks are speakers.

    Prompts are places in its clips, written as "clip 7 from block 3": a stream that begins there.

    Args:
        compute: type of products.
    """

    def __init__(self, config: PocketSubject, seed: int, device: torch.device, compute: str) -> None:
        self._config, self._seed, self._device, self._compute = config, seed, device, dtype_of(compute)
        self.model = _model(config)
        self.geometry = g = self.model.geometry.build()
        dit, sampling = self.model.dit, self.model.sampling
        self.block, self.num_blocks = BlockSizes(g.block_video_latents, g.block_audio_latents), config.blocks
        self.clip = (
            (dit.video.latent_channels, config.blocks * self.block.video, g.latent_height, g.latent_width),
            (config.blocks * self.block.audio, dit.audio.latent_channels),
        )
        # On the device, so that a loss can be recorded.
        self.table, self.shift = NoiseTable(NoiseTable.shifted(1.0).levels.to(device)), 1.0
        self.timesteps: Sequence[float] = [1000 * level for level in sampling.timesteps]
        self.steps: Sequence[int] = [round(timestep) for timestep in self.timesteps]
        # Without a clean pass history is what the last pass saw: it has to be run.
        self.exits: Sequence[int] = range(len(self.timesteps)) if sampling.clean_pass else range(len(self.timesteps))[-1:]
        self.num_renoised_audio = 0
        self._blocks = torch.arange(config.blocks, device=device)
        self._texts: ClipTexts | None = None

    def computing(self) -> AbstractContextManager[Any]:
        """Where products are in the type of the config."""
        enabled = self._compute != torch.float32
        return torch.autocast(
            self._device.type, self._compute if enabled else torch.bfloat16, enabled=enabled, cache_enabled=False
        )

    # Networks and data

    def net(self, role: str, *, labels: bool = False) -> Speaker:
        """A network as its start has it; ``role`` is one of the config's starts.

        Raises:
            CheckpointError: the start is missing, or another's.
        """
        start = getattr(self._config.starts, role)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            speaker = Speaker(self.model, labels=labels)
        if start is not None:
            tensors, path = read_speaker(start)
            for name, module in (("dit", speaker.dit), ("text", speaker.text)):
                own = {key.removeprefix(f"{name}."): x for key, x in tensors.items() if key.startswith(f"{name}.")}
                fill(module, own, path, dtype=torch.float32)
        return speaker.to(self._device).requires_grad_(False)

    def clips(self) -> ClipSet:
        return open_clips(self._config.data / "clips")

    @property
    def texts(self) -> ClipTexts:
        """Of the clip set; read when it is first asked for."""
        if self._texts is None:
            self._texts = ClipTexts(self.clips(), self.model, self.geometry, self._device)
            if self._texts.num_blocks < self.num_blocks:
                raise ConfigError(f"subject.blocks: {self.num_blocks} are more than a clip's {self._texts.num_blocks}")
        return self._texts

    def latents(self) -> ClipLatents:
        """Of the clip set, by the encoders of the config.

        Raises:
            ConfigError: it names none; TrainingError: one is never frozen.
        """
        places = self._config.video_encoder, self._config.audio_encoder
        if None in places:
            raise ConfigError("subject.video_encoder and subject.audio_encoder: name what makes latents of clips")
        video, audio = (
            load_encoder(place, kind, self.model, self._device)  # type: ignore[arg-type]
            for place, kind in zip(places, ("video", "audio"), strict=True)
        )
        with self.computing():
            return ClipLatents(self.clips(), self.model, self.geometry, video, audio, self._device)  # type: ignore[arg-type]

    def vae(self, kind: Kind) -> VideoVAE | AudioVAE:
        """Encoder and decoder of the latents, on the CPU.

        Raises:
            ConfigError: the config names none; CheckpointError: it has no decoder of this size, or a file is missing.
        """
        place = self._config.video_encoder if kind == "video" else self._config.audio_encoder
        if place is None:
            raise ConfigError(f"subject.{kind}_encoder: name what made the latents, whose decoder is to show them")
        vae = make_vae(self.model, kind)
        if not take_vae(vae, place, kind):
            raise CheckpointError(f"{place}: its {kind} decoder has other sizes than the config's model")
        return vae.requires_grad_(False).eval()

    def described(self, prompts: Sequence[str]) -> list[str]:
        """What judges are told of prompts: the captions of their clips."""
        clips = self.clips().clips
        matches = [_PROMPT.fullmatch(prompt) for prompt in prompts]
        return [clips[int(match[1])]["caption"] if match else "" for match in matches]

    def prompts(self) -> list[str]:
        """All streams that the clips have room for."""
        texts = self.texts
        firsts = range(texts.num_blocks - self.num_blocks + 1)
        return [f"clip {clip} from block {first}" for clip in range(texts.num_clips) for first in firsts]

    # What stages 1 and 2 ask for

    def given(self, prompts: Sequence[str], device: torch.device) -> dict[str, Tensor]:
        """
        Raises:
            TrainingError: a prompt is no place in the clips.
        """
        texts, places = self.texts, []
        for prompt in prompts:
            match = _PROMPT.fullmatch(prompt)
            place = tuple(map(int, match.groups())) if match else (-1, 0)
            if not (0 <= place[0] < texts.num_clips and place[1] + self.num_blocks <= texts.num_blocks):
                raise TrainingError(
                    f"{prompt!r} is no place in {self._config.data / 'clips'}: sample trajectories with these clips"
                )
            places.append(place)
        clip, first = torch.tensor(places, device=device).unbind(1)
        return texts.stream(clip, first, self.num_blocks)

    def _sequence(self, given: Given, video: Tensor, audio: Tensor) -> LatentSequence:
        return LatentSequence(video, audio, given["control"], self._blocks.expand(len(video), -1))

    def forward(self, net: Speaker, given: Given) -> Forward:
        with self.computing():
            text = net.read(given)

        def forward(video: Tensor, audio: Tensor, video_timesteps: Tensor, audio_timesteps: Tensor) -> Flow:
            with self.computing():
                sequence, times = self._sequence(given, video, audio), (video_timesteps, audio_timesteps)
                return sequence_forward(net.dit, self.model, self.geometry, sequence, text, *times)

        return forward

    def scores(self, net: Speaker, given: Given, *, guided: bool = False) -> _Scores:
        with self.computing():
            wanted = net.read(given)
            unwanted = net.read({**given, "caption": without_caption(given["caption"])}) if guided else None
        return _Scores(partial(self._score, net, given), wanted, unwanted)

    def _score(self, net: Speaker, given: Given, text: TextBatch, noisy: Latents, timesteps: Tensor, skip: int | None) -> Flow:
        with self.computing():
            sequence, times = self._sequence(given, noisy.video, noisy.audio), timesteps.view(-1, 1)
            return sequence_forward(
                net.dit, self.model, self.geometry, sequence, text, times, times, causal=False, skip_layer=skip
            )

    def roll_out(
        self, net: Speaker, given: Given, noise: Latents, exit_pass: int, again: Iterator[Tensor], *, detached: bool
    ) -> Latents:
        """A stream from its first block on, past the window if it is longer."""
        with self.computing():
            text = net.read(given)
            memory = net.dit.read_text(text.tokens, net.dit.text_tables(text.times, text.timed), None)
            tokens, sampling = self.geometry.tokens_per_video_latent, self.model.sampling
            sink = tokens if sampling.sink else 0
            history = ThroughHistory(net.dit.video_rope, sampling.window_blocks - 1, sink, detached=detached)
            passes = GradientPasses(net.dit, history, memory)
            rollout: CachedRollout[_View] = CachedRollout(passes, sampling, history)
            finished = []
            for number in range(self.num_blocks):
                video, audio = self._of_block(number, noise.video, 2), self._of_block(number, noise.audio, 1)
                rollout.begin(video, audio, self._view(net.dit, number, text, given))
                with torch.no_grad():
                    for _ in range(exit_pass):
                        rollout.denoise()
                rollout.denoise(leave=True)
                history.made = passes.memory
                finished.append(rollout.finish())
                if number + 1 < self.num_blocks:
                    with torch.no_grad():
                        rollout.update_cache()
        return Latents(torch.cat([b.video for b in finished], dim=2), torch.cat([b.audio for b in finished], dim=1))

    def _of_block(self, number: int, x: Tensor, dim: int) -> Tensor:
        return x.narrow(dim, number * x.shape[dim] // self.num_blocks, x.shape[dim] // self.num_blocks)

    def _view(self, dit: DualStreamTransformer, number: int, text: TextBatch, given: Given) -> _View:
        """What one block's passes are given."""
        g, config = self.geometry, self.model.text
        num_video, num_audio = self.block.video, self.block.audio
        video_index = number * num_video + torch.arange(num_video, device=self._device)
        audio_index = number * num_audio + torch.arange(num_audio, device=self._device)
        video_table, video_text_table = dit.video_tables(video_index, g.grid_height, g.grid_width)
        audio_table, audio_text_table = dit.audio_tables(audio_index)
        block_time = num_audio * self.model.dit.audio.time_scale
        unit_s = float(g.block_duration_s) / block_time
        block = torch.full((1, 1), number, device=self._device)
        near = time_window(block, text.times, block_time, config.past_s / unit_s, config.future_s / unit_s)
        mask = (text.mask.unsqueeze(1) & (near | ~text.timed.unsqueeze(1))).unsqueeze(1)
        return _View(
            StreamView(video_table, video_text_table, None, mask, None),
            StreamView(audio_table, audio_text_table, None, mask, None),
            self._of_block(number, given["control"], 1),
        )

    def trajectory_plan(self, num_steps: int) -> tuple[NoiseTable, list[int]]:
        levels = torch.linspace(1.0, 0.0, num_steps + 1)[:-1]
        table = NoiseTable(levels)
        return table, [*(int(table.nearest(torch.tensor(t))) for t in self.timesteps), num_steps]

    def file_of(self, prompt: str, seed: int) -> str:
        return f"{prompt.replace(' ', '_')}_{seed}.pt"

    def published_name(self, name: str) -> str:
        return name

    def published(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(tensors)


class _Scores:
    """Implements :class:`model.training.dmd.Scores`."""

    def __init__(self, score: partial[Flow], wanted: TextBatch, unwanted: TextBatch | None) -> None:
        self._score, self._wanted, self._unwanted = score, wanted, unwanted

    def flow(self, noisy: Latents, timesteps: Tensor, *, unwanted: bool = False, skip_layer: int | None = None) -> Flow:
        text = self._unwanted if unwanted else self._wanted
        assert text is not None, "guidance needs a text of what is not wanted"
        return self._score(text, noisy, timesteps, skip_layer)


@dataclass(frozen=True)
class _View:
    """What a block's passes are given besides its latents."""

    video: StreamView
    audio: StreamView
    control: Tensor


class ThroughHistory:
    """Earlier blocks of a stream that is rolled out with gradients: what :class:`model.dit.history.History` holds, but nothing
    is written in place. Where a clean pass makes history, the values are its, but gradients go to the pass that made the block,
    as in :class:`model.training.dmd.StraightThroughContext`.

    Args:
        num_blocks: that are remembered; the oldest leaves.
        sink_tokens: of the stream's first block, which stay, without their time.
        detached: let no gradient reach earlier blocks.

    Attributes:
        made: what the last pass with gradients left of the block that is to be remembered next.
    """

    def __init__(self, rope: Rope, num_blocks: int, sink_tokens: int, *, detached: bool) -> None:
        self._rope, self._num_blocks, self._sink_tokens, self._detached = rope, num_blocks, sink_tokens, detached
        self._blocks: list[list[LayerMemory]] = []
        self._sink: list[KeyValue] | None = None
        self.made: Sequence[LayerMemory] = ()

    def past(self) -> list[LayerPast] | None:
        """What the next block sees, a layer each."""
        if not self._blocks:
            return None
        past = []
        for number, layer in enumerate(zip(*self._blocks, strict=True)):
            kinds = [Pieces(blocks) for blocks in zip(*layer, strict=True)]
            if self._sink is not None:
                kinds[0] = Pieces((self._sink[number], *kinds[0].blocks))
            past.append(LayerPast(*kinds))
        return past

    @torch.enable_grad()  # a clean pass has none, but what it overwrites has
    def commit(self, memory: Sequence[LayerMemory]) -> None:
        block = [
            LayerMemory(*(self._through(m, c) for m, c in zip(made, clean, strict=True)))
            for made, clean in zip(self.made, memory, strict=True)
        ]
        if self._sink_tokens and self._sink is None:
            first = [layer.video_self.span(0, self._sink_tokens) for layer in block]
            self._sink = [KeyValue(self._rope.without_time(kv.key), kv.value) for kv in first]
        self._blocks = [*self._blocks, block][-self._num_blocks :]

    def _through(self, made: KeyValue, kept: KeyValue) -> KeyValue:
        if self._detached:
            return KeyValue(kept.key.detach(), kept.value.detach())
        if made is kept:
            return made
        # In this order nothing is rounded: what is added is 0.
        return KeyValue(*(c.detach() + (m - m.detach()) for m, c in zip(made, kept, strict=True)))


class GradientPasses:
    """The network as a rollout with gradients runs it. Implements :class:`model.cached_rollout.Passes`.

    Attributes:
        memory: what the layers remember of the last pass.
    """

    def __init__(self, dit: DualStreamTransformer, history: ThroughHistory, text: TextMemory) -> None:
        self._dit, self._history, self._text = dit, history, text
        self.memory: Sequence[LayerMemory] = ()

    def __call__(self, part: str, block: Block[_View], level: float) -> tuple[Any, ...]:
        view, video = block.view, block.video
        times = torch.full((1, 1), 1000.0 * level, device=video.device).expand(len(video), -1)
        past = self._history.past()
        flow = self._dit(video, block.audio, times, times, view.video, view.audio, self._text, past, control=view.control)
        self.memory = flow.memory
        parts = {"denoise": (flow.video, flow.audio), "remember": flow.memory, "pass": (flow.video, flow.audio, *flow.memory)}
        return parts[part]
