"""The published audio VAE: log-mel frames at 62.5 Hz <-> latents at 31.25 Hz, and the mel front end before it.

Its networks preserve magnitudes (EDM2, arXiv 2312.02696): activations are kept at unit mean square by normalising them over
channels and by weighing sums; convolutions have no bias and, here, weights that were brought to unit magnitude when loaded. One
attention layer in the middle of either half sees the whole clip.

Shapes: wave [B, S]; mel [B, M, F] with F = S // hop; latents [B, C, L] with F = 2 L; inside [B, D, T].
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import MelConfig, MMAudioVAEConfig

MAX_ACTIVATION = 256.0


def slaney_filterbank(config: MelConfig) -> Tensor:
    """Triangles of unit area on Slaney's mel scale: linear below 1 kHz, logarithmic above; float32 [M, fft / 2 + 1]."""
    mel_hz, corner_hz, octave = 200 / 3, 1000.0, math.log(6.4) / 27

    def to_mel(hz: float) -> float:
        return hz / mel_hz if hz < corner_hz else corner_hz / mel_hz + math.log(hz / corner_hz) / octave

    mels = torch.linspace(to_mel(config.min_hz), to_mel(config.max_hz), config.num_mels + 2, dtype=torch.float64)
    corner = corner_hz / mel_hz
    edges_hz = torch.where(mels < corner, mels * mel_hz, corner_hz * torch.exp((mels - corner) * octave))
    bins_hz = torch.linspace(0, config.sample_rate_hz / 2, config.fft_samples // 2 + 1, dtype=torch.float64)
    low_hz, peak_hz, high_hz = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising, falling = (bins_hz - low_hz) / (peak_hz - low_hz), (high_hz - bins_hz) / (high_hz - peak_hz)
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (high_hz - low_hz)).float()


class LogMel(nn.Module):
    """What the VAE encodes: decimal logarithm of mel magnitudes, float32 wave [B, S] -> [B, M, S // hop].

    A wave beyond [-1, 1] is clipped. Build it on a real device: it has tables, not weights.
    """

    filters: Tensor
    window: Tensor

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("filters", slaney_filterbank(config), persistent=False)
        self.register_buffer("window", torch.hann_window(config.fft_samples), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        fft, hop = self.config.fft_samples, self.config.hop_samples
        edge = (fft - hop) // 2
        padded = F.pad(wave.float().clamp(-1, 1), (edge, edge), mode="reflect")
        spectrum = torch.view_as_real(torch.stft(padded, fft, hop, window=self.window, center=False, return_complex=True))
        magnitude = (spectrum.square().sum(-1) + 1e-9).sqrt()
        return torch.log10((self.filters @ magnitude).clamp(min=1e-5))


def unit(x: Tensor) -> Tensor:
    """``x`` at unit mean square over channels (dim 1), computed in float32."""
    wide = x.float()
    return (wide / (wide.square().mean(1, keepdim=True).sqrt() + 1e-4)).to(x.dtype)


def silu(x: Tensor) -> Tensor:
    """SiLU over its root mean square for a standard normal input."""
    return F.silu(x) / 0.596


def blend(x: Tensor, y: Tensor) -> Tensor:
    """0.7 x + 0.3 y, at the magnitude that two independent ones had."""
    return (0.7 * x + 0.3 * y) / math.sqrt(0.58)


def conv(in_channels: int, out_channels: int, kernel: int) -> nn.Conv1d:
    return nn.Conv1d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)


class ResBlock(nn.Module):
    """Two convolutions beside a shortcut, after normalising."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, out_channels, 3)
        self.conv2 = conv(out_channels, out_channels, 3)
        self.shortcut = conv(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = unit(x)
        return blend(self.shortcut(x), self.conv2(silu(self.conv1(silu(x)))))


class Attention(nn.Module):
    """One head over all steps; queries, keys and values are each normalised."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv = conv(channels, 3 * channels, 1)
        self.proj = conv(channels, channels, 1)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """``visible`` [T queries, T keys] says which steps see which; None: all see all."""
        q, k, v = (unit(part).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=1))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return blend(x, self.proj(y.transpose(1, 2)))


