"""Decoders give the same in chunks as at once, and never look ahead."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.vae.audio import AudioVAE, MelSpectrogram
from model.vae.causal import CausalConv1d, Memory
from model.vae.video import VideoVAE, pack_i420, unpack_i420
from tests.model.support import normal, tiny_model, tiny_networks

CONFIG = tiny_model()
NUM_LATENTS = 12
HOP, BINS = CONFIG.audio_vae.hop_samples, CONFIG.audio_vae.fft_samples // 2 + 1
SAMPLES_PER_LATENT = 2 * HOP

chunkings = (
    st.lists(st.integers(1, 5), min_size=1)
    .map(lambda sizes: np.cumsum([0, *sizes]))
    .map(lambda ends: [int(e) for e in ends if e < NUM_LATENTS] + [NUM_LATENTS])
)
"""Places at which ``NUM_LATENTS`` latents are cut, from 0 to the end."""


@pytest.fixture(scope="module")
def video_vae() -> VideoVAE:
    vae = tiny_networks(CONFIG)["video_vae"]
    assert isinstance(vae, VideoVAE)
    vae.latent_mean += 0.3
    vae.latent_std *= 1.7
    return vae


@pytest.fixture(scope="module")
def audio_vae() -> AudioVAE:
    vae = tiny_networks(CONFIG)["audio_vae"]
    assert isinstance(vae, AudioVAE)
    vae.latent_mean += 0.3
    vae.latent_std *= 1.7
    return vae


def video_latents(seed: int = 0) -> Tensor:
    return normal(1, CONFIG.video_vae.latent_channels, NUM_LATENTS, 4, 6, seed=seed)


def audio_latents(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Latents and noise."""
    return normal(2, CONFIG.audio_vae.latent_channels, NUM_LATENTS, seed=seed), normal(2, 2 * NUM_LATENTS, BINS, 2, seed=seed + 1)


def decode_video(vae: VideoVAE, latents: Tensor, cuts: list[int]) -> Tensor:
    pictures, past = [], None
    for start, stop in itertools.pairwise(cuts):
        memory = Memory(past)
        pictures.append(vae.decode(latents[:, :, start:stop], memory))
        past = memory.present
    return torch.cat(pictures, dim=2)


def decode_audio(vae: AudioVAE, latents: Tensor, noise: Tensor, cuts: list[int]) -> Tensor:
    waves, past = [], None
    for start, stop in itertools.pairwise(cuts):
        memory = Memory(past)
        waves.append(vae.decode(latents[:, :, start:stop], noise[:, 2 * start : 2 * stop], memory))
        past = memory.present
    return torch.cat(waves, dim=1)


WHOLE = [0, NUM_LATENTS]


@settings(max_examples=10, derandomize=True)
@given(cuts=chunkings)
def test_video_in_chunks_equals_the_whole(video_vae: VideoVAE, cuts: list[int]) -> None:
    whole = decode_video(video_vae, video_latents(), WHOLE)
    assert whole.shape == (1, 6, 4 * NUM_LATENTS, 32, 48)
    torch.testing.assert_close(decode_video(video_vae, video_latents(), cuts), whole, atol=1e-5, rtol=1e-5)


@settings(max_examples=10, derandomize=True)
@given(cuts=chunkings)
def test_audio_in_chunks_equals_the_whole(audio_vae: AudioVAE, cuts: list[int]) -> None:
    whole = decode_audio(audio_vae, *audio_latents(), WHOLE)
    assert whole.shape == (2, NUM_LATENTS * SAMPLES_PER_LATENT)
    # The number of harmonics under a sample is a whole one, so rounding elsewhere may add one at a sample here and there.
    error = (decode_audio(audio_vae, *audio_latents(), cuts) - whole).norm() / whole.norm()
    assert error < 5e-3


