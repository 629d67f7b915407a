"""The published vocoder: log-mel frames -> a wave (BigVGAN, arXiv 2206.04658), with weight norm already folded.

Every snake activation runs at twice the rate, between an up- and a downsampling filter, so that the harmonics it makes do not
alias. Filters and convolutions look both ways: a sample depends on up to ``reach_frames`` frames on either side.

Shapes: mel [B, M, F]; wave [B, S] with S = F * hop; inside [B, C, T].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import BigVGANConfig

NUM_TAPS = 12
OUTER_KERNEL = 7


def antialias_filter() -> Tensor:
    """Kaiser-windowed sinc that passes the lower half of the band, of unit sum; float32 [12]."""
    attenuation_db = 2.285 * (NUM_TAPS // 2 - 1) * math.pi * 4 * 0.3 + 7.95  # for a transition over 0.3 of the sampling rate
    beta = 0.1102 * (attenuation_db - 8.7)
    times = torch.arange(NUM_TAPS, dtype=torch.float64) - (NUM_TAPS - 1) / 2
    taps = torch.kaiser_window(NUM_TAPS, periodic=False, beta=beta, dtype=torch.float64) * torch.sinc(times / 2)
    return (taps / taps.sum()).float()


class Snake(nn.Module):
    """``x + sin^2(frequency x) scale`` at twice the rate of ``x``.

    The published ``alpha`` and ``beta`` are folded: frequency = e^alpha, scale = 1 / (e^beta + 1e-9). The sine is taken in
    float32, whatever the weights are: in bfloat16 its phase would be off by hundredths of a turn.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.frequency = nn.Parameter(torch.ones(channels, 1))
        self.scale = nn.Parameter(torch.ones(channels, 1))

    def forward(self, x: Tensor, taps: Tensor) -> Tensor:
        weight = taps.expand(self.channels, 1, -1)
        edge, crop = NUM_TAPS // 2 - 1, NUM_TAPS + NUM_TAPS // 4
        x = F.conv_transpose1d(F.pad(x, (edge, edge), mode="replicate"), 2 * weight, stride=2, groups=self.channels)
        x = x[..., crop:-crop]
        wide = x.float()
        x = (wide + torch.sin(wide * self.frequency).square() * self.scale).to(x.dtype)
        return F.conv1d(F.pad(x, (edge, edge + 1), mode="replicate"), weight, stride=2, groups=self.channels)


class ResidualBlock(nn.Module):
    """For each dilation: snake, dilated convolution, snake, convolution, with a residual around the four."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.dilated = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=(kernel - 1) * dilation // 2)
            for dilation in dilations
        )
        self.plain = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding=(kernel - 1) // 2) for _ in dilations)
        self.snakes = nn.ModuleList(Snake(channels) for _ in range(2 * len(dilations)))

    def forward(self, x: Tensor, taps: Tensor) -> Tensor:
        for i, (dilated, plain) in enumerate(zip(self.dilated, self.plain, strict=True)):
            y = dilated(self.snakes[2 * i](x, taps))
            x = x + plain(self.snakes[2 * i + 1](y, taps))
        return x


class Stage(nn.Module):
    """Upsampling by one rate, then the mean of residual blocks of several kernels."""

    def __init__(self, channels: int, rate: int, kernel: int, config: BigVGANConfig) -> None:
        super().__init__()
        self.up = nn.ConvTranspose1d(2 * channels, channels, kernel, rate, padding=(kernel - rate) // 2)
        self.blocks = nn.ModuleList(
            ResidualBlock(channels, *shape) for shape in zip(config.res_kernels, config.res_dilations, strict=True)
        )

    def forward(self, x: Tensor, taps: Tensor) -> Tensor:
        x = self.up(x)
        total = self.blocks[0](x, taps)
        for block in self.blocks[1:]:
            total = total + block(x, taps)
        return total / len(self.blocks)


class BigVGAN(nn.Module):
    """See the module's text."""

    taps: Tensor

    def __init__(self, config: BigVGANConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.initial_channels // 2 ** (i + 1) for i in range(len(config.upsample_rates))]
        self.stem = nn.Conv1d(config.num_mels, config.initial_channels, OUTER_KERNEL, padding=OUTER_KERNEL // 2)
        self.stages = nn.ModuleList(
            Stage(width, rate, kernel, config)
            for width, rate, kernel in zip(widths, config.upsample_rates, config.upsample_kernels, strict=True)
        )
        self.last_snake = Snake(widths[-1])
        self.head = nn.Conv1d(widths[-1], 1, OUTER_KERNEL, padding=OUTER_KERNEL // 2)
        self.register_buffer("taps", antialias_filter())

    @property
    def reach_frames(self) -> int:
        """How many frames, at most, a sample depends on, on either side of its own."""
        config, snake = self.config, NUM_TAPS // 2
        blocks = max(
            sum(2 * snake + (kernel - 1) * dilation // 2 + (kernel - 1) // 2 for dilation in dilations)
            for kernel, dilations in zip(config.res_kernels, config.res_dilations, strict=True)
        )
        reach = OUTER_KERNEL // 2 + snake
        for rate, kernel in reversed(list(zip(config.upsample_rates, config.upsample_kernels, strict=True))):
            reach = math.ceil((reach + blocks + (kernel - rate) // 2) / rate)
        return reach + OUTER_KERNEL // 2

    def before_tanh(self, mel: Tensor) -> Tensor:
        """[B, M, F] -> [B, S], not yet limited."""
        x = self.stem(mel)
        for stage in self.stages:
            x = stage(x, self.taps)
        return self.head(self.last_snake(x, self.taps)).squeeze(1)

    def forward(self, mel: Tensor) -> Tensor:
        """[B, M, F] -> a wave [B, S] within [-1, 1], always float32."""
        return torch.tanh(self.before_tanh(mel).float())
