"""What the benchmarks measure with is itself right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from avatar_rtc.config import load_config
from avatar_rtc.resources import server_config
from benchmarks import audio_seams, endless, lips, speech
from model.data.captions import PRESETS
from model.data.sentences import is_held_out
from model.data.speech import VOICES


def test_the_sentences_of_the_speech_benchmark_were_held_out_of_training() -> None:
    sentences = speech.SENTENCES.read_text().splitlines()
    assert len(set(sentences)) == 20
    assert [sentence for sentence in sentences if not is_held_out(sentence)] == []


def test_the_shipped_looks_and_voices_are_those_of_training() -> None:
    config = load_config(server_config("pocket"))
    voices = {voice.id: voice.voice for voice in config.voices}
    offered = [(avatar.name, avatar.scene, voices[avatar.voice]) for avatar in config.avatars]
    assert offered == [(preset.name, preset.caption, VOICES[preset.voice].descriptions[0]) for preset in PRESETS]


def test_lips_that_follow_60_ms_late_are_found_to_do_so() -> None:
    def recording(seed: int) -> lips.Recording:
        loudness_db = np.convolve(np.random.default_rng(seed).normal(-30, 20, 1000), np.ones(12) / 12, "same")
        times_s = np.arange(0.02, 9.5, 0.04)
        voice = lips.Recording(times_s, times_s, loudness_db)
        return lips.Recording(times_s, voice.loudness_at(times_s - 0.06), loudness_db)

    recordings = [recording(seed) for seed in range(4)]
    found = lips.compare(recordings, recordings)
    assert found["best_lag_ms"] == 60
    assert found["correlation"] > 0.99
    assert abs(found["shuffled"]) < 0.2


def test_an_error_at_a_seam_is_told_from_one_elsewhere() -> None:
    reference = torch.tensor([[1.0, -1.0]]).repeat(1, 500)
    wave = reference.clone()
    wave[0, 600:610] += 0.1  # from the seam on, within reach
    wave[0, 100] += 0.01
    found = audio_seams.compare(wave, reference, [300, 600], reach=20)
    assert found.seam_db == pytest.approx(-20 + 10 * np.log10(10 / 40), abs=0.01)
    assert found.else_db == pytest.approx(-40 - 10 * np.log10(920), abs=0.01)
    assert found.step_db == pytest.approx(20 * np.log10(0.1 / 2), abs=0.01)


def test_a_corner_at_a_seam_is_told_from_the_noise_around_it() -> None:
    random = np.random.default_rng(1)
    samples = random.normal(0, 300, 400_000).astype(np.int16)
    seams, others = np.arange(16_000, 390_000, 16_000), np.arange(9_000, 390_000, 16_000)
    found = endless.sound_seams(samples, 16_000, seams, others)
    assert found["median"] == pytest.approx(1, abs=0.1)
    for seam in seams:
        samples[seam:] += np.int16(4_000) * (-1 if seam // 16_000 % 2 else 1)
    heard = endless.sound_seams(samples, 16_000, seams, others)
    assert heard["median"] > 2
    assert heard["worst"] > 1.3
    assert endless.sound_seams(samples, 16_000, others, seams)["median"] == pytest.approx(1, abs=0.1)
