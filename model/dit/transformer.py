"""The causal dual-stream diffusion transformer (Hallo-Live, arXiv 2604.23632, section 3; Wan2.2 towers).

One class serves training and serving. Training runs it once over a whole sequence under masks; serving runs it block by block
over the memory of earlier blocks. Both give the same numbers.

Legend: B batch, F video latents, L audio latents, P tokens a video latent, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model import kernels
from model.config import DiTConfig, TowerConfig
from model.dit.attention import CrossAttention, KeyValue, SelfAttention
from model.dit.block import FusionLayer, LayerMemory, LayerPast, StreamView
from model.dit.rope import Rope, RotaryTable
from model.geometry import patch_shape


class TextMemory(NamedTuple):
    """Text as each layer sees it; computed once a block, not once a pass.

    A tuple, like :class:`Flow`: what spreads a network over processes looks for tensors in those, and not in every PyTorch in
    other classes.

    Attributes:
        video, audio: one KeyValue a layer.
        mask: bool [B, S], True where there is text; None attends to everything.
    """

    video: tuple[KeyValue, ...]
    audio: tuple[KeyValue, ...]
    mask: Tensor | None

    def tensors(self) -> list[Tensor]:
        return [x for side in (self.video, self.audio) for kv in side for x in kv]

    @staticmethod
    def of(tensors: Sequence[Tensor]) -> TextMemory:
        """The inverse of :meth:`tensors`, without a mask."""
        pairs = [KeyValue(key, value) for key, value in zip(tensors[::2], tensors[1::2], strict=True)]
        half = len(pairs) // 2
        return TextMemory(tuple(pairs[:half]), tuple(pairs[half:]), None)

    def without_audio(self) -> TextMemory:
        """What a device needs that computes no audio."""
        return TextMemory(self.video, (), self.mask)

    def clone(self) -> TextMemory:
        """The same at addresses of its own."""
        video, audio = (tuple(KeyValue(*(x.clone() for x in kv)) for kv in side) for side in (self.video, self.audio))
        return TextMemory(video, audio, None if self.mask is None else self.mask.clone())

    def to(self, device: torch.device) -> TextMemory:
        """The same on another device; itself if it is there."""
        video, audio = (tuple(KeyValue(*(x.to(device) for x in kv)) for kv in side) for side in (self.video, self.audio))
        return TextMemory(video, audio, None if self.mask is None else self.mask.to(device))

    def copy_(self, other: TextMemory) -> None:
        """Overwrite this one's keys and values, which keep their addresses, by those of as long a text without a mask."""
        assert self.mask is None
        assert other.mask is None
        mine, given = self.tensors(), other.tensors()
        if mine[0].device == given[0].device:
            torch._foreach_copy_(mine, given)
        else:
            for x, y in zip(mine, given, strict=True):
                x.copy_(y, non_blocking=True)


class Flow(NamedTuple):
    """Predicted velocity ``noise - clean``, video [B, C, F, h, w] and audio [B, L, C]; what layers remember of the tokens."""

    video: Tensor
    audio: Tensor
    memory: tuple[LayerMemory, ...]


@dataclass(frozen=True)
class Modulation:
    """What the noise level does to a pass: it depends on nothing else, so that it is computed once a level.

    Attributes:
        video, audio: of each layer, what :meth:`TowerBlock.modulate` gave; or what it takes, and the layer does it itself.
        video_head, audio_head: what :meth:`TowerEnds.modulate` gave.
        timesteps: of video and audio, as they came; velocities of clean predictions are had by them.
    """

    video: Sequence[Tensor | Sequence[Tensor]]
    audio: Sequence[Tensor | Sequence[Tensor]]
    video_head: Sequence[Tensor]
    audio_head: Sequence[Tensor]
    timesteps: tuple[Tensor, Tensor]

    def rows(self) -> tuple[Tensor, Tensor]:
        """All of each tower as one tensor [B, L, R, D], the head's two last."""
        towers = (self.video, self.video_head), (self.audio, self.audio_head)
        video, audio = (torch.cat([x for six in layers for x in six] + list(head), dim=2) for layers, head in towers)
        return video, audio

    @staticmethod
    def of_rows(video: Tensor, audio: Tensor, timesteps: tuple[Tensor, Tensor]) -> Modulation:
        """The inverse of :meth:`rows`."""
        (v, a) = ([rows[:, :, i].unsqueeze(2) for i in range(rows.shape[2])] for rows in (video, audio))
        video_layers, audio_layers = ([x[i : i + 6] for i in range(0, len(x) - 2, 6)] for x in (v, a))
        return Modulation(video_layers, audio_layers, v[-2:], a[-2:], timesteps)


