"""Whether what a microphone hears is the avatar's own voice, out of the caller's speakers.

The page cancels echo, other clients may not, and none does so fully. What was heard lately is laid over what was played lately,
at the delay at which their spectra change most alike. Where they do not, the microphone hears no echo; where they do, their
difference is how loud the echo is, and what is louder still is somebody who speaks over it.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from avatar_rtc.ears.voice_activity import BLOCK_MS, SAMPLE_RATE_HZ

HEARD_BLOCKS = 40
"""Of the microphone, that are laid over what was played: 1.3 s."""
MAX_DELAY_BLOCKS = 22
"""An echo comes within 0.7 s: over the network and back, through two jitter buffers and a room."""
ALIKE = 0.5
"""Correlation from which on there is an echo. docs/listening.md has what was measured: 0.7 and more with one, 0.4 without."""
LOUDER = 1.5
"""So much more (natural logarithm of power, on average over the bands) than an echo is somebody else: 6.5 dB."""
_LATEST_BLOCKS = 2
_FLOOR = 1e-7
"""Power of a band that counts as silence, of 1."""
_DECAY = 1.4
"""A room goes on to sound: it loses so much a block (6 dB)."""
_BAND_EDGES_HZ = np.geomspace(150, 7000, 19)


def is_echo(heard: np.ndarray, played: np.ndarray, played_rate_hz: int) -> bool:
    """Whether the latest block of a microphone holds nothing but echo.

    Args:
        heard: float32 [S] at 16 kHz: the latest ``HEARD_BLOCKS``.
        played: int16 [S]: what was played until now; before it there was silence. Two seconds are enough.
    """
    if not played.any():
        return False
    missing = max(0, (HEARD_BLOCKS + MAX_DELAY_BLOCKS) * BLOCK_MS * played_rate_hz // 1000 - len(played))
    ours = _spectrum(np.pad(played, (missing, 0)).astype(np.float32) / 32768, played_rate_hz)
    for earlier, later in pairwise(ours):
        np.maximum(later, earlier - _DECAY, out=later)
    theirs = _spectrum(heard, SAMPLE_RATE_HZ)
    if not len(theirs):
        return False
    delayed = np.lib.stride_tricks.sliding_window_view(ours, len(theirs), axis=0).transpose(0, 2, 1)
    likeness = _correlation(delayed, theirs)
    best = int(likeness.argmax())
    sounding = delayed[best].mean(axis=1) > np.log(_FLOOR) + 2
    if likeness[best] < ALIKE or not sounding.any():
        return False
    echo = delayed[best] + np.median((theirs - delayed[best])[sounding], axis=0)
    excess = theirs - np.maximum(echo, np.log(_FLOOR))
    return float(np.maximum(excess[-_LATEST_BLOCKS:], 0).mean()) < LOUDER


def _spectrum(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Logarithm of the power of each band, [T, bands], one a block, of windows twice as long."""
    hop = rate_hz * BLOCK_MS // 1000
    size = 2 * hop
    if len(samples) < size:
        return np.empty((0, len(_BAND_EDGES_HZ) - 1), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop] * np.hanning(size).astype(np.float32)
    power = np.abs(np.fft.rfft(windows)) ** 2 / size
    edges = np.searchsorted(np.fft.rfftfreq(size, 1 / rate_hz), _BAND_EDGES_HZ)
    return np.log(np.add.reduceat(power, edges, axis=1)[:, :-1] + _FLOOR)


def _correlation(windows: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Of each of [N, T, bands] with [T, bands]; each band around its own mean, so that neither room nor loudness counts."""
    windows = windows - windows.mean(axis=1, keepdims=True)
    theirs = theirs - theirs.mean(axis=0)
    product = np.einsum("ntb,tb->n", windows, theirs)
    energy = np.einsum("ntb,ntb->n", windows, windows) * np.sum(theirs**2)
    correlation: np.ndarray = product / np.sqrt(np.maximum(energy, 1e-9))
    return correlation
