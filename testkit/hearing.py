"""What is heard of the fake model's voice, in which each word is a tone of its own."""

from __future__ import annotations

from itertools import groupby

import av
import numpy as np

from avatar_rtc.client import Call
from avatar_rtc.fake import read_tone_hz, word_tone_hz

WORDS = "alpha charlie delta echo foxtrot hotel juliett kilo lima mike november papa"
"""Each has another tone."""
WINDOW_S = 0.05
LEAST_WINDOWS = 3
"""A word lasts 240 ms at least. What is shorter is a piece of one at the edge of a cut, or what a receiver made up over a gap."""
LOUD = 1000
"""Of 32767; what is less loud is a gap between words."""


class Ear:
    """Keeps what a call hears from now on, 48 kHz, mono: each packet at the place that its time stamp says."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._packets: list[tuple[int, np.ndarray]] = []
        call.on_sound = self._hear

    def _hear(self, frame: av.AudioFrame) -> None:
        assert frame.pts is not None
        self._packets.append((frame.pts, frame.to_ndarray().reshape(-1, 2)[:, 0].copy()))

    @property
    def start_s(self) -> float:
        """Media time of the first sample, by the sender reports."""
        return (self._call.audio.ntp_at_zero_s or 0.0) + self._packets[0][0] / 48_000

    @property
    def samples(self) -> np.ndarray:
        """int16 [S]; what was lost on the way is silent."""
        if not self._packets:
            return np.empty(0, np.int16)
        start = self._packets[0][0]
        samples = np.zeros(max(pts + len(sound) for pts, sound in self._packets) - start, np.int16)
        for pts, sound in self._packets:
            samples[pts - start : pts - start + len(sound)] = sound
        return samples


def words_heard(*recordings: np.ndarray, sample_rate_hz: int) -> list[str]:
    """The words of ``WORDS`` that are heard in recordings [S], in turn; one that goes on in the next one counts once."""
    by_hz = {word_tone_hz(word): word for word in WORDS.split()}
    size = round(WINDOW_S * sample_rate_hz)
    windows = [window for samples in recordings for window in samples[: len(samples) // size * size].reshape(-1, size)]
    tones = [read_tone_hz(window.astype(float), sample_rate_hz) for window in windows if np.abs(window).max() > LOUD]
    found = [word for word, alike in groupby(by_hz[hz] for hz in tones if hz in by_hz) if len(list(alike)) >= LEAST_WINDOWS]
    return [word for word, _ in groupby(found)]
