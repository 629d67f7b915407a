"""The published audio VAE without fixtures: its mel front end, its lengths, and how far it looks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model.config import MelConfig, MMAudioVAEConfig
from model.vae.mmaudio import LogMel, MMAudioVAE, slaney_filterbank
from tests.model.audio import VAE, tiny_audio
from tests.model.support import normal

MEL = MelConfig()


@pytest.fixture
def vae(tmp_path: Path) -> MMAudioVAE:
    return tiny_audio(tmp_path)[0]


class NoAttention(nn.Module):
    def forward(self, x: Tensor, visible: Tensor | None) -> Tensor:
        return x


def tone(hz: float, amplitude: float = 0.5) -> Tensor:
    return amplitude * torch.sin(2 * math.pi * hz * torch.arange(16_000) / 16_000)[None]


def test_bands_are_equally_wide_below_1_khz_and_grow_by_a_constant_factor_above() -> None:
    filters = slaney_filterbank(MEL).double()
    bins_hz = torch.linspace(0, 8000, 513, dtype=torch.float64)
    torch.testing.assert_close(filters[10:].sum(1) * bins_hz[1], torch.ones(70, dtype=torch.float64), atol=0.06, rtol=0)
    centres_hz = (filters @ bins_hz) / filters.sum(1)
    low, high = centres_hz[centres_hz < 900], centres_hz[centres_hz > 1500]
    torch.testing.assert_close(low.diff(), low.diff().mean().expand(len(low) - 1), atol=3, rtol=0)
    ratios = high[1:] / high[:-1]
    torch.testing.assert_close(ratios, ratios.mean().expand(len(ratios)), atol=5e-3, rtol=0)


def test_a_tone_is_loudest_in_the_band_around_it_and_ten_times_the_amplitude_is_one_more() -> None:
    front_end = LogMel(MEL)
    centres_hz = slaney_filterbank(MEL) @ torch.linspace(0, 8000, 513) / slaney_filterbank(MEL).sum(1)
    for hz in (300.0, 1000.0, 5000.0):
        mel = front_end(tone(hz))
        band = int(mel[0, :, 30].argmax())
        assert abs(float(centres_hz[band]) - hz) < 0.06 * hz + 20
        louder = front_end(tone(hz, 0.05))[0, band, 30]
        assert float(mel[0, band, 30] - louder) == pytest.approx(1, abs=1e-3)


def test_a_wave_is_clipped_and_silence_has_a_floor() -> None:
    front_end = LogMel(MEL)
    square = torch.where(tone(200) > 0, 1.0, -1.0)
    assert torch.equal(front_end(3 * square), front_end(square))
    silence = front_end(torch.zeros(2, 5000))
    assert silence.shape == (2, 80, 5000 // 256)
    assert (silence >= -5).all()
    assert (silence < -4).all()


def test_two_frames_are_a_latent_and_an_odd_one_is_dropped(vae: MMAudioVAE) -> None:
    mean, log_variance = vae.encode(normal(3, 8, 11))
    assert mean.shape == log_variance.shape == (3, 4, 5)
    assert vae.decode(mean).shape == (3, 8, 10)


def test_the_reach_of_the_published_decoder_is_that_which_was_measured() -> None:
    with torch.device("meta"):
        assert MMAudioVAE(MMAudioVAEConfig()).reach_latents == 21


def test_convolutions_reach_as_far_as_stated(vae: MMAudioVAE) -> None:
    vae.decoder.middle.attention = NoAttention()  # type: ignore[assignment]
    reach, latents = vae.reach_latents, normal(1, 4, 60)
    other = latents.clone()
    other[:, :, 30] += 1
    changed = (vae.decode(other) != vae.decode(latents)).any(1)[0].view(-1, 2).any(1).nonzero().flatten()
    assert 30 - reach <= changed.min() <= 30 - reach + 1
    assert 30 + reach - 1 <= changed.max() <= 30 + reach


def test_attention_sees_everything_unless_it_is_told_what(vae: MMAudioVAE) -> None:
    latents = normal(1, 4, 60)
    other = latents.clone()
    other[:, :, 0] += 1
    assert (vae.decode(other) != vae.decode(latents))[..., -1].any()
    position = torch.arange(60)
    near = (position[None] - position[:, None]).abs() <= 4
    far = 2 * (vae.reach_latents + 4)
    assert torch.equal(vae.decode(other, near)[..., far + 2 :], vae.decode(latents, near)[..., far + 2 :])


def test_bands_come_back_at_their_mean_and_spread(vae: MMAudioVAE) -> None:
    latents = normal(2, 4, 7)
    torch.testing.assert_close(vae.decode(latents), vae.decoder(latents) * vae.mel_std + vae.mel_mean)
    assert VAE.num_mels == vae.mel_mean.shape[0]
