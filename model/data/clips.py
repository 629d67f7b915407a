"""Clips of a talking and listening face, composed from utterances and rendered on many cores.

A *clip set* is a directory of plain arrays that memory-map, so that training reads what it needs and no more:

====================  =========================================  ==========================================================
``frames.npy``        uint8 [clips, frames, 3 * side / 2, side]  I420 planes, BT.601 limited range; see ``rgb_from_i420``
``samples.npy``       int16 [clips, frames * 960]                24 kHz
``boxes.npy``         int16 [clips, frames, 2, 4]                mouth, eyes: left, top, right, bottom in pixels
``opening.npy``       float32 [clips, frames]                    how far the lips are apart, 0..1
``controls.npy``      float32 [clips, frames, controls]          other movement, see ``model.liveliness``
``clips.jsonl``       one line a clip                            voice, captions, texts, events, look
====================  =========================================  ==========================================================
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.data.captions import caption
from model.data.face import Look, Renderer
from model.data.motion import FPS, Event, Motion, animate
from model.data.speech import DURATION_UNIT_SAMPLES, SAMPLE_RATE_HZ, VOICES, Utterance
from model.liveliness import CONTROLS, SMILES

FRAME_SAMPLES = SAMPLE_RATE_HZ // FPS
_SHORT_SILENCE_S = (0.3, 2.5)
_LONG_SILENCE_S = (2.5, 5.0)
_TURNS = ("clara", "maya", "adam", "clara", "theo")
"""Voices take turns. The first has by far the most different sentences, so it comes up twice."""


@dataclass(frozen=True)
class Clip:
    """What happens in one clip; pictures come from ``render``.

    Attributes:
        look: who is seen.
        voice: key into ``VOICES``; its gender is the look's presentation.
        caption: describes look and place.
        voice_description: describes the voice.
        texts: what is said, in order; empty for a clip that only listens.
        spans: start and end of each text's utterance, its own pauses included, in seconds.
        events: phonemes with absolute times; ``_`` is a pause at an utterance's end.
        samples: int16 [num_frames * 960] at 24 kHz.
        num_frames: length.
        motion_seed: decides all movement that the sounds do not.
    """

    look: Look
    voice: str
    caption: str
    voice_description: str
    texts: tuple[str, ...]
    spans: tuple[tuple[float, float], ...]
    events: tuple[Event, ...]
    samples: np.ndarray
    num_frames: int
    motion_seed: int

    @property
    def duration_s(self) -> float:
        return self.num_frames / FPS


def phoneme_events(utterance: Utterance, start_s: float = 0.0) -> list[Event]:
    """The utterance's phonemes with absolute times, ``_`` for the pauses at both ends."""
    edges = start_s + np.concatenate([[0], np.cumsum(utterance.durations)]) * (DURATION_UNIT_SAMPLES / SAMPLE_RATE_HZ)
    symbols = "_" + utterance.phonemes + "_"
    return [(p, float(a), float(b)) for p, a, b in zip(symbols, edges[:-1], edges[1:], strict=True)]