class Middle(nn.Module):
    """The innermost level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = ResBlock(channels, channels)
        self.attention = Attention(channels)
        self.after = ResBlock(channels, channels)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        return self.after(self.attention(self.before(x), visible)).clamp(-MAX_ACTIVATION, MAX_ACTIVATION)


class Down(nn.Module):
    """Half the rate, by means of pairs. A last step without a partner is dropped."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv(channels, channels, 1)
        self.conv2 = conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.avg_pool1d(self.conv1(x), 2))


class Up(nn.Module):
    """Twice the rate, by repeating steps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.repeat_interleave(2, dim=2))


class Level(nn.Module):
    """Residual blocks of one width, then perhaps a change of rate."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int, resample: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResBlock(out_channels if i else in_channels, out_channels) for i in range(num_blocks))
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x).clamp(-MAX_ACTIVATION, MAX_ACTIVATION)
        return self.resample(x)


class Encoder(nn.Module):
    """Normalised mel [B, M, F] -> mean and log-variance in one tensor [B, 2 C, L]."""

    def __init__(self, config: MMAudioVAEConfig) -> None:
        super().__init__()
        widths = [config.hidden_dim * multiplier for multiplier in (1, *config.width_multipliers)]
        self.conv_in = conv(config.num_mels, config.hidden_dim, 3)
        self.levels = nn.ModuleList(
            Level(inner, outer, config.num_res_blocks, Down(outer) if level in config.down_levels else nn.Identity())
            for level, (inner, outer) in enumerate(pairwise(widths))
        )
        self.middle = Middle(widths[-1])
        self.conv_out = conv(widths[-1], 2 * config.latent_channels, 3)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.conv_in(mel)
        for level in self.levels:
            x = level(x)
        return self.conv_out(silu(self.middle(x)))


class Decoder(nn.Module):
    """Latents [B, C, L] -> normalised mel [B, M, F]. ``levels`` are numbered from the mel side, as in the encoder."""

    def __init__(self, config: MMAudioVAEConfig) -> None:
        super().__init__()
        widths = [config.hidden_dim * multiplier for multiplier in config.width_multipliers]
        self.conv_in = conv(config.latent_channels, widths[-1], 3)
        self.middle = Middle(widths[-1])
        self.levels = nn.ModuleList(
            Level(inner, outer, config.num_res_blocks + 1, Up(outer) if level - 1 in config.down_levels else nn.Identity())
            for level, (outer, inner) in enumerate(pairwise((*widths, widths[-1])))
        )
        self.conv_out = conv(widths[0], config.num_mels, 3)

    def forward(self, latents: Tensor, visible: Tensor | None = None) -> Tensor:
        x = self.middle(self.conv_in(latents), visible)
        for level in reversed(self.levels):
            x = level(x)
        return self.conv_out(silu(x))


class MMAudioVAE(nn.Module):
    """Encoder and decoder, with the statistics of the mel bands."""

    mel_mean: Tensor
    mel_std: Tensor

    def __init__(self, config: MMAudioVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.register_buffer("mel_mean", torch.zeros(config.num_mels, 1))
        self.register_buffer("mel_std", torch.ones(config.num_mels, 1))

    @property
    def reach_latents(self) -> int:
        """How many latents, at most, the convolutions make a mel frame depend on, on either side. The attention sees all."""
        reach, blocks = 1, 2 * (self.config.num_res_blocks + 1)
        for level in range(len(self.config.width_multipliers)):
            if level - 1 in self.config.down_levels:
                reach = math.ceil((reach + 1) / 2)
            reach += blocks
        return reach + 5  # two residual blocks in the middle, and the first convolution

    def encode(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents, each [B, C, F // 2]."""
        mean, log_variance = self.encoder((mel - self.mel_mean) / self.mel_std).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latents: Tensor, visible: Tensor | None = None) -> Tensor:
        """Mel [B, M, 2 L] of latents [B, C, L].

        Args:
            visible: which latents attend to which [L, L]; None: all to all, as published.
        """
        return self.decoder(latents, visible) * self.mel_std + self.mel_mean
