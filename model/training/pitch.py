"""Pitch of clean speech by normalised cross-correlation, on the GPU, for teaching the vocoder its pulses."""

from __future__ import annotations

import torch
from torch import Tensor

from model.vae.vocoder import MAX_PITCH_HZ, MIN_PITCH_HZ


def track_pitch(
    wave: Tensor, hop_samples: int, sample_rate_hz: int, *, offset_samples: int, num_frames: int
) -> tuple[Tensor, Tensor]:
    """Pitch in Hz and whether there is one, each [B, num_frames], for frames centred at ``i * hop + offset``.

    The shortest lag whose correlation comes within 12 % of the best one wins, which avoids most octave errors; a median over
    five frames removes the rest.
    """
    longest = int(sample_rate_hz / MIN_PITCH_HZ)
    shortest = int(sample_rate_hz / MAX_PITCH_HZ)
    span = 720
    half = (span + longest) // 2
    end = num_frames * hop_samples + offset_samples
    padded = torch.nn.functional.pad(wave.float(), (half, max(0, end + half + longest - wave.shape[-1])))
    start = offset_samples
    frames = padded[:, start:].unfold(1, span + longest, hop_samples)[:, :num_frames]
    frames = frames - frames.mean(-1, keepdim=True)
    size = 2048
    fixed = torch.fft.rfft(frames[..., :span], size)
    moving = torch.fft.rfft(frames, size)
    correlation = torch.fft.irfft(fixed.conj() * moving, size)[..., : longest + 1]
    energy = torch.nn.functional.pad(frames.square().cumsum(-1), (1, 0))
    moving_energy = energy[..., span : span + longest + 1] - energy[..., : longest + 1]
    quality = correlation / (moving_energy * moving_energy[..., :1] + 1e-6).sqrt()
    quality[..., :shortest] = 0
    best = quality.amax(-1)
    inner = quality[..., 1:-1]
    peaks = (inner >= quality[..., :-2]) & (inner >= quality[..., 2:]) & (inner > 0.88 * best.unsqueeze(-1))
    lags = torch.arange(1, longest, device=wave.device)
    lag = torch.where(peaks, lags, longest).amin(-1).clamp(max=longest - 1)
    left, middle, right = (quality.gather(-1, (lag + d).unsqueeze(-1)).squeeze(-1) for d in (-1, 0, 1))
    shift = (0.5 * (left - right) / (left - 2 * middle + right).clamp(max=-1e-6)).clamp(-0.5, 0.5)
    pitch_hz = sample_rate_hz / (lag + shift)
    loud = moving_energy[..., 0] / span > 1e-5
    voiced = (best > 0.6) & loud
    padded_pitch = torch.nn.functional.pad(pitch_hz, (2, 2), mode="replicate")
    return padded_pitch.unfold(1, 5, 1).median(-1).values, voiced
