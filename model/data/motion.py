"""What a face does over time: mouth shapes from phoneme timings, and the small movements that make it alive.

The mouth follows the sounds by dominance blending (Cohen and Massaro 1993): every phoneme pulls the mouth towards its shape with
a weight that falls off around its centre, so that neighbours colour each other. Two things are not left to blending, because a
viewer sees at once when they fail: the lips of p, b and m meet, and a silent mouth is shut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.data.face import POSE_FIELDS, Pose, mouth_opening

FPS = 25
LEAD_S = 0.04
"""The lips are ahead of the sound by one frame, as people's are."""

Event = tuple[str, float, float]
"""A phoneme with its start and end in seconds."""

_SHAPE_FIELDS = ("open", "wide", "round", "press", "bite", "teeth", "tongue")
_SHAPES: dict[str, tuple[float, ...]] = {
    #          open  wide round press bite teeth tongue
    "silence": (0.0, 0.0, 0.0, 0.10, 0.0, 0.0, 0.0),
    "lips": (0.0, -0.05, 0.08, 1.0, 0.0, 0.0, 0.0),
    "labiodental": (0.10, 0.10, 0.0, 0.0, 1.0, 0.9, 0.0),
    "dental": (0.26, 0.12, 0.0, 0.0, 0.0, 0.7, 1.0),
    "alveolar": (0.24, 0.18, 0.0, 0.0, 0.0, 0.8, 0.7),
    "velar": (0.34, 0.10, 0.0, 0.0, 0.0, 0.5, 0.25),
    "postalveolar": (0.24, -0.25, 0.60, 0.0, 0.0, 1.0, 0.1),
    "sibilant": (0.16, 0.50, 0.0, 0.0, 0.0, 1.0, 0.1),
    "r": (0.26, -0.20, 0.55, 0.0, 0.0, 0.45, 0.3),
    "aa": (0.95, 0.12, 0.0, 0.0, 0.0, 0.55, 0.15),
    "ae": (0.78, 0.42, 0.0, 0.0, 0.0, 0.65, 0.15),
    "eh": (0.56, 0.45, 0.0, 0.0, 0.0, 0.7, 0.2),
    "ih": (0.30, 0.55, 0.0, 0.0, 0.0, 0.8, 0.25),
    "ee": (0.24, 0.85, 0.0, 0.0, 0.0, 0.9, 0.25),
    "uh": (0.52, 0.0, 0.05, 0.0, 0.0, 0.45, 0.2),
    "schwa": (0.34, 0.05, 0.05, 0.0, 0.0, 0.5, 0.2),
    "oh": (0.62, -0.40, 0.80, 0.0, 0.0, 0.2, 0.1),
    "aw": (0.80, -0.20, 0.45, 0.0, 0.0, 0.3, 0.15),
    "oo": (0.28, -0.65, 1.0, 0.0, 0.0, 0.05, 0.05),
    "w": (0.16, -0.75, 1.0, 0.0, 0.0, 0.0, 0.0),
    "breath": (0.40, 0.05, 0.0, 0.0, 0.0, 0.4, 0.1),
}
_DOMINANCE = {
    "lips": 2.4,
    "labiodental": 2.2,
    "w": 1.5,
    "oo": 1.4,
    "oh": 1.5,
    "postalveolar": 1.4,
    "sibilant": 1.1,
    "aa": 1.6,
    "ae": 1.5,
    "eh": 1.4,
    "uh": 1.3,
    "aw": 1.5,
}
_WEAK = {"velar": 0.7, "alveolar": 0.7, "schwa": 0.7, "breath": 0.35, "dental": 0.9}

