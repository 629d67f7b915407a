"""Attention of one tower: to itself, to text, and to the other tower.

Shapes: B batch, T tokens, S other tokens, D width, H heads, K channels a head. Names say the layout where it changes: q_BHTK.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.dit.masks import Staircase
from model.dit.rope import RotaryTable


class KeyValue(NamedTuple):
    """Keys (normed and rotated) and values, each [B, H, T, K]."""

    key: Tensor
    value: Tensor

    def after(self, past: KeyValue | None) -> KeyValue:
        """Both along time, the past first."""
        if past is None:
            return self
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

    def extend(self, new: KeyValue) -> tuple[KeyValue, KeyValue]:
        """Write ``new`` behind the past; returns views of the new tokens and of all."""
        end = self.length + new.key.shape[2]
        own = self.buffer.span(self.length, end)
        own.key.copy_(new.key)
        own.value.copy_(new.value)
        return own, self.buffer.span(0, end)


Past = KeyValue | Room | None
Mask = Tensor | Staircase | None


def extend(past: Past, new: KeyValue) -> tuple[KeyValue, KeyValue]:
    """The keys and values of the new tokens, and of all that they see: the past, then themselves."""
    return past.extend(new) if isinstance(past, Room) else (new, new.after(past))


class RMSNorm(nn.Module):
    """Root-mean-square norm over the whole width, before heads are split; float32 inside."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        # Written as compilers know it: they fuse exactly this form.
        return (wide / torch.sqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


def split_heads(x_BTD: Tensor, num_heads: int) -> Tensor:
    return x_BTD.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(x_BHTK: Tensor) -> Tensor:
    return x_BHTK.transpose(1, 2).flatten(-2)


def attend(q_BHTK: Tensor, memory: KeyValue, mask: Mask) -> Tensor:
    """Softmax attention -> [B, T, D].

    Args:
        mask: bool, True where visible, broadcast to [B, H, T, S]; or a staircase; None where everything is visible.
    """
    if isinstance(mask, Staircase):
        memory = KeyValue(*(F.pad(x, (0, 0, 0, max(0, mask.num_keys - x.shape[2]))) for x in memory))
        groups = zip(q_BHTK.split(mask.group_sizes, dim=2), mask.key_ends, strict=True)
        return torch.cat([attend(q, memory.span(0, end), None) for q, end in groups], dim=1)
    return merge_heads(F.scaled_dot_product_attention(q_BHTK, memory.key, memory.value, attn_mask=mask))


class SelfAttention(nn.Module):
    """Queries, keys and values of one stream."""

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim, eps), RMSNorm(dim, eps)

    def project(self, x_BTD: Tensor, table: RotaryTable) -> tuple[Tensor, KeyValue]:
        q, k, v = (
            split_heads(y, self.num_heads) for y in (self.norm_q(self.q(x_BTD)), self.norm_k(self.k(x_BTD)), self.v(x_BTD))
        )
        return table.rotate(q), KeyValue(table.rotate(k), v)


class CrossAttention(nn.Module):
    """One query for two memories, text and the other stream; the two answers are added before one output projection."""

    def __init__(self, dim: int, other_dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k, self.norm_k_fusion = (RMSNorm(dim, eps) for _ in range(3))
        self.pre_attn_norm_fusion = nn.LayerNorm(other_dim, eps=eps)
        self.k_fusion, self.v_fusion = nn.Linear(other_dim, dim), nn.Linear(other_dim, dim)

    def project_text(self, text_BSD: Tensor, table: RotaryTable | None) -> KeyValue:
        k, v = split_heads(self.norm_k(self.k(text_BSD)), self.num_heads), split_heads(self.v(text_BSD), self.num_heads)
        return KeyValue(k if table is None else table.rotate(k), v)

    def project_other(self, other_BSD: Tensor, table: RotaryTable) -> KeyValue:
        x = self.pre_attn_norm_fusion(other_BSD)
        k, v = split_heads(self.norm_k_fusion(self.k_fusion(x)), self.num_heads), split_heads(self.v_fusion(x), self.num_heads)
        return KeyValue(table.rotate(k), v)

    def forward(
        self,
        x_BTD: Tensor,
        table: RotaryTable,
        text: KeyValue,
        text_query_table: RotaryTable | None,
        text_mask: Mask,
        other: KeyValue,
        other_mask: Mask,
    ) -> Tensor:
        q = split_heads(self.norm_q(self.q(x_BTD)), self.num_heads)
        q_text = q if text_query_table is None else text_query_table.rotate(q)
        return self.o(attend(q_text, text, text_mask) + attend(table.rotate(q), other, other_mask))