def test_a_chunk_without_its_memory_differs(video_vae: VideoVAE, audio_vae: AudioVAE) -> None:
    whole = decode_video(video_vae, video_latents(), WHOLE)
    assert not torch.allclose(video_vae.decode(video_latents()[:, :, 6:], Memory()), whole[:, :, 24:], atol=1e-3)
    latents, noise = audio_latents()
    wave = decode_audio(audio_vae, latents, noise, WHOLE)[:, 6 * SAMPLES_PER_LATENT :]
    assert not torch.allclose(audio_vae.decode(latents[:, :, 6:], noise[:, 12:], Memory()), wave, atol=1e-3)


@pytest.mark.parametrize("at", [0, 5, 11])
def test_later_latents_do_not_change_earlier_pictures(video_vae: VideoVAE, at: int) -> None:
    latents, other = video_latents(), video_latents()
    other[:, :, at:] = torch.nan
    before, after = (decode_video(video_vae, x, WHOLE) for x in (latents, other))
    assert torch.equal(before[:, :, : 4 * at], after[:, :, : 4 * at])
    assert after[:, :, 4 * at :].isnan().flatten(3).any(dim=3).all(), "a latent has to show in its own four pictures"


@pytest.mark.parametrize("at", [0, 5, 11])
def test_later_latents_and_noise_do_not_change_earlier_samples(audio_vae: AudioVAE, at: int) -> None:
    latents, noise = audio_latents()
    other, other_noise = latents.clone(), noise.clone()
    other[:, :, at:] = torch.nan
    other_noise[:, 2 * at :] = torch.nan
    before = decode_audio(audio_vae, latents, noise, WHOLE)
    for changed in ((other, noise), (latents, other_noise)):
        after = decode_audio(audio_vae, *changed, WHOLE)
        assert torch.equal(before[:, : at * SAMPLES_PER_LATENT], after[:, : at * SAMPLES_PER_LATENT])
        # The first sample of a hop may lie under a zero of the window.
        assert after[:, at * SAMPLES_PER_LATENT + 1].isnan().all()


def test_the_same_noise_gives_the_same_voice(audio_vae: AudioVAE) -> None:
    latents, noise = audio_latents()
    wave = decode_audio(audio_vae, latents, noise, WHOLE)
    assert torch.equal(wave, decode_audio(audio_vae, latents, noise, WHOLE))
    assert not torch.allclose(wave, decode_audio(audio_vae, latents, noise + 0.5, WHOLE), atol=1e-3)


def test_members_of_a_batch_do_not_mix(audio_vae: AudioVAE) -> None:
    latents, noise = audio_latents()
    wave = decode_audio(audio_vae, latents, noise, WHOLE)
    poisoned = latents.clone()
    poisoned[1] = torch.nan
    torch.testing.assert_close(decode_audio(audio_vae, poisoned, noise, WHOLE)[0], wave[0])


def test_the_memory_keeps_its_size(video_vae: VideoVAE, audio_vae: AudioVAE) -> None:
    latents, noise = audio_latents()
    video_past: list[Tensor] | None = None
    audio_past: list[Tensor] | None = None
    sizes = set()
    for _ in range(10):
        video_memory, audio_memory = Memory(video_past), Memory(audio_past)
        video_vae.decode(video_latents()[:, :, :2], video_memory)
        audio_vae.decode(latents[:, :, :8], noise[:, :16], audio_memory)
        video_past, audio_past = video_memory.present, audio_memory.present
        sizes.add(tuple(m.shape for m in (*video_past, *audio_past)))
    assert len(sizes) == 1


def test_zeros_are_what_a_stream_begins_with(video_vae: VideoVAE, audio_vae: AudioVAE) -> None:
    """A runtime with fixed inputs starts from zeros of the right shapes rather than from nothing."""
    latents, noise = audio_latents()
    video_memory, audio_memory = Memory(), Memory()
    pictures = video_vae.decode(video_latents(), video_memory)
    wave = audio_vae.decode(latents, noise, audio_memory)
    assert torch.equal(pictures, video_vae.decode(video_latents(), Memory([torch.zeros_like(m) for m in video_memory.present])))
    assert torch.equal(wave, audio_vae.decode(latents, noise, Memory([torch.zeros_like(m) for m in audio_memory.present])))