# Shape, or two shapes of a diphthong, of every phoneme in the alphabet that moves the mouth.
_PHONEME_SHAPES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys("pbmβɸ", ("lips",)),
    **dict.fromkeys("fvʋ", ("labiodental",)),
    **dict.fromkeys("θð", ("dental",)),
    **dict.fromkeys("tdnlɾTɖʈɳɽ", ("alveolar",)),
    **dict.fromkeys("kɡŋxɣqɴχʁɰʔcɟ", ("velar",)),
    **dict.fromkeys("ʃʒʧʤɕʨʥʂ", ("postalveolar",)),
    **dict.fromkeys("szʦʣꭧ", ("sibilant",)),
    **dict.fromkeys("ɹrɻ", ("r",)),
    **dict.fromkeys("ɑa", ("aa",)),
    **dict.fromkeys("æ", ("ae",)),
    **dict.fromkeys("ɛeœø", ("eh",)),
    **dict.fromkeys("ɪᵻɨS", ("ih",)),
    **dict.fromkeys("ijyçʝɲʎ", ("ee",)),
    **dict.fromkeys("ʌɤɐ", ("uh",)),
    **dict.fromkeys("əᵊɯ", ("schwa",)),
    **dict.fromkeys("ɜɚ", ("r",)),
    **dict.fromkeys("ɔɒ", ("aw",)),
    **dict.fromkeys("o", ("oh",)),
    **dict.fromkeys("uʊ", ("oo",)),
    **dict.fromkeys("wɥ", ("w",)),
    "h": ("breath",),
    "A": ("eh", "ee"),
    "I": ("aa", "ih"),
    "O": ("oh", "oo"),
    "Q": ("schwa", "oo"),
    "W": ("aa", "oo"),
    "Y": ("aw", "ih"),
}
_SILENT = frozenset(' .,!?;:—…"()“”_$')
"""A space is a silence only where it lasts; ``_`` names the pauses at an utterance's ends."""
_PAUSE_S = 0.14
"""Silent events together shorter than this do not shut the mouth."""
_CLOSING = frozenset("pbmβɸ")
_STRESS = "ˈ"


@dataclass(frozen=True)
class Motion:
    """A face's movement, one row a frame.

    Attributes:
        poses: float32 [num_frames, len(POSE_FIELDS)].
        opening: float32 [num_frames], how far the lips are apart, 0..1: the truth for judges of lip sync.
    """

    poses: np.ndarray
    opening: np.ndarray

    def pose(self, frame: int) -> Pose:
        return Pose(*self.poses[frame].tolist())


def animate(
    events: Sequence[Event],
    duration_s: float,
    rng: np.random.Generator,
    *,
    smile: float = 0.3,
    fps: int = FPS,
) -> Motion:
    """The movement of a face that says ``events`` and listens in between.

    Args:
        events: phonemes with absolute times, in order; what they leave free is silence.
        duration_s: length; ``round(duration_s * fps)`` frames come out.
        rng: for everything that the sounds do not decide.
        smile: how much the face smiles at rest, 0..1.
    """
    num_frames = round(duration_s * fps)
    times = (np.arange(num_frames) + 0.5) / fps
    mouth = _mouth(events, times)
    columns = dict(zip(_SHAPE_FIELDS, mouth.T, strict=True))
    opening = mouth_opening(columns["open"], columns["press"], columns["bite"])
    speaking = _speaking(events, times)
    columns |= _idle(times, rng)
    columns |= _blinks(times, rng)
    columns |= _gaze(times, speaking, rng)
    columns |= _expression(times, events, speaking, smile, rng)
    _nod(columns, times, events, rng)
    poses = np.stack([columns[name] for name in POSE_FIELDS], axis=1).astype(np.float32)
    return Motion(poses, opening.astype(np.float32))


def _pauses(events: Sequence[Event], end_s: float) -> list[tuple[float, float]]:
    """Maximal stretches without a sounding phoneme, from minus to plus infinity in effect."""
    pauses: list[tuple[float, float]] = []
    since = -1e3
    for phoneme, start, stop in events:
        if phoneme in _SILENT:
            continue
        if start - since >= _PAUSE_S:
            pauses.append((since, start))
        since = max(since, stop)
    pauses.append((since, end_s + 1e3))
    return pauses