class ConvStem(nn.Module):
    """The published audio tower's embedding: a convolution, then a gated convolutional MLP; not causal."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        hidden = 256 * math.ceil((8 * dim // 3) / 256)
        self.conv = nn.Conv1d(channels, dim, 7, padding=3)
        self.w1, self.w3 = (nn.Conv1d(dim, hidden, 7, padding=3, bias=False) for _ in range(2))
        self.w2 = nn.Conv1d(hidden, dim, 7, padding=3, bias=False)

    def forward(self, x_BLC: Tensor) -> Tensor:
        conv = kernels.on(x_BLC).conv1d
        x = F.silu(conv(x_BLC, self.conv))
        return conv(F.silu(conv(x, self.w1)) * conv(x, self.w3), self.w2)


def timestep_sinusoid(timesteps: Tensor, dim: int) -> Tensor:
    """[..., dim] of timesteps on the 0..1000 scale: cosines, then sines.

    In float64 if the timesteps are: at 1000 radians float32 is off by up to 6e-5.
    """
    wide = timesteps if timesteps.dtype == torch.float64 else timesteps.float()
    frequencies = 10_000.0 ** (-torch.arange(dim // 2, device=timesteps.device, dtype=wide.dtype) / (dim // 2))
    angles = wide.unsqueeze(-1) * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class TowerEnds(nn.Module):
    """All of a tower that is not a layer: embeddings in front, head behind."""

    def __init__(self, tower: TowerConfig, config: DiTConfig, patch_values: int) -> None:
        super().__init__()
        dim = tower.dim
        self.eps = config.eps
        self.freq_dim = config.freq_dim
        values = tower.latent_channels * patch_values
        self.stem: nn.Module = ConvStem(tower.latent_channels, dim) if tower.stem == "conv" else nn.Linear(values, dim)
        self.text_embedding = nn.Sequential(nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.head = nn.Linear(dim, values)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def time(self, timesteps_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Embedded [B, L, D] and projected [B, L, 6, D] timesteps."""
        e = self.time_embedding(timestep_sinusoid(timesteps_BL, self.freq_dim).to(self.head.weight.dtype))
        return e, self.time_projection(e).unflatten(-1, (6, -1))

    def modulate(self, e_BLD: Tensor) -> tuple[Tensor, ...]:
        """The head's two [B, L, 1, D] from the embedded timestep of each latent."""
        return (self.modulation.unsqueeze(1) + e_BLD.unsqueeze(2)).unsqueeze(3).unbind(2)

    def out(self, x_BTD: Tensor, m: Sequence[Tensor]) -> Tensor:
        """Velocity of each token; ``m`` is what :meth:`modulate` gave."""
        return self.head(kernels.on(x_BTD).norm_modulate(x_BTD, m[0], m[1], self.eps))


_LEAST_LEVEL = 0.05
"""Noise level below which a clean prediction's velocity is not enlarged further: at 0, where history is read, it has none."""


def _velocity(noisy: Tensor, clean: Tensor, timesteps: Tensor) -> Tensor:
    """Velocity of a predicted clean latent, all broadcast to each other."""
    return (noisy - clean) / (timesteps / 1000).clamp(min=_LEAST_LEVEL).to(noisy.dtype)