def test_the_past_is_read_and_not_written() -> None:
    layer = CausalConv1d(2, 2, 3)
    past = [normal(1, 2, 2)]
    kept = past[0].clone()
    memory = Memory(past)
    layer(normal(1, 2, 5, seed=1), memory)
    assert torch.equal(past[0], kept)
    assert torch.equal(memory.present[0], normal(1, 2, 5, seed=1)[:, :, -2:])


@given(frames=st.integers(1, 3), half_height=st.integers(1, 4), half_width=st.integers(1, 4), seed=st.integers(0, 99))
def test_i420_survives_packing(frames: int, half_height: int, half_width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pictures = torch.from_numpy(rng.integers(0, 256, (2, frames, 3 * half_height, 2 * half_width), np.uint8))
    packed = pack_i420(pictures)
    assert packed.shape == (2, 6, frames, half_height, half_width)
    assert packed.abs().max() <= 1
    assert torch.equal(unpack_i420(packed.transpose(1, 2).flatten(0, 1)), pictures.flatten(0, 1))


def test_packing_puts_neighbours_and_chroma_together() -> None:
    """Luma 0..15 row by row in 4 x 4, then U 100..103, then V 200..203."""
    planes = [*range(16), *range(100, 104), *range(200, 204)]
    packed = pack_i420(torch.tensor(planes, dtype=torch.uint8).view(1, 1, 6, 4)) * 128 + 128
    assert packed[0, :, 0, 0, 0].tolist() == [0, 1, 4, 5, 100, 200]
    assert packed[0, :, 0, 1, 1].tolist() == [10, 11, 14, 15, 103, 203]


def test_unpacking_clamps() -> None:
    assert unpack_i420(torch.full((1, 6, 1, 1), 9.0)).eq(255).all()
    assert unpack_i420(torch.full((1, 6, 1, 1), -9.0)).eq(0).all()


def test_the_encoder_sees_the_four_pictures_of_a_latent(video_vae: VideoVAE) -> None:
    packed = normal(1, 6, 12, 32, 48)
    other = packed.clone()
    other[:, :, 4:8] = torch.nan
    before, after = video_vae.encode(packed), video_vae.encode(other)
    assert before.shape == (1, 4, 3, 4, 6)
    assert after[:, :, 1].isnan().all()
    assert torch.equal(before[:, :, [0, 2]], after[:, :, [0, 2]])


def test_latents_are_normalised(video_vae: VideoVAE, audio_vae: AudioVAE) -> None:
    packed, wave = normal(1, 6, 8, 32, 48), normal(1, 16 * SAMPLES_PER_LATENT) * 0.1
    torch.testing.assert_close(video_vae.encode(packed) * 1.7 + 0.3, video_vae.posterior(packed)[0])
    torch.testing.assert_close(audio_vae.encode(wave) * 1.7 + 0.3, audio_vae.posterior(wave)[0])
    assert audio_vae.encode(wave).shape == (1, 5, 16)


def test_a_tone_lands_in_its_mel_band() -> None:
    mel = MelSpectrogram(num_mels=40, fft_samples=640, hop_samples=160, sample_rate_hz=8000)
    time_s = torch.arange(8000) / 8000
    low, high = (mel(torch.sin(2 * torch.pi * hz * time_s).unsqueeze(0))[0, :, 10].argmax() for hz in (200, 2000))
    hz_of = 700 * (10 ** (torch.linspace(0, 2595 * np.log10(1 + 4000 / 700), 42)[1:-1] / 2595) - 1)
    assert float(hz_of[low]) == pytest.approx(200, rel=0.2)
    assert float(hz_of[high]) == pytest.approx(2000, rel=0.1)
