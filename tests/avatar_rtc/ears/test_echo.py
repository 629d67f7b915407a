"""The avatar's own voice in a microphone, and somebody who speaks over it. Both voices are recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avatar_rtc.ears.echo import HEARD_BLOCKS, is_echo
from avatar_rtc.ears.turn_detector import STILL_VOICED, TurnDetector
from avatar_rtc.ears.voice_activity import BLOCK_MS, BLOCK_SAMPLES, SAMPLE_RATE_HZ, VoiceModel
from model.evaluation.film import read_sound

pytest.importorskip("silero_vad")

DATA = Path(__file__).parents[2] / "data"
PLAYED_HZ = 24_000
KEPT_S = 2


def sound(name: str, rate_hz: int) -> np.ndarray:
    return read_sound(DATA / f"{name}.wav", rate_hz)


def turns(*, delay_s: float, echo_db: float, over_db: float | None = None, over_s: float = 4.0) -> list[float]:
    """When turns begin, in seconds, while the avatar speaks, and is heard so loud and so late, and perhaps somebody else, too."""
    played = np.tile(sound("question", PLAYED_HZ), 5)
    echo = np.tile(sound("question", SAMPLE_RATE_HZ), 5) * 10 ** (echo_db / 20)
    heard = np.concatenate([np.zeros(round(delay_s * SAMPLE_RATE_HZ)), echo])
    heard += np.random.default_rng(0).normal(0, 3e-4, len(heard))
    if over_db is not None:
        other = sound("interruption", SAMPLE_RATE_HZ) * 10 ** (over_db / 20)
        start = round(over_s * SAMPLE_RATE_HZ)
        heard[start : start + len(other)] += other
    voice, detector, begun = VoiceModel().listen(), TurnDetector(BLOCK_MS, 500), []
    samples = heard.astype(np.float32)
    for end in range(BLOCK_SAMPLES, len(samples), BLOCK_SAMPLES):
        probability = voice.probability(samples[end - BLOCK_SAMPLES : end])
        now = round(end / SAMPLE_RATE_HZ * PLAYED_HZ)
        ours = (played[max(0, now - KEPT_S * PLAYED_HZ) : now] * 32767).astype(np.int16)
        if probability >= STILL_VOICED and is_echo(samples[max(0, end - HEARD_BLOCKS * BLOCK_SAMPLES) : end], ours, PLAYED_HZ):
            probability = 0.0
        was_in_turn = detector.in_turn
        detector.hear(probability)
        if detector.in_turn and not was_in_turn:
            begun.append(end / SAMPLE_RATE_HZ)
    return begun


@pytest.mark.parametrize(("delay_s", "echo_db"), [(0.1, -20), (0.4, -20), (0.15, -6), (0.6, -30)])
def test_the_avatar_does_not_hear_itself(delay_s: float, echo_db: float) -> None:
    assert turns(delay_s=delay_s, echo_db=echo_db) == []


def test_whoever_speaks_over_it_is_heard_soon() -> None:
    begun = turns(delay_s=0.25, echo_db=-20, over_db=-3)
    assert len(begun) == 1
    assert 4.0 < begun[0] < 4.8


def test_who_wears_headphones_is_heard_while_it_speaks() -> None:
    assert len(turns(delay_s=0.25, echo_db=-200, over_db=-3)) == 1


def test_nothing_is_an_echo_of_silence() -> None:
    voice = sound("question", SAMPLE_RATE_HZ)
    assert not is_echo(voice[: HEARD_BLOCKS * BLOCK_SAMPLES], np.zeros(KEPT_S * PLAYED_HZ, np.int16), PLAYED_HZ)
    assert not is_echo(voice[:BLOCK_SAMPLES], np.empty(0, np.int16), PLAYED_HZ)
