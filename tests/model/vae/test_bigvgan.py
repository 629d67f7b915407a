"""The published vocoder without fixtures: filters, activation, lengths, and how far it looks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import BigVGANConfig
from model.vae.bigvgan import BigVGAN, Snake, antialias_filter
from tests.model.audio import tiny_audio
from tests.model.support import normal


@pytest.fixture
def vocoder(tmp_path: Path) -> BigVGAN:
    return tiny_audio(tmp_path)[1]


def test_the_filter_passes_the_lower_half_of_the_band() -> None:
    taps = antialias_filter()
    assert torch.equal(taps, taps.flip(0))
    response = torch.fft.rfft(taps, 256).abs()
    assert float(response[0]) == pytest.approx(1, abs=1e-6)
    assert (response[:16] > 0.9).all()
    assert (response[112:] < 0.01).all()


def test_the_activation_runs_at_twice_the_rate() -> None:
    snake = Snake(2).requires_grad_(False)
    snake.frequency.copy_(torch.tensor([[0.7], [1.9]]))
    snake.scale.copy_(torch.tensor([[1.2], [0.4]]))
    x, taps = normal(1, 2, 30), antialias_filter()
    actual = snake(x, taps)[0].numpy()
    kernel = taps.double().numpy()
    for channel, row in enumerate(x[0].double().numpy()):
        spread = np.zeros(2 * (30 + 10))
        spread[::2] = np.pad(row, 5, mode="edge")
        wide = 2 * np.convolve(spread, kernel)[15 : 15 + 60]
        frequency, scale = float(snake.frequency[channel]), float(snake.scale[channel])
        wide = np.pad(wide + scale * np.sin(frequency * wide) ** 2, (5, 6), mode="edge")
        expected = [wide[2 * i : 2 * i + 12] @ kernel for i in range(30)]
        np.testing.assert_allclose(actual[channel], expected, atol=1e-5)


def test_a_frame_is_a_hop_and_samples_stay_in_range(vocoder: BigVGAN) -> None:
    wave = vocoder(normal(2, 8, 9) * 20)
    assert wave.shape == (2, 9 * 4)
    assert wave.abs().max() <= 1
    assert torch.equal(wave, torch.tanh(vocoder.before_tanh(normal(2, 8, 9) * 20)))


def test_samples_depend_on_no_frame_beyond_the_stated_reach(vocoder: BigVGAN) -> None:
    reach, hop, mel = vocoder.reach_frames, 4, normal(1, 8, 80)
    for frame in (37, 40):
        other = mel.clone()
        other[:, :, frame] += 1
        changed = (vocoder(other) != vocoder(mel))[0].view(-1, hop).any(1).nonzero().flatten()
        assert frame - reach <= changed.min() < frame - reach // 2
        assert frame + reach // 2 < changed.max() <= frame + reach


def test_the_published_vocoder_reaches_40_frames() -> None:
    with torch.device("meta"):
        assert BigVGAN(BigVGANConfig()).reach_frames == 40


def test_bfloat16_keeps_the_wave_in_float32_and_close(vocoder: BigVGAN) -> None:
    mel = normal(1, 8, 40)
    exact = vocoder(mel)
    wave = vocoder.to(torch.bfloat16)(mel.bfloat16())
    assert wave.dtype == torch.float32
    assert (wave - exact).norm() < 0.03 * exact.norm()


def test_a_config_whose_lists_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="6 upsample_rates, but 1 upsample_kernels"):
        BigVGANConfig(upsample_kernels=(4,))
    with pytest.raises(ValueError, match="even number"):
        BigVGANConfig(upsample_kernels=(8, 8, 4, 4, 4, 5))
    with pytest.raises(ValueError, match="1 res_kernels, but 3 res_dilations"):
        BigVGANConfig(res_kernels=(3,))
