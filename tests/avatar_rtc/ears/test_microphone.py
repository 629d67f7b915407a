from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import av
import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from avatar_rtc.ears import microphone
from avatar_rtc.ears.microphone import blocks_of
from avatar_rtc.ears.voice_activity import BLOCK_SAMPLES, SAMPLE_RATE_HZ, VoiceModel
from model.evaluation.film import read_sound

QUESTION = Path(__file__).parents[2] / "data" / "question.wav"


class Pieces(MediaStreamTrack):
    """What a receiver gives: 20 ms at 48 kHz in stereo; None: it has nothing for a while."""

    kind = "audio"

    def __init__(self, *pieces: np.ndarray | None) -> None:
        super().__init__()
        self._pieces = list(pieces)

    async def recv(self) -> av.AudioFrame:
        if not self._pieces:
            raise MediaStreamError
        piece = self._pieces.pop(0)
        while piece is None:
            await asyncio.Event().wait()
        frame = av.AudioFrame.from_ndarray(np.repeat(piece, 2)[None], format="s16", layout="stereo")
        frame.sample_rate = 48_000
        return frame


async def test_sound_of_any_kind_becomes_blocks_of_one_kind() -> None:
    tone = (np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000) * 16_000).astype(np.int16)
    blocks = [block async for block in blocks_of(Pieces(*tone.reshape(50, 960)))]
    samples = np.concatenate(blocks)
    assert samples.dtype == np.float32
    assert {len(block) for block in blocks} == {BLOCK_SAMPLES}
    assert len(samples) > 0.95 * SAMPLE_RATE_HZ
    spectrum = np.abs(np.fft.rfft(samples[2000:10_000]))
    assert abs(np.argmax(spectrum) * SAMPLE_RATE_HZ / 8000 - 440) < 5


async def test_a_client_that_sends_nothing_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microphone, "MISSING_AFTER_S", 0.04)
    loud = np.full(960, 9000, np.int16)
    blocks = [block async for block in blocks_of(Pieces(*[loud] * 10, *[None] * 30, *[loud] * 10))]
    levels = np.concatenate(blocks)
    assert len(levels) > 1.2 * SAMPLE_RATE_HZ
    assert np.any(levels[:2000] > 0.1)
    assert not levels[5000:15_000].any()


async def test_before_its_first_sound_there_is_nothing() -> None:
    blocks = blocks_of(Pieces(None))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            await anext(blocks)
            pytest.fail("there was a block")


def test_speech_is_told_from_noise_and_silence() -> None:
    pytest.importorskip("silero_vad")
    model = VoiceModel()

    def voiced(samples: np.ndarray) -> float:
        voice = model.listen()
        ends = range(BLOCK_SAMPLES, len(samples), BLOCK_SAMPLES)
        return float(np.mean([voice.probability(samples[end - BLOCK_SAMPLES : end].astype(np.float32)) > 0.5 for end in ends]))

    assert voiced(read_sound(QUESTION)) > 0.7
    assert voiced(np.random.default_rng(0).normal(0, 0.05, 2 * SAMPLE_RATE_HZ)) < 0.05
    assert voiced(np.zeros(SAMPLE_RATE_HZ)) == 0
