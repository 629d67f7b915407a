"""Audio VAE: 24 kHz speech <-> latents at 50 Hz.

The encoder looks both ways and is only used to make training data. The decoder is causal: latents up to now give features up to
now, at twice the latent rate, and the vocoder turns those into sound without delay, because frame i of all spectra here covers
samples [i * hop, i * hop + fft): a latent already knows the next ``fft - hop`` samples (30 ms).

Shapes: wave [B, S]; mel [B, M, F]; latents [B, C, L] with F = 2 L; features [B, D, F].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import AudioVAEConfig
from model.vae.causal import CausalConv1d, ConvNeXtBlock, Memory
from model.vae.vocoder import Vocoder


def mel_filterbank(num_mels: int, fft_samples: int, sample_rate_hz: int) -> Tensor:
    """Triangular filters, equally spaced on the mel scale (HTK's formula), each of unit sum; float32 [M, fft / 2 + 1]."""
    mel_max = 2595 * math.log10(1 + sample_rate_hz / 2 / 700)
    edges_hz = 700 * (10 ** (torch.linspace(0, mel_max, num_mels + 2) / 2595) - 1)
    bins_hz = torch.linspace(0, sample_rate_hz / 2, fft_samples // 2 + 1)
    rising = (bins_hz - edges_hz[:-2, None]) / (edges_hz[1:-1] - edges_hz[:-2])[:, None]
    falling = (edges_hz[2:, None] - bins_hz) / (edges_hz[2:] - edges_hz[1:-1])[:, None]
    filters = torch.minimum(rising, falling).clamp(min=0)
    return filters / filters.sum(1, keepdim=True).clamp(min=1e-3)


class MelSpectrogram(nn.Module):
    """Log-mel of frames that start (not centre) at multiples of the hop: float32 wave [B, S] -> [B, M, S / hop]."""

    filters: Tensor
    window: Tensor

    def __init__(self, num_mels: int, fft_samples: int, hop_samples: int, sample_rate_hz: int) -> None:
        super().__init__()
        self.fft_samples, self.hop_samples = fft_samples, hop_samples
        self.register_buffer("filters", mel_filterbank(num_mels, fft_samples, sample_rate_hz), persistent=False)
        self.register_buffer("window", torch.hann_window(fft_samples), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        padded = F.pad(wave.float(), (0, self.fft_samples - self.hop_samples))
        spectrum = torch.stft(padded, self.fft_samples, self.hop_samples, window=self.window, center=False, return_complex=True)
        return torch.log((self.filters @ spectrum.abs()).clamp(min=1e-4))


class AudioEncoder(nn.Module):
    """Mel -> mean and log-variance of the latents: [B, M, F] -> [B, 2 C, F / 2]."""

    def __init__(self, config: AudioVAEConfig) -> None:
        super().__init__()
        dim = config.encoder_dim
        self.stem = nn.Conv1d(config.num_mels, dim, 7, padding=3)
        self.frames = nn.ModuleList(ConvNeXtBlock(dim, 3 * dim, causal=False) for _ in range(2))
        self.down = nn.Conv1d(dim, dim, 4, stride=2, padding=1)
        self.latents = nn.ModuleList(ConvNeXtBlock(dim, 3 * dim, causal=False) for _ in range(2))
        self.head = nn.Conv1d(dim, 2 * config.latent_channels, 1)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.stem((mel + 5) / 3)
        for block in self.frames:
            x = block(x)
        x = self.down(x)
        for block in self.latents:
            x = block(x)
        return self.head(x)


class AudioDecoder(nn.Module):
    """Latents -> features for the vocoder, causal: [B, C, L] -> [B, D, 2 L]."""

    def __init__(self, config: AudioVAEConfig) -> None:
        super().__init__()
        dim = config.decoder_dim
        self.stem = CausalConv1d(config.latent_channels, dim, 3)
        self.latents = nn.ModuleList(
            ConvNeXtBlock(dim, config.decoder_ffn_dim, causal=True) for _ in range(config.num_latent_blocks)
        )
        self.up = nn.Conv1d(dim, 2 * dim, 1)
        self.frames = nn.ModuleList(
            ConvNeXtBlock(dim, config.decoder_ffn_dim, causal=True) for _ in range(config.num_frame_blocks)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, latents: Tensor, memory: Memory) -> Tensor:
        x = self.stem(latents, memory)
        for block in self.latents:
            x = block(x, memory)
        batch, _, length = x.shape
        x = self.up(x).view(batch, 2, -1, length).permute(0, 2, 3, 1).reshape(batch, -1, 2 * length)
        for block in self.frames:
            x = block(x, memory)
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class AudioVAE(nn.Module):
    """Encoder, decoder and vocoder, with the statistics that make latents zero-mean and unit-variance.

    Latents outside this module are always normalised.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: AudioVAEConfig, sample_rate_hz: int) -> None:
        super().__init__()
        self.config = config
        self.mel = MelSpectrogram(config.num_mels, config.fft_samples, config.hop_samples, sample_rate_hz)
        self.encoder = AudioEncoder(config)
        self.decoder = AudioDecoder(config)
        self.vocoder = Vocoder(config, sample_rate_hz)
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels))
        self.register_buffer("latent_std", torch.ones(config.latent_channels))

    def posterior(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance before normalisation, each [B, C, L], of a wave [B, S]."""
        mean, log_variance = self.encoder(self.mel(wave)).chunk(2, dim=1)
        return mean, log_variance.clamp(-12, 4)

    def normalise(self, latents: Tensor) -> Tensor:
        return (latents - self.latent_mean[:, None]) / self.latent_std[:, None]

    def encode(self, wave: Tensor) -> Tensor:
        """Normalised latents [B, C, S / (2 hop)] of a wave [B, S]."""
        return self.normalise(self.posterior(wave)[0])

    def decode(self, latents: Tensor, noise: Tensor, memory: Memory) -> Tensor:
        """A wave [B, S] of normalised latents [B, C, L].

        Args:
            noise: standard normal [B, 2 L, fft / 2 + 1, 2], the unvoiced part of the voice. Given, so that chunks can
                equal a whole.
            memory: of the chunk before; its ``present`` is filled.
        """
        raw = latents * self.latent_std[:, None] + self.latent_mean[:, None]
        return self.vocoder(self.decoder(raw, memory), noise, memory).wave