def _mouth(events: Sequence[Event], times: np.ndarray) -> np.ndarray:
    """Mouth shape parameters, float64 [num_frames, 7]."""
    centres, halves, weights, shapes = [], [], [], []
    t = times + LEAD_S

    def add(shape: str, start: float, stop: float, scale: float) -> None:
        centres.append((start + stop) / 2)
        halves.append(max((stop - start) / 2, 0.02))
        weights.append(scale * _DOMINANCE.get(shape, _WEAK.get(shape, 1.0)))
        shapes.append(_SHAPES[shape])

    stress, onset = 1.0, np.inf
    gains: list[float] = []
    for phoneme, start, stop in events:
        if phoneme in ("ˈ", "ˌ"):
            stress = 1.0 if phoneme == "ˈ" else 0.93
            onset = (start + stop) / 2
            continue
        names = _PHONEME_SHAPES.get(phoneme)
        if names is None:
            continue
        # A stress mark has a duration of its own, which belongs to the sounds around it.
        start, onset = min(start, onset), np.inf
        before = len(shapes)
        cut = start + (stop - start) * 0.55 if len(names) == 2 else stop
        add(names[0], start, cut, 1.0)
        if len(names) == 2:
            add(names[1], cut, stop, 0.9)
        # A stressed vowel opens fully, the others a little less.
        vowel = phoneme in "AIOQWYɑaɐæɛeɪᵻijʌəᵊɜɚɔɒouʊ"
        gains += [stress if vowel else 1.0] * (len(shapes) - before)
        if vowel:
            stress = 0.86
    pauses = _pauses(events, float(times[-1]) if len(times) else 0.0)
    for start, stop in pauses:
        # Rest pulls like a phoneme over the whole pause but its edges, where the mouth relaxes or gets ready.
        add("silence", max(start, -60.0) + 0.04, min(stop, times[-1] + 60.0) - 0.06, 1.2)
        gains.append(1.0)

    centre, half, weight = (np.asarray(x)[:, None] for x in (centres, halves, weights))
    target = np.asarray(shapes)
    target[:, 0] *= np.asarray(gains)
    distance = np.maximum(0.0, np.abs(t - centre) - half * 0.7)
    pull = weight * np.exp(-((distance / 0.042) ** 1.6)) + 1e-9 * np.exp(-distance)
    mouth = (pull.T @ target) / pull.sum(0)[:, None]

    shut = np.zeros_like(times)
    for start, stop in pauses:
        # Shut 120 ms after the last sound, begin to open 90 ms before the next.
        shut = np.maximum(shut, _plateau(t, start + 0.10, stop - 0.05, 0.08))
    mouth[:, 0] *= 1 - shut
    for column in (1, 2, 4, 5, 6):
        mouth[:, column] *= 1 - shut
    mouth[:, 3] = mouth[:, 3] * (1 - shut) + 0.10 * shut
    for phoneme, start, stop in events:
        if phoneme in _CLOSING:
            # At least one frame falls into the closure, however short the phoneme is.
            middle, reach = (start + stop) / 2, max((stop - start) / 2, 0.0201)
            closed = _plateau(t, middle - reach, middle + reach, 0.05)
            mouth[:, 0] *= 1 - closed
            mouth[:, 4] *= 1 - closed
            mouth[:, 3] = np.maximum(mouth[:, 3], closed * 0.85)
        elif phoneme in "fvʋ":
            middle, reach = (start + stop) / 2, max((stop - start) / 2, 0.0201)
            mouth[:, 4] = np.maximum(mouth[:, 4], _plateau(t, middle - reach, middle + reach, 0.05))
    return np.asarray(mouth)


def _plateau(t: np.ndarray, start: float, stop: float, ramp_s: float) -> np.ndarray:
    """1 from start to stop, falling smoothly to 0 within ``ramp_s`` on both sides."""
    outside = np.maximum(start - t, t - stop) / ramp_s
    x = np.clip(1 - outside, 0.0, 1.0)
    return np.asarray(x * x * (3 - 2 * x))


def _speaking(events: Sequence[Event], times: np.ndarray) -> np.ndarray:
    """0 where the face listens, 1 where it speaks, with ramps."""
    speaking = np.ones_like(times)
    for start, stop in _pauses(events, float(times[-1]) if len(times) else 0.0):
        if stop - start > 0.5:
            speaking = np.minimum(speaking, 1 - _plateau(times, start + 0.25, stop - 0.1, 0.25))
    return speaking


def _sway(
    times: np.ndarray, rng: np.random.Generator, amplitude: float, slowest_s: float = 9.0, fastest_s: float = 2.6
) -> np.ndarray:
    """A slow wander around zero: three sines of random period and phase."""
    periods = rng.uniform((slowest_s * 0.7, slowest_s * 0.45, fastest_s), (slowest_s, slowest_s * 0.65, fastest_s * 1.4))
    phases = rng.uniform(0, 2 * np.pi, 3)
    sizes = np.array((0.55, 0.3, 0.15)) * amplitude
    return np.asarray((sizes[:, None] * np.sin(2 * np.pi * times / periods[:, None] + phases[:, None])).sum(0))


