"""Rotary positions for both towers and for text.

A head's channels form adjacent pairs, split between time, row and column as in Wan: of 64 pairs 22, 21 and 21. Audio and text
rotate the time pairs only. A *table* gives cosine and sine for each token; rotation is ``x * cos + turn(x) * sin``.

A token may have no time: its table holds zeros for the time pairs, so that these channels drop out of every score. That is how
caption tokens and the sink are seen: from everywhere alike, however long the stream has run.

Angles are formed in float64, so that position 10**7 is as exact as position 10.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.dit.positions import Ladder
from model.kernels import eager


@dataclass(frozen=True)
class RotaryTable:
    """``cos`` and ``sin``, each float32 [T, head_dim] or [B, T, head_dim]."""

    cos: Tensor
    sin: Tensor

    def to(self, device: torch.device) -> RotaryTable:
        return RotaryTable(self.cos.to(device), self.sin.to(device))

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate ``x`` [B, heads, T, head_dim]; float32 arithmetic, result in the type of ``x``."""
        return eager.rotate(x, self.cos, self.sin)

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        return self.cos, self.sin

    def span(self, start: int, stop: int) -> RotaryTable:
        """A view of some tokens' rows."""
        return RotaryTable(self.cos[..., start:stop, :], self.sin[..., start:stop, :])


@dataclass(frozen=True)
class Rope(Ladder):
    """The same ladder's tables in PyTorch, on the device of the positions."""

    def _angles(self, positions: Tensor, num_pairs: int) -> Tensor:
        frequencies = self.theta ** (-torch.arange(num_pairs, dtype=torch.float64, device=positions.device) / num_pairs)
        return positions.double().unsqueeze(-1) * frequencies

    def _table(self, angles: Tensor) -> RotaryTable:
        both = angles.repeat_interleave(2, dim=-1)
        return RotaryTable(both.cos().float(), both.sin().float())

    def time_table(self, times: Tensor, timed: Tensor | None = None) -> RotaryTable:
        """Table of tokens that have only a time.

        Args:
            times: [..., T] in rotary units.
            timed: bool [..., T]; False drops the time channels of that token.
        """
        angles = self._angles(times, self.num_time_pairs)
        table = self._table(torch.cat((angles, angles.new_zeros(*times.shape, 2 * self.num_space_pairs)), dim=-1))
        if timed is None:
            return table
        keep = torch.ones_like(table.cos)
        keep[..., : self.num_time_channels] = timed.unsqueeze(-1).to(keep.dtype)
        return RotaryTable(table.cos * keep, table.sin * keep)

    def video_table(self, times: Tensor, grid_height: int, grid_width: int) -> RotaryTable:
        """Table of all tokens of latents at ``times`` [..., L], latent-major, then row, then column."""
        shape = (*times.shape, grid_height, grid_width)
        time = self._angles(times, self.num_time_pairs)[..., None, None, :].expand(*shape, -1)
        rows = self._angles(torch.arange(grid_height, device=times.device), self.num_space_pairs)[:, None].expand(*shape, -1)
        columns = self._angles(torch.arange(grid_width, device=times.device), self.num_space_pairs).expand(*shape, -1)
        return self._table(torch.cat((time, rows, columns), dim=-1).flatten(-4, -2))

    def without_time(self, keys: Tensor) -> Tensor:
        """Rotated keys [..., head_dim] with their time channels dropped."""
        return torch.cat((torch.zeros_like(keys[..., : self.num_time_channels]), keys[..., self.num_time_channels :]), dim=-1)