def compose(
    candidates: Sequence[Utterance], voice: str, rng: np.random.Generator, *, num_frames: int = 256, look: Look | None = None
) -> Clip:
    """Silence, one to three utterances with silence between them, silence.

    Args:
        candidates: utterances of ``voice``, tried in order, passed over where they do not fit. None at all: a listening clip.
        look: who speaks; a random one of the voice's gender if None.
    """
    gender = VOICES[voice].gender
    look = look or Look.sample(rng, gender)
    if look.presentation != gender:
        raise ValueError(f"voice {voice!r} is {gender}, the look is {look.presentation}")
    total = num_frames * FRAME_SAMPLES
    samples = np.zeros(total, np.int16)
    events: list[Event] = []
    texts: list[str] = []
    spans: list[tuple[float, float]] = []
    unit = DURATION_UNIT_SAMPLES

    def silence() -> int:
        """Samples, a multiple of 25 ms."""
        span = _LONG_SILENCE_S if rng.random() < 0.12 else _SHORT_SILENCE_S
        return int(rng.uniform(*span) * SAMPLE_RATE_HZ) // unit * unit

    most = int(rng.integers(1, 4))
    at = silence()
    for utterance in candidates:
        if utterance.voice != voice:
            raise ValueError(f"an utterance of {utterance.voice!r} among those of {voice!r}")
        length = len(utterance.samples)
        if not texts and at + length > total >= length:  # rather a shorter wait than no speech at all
            at = int(rng.integers(0, (total - length) // unit + 1)) * unit
        if at + length > total:
            continue
        samples[at : at + length] = utterance.samples
        start_s = at / SAMPLE_RATE_HZ
        events += phoneme_events(utterance, start_s)
        texts.append(utterance.text)
        spans.append((start_s, (at + length) / SAMPLE_RATE_HZ))
        if len(texts) == most:
            break
        at += length + silence()
    return Clip(
        look=look,
        voice=voice,
        caption=caption(look, rng),
        voice_description=str(rng.choice(VOICES[voice].descriptions)),
        texts=tuple(texts),
        spans=tuple(spans),
        events=tuple(events),
        samples=samples,
        num_frames=num_frames,
        motion_seed=int(rng.integers(2**31)),
    )


def movement(clip: Clip) -> Motion:
    """How the clip's face moves."""
    return animate(clip.events, clip.duration_s, np.random.default_rng(clip.motion_seed), smile=SMILES[clip.look.mood])


def i420_from_rgb(rgb: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """BT.601 limited range, chroma averaged over 2x2 pixels; uint8 [H, W, 3] -> uint8 [3 * H / 2, W], into ``out`` if given.

    Rows: H of luma, H / 4 of U (two rows of W / 2 side by side), H / 4 of V.
    """
    height, width, _ = rgb.shape
    if out is None:
        out = np.empty((height * 3 // 2, width), np.uint8)
    r, g, b = (np.ascontiguousarray(rgb[..., i]).astype(np.uint16) for i in range(3))
    out[:height] = (66 * r + 129 * g + 25 * b + (128 + (16 << 8))) >> 8
    # Sums of four pixels reach 1020; the weights then need 32 bits.
    r4, g4, b4 = ((x[0::2, 0::2] + x[0::2, 1::2] + x[1::2, 0::2] + x[1::2, 1::2]).astype(np.int32) for x in (r, g, b))
    quarter = height // 4
    u = (-38 * r4 - 74 * g4 + 112 * b4 + (512 + (128 << 10))) >> 10
    v = (112 * r4 - 94 * g4 - 18 * b4 + (512 + (128 << 10))) >> 10
    out[height : height + quarter] = u.reshape(quarter, width)
    out[height + quarter :] = v.reshape(quarter, width)
    return out


def rgb_from_i420(planes: np.ndarray) -> np.ndarray:
    """The inverse, for looking at pictures: uint8 [..., 3 * H / 2, W] -> uint8 [..., H, W, 3]."""
    *lead, rows, width = planes.shape
    height = rows * 2 // 3
    quarter = height // 4
    y = planes[..., :height, :].astype(np.float32) - 16
    chroma = planes[..., height:, :].reshape(*lead, 2, quarter * 2, width // 2).astype(np.float32) - 128
    u, v = np.moveaxis(chroma.repeat(2, -2).repeat(2, -1), -3, 0)
    rgb = np.stack([1.164 * y + 1.596 * v, 1.164 * y - 0.392 * u - 0.813 * v, 1.164 * y + 2.017 * u], -1)
    return np.asarray((rgb + 0.5).clip(0, 255).astype(np.uint8))


@dataclass(frozen=True)
class ClipSet:
    """A directory of clips, memory-mapped; what the arrays hold stands at the top of this module."""

    frames: np.ndarray
    samples: np.ndarray
    boxes: np.ndarray
    opening: np.ndarray
    controls: np.ndarray
    clips: list[dict[str, Any]]

    @staticmethod
    def open(directory: Path) -> ClipSet:
        names = "frames", "samples", "boxes", "opening", "controls"
        frames, samples, boxes, opening, controls = (np.load(directory / f"{name}.npy", mmap_mode="r") for name in names)
        lines = (directory / "clips.jsonl").read_text(encoding="utf-8").splitlines()
        return ClipSet(frames, samples, boxes, opening, controls, [json.loads(line) for line in lines])

    def look(self, clip: int) -> Look:
        return Look(**self.clips[clip]["look"])

    def events(self, clip: int) -> list[Event]:
        return [(p, a, b) for p, a, b in self.clips[clip]["events"]]


def plan_clips(utterances: Sequence[Utterance], num_clips: int, seed: int, *, num_frames: int = 256) -> Iterator[Clip]:
    """Compose clips from a corpus: voices take turns, utterances are used about equally often, one clip in twenty only listens.

    Raises:
        ValueError: no utterance is given.
    """
    if not utterances:
        raise ValueError("no utterances to compose clips from")
    rng = np.random.default_rng(seed)
    by_voice: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        if len(utterance.samples) <= num_frames * FRAME_SAMPLES:
            by_voice.setdefault(utterance.voice, []).append(utterance)
    if not by_voice:
        raise ValueError(f"every utterance is longer than a clip of {num_frames} frames")
    voices = [*(voice for voice in _TURNS if voice in by_voice), *sorted(by_voice.keys() - set(_TURNS))]
    decks: dict[str, list[Utterance]] = {voice: [] for voice in voices}
    for i in range(num_clips):
        voice = voices[i % len(voices)]
        deck = decks[voice]
        if rng.random() < 0.05:
            yield compose([], voice, rng, num_frames=num_frames)
            continue
        while len(deck) < 12:
            deck += [by_voice[voice][k] for k in rng.permutation(len(by_voice[voice]))]
        clip = compose(deck[:12], voice, rng, num_frames=num_frames)
        said = set(clip.texts)
        # What did not fit comes first next time.
        decks[voice] = [u for u in deck if u.text not in said]
        yield clip


def make_clips(
    directory: Path,
    utterances: Sequence[Utterance],
    num_clips: int,
    seed: int,
    *,
    num_frames: int = 256,
    size_px: int = 256,
    workers: int | None = None,
) -> ClipSet:
    """Compose and render a clip set.

    The same arguments give the same bytes, whatever the number of workers. A clip of 256 frames takes 25 MB, best kept in memory
    (``/dev/shm``): 1,500 clips are 38 GB.

    Args:
        directory: made if missing; an older clip set in it is overwritten.
        workers: processes that render; one a core by default. They are spawned, so the calling script needs a ``__main__`` guard.
    """
    directory.mkdir(parents=True, exist_ok=True)
    shapes: dict[str, tuple[tuple[int, ...], type]] = {
        "frames": ((num_clips, num_frames, size_px * 3 // 2, size_px), np.uint8),
        "samples": ((num_clips, num_frames * FRAME_SAMPLES), np.int16),
        "boxes": ((num_clips, num_frames, 2, 4), np.int16),
        "opening": ((num_clips, num_frames), np.float32),
        "controls": ((num_clips, num_frames, len(CONTROLS)), np.float32),
    }
    for name, (shape, dtype) in shapes.items():
        np.lib.format.open_memmap(directory / f"{name}.npy", "w+", dtype, shape).flush()
    samples = np.load(directory / "samples.npy", mmap_mode="r+")
    lines: list[str] = []

    def jobs() -> Iterator[tuple[Path, int, Clip, int]]:
        for i, clip in enumerate(plan_clips(utterances, num_clips, seed, num_frames=num_frames)):
            samples[i] = clip.samples
            lines.append(json.dumps(_record(clip), ensure_ascii=False))
            yield directory, i, clip, size_px

    workers = workers or os.cpu_count() or 1
    # One thread a worker: numpy's own would only get into each other's way.
    with multiprocessing.get_context("spawn").Pool(min(workers, num_clips)) as pool:
        for _ in pool.imap_unordered(_render_into, jobs()):
            pass
    (directory / "clips.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ClipSet.open(directory)


def _record(clip: Clip) -> dict[str, Any]:
    return {
        "voice": clip.voice,
        "caption": clip.caption,
        "voice_description": clip.voice_description,
        "texts": clip.texts,
        "spans": clip.spans,
        "events": [(p, round(a, 4), round(b, 4)) for p, a, b in clip.events],
        "look": asdict(clip.look),
        "motion_seed": clip.motion_seed,
    }


def _render_into(job: tuple[Path, int, Clip, int]) -> int:
    directory, index, clip, size_px = job
    names = "frames", "boxes", "opening", "controls"
    frames, boxes, opening, controls = (np.load(directory / f"{name}.npy", mmap_mode="r+") for name in names)
    motion, renderer = movement(clip), Renderer(clip.look, size_px)
    opening[index], controls[index] = motion.opening, motion.controls
    for i in range(clip.num_frames):
        pose = motion.pose(i)
        i420_from_rgb(renderer.frame(pose), frames[index, i])
        boxes[index, i] = renderer.boxes(pose)
    return index
