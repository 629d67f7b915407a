"""Critics of a waveform: over periods (HiFi-GAN, arXiv 2010.05646) and over spectra at several resolutions (arXiv 2106.07889).
Critics of pictures: over patches (arXiv 1611.07004) at two scales.

Each returns a map of scores and its inner features, for feature matching.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

Verdict = tuple[Tensor, list[Tensor]]


class PeriodCritic(nn.Module):
    """Sees the wave folded at one period: [B, S] -> scores."""

    def __init__(self, period: int, widths: tuple[int, ...] = (32, 96, 256, 384)) -> None:
        super().__init__()
        self.period = period
        channels = (1, *widths)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (5, 1), stride=(3, 1), padding=(2, 0))) for a, b in itertools.pairwise(channels)
        )
        self.head = weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, wave: Tensor) -> Verdict:
        x = F.pad(wave, (0, -wave.shape[-1] % self.period)).unflatten(-1, (-1, self.period)).unsqueeze(1)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            features.append(x)
        return self.head(x), features


class SpectrumCritic(nn.Module):
    """Sees a log-magnitude spectrogram with its phase as unit vectors: [B, S] -> scores."""

    def __init__(self, fft_samples: int, width: int = 32) -> None:
        super().__init__()
        self.fft_samples = fft_samples
        self.register_buffer("window", torch.hann_window(fft_samples), persistent=False)
        strides = ((1, 1), (2, 1), (2, 1), (2, 1))
        channels = (2, *[width] * len(strides))
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (7, 3), stride=s, padding=(3, 1)))
            for a, b, s in zip(channels[:-1], channels[1:], strides, strict=True)
        )
        self.head = weight_norm(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, wave: Tensor) -> Verdict:
        with torch.autocast(wave.device.type, enabled=False):
            window: Tensor = self.window  # type: ignore[assignment]
            spectrum = torch.stft(wave.float(), self.fft_samples, self.fft_samples // 4, window=window, return_complex=True)
            magnitude = spectrum.abs().clamp(min=1e-5)
            scale = magnitude.pow(-0.7)  # power 0.3 of the magnitude keeps quiet parts in sight
            x = torch.stack((spectrum.real * scale, spectrum.imag * scale), dim=1)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            features.append(x)
        return self.head(x), features


class PatchCritic(nn.Module):
    """Sees patches of packed pictures, 28 values wide each way: [N, 6, h, w] -> scores.

    Args:
        shrink: pictures are that much smaller before.
    """

    def __init__(self, shrink: int, widths: tuple[int, ...] = (32, 64, 128, 128)) -> None:
        super().__init__()
        self.shrink = shrink
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, kernel, stride=stride, padding=1))
            for (a, b), (kernel, stride) in zip(itertools.pairwise((6, *widths)), ((3, 1), (4, 2), (4, 2), (3, 1)), strict=True)
        )
        self.head = weight_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, packed: Tensor) -> Verdict:
        x = F.avg_pool2d(packed, self.shrink) if self.shrink > 1 else packed
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            features.append(x)
        return self.head(x), features


class Critics(nn.Module):
    """Several critics of the same."""

    def __init__(self, critics: Iterable[nn.Module]) -> None:
        super().__init__()
        self.all = nn.ModuleList(critics)

    def forward(self, seen: Tensor) -> list[Verdict]:
        return [critic(seen) for critic in self.all]

    def judge_still(self, seen: Tensor) -> list[Verdict]:
        """Verdicts whose gradients reach what is seen and not the critics."""
        still = {name: p.detach() for name, p in self.named_parameters()}
        verdicts: list[Verdict] = torch.func.functional_call(self, still, (seen,))
        return verdicts


def wave_critics() -> Critics:
    """Of waves [B, S]."""
    return Critics([*(PeriodCritic(p) for p in (2, 3, 5, 7, 11)), *(SpectrumCritic(n) for n in (256, 512, 1024, 2048))])


def picture_critics() -> Critics:
    """Of packed pictures [N, 6, h, w]."""
    return Critics(PatchCritic(shrink) for shrink in (1, 2))


def critic_loss(real: list[Verdict], fake: list[Verdict]) -> Tensor:
    """Least squares: what is true scores 1, the rest 0."""
    losses = [(1 - r[0].float()).square().mean() + f[0].float().square().mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(losses).mean()


def generator_losses(real: list[Verdict], fake: list[Verdict]) -> tuple[Tensor, Tensor]:
    """Adversarial loss, and the relative distance between features."""
    adversarial = torch.stack([(1 - f[0].float()).square().mean() for f in fake]).mean()
    distances = [
        (a.float() - b.float().detach()).abs().mean() / b.float().detach().abs().mean().clamp(min=1e-3)
        for r, f in zip(real, fake, strict=True)
        for a, b in zip(f[1], r[1], strict=True)
    ]
    return adversarial, torch.stack(distances).mean()
