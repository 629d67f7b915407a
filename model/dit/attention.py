"""Attention of one tower: to itself, to text, and to the other tower.

Shapes: B batch, T tokens, S other tokens, D width, H heads, K channels a head. Names say the layout where it changes: q_BHTK.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import kernels
from model.dit.float8 import Float8Linear
from model.dit.masks import Staircase
from model.dit.rope import RotaryTable


class KeyValue(NamedTuple):
    """Keys (normed and rotated) and values, each [B, H, T, K]."""

    key: Tensor
    value: Tensor

    def after(self, past: KeyValue) -> KeyValue:
        """Both along time, the past first."""
        return KeyValue(torch.cat((past.key, self.key), dim=2), torch.cat((past.value, self.value), dim=2))

    def span(self, start: int, stop: int) -> KeyValue:
        """A view of some tokens."""
        return KeyValue(self.key[:, :, start:stop], self.value[:, :, start:stop])


@dataclass(frozen=True)
class Room:
    """Past keys and values at a fixed address, with room behind them, where each pass puts those of its own tokens.

    Nothing is copied but the new tokens, so a long past costs nothing to read.

    Attributes:
        buffer: [B, H, capacity, K].
        length: past tokens; what lies behind them is free.
    """

    buffer: KeyValue
    length: int

    def place(self, num_tokens: int) -> KeyValue:
        """A view of where so many new tokens go."""
        return self.buffer.span(self.length, self.length + num_tokens)


class Pieces(NamedTuple):
    """Past keys and values as they came, block by block: joined where they are seen and nowhere before, so that what a layer
    recomputes for its gradients it need not keep."""

    blocks: tuple[KeyValue, ...]


class Joined(NamedTuple):
    """What new tokens see in two pieces, which whoever attends to it may join."""

    past: KeyValue
    new: KeyValue


Past = KeyValue | Room | Pieces | None
Seen = KeyValue | Joined
Mask = Tensor | Staircase | None


def place(past: Past, num_tokens: int) -> KeyValue | tuple[None, None]:
    """Where to put the keys and values of new tokens: behind the past, where there is room kept for them."""
    return past.place(num_tokens) if isinstance(past, Room) else (None, None)


def seen(past: Past, new: KeyValue) -> Seen:
    """What new tokens see, once they are at their :func:`place`: the past, then themselves."""
    if isinstance(past, Room):
        return past.buffer.span(0, past.length + new.key.shape[2])
    if isinstance(past, Pieces):
        return KeyValue(*(torch.cat(parts, dim=2) for parts in zip(*past.blocks, new, strict=True)))
    return new if past is None else Joined(past, new)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the whole width, before heads are split; float32 inside."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    @property
    def pair(self) -> tuple[Tensor, float]:
        return self.weight, self.eps


class Projections:
    """Linear layers of one input, as one product once :meth:`join` has been called.

    Args:
        layers: each keeps its own parameters, under its own name.
    """

    def __init__(self, *layers: nn.Linear) -> None:
        self.layers = layers
        self._sizes = [layer.out_features for layer in layers]
        self._joined: tuple[Tensor, Tensor] | None = None
        self._rounded: Float8Linear | None = None

    def fuse(self) -> None:
        """Lay the layers' parameters end to end; theirs become views. For weights that neither move nor change any more."""
        if self._joined is not None or self._rounded is not None:
            return
        weight, bias = (torch.cat([getattr(layer, name) for layer in self.layers]) for name in ("weight", "bias"))
        start = 0
        for layer in self.layers:
            stop = start + layer.out_features
            layer.weight.data, layer.bias.data = weight[start:stop], bias[start:stop]
            start = stop
        self._joined = weight, bias

    def quantise(self) -> None:
        """Compute in 8 bits from now on; the layers are not used any more."""
        self._rounded, self.layers = Float8Linear(*self.layers), ()

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        if self._rounded is not None:
            return self._rounded(x).split(self._sizes, dim=-1)
        if self._joined is None:
            return [layer(x) for layer in self.layers]
        return F.linear(x, *self._joined).split(self._sizes, dim=-1)


