"""The text side of pocket: phonemes with their times, and the caption.

The transformer reads both as one sequence of text tokens: first the caption's summary, which has no time, then phonemes, each at
the moment at which it is spoken.

Shapes: B batch, S phonemes, W caption words, Q summary tokens, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import TextConfig

DURATION_UNIT_S = 0.025
"""Durations are learned in the teachers' unit."""


class PhonemeEncoder(nn.Module):
    """Phonemes in their neighbourhood: residual convolutions, kernel 5, over embedded symbols."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.num_phonemes, config.dim)
        self.layers = nn.ModuleList(nn.Conv1d(config.dim, config.dim, 5, padding=2) for _ in range(config.num_phoneme_layers))
        self.duration = nn.Sequential(nn.Linear(1, config.dim), nn.SiLU(), nn.Linear(config.dim, config.dim))

    def context(self, ids_BS: Tensor, mask_BS: Tensor) -> Tensor:
        """[B, S, D] from symbols alone; masked places count as nothing."""
        keep = mask_BS.unsqueeze(-1)
        x = self.embedding(ids_BS) * keep
        for layer in self.layers:
            x = (x + F.silu(layer(x.transpose(1, 2)).transpose(1, 2))) * keep
        return x

    def forward(self, ids_BS: Tensor, durations_BS: Tensor, mask_BS: Tensor) -> Tensor:
        """[B, S, D] of symbols with their durations in seconds."""
        return self.context(ids_BS, mask_BS) + self.duration(torch.log(durations_BS.clamp(min=0.01) / 0.1).unsqueeze(-1))


class DurationPredictor(nn.Module):
    """How long each phoneme lasts in this voice."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.voice = nn.Linear(config.dim, config.dim)
        self.layer = nn.Conv1d(config.dim, config.dim, 3, padding=1)
        self.head = nn.Linear(config.dim, 1)
        nn.init.constant_(self.head.bias, 0.7)

    def forward(self, context_BSD: Tensor, caption_BQD: Tensor) -> Tensor:
        """log(1 + duration / 25 ms), [B, S]."""
        x = context_BSD + self.voice(caption_BQD.mean(1, keepdim=True))
        x = x + F.silu(self.layer(x.transpose(1, 2)).transpose(1, 2))
        return self.head(x).squeeze(-1)


class CaptionEncoder(nn.Module):
    """Words of scene and voice, summed up by a few learned queries: ids [B, W] -> [B, Q, D]."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        dim = config.dim
        self.embedding = nn.Embedding(config.num_words, dim)
        self.position = nn.Parameter(torch.randn(config.max_words, dim) * 0.02)
        self.queries = nn.Parameter(torch.randn(config.num_scene_tokens, dim))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, 4, 2 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
            for _ in range(config.num_scene_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, ids_BW: Tensor) -> Tensor:
        batch, num_queries = len(ids_BW), len(self.queries)
        words = self.embedding(ids_BW) + self.position
        x = torch.cat((self.queries.expand(batch, -1, -1), words), dim=1)
        padding = torch.cat((ids_BW.new_zeros(batch, num_queries, dtype=torch.bool), ids_BW == 0), dim=1)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=padding)
        return self.norm(x[:, :num_queries])


class TextEncoder(nn.Module):
    """All of pocket's text side."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.phonemes = PhonemeEncoder(config)
        self.durations = DurationPredictor(config)
        self.caption = CaptionEncoder(config)

    def predict_durations_s(self, ids_BS: Tensor, mask_BS: Tensor, caption_BQD: Tensor) -> Tensor:
        """Seconds [B, S]."""
        log_units = self.durations(self.phonemes.context(ids_BS, mask_BS), caption_BQD)
        return (torch.exp(log_units) - 1).clamp(0.3, 40) * DURATION_UNIT_S