def _idle(times: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    breath_s = rng.uniform(3.4, 4.8)
    phase = 2 * np.pi * (times / breath_s + rng.uniform())
    # In faster than out.
    breath = 0.5 - 0.5 * np.cos(phase + 0.45 * np.sin(phase))
    return {
        "yaw": _sway(times, rng, 0.12) + rng.uniform(-0.03, 0.03),
        "pitch": _sway(times, rng, 0.05),
        "roll": _sway(times, rng, 0.035),
        "shift_x": _sway(times, rng, 2.6),
        "shift_y": _sway(times, rng, 1.2) - 0.7 * breath,
        "breath": breath,
    }


def _blinks(times: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A lid closes in 80 ms, rests 40 ms, opens in 180 ms."""
    closed = np.zeros_like(times)
    t = float(rng.uniform(0.3, 4.0))
    end = float(times[-1]) if len(times) else 0.0
    while t < end + 0.2:
        shape = np.interp(times - t, (-0.10, -0.01, 0.03, 0.12, 0.22), (0.0, 1.0, 1.0, 0.35, 0.0))
        closed = np.maximum(closed, shape)
        t += float(rng.uniform(2.0, 6.0)) if rng.random() > 0.1 else 0.45
    return {"blink_left": closed, "blink_right": closed.copy()}


def _gaze(times: np.ndarray, speaking: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """At the viewer, with small saccades; while speaking now and then a longer glance aside."""
    x, y = np.zeros_like(times), np.zeros_like(times)
    t, end = 0.0, float(times[-1]) if len(times) else 0.0
    here = (0.0, 0.0)
    while t < end:
        hold = float(rng.uniform(0.5, 2.2))
        aside = rng.random() < 0.10
        reach = (0.55, 0.3) if aside else (0.10, 0.07)
        there = (float(rng.uniform(-reach[0], reach[0])), float(rng.uniform(-reach[1], reach[1])))
        move = np.clip((times - t) / 0.05, 0.0, 1.0)
        later = times >= t
        x = np.where(later, here[0] + (there[0] - here[0]) * move, x)
        y = np.where(later, here[1] + (there[1] - here[1]) * move, y)
        here = there
        t += hold if not aside else min(hold, 0.9)
    return {"gaze_x": x, "gaze_y": y}


def _expression(
    times: np.ndarray, events: Sequence[Event], speaking: np.ndarray, smile: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    brow = _sway(times, rng, 0.12) + 0.08 * speaking
    for i, (phoneme, _, stop) in enumerate(events):
        if phoneme == "?":
            # Brows rise over the last half second of a question.
            last = next((e[2] for e in reversed(events[:i]) if e[0] not in _SILENT), stop)
            brow = np.maximum(brow, 0.85 * _plateau(times, last - 0.45, last + 0.15, 0.3))
        elif phoneme == "!":
            last = next((e[2] for e in reversed(events[:i]) if e[0] not in _SILENT), stop)
            brow = np.maximum(brow, 0.55 * _plateau(times, last - 0.6, last, 0.25))
        elif phoneme == _STRESS and rng.random() < 0.14:
            brow = np.maximum(brow, float(rng.uniform(0.35, 0.7)) * _plateau(times, stop - 0.02, stop + 0.2, 0.18))
    tilt = _sway(times, rng, 0.06)
    smiling = smile * (1 - 0.35 * speaking) + _sway(times, rng, 0.08, slowest_s=12.0)
    return {"brow_left": brow + tilt, "brow_right": brow - tilt, "smile": np.clip(smiling, 0.0, 1.0)}


def _nod(columns: dict[str, np.ndarray], times: np.ndarray, events: Sequence[Event], rng: np.random.Generator) -> None:
    """Add nods on some stressed syllables, and a rare slow one while listening, to ``columns`` in place."""
    beats = [stop for phoneme, _, stop in events if phoneme == _STRESS]
    nod = np.zeros_like(times)
    last = -1.0
    for beat in beats:
        if beat - last > 0.45 and rng.random() < 0.45:
            size = float(rng.uniform(0.4, 1.0))
            nod += size * np.exp(-(((times - beat - 0.08) / 0.11) ** 2))
            last = beat
    for start, stop in _pauses(events, float(times[-1]) if len(times) else 0.0):
        start, stop = max(start, 0.0), min(stop, float(times[-1]))
        if stop - start > 1.6 and rng.random() < 0.5:
            centre = float(rng.uniform(start + 0.6, stop - 0.6))
            for beat in (centre, centre + 0.42):
                nod += 0.8 * np.exp(-(((times - beat) / 0.13) ** 2))
    columns["pitch"] = columns["pitch"] - 0.04 * nod
    columns["shift_y"] = columns["shift_y"] + 1.7 * nod