def attend(q_BHTK: Tensor, memory: Seen, mask: Mask) -> Tensor:
    """Softmax attention -> [B, T, D].

    Args:
        mask: bool, True where visible, or float, added to the scores, broadcast to [B, H, T, S]; or a staircase; None where
            everything is visible.
    """
    if isinstance(mask, Staircase):
        memory = memory.new.after(memory.past) if isinstance(memory, Joined) else memory
        memory = KeyValue(*(F.pad(x, (0, 0, 0, max(0, mask.num_keys - x.shape[2]))) for x in memory))
        groups = zip(q_BHTK.split(mask.group_sizes, dim=2), mask.key_ends, strict=True)
        return torch.cat([attend(q, memory.span(0, end), None) for q, end in groups], dim=1)
    pieces = memory if isinstance(memory, Joined) else (memory,)
    return kernels.on(q_BHTK).attention(q_BHTK, [x.key for x in pieces], [x.value for x in pieces], mask)


class SelfAttention(nn.Module):
    """Queries, keys and values of one stream."""

    o: nn.Module

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim, eps), RMSNorm(dim, eps)

        self.qkv = Projections(self.q, self.k, self.v)

    def quantise(self) -> None:
        """Compute in 8 bits from now on, see :mod:`model.dit.float8`."""
        self.qkv.quantise()
        self.o = Float8Linear(cast(nn.Linear, self.o))
        del self.q, self.k, self.v

    def project(self, x_BTD: Tensor, table: RotaryTable, past: Past) -> tuple[Tensor, KeyValue]:
        """Queries, and the tokens' keys and values at their :func:`place`."""
        heads, num_heads = kernels.on(x_BTD).split_heads, self.num_heads
        q, k, v = self.qkv(x_BTD)
        key, value = place(past, x_BTD.shape[1])
        return heads(q, num_heads, self.norm_q.pair, table.pair), KeyValue(
            heads(k, num_heads, self.norm_k.pair, table.pair, key), heads(v, num_heads, out=value)
        )


class CrossAttention(nn.Module):
    """One query for two memories, text and the other stream; the two answers are added before one output projection."""

    q: nn.Module
    o: nn.Module

    def __init__(self, dim: int, other_dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k, self.norm_k_fusion = (RMSNorm(dim, eps) for _ in range(3))
        self.pre_attn_norm_fusion = nn.LayerNorm(other_dim, eps=eps)
        self.k_fusion, self.v_fusion = nn.Linear(other_dim, dim), nn.Linear(other_dim, dim)

        self.kv_fusion = Projections(self.k_fusion, self.v_fusion)

    def quantise(self) -> None:
        """Compute queries and output in 8 bits from now on, see :mod:`model.dit.float8`."""
        self.q, self.o = (Float8Linear(cast(nn.Linear, layer)) for layer in (self.q, self.o))

    def project_text(self, text_BSD: Tensor, table: RotaryTable | None) -> KeyValue:
        heads = kernels.on(text_BSD).split_heads
        key = heads(self.k(text_BSD), self.num_heads, self.norm_k.pair, None if table is None else table.pair)
        return KeyValue(key, heads(self.v(text_BSD), self.num_heads))

    def project_other(self, other_BSD: Tensor, table: RotaryTable, past: Past) -> KeyValue:
        """Keys and values of the other stream at their :func:`place`."""
        heads = kernels.on(other_BSD).split_heads
        k, v = self.kv_fusion(self.pre_attn_norm_fusion(other_BSD))
        key, value = place(past, other_BSD.shape[1])
        return KeyValue(heads(k, self.num_heads, self.norm_k_fusion.pair, table.pair, key), heads(v, self.num_heads, out=value))

    def forward(
        self,
        x_BTD: Tensor,
        table: RotaryTable,
        text: KeyValue,
        text_query_table: RotaryTable | None,
        text_mask: Mask,
        other: Seen,
        other_mask: Mask,
    ) -> Tensor:
        heads, q = kernels.on(x_BTD).split_heads, self.q(x_BTD)
        q_text = heads(q, self.num_heads, self.norm_q.pair, None if text_query_table is None else text_query_table.pair)
        q_other = heads(q, self.num_heads, self.norm_q.pair, table.pair)
        return self.o(attend(q_text, text, text_mask) + attend(q_other, other, other_mask))