class DualStreamTransformer(nn.Module):
    """See the module's text.

    Args:
        config: sizes.
        patch_cells: latent cells a video token: one number for both ways, or (rows, columns).

    Attributes:
        recomputes: keep of each layer only what goes in and comes out, and compute the rest again where gradients want it.
        computes_in: type of products, where weights are kept in another.
    """

    def __init__(self, config: DiTConfig, patch_cells: int | tuple[int, int]) -> None:
        super().__init__()
        self.config, self.patch_cells = config, patch_shape(patch_cells)
        self.recomputes = False
        self.computes_in: torch.dtype | None = None
        self.video_ends = TowerEnds(config.video, config, math.prod(self.patch_cells))
        self.audio_ends = TowerEnds(config.audio, config, 1)
        if config.grid is not None:
            self.place = nn.Parameter(torch.zeros(math.prod(config.grid), config.video.dim))
        if config.control_channels:
            self.control = nn.Linear(config.control_channels, config.video.dim)
        self.layers = nn.ModuleList(FusionLayer(config) for _ in range(config.num_layers))
        self.video_rope = Rope(config.video.dim // config.video.num_heads, config.rope_theta)
        self.audio_rope = Rope(config.audio.dim // config.audio.num_heads, config.rope_theta)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module not in (self.video_ends.head, self.audio_ends.head):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def video_replica(self, device: torch.device) -> DualStreamTransformer:
        """The same weights on another device, as far as they work on video; the others are there in name only, on ``meta``. To be
        taken before :meth:`settle` rounds any."""

        def place(name: str) -> torch.device:
            # What projects a tower for the other has the other's name.
            return device if ("audio" in name) == ("fusion" in name) else torch.device("meta")

        with torch.device("meta"):
            other = DualStreamTransformer(self.config, self.patch_cells)
        other.load_state_dict({name: x.to(place(name), copy=True) for name, x in self.state_dict().items()}, assign=True)
        return other.requires_grad_(False).train(self.training)

    def prepare_for_inference(self, *, float8: bool = False) -> DualStreamTransformer:
        """Arrange weights as serving on a GPU wants them: side by side where products share an input, taps of 1-D convolutions
        outermost. Names and values stay; afterwards weights may neither move nor change. Returns itself.

        Args:
            float8: round the video layers' large products, whose names are then gone; see :mod:`model.dit.float8`.
        """
        if float8:
            for layer in self.fusion_layers():
                layer.video.quantise()
        for module in self.modules():
            if isinstance(module, SelfAttention):
                module.qkv.fuse()
            elif isinstance(module, CrossAttention):
                module.kv_fusion.fuse()
            elif isinstance(module, nn.Conv1d):
                module.weight.data = module.weight.data.transpose(1, 2).contiguous().transpose(1, 2)
        return self

    @property
    def dtype(self) -> torch.dtype:
        """Of what goes in and comes out."""
        return self.computes_in or self.video_ends.head.weight.dtype

    # Positions: rotary time of latent n is n * scale + offset, the same unit for video, audio and text.

    def video_times(self, latent_index: Tensor) -> Tensor:
        return latent_index.double() * self.config.video.time_scale + self.config.video.time_offset

    def audio_times(self, latent_index: Tensor) -> Tensor:
        return latent_index.double() * self.config.audio.time_scale + self.config.audio.time_offset

    def video_tables(self, latent_index: Tensor, grid_height: int, grid_width: int) -> tuple[RotaryTable, RotaryTable | None]:
        """Tables of video tokens for other tokens, and for text: latent_index [..., F] -> [..., F * P, K]."""
        times = self.video_times(latent_index)
        table = self.video_rope.video_table(times, grid_height, grid_width)
        if not self.config.aligned_text:
            return table, None
        return table, self.video_rope.time_table(times.repeat_interleave(grid_height * grid_width, dim=-1))

    def audio_tables(self, latent_index: Tensor) -> tuple[RotaryTable, RotaryTable | None]:
        table = self.audio_rope.time_table(self.audio_times(latent_index))
        return table, table if self.config.aligned_text else None

    def text_tables(self, times: Tensor, timed: Tensor) -> tuple[RotaryTable, RotaryTable] | tuple[None, None]:
        """Tables of text for the video and the audio tower: times and timed [..., S], in rotary units."""
        if not self.config.aligned_text:
            return None, None
        return self.video_rope.time_table(times, timed), self.audio_rope.time_table(times, timed)

    def read_text(
        self,
        text: Tensor,
        tables: tuple[RotaryTable, RotaryTable] | tuple[None, None],
        mask: Tensor | None,
        audio_text: Tensor | None = None,
    ) -> TextMemory:
        """Keys and values of encoded text [B, S, text_dim] for all layers; ``audio_text`` if audio reads another."""
        video = self.video_ends.text_embedding(text)
        audio = self.audio_ends.text_embedding(text if audio_text is None else audio_text)
        of_video, of_audio = zip(*(layer.read_text(video, audio, tables) for layer in self.fusion_layers()), strict=True)
        return TextMemory(of_video, of_audio, mask)

    def fusion_layers(self) -> list[FusionLayer]:
        return list(self.layers)  # type: ignore[arg-type]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens of a latent of so many cells."""
        return height // self.patch_cells[0], width // self.patch_cells[1]

    def patchify(self, video: Tensor) -> Tensor:
        """[B, C, F, h, w] -> [B, F * P, p * q * C]; a token's values run over patch row, patch column, channel."""
        p, q = self.patch_cells
        batch, channels, length, height, width = video.shape
        x = video.view(batch, channels, length, height // p, p, width // q, q)
        return x.permute(0, 2, 3, 5, 4, 6, 1).reshape(batch, -1, p * q * channels)

    def unpatchify(self, tokens: Tensor, shape: Sequence[int]) -> Tensor:
        p, q = self.patch_cells
        batch, channels, length, height, width = shape
        x = tokens.view(batch, length, height // p, width // q, p, q, channels)
        return x.permute(0, 6, 1, 2, 4, 3, 5).reshape(batch, channels, length, height, width)

    def modulation(self, video_timesteps: Tensor, audio_timesteps: Tensor, *, by_layers: bool = False) -> Modulation:
        """Of :meth:`forward`'s timesteps; ``by_layers`` leaves the layers' part to them."""
        video_e, video_e0 = self.video_ends.time(video_timesteps)
        audio_e, audio_e0 = self.audio_ends.time(audio_timesteps)
        layers = self.fusion_layers()
        return Modulation(
            [video_e0 if by_layers else layer.video.modulate(video_e0) for layer in layers],
            [audio_e0 if by_layers else layer.audio.modulate(audio_e0) for layer in layers],
            self.video_ends.modulate(video_e),
            self.audio_ends.modulate(audio_e),
            (video_timesteps, audio_timesteps),
        )

    def forward(
        self,
        video: Tensor,
        audio: Tensor,
        video_timesteps: Tensor,
        audio_timesteps: Tensor,
        video_view: StreamView,
        audio_view: StreamView,
        text: TextMemory,
        past: Sequence[LayerMemory | LayerPast] | None = None,
        num_sink_tokens: int = 0,
        skip_layer: int | None = None,
        control: Tensor | None = None,
    ) -> Flow:
        """Velocity of noisy latents.

        Args:
            video: [B, C, F, h, w]; audio: [B, L, C].
            video_timesteps: [B, F], or [B, 1] for all; audio_timesteps: [B, L] or [B, 1]; both on the 0..1000 scale, and float64
                where each digit counts.
            past: memory of earlier blocks, one entry a layer; it is read, never written but for the free part of a ``Room``.
            num_sink_tokens: for masked forwards, see :class:`FusionLayer`.
            skip_layer: leave this layer out (skip-layer guidance); it remembers nothing.
            control: [B, F, control_channels], for networks that have such.
        """
        modulation = self.modulation(video_timesteps, audio_timesteps, by_layers=True)
        return self.flow(video, audio, modulation, video_view, audio_view, text, past, num_sink_tokens, skip_layer, control)

    def flow(
        self,
        video: Tensor,
        audio: Tensor,
        modulation: Modulation,
        video_view: StreamView,
        audio_view: StreamView,
        text: TextMemory,
        past: Sequence[LayerMemory | LayerPast] | None = None,
        num_sink_tokens: int = 0,
        skip_layer: int | None = None,
        control: Tensor | None = None,
    ) -> Flow:
        """:meth:`forward`, where the timesteps' part is done."""
        v = self.video_ends.stem(self.patchify(video))
        if self.config.grid is not None:
            v = v + self.place.repeat(video.shape[2], 1)
        if self.config.control_channels:
            assert control is not None
            v = v + self.control(control).repeat_interleave(v.shape[1] // video.shape[2], dim=1)
        a = self.audio_ends.stem(audio)
        memory = []
        for i, layer in enumerate(self.layers):
            if i == skip_layer:
                continue
            earlier = None if past is None else past[i]
            m = modulation.video[i], modulation.audio[i]
            given = v, a, *m, video_view, audio_view, text.video[i], text.audio[i], earlier, num_sink_tokens
            if self.recomputes and torch.is_grad_enabled():
                # Not the re-entrant kind: it computes first without gradients, and so with other kernels than the second time.
                v, a, layer_memory = checkpoint(layer, *given, use_reentrant=False)
            else:
                v, a, layer_memory = layer(*given)
            memory.append(layer_memory)
        flow_video = self.unpatchify(self.video_ends.out(v, modulation.video_head), video.shape)
        flow_audio = self.audio_ends.out(a, modulation.audio_head)
        if self.config.output == "clean":
            video_timesteps, audio_timesteps = modulation.timesteps
            flow_video = _velocity(video, flow_video, video_timesteps[:, None, :, None, None])
            flow_audio = _velocity(audio, flow_audio, audio_timesteps[:, :, None])
        return Flow(flow_video, flow_audio, tuple(memory))
