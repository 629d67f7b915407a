"""How a face moves besides its mouth: blinks, glances, nods, brows, smiles, breath and the sway of a head that is never still.

All of it is decided here, picture by picture, and told to the network, as phonemes are: what is rare and quick is what a network
that has to guess it leaves out. One class makes the faces that the network learns from and the tracks that a call gives it, so
that both move alike.

It runs along a stream's time line and knows of the future what the planner knows: phonemes up to a second ahead. A movement once
begun is brought to its end, whatever happens to the line, so nothing jumps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TimedPhoneme = tuple[str, float, float]
"""Symbol, start and end in seconds."""
CONTROLS = (
    *("yaw", "pitch", "roll", "shift_x", "shift_y", "breath", "blink", "gaze_x", "gaze_y", "brow_left", "brow_right", "smile"),
)
"""What is controlled, in order. Head angles are in radians, shifts in 1/256 of the picture's side, the others relative."""
SCALES = np.array((0.15, 0.06, 0.05, 2.6, 1.5, 0.5, 0.5, 0.25, 0.15, 0.3, 0.3, 0.3), np.float32)
"""About a standard deviation of each; the network sees values in these units."""
LOOK_AHEAD_S = 1.0
SMILES = {"calm": 0.12, "cheerful": 0.6}
"""How much a face smiles at rest, by mood."""
_CHEERFUL = re.compile(r"\b(cheerful|smil\w+)\b", re.IGNORECASE)

SILENT = frozenset(' .,!?;:—…"()“”_$')
"""Symbols that make no sound."""
_STRESS = "ˈ"
_SPEECH_RAMP_S = 0.25


def resting_smile(scene: str) -> float:
    """How much a face smiles at rest that is described so, 0..1: who is not said to be cheerful, or to smile, is calm."""
    return SMILES["cheerful" if _CHEERFUL.search(scene) else "calm"]


@dataclass(frozen=True)
class _Bump:
    """A movement that rises and falls once: ``size`` at ``centre_s``."""

    centre_s: float
    rise_s: float
    fall_s: float
    size: float

    def at(self, times: np.ndarray) -> np.ndarray:
        x = (times - self.centre_s) / np.where(times < self.centre_s, self.rise_s, self.fall_s)
        return np.asarray(self.size * np.exp(-x * x))

    def over(self, time_s: float) -> bool:
        return time_s > self.centre_s + 3 * self.fall_s


class Sway:
    """A slow wander around zero: three sines of random period and phase."""

    def __init__(self, rng: np.random.Generator, amplitude: float, slowest_s: float = 9.0, fastest_s: float = 2.6) -> None:
        self._periods_s = rng.uniform(
            (slowest_s * 0.7, slowest_s * 0.45, fastest_s), (slowest_s, slowest_s * 0.65, fastest_s * 1.4)
        )
        self._phases = rng.uniform(0, 2 * np.pi, 3)
        self._sizes = np.array((0.55, 0.3, 0.15)) * amplitude

    def at(self, times: np.ndarray) -> np.ndarray:
        angles = 2 * np.pi * times / self._periods_s[:, None] + self._phases[:, None]
        return np.asarray((self._sizes[:, None] * np.sin(angles)).sum(0))


class _Steps:
    """Two values that rest, then move to other ones along a smooth step, again and again.

    Args:
        move_s: how long a move takes.
    """

    def __init__(self, move_s: float) -> None:
        self._move_s, self._from, self._to, self._begun_s = move_s, np.zeros(2), np.zeros(2), -1e3

    def go(self, to: tuple[float, float], begun_s: float) -> None:
        self._from, self._to, self._begun_s = self.at(begun_s), np.array(to), begun_s

    def at(self, time_s: float) -> np.ndarray:
        """Both values; of the moves that have begun, no later one is known."""
        x = min(max((time_s - self._begun_s) / self._move_s, 0.0), 1.0)
        return np.asarray(self._from + (self._to - self._from) * x * x * (3 - 2 * x))


