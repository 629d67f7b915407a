"""What a face does over time: mouth shapes from phoneme timings, and the movements of :mod:`model.liveliness`.

The mouth follows the sounds by dominance blending (Cohen and Massaro 1993): every phoneme pulls the mouth towards its shape with
a weight that falls off around its centre, so that neighbours colour each other. Two things are not left to blending, because a
viewer sees at once when they fail: the lips of p, b and m meet, and a silent mouth is shut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.data.face import POSE_FIELDS, Pose, mouth_opening
from model.liveliness import CONTROLS, LOOK_AHEAD_S, SILENT, Liveliness

FPS = 25
BLOCK_FRAMES = 8
"""Movement is made in steps of so many pictures, as in a stream."""
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
_PAUSE_S = 0.14
"""Silent events together shorter than this do not shut the mouth."""
_CLOSING = frozenset("pbmβɸ")


@dataclass(frozen=True)
class Motion:
    """A face's movement, one row a frame.

    Attributes:
        poses: float32 [num_frames, len(POSE_FIELDS)].
        opening: float32 [num_frames], how far the lips are apart, 0..1: the truth for judges of lip sync.
        controls: float32 [num_frames, len(CONTROLS)], what the network is told of it.
    """

    poses: np.ndarray
    opening: np.ndarray
    controls: np.ndarray

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
    live = Liveliness(rng, smile, fps)
    rows = [live.advance(min(BLOCK_FRAMES, num_frames - i), _near(events, i, fps)) for i in range(0, num_frames, BLOCK_FRAMES)]
    controls = np.concatenate(rows) if rows else np.zeros((0, len(CONTROLS)), np.float32)
    columns |= dict(zip(CONTROLS, controls.T, strict=True))
    columns |= dict.fromkeys(("blink_left", "blink_right"), columns["blink"])
    poses = np.stack([columns[name] for name in POSE_FIELDS], axis=1).astype(np.float32)
    return Motion(poses, opening.astype(np.float32), controls)


def _near(events: Sequence[Event], frame: int, fps: int) -> list[Event]:
    """What a stream's planner would know when the block that begins with this picture is made."""
    start_s, end_s = frame / fps - 1, (frame + BLOCK_FRAMES) / fps + LOOK_AHEAD_S
    return [event for event in events if event[2] > start_s and event[1] < end_s]


def _pauses(events: Sequence[Event], end_s: float) -> list[tuple[float, float]]:
    """Maximal stretches without a sounding phoneme, from minus to plus infinity in effect."""
    pauses: list[tuple[float, float]] = []
    since = -1e3
    for phoneme, start, stop in events:
        if phoneme in SILENT:
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
