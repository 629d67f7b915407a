"""What a block's latents show of a look, and whether that is what its caption asks for.

An iris or an earring is so little of a picture that a mean squared error hardly hears of it. A small network learns to read looks
off clean latents, beside the transformer; as it stands it judges the transformer's clean predictions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from model.data.face import Look

NOISE = 0.3
"""Up to so much is mixed into the latents that are read, so that what is judged cannot lie in what nobody sees."""


class LatentReader(nn.Module):
    """Reads attributes of :class:`model.data.face.Look` off video latents.

    Args:
        channels, height, width: of latents.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        cells = -(-height // 4) * -(-width // 4)
        self._classes = list(Look.cardinalities().values())
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 64, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(64, 96, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(96, 96, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(96 * cells, 192),
            nn.GELU(),
            nn.Linear(192, sum(self._classes)),
        )

    def forward(self, video: Tensor) -> list[Tensor]:
        """Log odds of each attribute, [B, classes], of latents [B, C, F, h, w]."""
        odds = self.layers(video.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(video), -1)).mean(1)
        return list(odds.split(self._classes, dim=1))


def look_losses(
    reader: LatentReader, clean: Tensor, noise: Tensor, predicted: Tensor, labels: Tensor, asked: Tensor
) -> tuple[Tensor, Tensor]:
    """What a reader learns by, and what it says of predictions; no gradient of the second reaches it.

    Args:
        clean, noise, predicted: [B, C, F, h, w].
        labels: int64 [B, attributes]; asked: bool of that shape, which of them count where predictions are judged.
    """
    dirt = NOISE * torch.linspace(0, 1, len(clean), device=clean.device).view(-1, 1, 1, 1, 1)
    own = _errors(reader(clean * (1 - dirt) + noise * dirt), labels).mean()
    frozen = {name: x.detach() for name, x in reader.named_parameters()}
    errors = _errors(functional_call(reader, frozen, (predicted,)), labels)
    return own, (errors * asked).sum() / asked.sum().clamp(min=1)


def _errors(odds: list[Tensor], labels: Tensor) -> Tensor:
    """Cross entropies [B, attributes]."""
    return torch.stack([F.cross_entropy(x.float(), labels[:, i], reduction="none") for i, x in enumerate(odds)], dim=1)