class Liveliness:
    """One face's movement, from its first picture on.

    Args:
        rng: for everything that sounds do not decide.
        smile: how much the face smiles at rest, 0..1; may change.
        fps: pictures a second.
    """

    def __init__(self, rng: np.random.Generator, smile: float, fps: int) -> None:
        self._rng, self.smile, self._fps = rng, smile, fps
        self._frame = 0
        self._yaw, self._pitch, self._roll = Sway(rng, 0.10), Sway(rng, 0.05), Sway(rng, 0.035)
        self._shift_x, self._shift_y = Sway(rng, 2.6), Sway(rng, 1.2)
        self._brow, self._tilt, self._smile_sway = Sway(rng, 0.12), Sway(rng, 0.06), Sway(rng, 0.08, slowest_s=12.0)
        self._breath_s, self._breath_phase = rng.uniform(3.4, 4.8), rng.uniform()
        self._gaze, self._posture = _Steps(0.06), _Steps(0.7)
        self._next_gaze_s, self._next_posture_s = 0.0, float(rng.uniform(0.5, 4.0))
        self._next_blink_s, self._next_listening_nod_s = float(rng.uniform(0.3, 4.0)), float(rng.uniform(1.5, 6.0))
        self._blinks_s: list[float] = []
        self._nods: list[_Bump] = []
        self._brows: list[_Bump] = []
        self._smiles: list[_Bump] = []
        self._speaking = 0.0
        self._seen_s = -1e3
        self._last_nod_s = -1.0

    def advance(self, num_frames: int, events: Sequence[TimedPhoneme]) -> np.ndarray:
        """The next pictures' movement, float32 [num_frames, len(CONTROLS)].

        Args:
            events: phonemes with absolute times in seconds, in order; at least those between a second before the first of these
                pictures and ``LOOK_AHEAD_S`` after the last.
        """
        times = (self._frame + np.arange(num_frames) + 0.5) / self._fps
        start_s, end_s = self._frame / self._fps, (self._frame + num_frames) / self._fps
        self._frame += num_frames
        self._follow_speech(events, end_s)
        speaking = self._speech(times, events)
        gaze, posture = np.empty((num_frames, 2)), np.empty((num_frames, 2))
        for i, time_s in enumerate(times.tolist()):
            self._decide(time_s, float(speaking[i]))
            gaze[i], posture[i] = self._gaze.at(time_s), self._posture.at(time_s)
        phase = 2 * np.pi * (times / self._breath_s + self._breath_phase)
        breath = 0.5 - 0.5 * np.cos(phase + 0.45 * np.sin(phase))  # in faster than out
        nod, brow, smiling = (self._sum(bumps, times) for bumps in (self._nods, self._brows, self._smiles))
        blink = np.zeros_like(times)
        for blink_s in self._blinks_s:
            # A lid closes in 80 ms, rests 40 ms, opens in 180 ms.
            blink = np.maximum(blink, np.interp(times - blink_s, (-0.10, -0.01, 0.03, 0.12, 0.22), (0.0, 1.0, 1.0, 0.35, 0.0)))
        brow = self._brow.at(times) + 0.08 * speaking + brow
        tilt = self._tilt.at(times)
        smile = self.smile * (1 - 0.35 * speaking) + self._smile_sway.at(times) + smiling
        columns = {
            "yaw": self._yaw.at(times) + posture[:, 0],
            "pitch": self._pitch.at(times) - 0.05 * nod,
            "roll": self._roll.at(times) + posture[:, 1],
            "shift_x": self._shift_x.at(times),
            "shift_y": self._shift_y.at(times) - 0.7 * breath + 2.2 * nod,
            "breath": breath,
            "blink": blink,
            "gaze_x": gaze[:, 0],
            "gaze_y": gaze[:, 1],
            "brow_left": brow + tilt,
            "brow_right": brow - tilt,
            "smile": np.clip(smile, 0.0, 1.0),
        }
        self._forget(start_s)
        return np.stack([columns[name] for name in CONTROLS], axis=1).astype(np.float32)

    @staticmethod
    def _sum(bumps: list[_Bump], times: np.ndarray) -> np.ndarray:
        return sum((bump.at(times) for bump in bumps), np.zeros_like(times))

    def _forget(self, time_s: float) -> None:
        for bumps in (self._nods, self._brows, self._smiles):
            bumps[:] = [bump for bump in bumps if not bump.over(time_s)]
        self._blinks_s = [t for t in self._blinks_s if t > time_s - 1]

    def _follow_speech(self, events: Sequence[TimedPhoneme], end_s: float) -> None:
        """Nods and brows on stresses, brows on questions and exclamations, a smile where a phrase ends.

        Each phoneme is looked at once, when it comes within half a second.
        """
        rng, horizon_s = self._rng, end_s + 0.5
        last_sound_s = -1e3
        for symbol, _, stop_s in events:
            if stop_s > horizon_s:
                break
            if stop_s > self._seen_s:
                self._seen_s = stop_s
                if symbol == _STRESS:
                    if stop_s - self._last_nod_s > 0.45 and rng.random() < 0.45:
                        self._nods.append(_Bump(stop_s + 0.08, 0.11, 0.14, float(rng.uniform(0.4, 1.0))))
                        self._last_nod_s = stop_s
                    if rng.random() < 0.22:
                        self._brows.append(_Bump(stop_s + 0.08, 0.14, 0.22, float(rng.uniform(0.35, 0.8))))
                elif symbol == "?":
                    self._brows.append(_Bump(max(last_sound_s, end_s), 0.3, 0.35, float(rng.uniform(0.7, 1.0))))
                elif symbol == "!":
                    self._brows.append(_Bump(max(last_sound_s - 0.3, end_s), 0.3, 0.3, float(rng.uniform(0.45, 0.7))))
                elif symbol == "." and rng.random() < 0.45:
                    self._smiles.append(_Bump(stop_s + 0.35, 0.35, 0.7, float(rng.uniform(0.12, 0.35))))
                    if rng.random() < 0.5:
                        self._nods.append(_Bump(stop_s + 0.1, 0.16, 0.2, float(rng.uniform(0.6, 1.1))))
            if symbol not in SILENT:
                last_sound_s = stop_s

    def _speech(self, times: np.ndarray, events: Sequence[TimedPhoneme]) -> np.ndarray:
        """0 where the face listens, 1 where it speaks, with ramps; pauses within a line count as speech."""
        sounds = [(a, b) for symbol, a, b in events if symbol not in SILENT]
        result = np.empty_like(times)
        for i, t in enumerate(times):
            sounding = any(a < t + 0.15 and b > t - 0.45 for a, b in sounds)
            step = 1 / (_SPEECH_RAMP_S * self._fps)
            self._speaking = min(1.0, self._speaking + step) if sounding else max(0.0, self._speaking - step)
            result[i] = self._speaking
        return result

    def _decide(self, time_s: float, speaking: float) -> None:
        """Begin what begins by itself at this picture."""
        rng = self._rng
        if time_s >= self._next_blink_s - 0.10:
            self._blinks_s.append(self._next_blink_s)
            self._next_blink_s += float(rng.uniform(2.0, 6.0)) if rng.random() > 0.1 else 0.45
        if time_s >= self._next_gaze_s:
            aside = rng.random() < (0.14 if speaking > 0.5 else 0.06)
            reach = (0.55, 0.3) if aside else (0.12, 0.08)
            self._gaze.go((float(rng.uniform(-reach[0], reach[0])), float(rng.uniform(-reach[1], reach[1]))), time_s)
            hold_s = float(rng.uniform(0.5, 2.2))
            self._next_gaze_s = time_s + (min(hold_s, 0.9) if aside else hold_s)
        if time_s >= self._next_posture_s:
            self._posture.go((float(rng.uniform(-0.16, 0.16)), float(rng.uniform(-0.05, 0.05))), time_s)
            self._next_posture_s = time_s + float(rng.uniform(1.5, 6.0))
        if time_s >= self._next_listening_nod_s:
            if speaking < 0.1:
                size = float(rng.uniform(0.5, 1.0))
                self._nods += [_Bump(time_s + 0.35 + k * 0.42, 0.13, 0.16, size * (1 - 0.25 * k)) for k in range(2)]
            self._next_listening_nod_s = time_s + float(rng.uniform(3.0, 8.0))


def per_latent(rows: np.ndarray, stride: int) -> np.ndarray:
    """Movement [T, n] as the network takes it: float32 [T / stride, stride * n], in units of ``SCALES``."""
    return np.asarray((rows / SCALES[: rows.shape[1]]).reshape(len(rows) // stride, -1), np.float32)
