"""One layer of both towers, joined by attention in both directions.

The order is Hallo-Live's: audio listens to itself, video looks at itself; then audio reads text and video; then video reads text
and the audio *as it was before* audio read video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from model import kernels
from model.config import DiTConfig, TowerConfig
from model.dit.attention import CrossAttention, KeyValue, Mask, Past, Seen, SelfAttention, attend, seen
from model.dit.float8 import Float8Linear
from model.dit.rope import Rope, RotaryTable


@dataclass(frozen=True)
class StreamView:
    """What one tower needs to know of its tokens, the same for all layers.

    Attributes:
        table: rotary table of the tokens.
        text_query_table: table for queries to text; None leaves them unrotated.
        self_mask, text_mask, other_mask: what they see; None where everything is visible.
    """

    table: RotaryTable
    text_query_table: RotaryTable | None
    self_mask: Mask
    text_mask: Mask
    other_mask: Mask


class LayerMemory(NamedTuple):
    """Keys and values that one layer keeps of a piece of stream.

    ``video_self`` and ``audio_self`` in each tower's own width; ``video_cross`` is video as the audio tower sees it,
    ``audio_cross`` audio as the video tower sees it.
    """

    video_self: KeyValue
    audio_self: KeyValue
    video_cross: KeyValue
    audio_cross: KeyValue


class LayerPast(NamedTuple):
    """The same four of earlier tokens; None where a pass sees all of that stream anew."""

    video_self: Past
    audio_self: Past
    video_cross: Past
    audio_cross: Past


class TowerBlock(nn.Module):
    """One tower's half of a layer."""

    def __init__(self, tower: TowerConfig, other_dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.self_attn = SelfAttention(tower.dim, tower.num_heads, eps)
        self.norm3 = nn.LayerNorm(tower.dim, eps=eps)
        self.cross_attn = CrossAttention(tower.dim, other_dim, tower.num_heads, eps)
        self.ffn = nn.Sequential(
            nn.Linear(tower.dim, tower.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(tower.ffn_dim, tower.dim)
        )
        self.rounded_ffn: nn.ModuleList | None = None
        self.modulation = nn.Parameter(torch.randn(1, 6, tower.dim) / tower.dim**0.5)

    def modulate(self, e0_BL6D: Tensor) -> tuple[Tensor, ...]:
        """Six [B, L, 1, D] from the projected timestep of each latent."""
        return (self.modulation.unsqueeze(1) + e0_BL6D).unsqueeze(3).unbind(2)

    def norm_modulate(self, x_BTD: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return kernels.on(x_BTD).norm_modulate(x_BTD, shift, scale, self.eps)

    def project(self, x_BTD: Tensor, m: Sequence[Tensor], table: RotaryTable, past: Past) -> tuple[Tensor, KeyValue]:
        """Queries, keys and values of the tower's attention to itself; ``m`` is what :meth:`modulate` gave."""
        return self.self_attn.project(self.norm_modulate(x_BTD, m[0], m[1]), table, past)

    def attend_self(self, x_BTD: Tensor, m: Sequence[Tensor], q_BHTK: Tensor, memory: Seen, mask: Mask) -> Tensor:
        """Attend to the tower itself."""
        return kernels.on(x_BTD).add_gated(x_BTD, self.self_attn.o(attend(q_BHTK, memory, mask)), m[2])

    def attend_others(self, x_BTD: Tensor, m: Sequence[Tensor], view: StreamView, text: KeyValue, other: Seen) -> Tensor:
        """Attend to text and to the other tower, then the feed-forward part."""
        normed = self.norm3(x_BTD)
        x = x_BTD + self.cross_attn(normed, view.table, text, view.text_query_table, view.text_mask, other, view.other_mask)
        return self.feed_forward(x, m[3], m[4], m[5])

    def feed_forward(self, x_BTD: Tensor, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        ops, x = kernels.on(x_BTD), self.norm_modulate(x_BTD, shift, scale)
        y = ops.mlp(x, self.ffn) if self.rounded_ffn is None else self.rounded_ffn[1](self.rounded_ffn[0](x), gelu=True)
        return ops.add_gated(x_BTD, y, gate)

    def quantise(self) -> None:
        """Compute in 8 bits from now on, see :mod:`model.dit.float8`."""
        self.self_attn.quantise()
        self.cross_attn.quantise()
        first, _, last = self.ffn
        self.rounded_ffn = nn.ModuleList(Float8Linear(cast(nn.Linear, layer)) for layer in (first, last))
        del self.ffn


class FusionLayer(nn.Module):
    """One layer of the dual-stream transformer."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.video = TowerBlock(config.video, config.audio.dim, config.eps)
        self.audio = TowerBlock(config.audio, config.video.dim, config.eps)
        self.video_rope = Rope(config.video.dim // config.video.num_heads, config.rope_theta)

    def read_text(
        self, video_text: Tensor, audio_text: Tensor, tables: tuple[RotaryTable, RotaryTable] | tuple[None, None]
    ) -> tuple[KeyValue, KeyValue]:
        """Keys and values of text [B, S, D], as the video and as the audio tower see it."""
        return (
            self.video.cross_attn.project_text(video_text, tables[0]),
            self.audio.cross_attn.project_text(audio_text, tables[1]),
        )

    def forward(
        self,
        video: Tensor,
        audio: Tensor,
        video_modulation: Tensor | Sequence[Tensor],
        audio_modulation: Tensor | Sequence[Tensor],
        video_view: StreamView,
        audio_view: StreamView,
        video_text: KeyValue,
        audio_text: KeyValue,
        past: LayerMemory | LayerPast | None,
        num_sink_tokens: int,
    ) -> tuple[Tensor, Tensor, LayerMemory]:
        """Video [B, Tv, Dv] and audio [B, Ta, Da] one layer further, and the memory of these tokens.

        Args:
            video_modulation, audio_modulation: what :meth:`TowerBlock.modulate` gave, or what it takes: where weights are spread
                over devices a layer's own are whole in its own forward alone.
            past: memory of earlier tokens, which all of these may see; None in a masked forward over a whole sequence.
            num_sink_tokens: in a masked forward, so many first video tokens are seen a second time without their time.
        """
        past_video, past_audio, past_video_cross, past_audio_cross = past or (None,) * 4
        vm, am = (
            block.modulate(m) if isinstance(m, Tensor) else m
            for block, m in ((self.video, video_modulation), (self.audio, audio_modulation))
        )

        q, audio_self = self.audio.project(audio, am, audio_view.table, past_audio)
        audio = self.audio.attend_self(audio, am, q, seen(past_audio, audio_self), audio_view.self_mask)

        q, video_self = self.video.project(video, vm, video_view.table, past_video)
        visible = seen(past_video, video_self)
        if num_sink_tokens:
            visible = video_self.after(self.sink(video_self, num_sink_tokens))
        video = self.video.attend_self(video, vm, q, visible, video_view.self_mask)

        # Each reads the other as it is now.
        video_cross = self.audio.cross_attn.project_other(video, video_view.table, past_video_cross)
        audio_cross = self.video.cross_attn.project_other(audio, audio_view.table, past_audio_cross)
        audio = self.audio.attend_others(audio, am, audio_view, audio_text, seen(past_video_cross, video_cross))
        video = self.video.attend_others(video, vm, video_view, video_text, seen(past_audio_cross, audio_cross))
        return video, audio, LayerMemory(video_self, audio_self, video_cross, audio_cross)

    def sink(self, video_self: KeyValue, num_tokens: int) -> KeyValue:
        """The first tokens' keys and values, seen without their time."""
        return KeyValue(self.video_rope.without_time(video_self.key[:, :, :num_tokens]), video_self.value[:, :, :num_tokens])
