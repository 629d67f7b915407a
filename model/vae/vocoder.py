"""Vocoder: features at 100 Hz -> a wave at 24 kHz, by one inverse Fourier transform a frame.

A frame's spectrum is the sum of three parts, as in harmonic-plus-noise synthesis, with all envelopes from the network:

    S = exp(h) e^{i pi tanh(t)} P  +  exp(n) Z  +  exp(r) e^{i p}

P is the spectrum of a band-limited pulse train at the pitch that the network predicts, Z complex white noise, and the last term
is free, as in Vocos (arXiv 2306.00814). The pulses carry the phase from frame to frame, which a small network otherwise learns
late and badly: without them voices buzz.

Frame i covers samples [i * hop, i * hop + fft). Its pitch is that of its last hop, so that everything is causal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.config import AudioVAEConfig
from model.vae.causal import Memory

MAX_HARMONIC_HZ = 11_000.0
MIN_PITCH_HZ, MAX_PITCH_HZ = 50.0, 600.0


@dataclass(frozen=True)
class VocoderOutput:
    """Attributes:
    wave: [B, S].
    log_pitch: natural logarithm of the pitch in Hz, a value a frame [B, F].
    voiced: logit that the frame is voiced [B, F].
    """

    wave: Tensor
    log_pitch: Tensor
    voiced: Tensor


class Vocoder(nn.Module):
    """See the module's text. Fourier transforms are matrix products, which every runtime has."""

    analysis: Tensor
    synthesis: Tensor
    ramp: Tensor

    def __init__(self, config: AudioVAEConfig, sample_rate_hz: int) -> None:
        super().__init__()
        fft, hop = config.fft_samples, config.hop_samples
        if fft % hop:
            raise ValueError(f"fft_samples {fft} is not a multiple of hop_samples {hop}")
        self.fft, self.hop, self.overlap, self.num_bins = fft, hop, fft // hop, fft // 2 + 1
        self.sample_rate_hz = sample_rate_hz
        self.envelopes = nn.Linear(config.decoder_dim, 5 * self.num_bins)
        self.pitch = nn.Linear(config.decoder_dim, 2)
        with torch.no_grad():
            self.envelopes.weight.mul_(0.3)
            harmonic, noise, free = 0.0, -3.0, -4.0
            levels = torch.tensor((harmonic, 0.0, noise, free, 0.0))
            self.envelopes.bias.copy_(levels.repeat_interleave(self.num_bins))
            self.pitch.bias.copy_(torch.tensor((math.log(170.0), 0.0)))
        window = torch.hann_window(fft, dtype=torch.float64)
        angle = (
            2
            * math.pi
            * torch.outer(torch.arange(fft, dtype=torch.float64), torch.arange(self.num_bins, dtype=torch.float64))
            / fft
        )
        analysis = torch.cat((angle.cos(), -angle.sin()), dim=1) * window[:, None] / (fft / 4)
        weight = torch.full((self.num_bins, 1), 2.0 / fft, dtype=torch.float64)
        weight[0] = weight[-1] = 1.0 / fft
        overlap_gain = float(window.square().sum() / hop)
        synthesis = torch.cat((angle.cos().T * weight, -angle.sin().T * weight)) * window / overlap_gain
        self.register_buffer("analysis", analysis.float(), persistent=False)  # [fft, 2 bins]
        self.register_buffer("synthesis", synthesis.float(), persistent=False)  # [2 bins, fft]
        self.register_buffer("ramp", (torch.arange(hop) + 1.0) / hop, persistent=False)

    def forward(self, features: Tensor, noise: Tensor, memory: Memory) -> VocoderOutput:
        """Features [B, D, F] and noise [B, F, bins, 2] -> F * hop samples."""
        x = features.transpose(1, 2)
        h, t, n, r, p = self.envelopes(x).float().chunk(5, dim=-1)
        log_pitch, voiced = self.pitch(x).float().unbind(-1)
        pulses = self._pulses(log_pitch.detach(), voiced.detach(), memory)
        source_re, source_im = self._spectra(pulses, memory).chunk(2, dim=-1)
        angle = math.pi * torch.tanh(t)
        level = torch.exp(h.clamp(max=7))
        turn_re, turn_im = level * angle.cos(), level * angle.sin()
        free, breath = torch.exp(r.clamp(max=7)), torch.exp(n.clamp(max=7))
        re = turn_re * source_re - turn_im * source_im + breath * noise[..., 0] + free * p.cos()
        im = turn_re * source_im + turn_im * source_re + breath * noise[..., 1] + free * p.sin()
        return VocoderOutput(self._overlap_add(torch.cat((re, im), dim=-1), memory), log_pitch, voiced)

    def _pulses(self, log_pitch: Tensor, voiced: Tensor, memory: Memory) -> Tensor:
        """Pulse train [B, F, hop]: all harmonics below ``MAX_HARMONIC_HZ`` as cosines of unit height, by their closed sum."""
        pitch_hz = torch.exp(log_pitch).clamp(MIN_PITCH_HZ, MAX_PITCH_HZ)
        before = memory.extend(pitch_hz, 1, 1)[:, :-1]
        before = torch.where(before > 0, before, pitch_hz)  # at the very start of a stream there is no pitch before
        curve_hz = before[..., None] + (pitch_hz - before)[..., None] * self.ramp
        cycles = torch.cumsum(curve_hz / self.sample_rate_hz, dim=-1)  # within a hop, so that float32 keeps the phase for ever
        phase = memory.recall(log_pitch, (log_pitch.shape[0], 1))
        turns = torch.cumsum(torch.cat((phase, cycles[..., -1]), dim=1), dim=1)
        turns = turns - torch.floor(turns)
        memory.remember(turns[:, -1:])
        cycles = cycles + turns[:, :-1, None]
        theta = 2 * math.pi * (cycles - torch.floor(cycles))
        num_harmonics = torch.floor(MAX_HARMONIC_HZ / curve_hz)
        sine = 2 * torch.sin(theta / 2)
        peak = sine.abs() < 2e-3  # the limit of the quotient, where both sines vanish
        ratio = torch.sin((num_harmonics + 0.5) * theta) / torch.where(peak, torch.ones_like(sine), sine)
        train = torch.where(peak, num_harmonics + 0.5, ratio) - 0.5
        return torch.where((voiced > 0)[..., None], train, torch.zeros_like(train))

    def _spectra(self, hops: Tensor, memory: Memory) -> Tensor:
        """Windowed spectra [B, F, 2 bins] (real parts, then imaginary ones) of frames that end with each hop."""
        extended = memory.extend(hops, self.overlap - 1, 1)
        num_frames = hops.shape[1]
        frames = torch.cat([extended[:, k : k + num_frames] for k in range(self.overlap)], dim=-1)
        return frames @ self.analysis

    def _overlap_add(self, spectra: Tensor, memory: Memory) -> Tensor:
        """[B, F, 2 bins] -> [B, F * hop]; what reaches beyond the last hop waits in the memory."""
        batch, num_frames, _ = spectra.shape
        parts = (spectra @ self.synthesis).view(batch, num_frames, self.overlap, self.hop)
        tail = memory.recall(parts, (batch, self.overlap - 1, self.hop))
        total = torch.cat((tail, parts.new_zeros(batch, num_frames, self.hop)), dim=1)
        zeros = parts.new_zeros(batch, self.overlap - 1, self.hop)
        for k in range(self.overlap):
            total = total + torch.cat((zeros[:, :k], parts[:, :, k], zeros[:, k:]), dim=1)
        memory.remember(total[:, num_frames:])
        return total[:, :num_frames].reshape(batch, -1)
