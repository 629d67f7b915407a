"""The faces that pocket learns from: they are reproducible, their lips do what is said, and captions tell the truth."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("skia", reason="faces are drawn with skia-python (the 'train' extra)")

from model.data import captions
from model.data.captions import PRESETS, caption, vocabulary, words
from model.data.clips import (
    FRAME_SAMPLES,
    compose,
    i420_from_rgb,
    make_clips,
    movement,
    phoneme_events,
    plan_clips,
    rgb_from_i420,
)
from model.data.face import POSE_FIELDS, Look, Pose, Renderer
from model.data.motion import FPS, LEAD_S, animate
from model.data.speech import DURATION_UNIT_SAMPLES, VOICES, Utterance

DIGEST = """
import hashlib
from model.data.face import Look, Pose, Renderer
print(hashlib.sha256(Renderer(Look(hair_style="wavy", glasses="round")).frame(Pose(open=0.6, yaw=0.1)).tobytes()).hexdigest())
"""


def utterance(phonemes: str, *, voice: str = "clara", text: str = "Mama.", unit: int = 3, pause: int = 10) -> Utterance:
    durations = np.asarray([pause, *([unit] * len(phonemes)), pause], np.int16)
    samples = np.full(int(durations.sum()) * DURATION_UNIT_SAMPLES, 1000, np.int16)
    return Utterance(voice, text, phonemes, durations, samples)


def mouth_darkness(frame: np.ndarray, renderer: Renderer, pose: Pose) -> int:
    """Pixels of the mouth's box that are as dark as the inside of an open mouth."""
    box, _ = renderer.boxes(pose)
    crop = frame[box.top : box.bottom, box.left : box.right].astype(int)
    return int((crop.sum(-1) < 120).sum())


def test_same_look_and_pose_give_the_same_picture_in_another_process() -> None:
    digests = {
        subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True).stdout for _ in range(2)
    }
    assert len(digests) == 1


def test_a_picture_does_not_depend_on_the_one_before() -> None:
    look = Look.sample(np.random.default_rng(3))
    fresh, used = Renderer(look), Renderer(look)
    used.frame(Pose(open=1.0, smile=1.0, yaw=0.2, blink_left=1.0))
    np.testing.assert_array_equal(used.frame(Pose()), fresh.frame(Pose()))


def test_every_value_of_every_attribute_is_drawn() -> None:
    """Changing one attribute changes the picture: nothing is a label without a look."""
    base = Look(presentation="male", hair_style="short")
    picture = Renderer(base).frame(Pose())
    from model.data import face

    for name, choices in face._CHOICES.items():
        seen = []
        for value in choices:
            if name in ("mood", "presentation"):
                continue
            look = dataclasses.replace(base, **{name: cast(Any, value)})
            seen.append(Renderer(look).frame(Pose()))
        for a, b in itertools.combinations(seen, 2):
            assert np.abs(a.astype(int) - b).mean() > 0.015, name
    assert picture.shape == (256, 256, 3)


def test_sampled_looks_are_plausible_and_beards_are_for_men() -> None:
    rng = np.random.default_rng(0)
    looks = [Look.sample(rng) for _ in range(300)]
    assert all(look.beard == "none" for look in looks if look.presentation == "female")
    assert {look.hair_style for look in looks if look.presentation == "female"}.isdisjoint({"bald", "buzz"})
    cardinalities = Look.cardinalities()
    for name, count in cardinalities.items():
        labels = {look.labels()[name] for look in looks}
        assert labels == set(range(count)), f"{name} never takes some of its values"
    with pytest.raises(ValueError, match="beard"):
        Look(presentation="female", beard="full")
    with pytest.raises(ValueError, match="place must be one of office"):
        Look(place="moon")


@pytest.mark.parametrize("seed", range(6))
def test_the_mouth_is_visibly_open_on_aa_and_shut_at_rest(seed: int) -> None:
    look = Look.sample(np.random.default_rng(seed))
    renderer = Renderer(look)
    opened, shut = Pose(open=0.95, teeth=0.5, tongue=0.2), Pose(press=0.1)
    dark_open = mouth_darkness(renderer.frame(opened), renderer, opened)
    dark_shut = mouth_darkness(renderer.frame(shut), renderer, shut)
    if look.beard in ("none", "stubble") and look.skin != "dark":
        assert dark_open > 150
        assert dark_shut < 60


def test_silence_shuts_the_mouth_and_leaves_the_face_alive() -> None:
    motion = animate([], 10.24, np.random.default_rng(1))
    assert motion.poses.shape == (256, len(POSE_FIELDS))
    assert motion.opening.max() == 0
    columns = dict(zip(POSE_FIELDS, motion.poses.T, strict=True))
    assert np.abs(columns["wide"]).max() < 0.01
    assert columns["yaw"].std() > 0.01
    assert columns["breath"].std() > 0.1
    assert columns["blink_left"].max() > 0.9
    assert np.isfinite(motion.poses).all()


def test_pauses_between_utterances_are_shut_and_speech_is_not() -> None:
    first, second = phoneme_events(utterance("mɑmɑ", unit=5), 1.0), phoneme_events(utterance("wi ɑɹ"), 5.0)
    motion = animate([*first, *second], 8.0, np.random.default_rng(0))
    times = (np.arange(200) + 0.5) / FPS
    assert motion.opening[times < 1.1].max() == 0
    assert motion.opening[(times > 3.0) & (times < 5.0)].max() == 0
    assert motion.opening[times > 7.0].max() == 0
    assert motion.opening[(times > 1.2) & (times < 2.0)].max() > 0.6


@pytest.mark.parametrize("consonant", "pbm")
@pytest.mark.parametrize("start_s", np.linspace(1.0, 1.04, 5).tolist())
def test_lips_meet_on_every_closure_however_it_falls_on_the_frames(consonant: str, start_s: float) -> None:
    events = [("ɑ", start_s - 0.2, start_s), (consonant, start_s, start_s + 0.025), ("ɑ", start_s + 0.025, start_s + 0.3)]
    motion = animate(events, 2.0, np.random.default_rng(0))
    times = (np.arange(50) + 0.5) / FPS + LEAD_S
    nearest = int(np.abs(times - (start_s + 0.0125)).argmin())
    assert motion.opening[nearest] < 0.02
    assert motion.opening[nearest - 3 : nearest].max() > 0.3
    assert motion.opening[nearest + 1 : nearest + 4].max() > 0.3


def test_every_phoneme_that_sounds_has_a_shape() -> None:
    from model.data import motion

    sounding = set("AIOQSTWYabdefhijklmnopstuvwzæðŋɐɑɒɔəɚɛɜɡɪɹɾʃʊʌʒʤʧθᵊᵻ") - set("e")
    assert sounding <= set(motion._PHONEME_SHAPES)


def test_every_claim_of_a_caption_is_true() -> None:
    """A caption that holds a phrase of one value, and of no other value that it could be confused with, has that label."""
    rng = np.random.default_rng(7)
    tables: dict[str, Mapping[str, Sequence[str]]] = {
        "hair_style": captions._HAIR_STYLE,
        "eye_colour": captions._EYES,
        "skin": captions._SKIN,
        "glasses": captions._GLASSES,
        "beard": captions._BEARD,
        "place": captions._PLACE,
        "light": captions._LIGHT,
        "mood": captions._MOOD,
    }
    named = 0
    for _ in range(400):
        look = Look.sample(rng)
        text = caption(look, rng).lower()
        for attribute, table in tables.items():
            hits = {
                (phrase, value)
                for value, phrases in table.items()
                for phrase in phrases
                for colour in (itertools.chain(*captions._HAIR_COLOUR.values()) if "{}" in phrase else [""])
                if " " + phrase.format(colour) + " " in " " + text.replace(",", " ").replace(".", " ").replace("  ", " ") + " "
            }
            # "very dark skin" also holds "dark skin": only the longest phrase was meant.
            longest = [(p, v) for p, v in hits if not any(p != q and p.strip("{} ") in q for q, _ in hits)]
            named += bool(longest)
            assert {v for _, v in longest} <= {getattr(look, attribute)}, (attribute, text, look)
        woman = {"woman", "lady"} & set(words(text))
        man = {"man", "gentleman", "fellow"} & set(words(text))
        assert bool(woman) == (look.presentation == "female")
        assert bool(man) == (look.presentation == "male")
        garments = [v for v, ps in captions._GARMENT.items() for p in ps if p.split()[-1] in words(text)]
        assert all(v == look.garment for v in garments) or look.garment in garments
    assert named > 400 * 4, "captions name most attributes most of the time"


def test_captions_vary_and_stay_inside_a_small_vocabulary() -> None:
    rng = np.random.default_rng(0)
    known = set(vocabulary())
    assert len(known) < 600
    texts = [caption(Look.sample(rng), rng) for _ in range(500)]
    assert len(set(texts)) > 490
    for text in [*texts, *(d for v in VOICES.values() for d in v.descriptions), *(p.caption for p in PRESETS)]:
        assert set(words(text)) <= known, set(words(text)) - known
        assert "  " not in text
        assert " ," not in text


def test_presets_speak_with_a_voice_of_their_gender() -> None:
    assert len({p.name for p in PRESETS}) == 8
    for preset in PRESETS:
        assert VOICES[preset.voice].gender == preset.look.presentation


def test_a_clip_is_as_long_as_its_sound_and_quiet_where_nobody_speaks() -> None:
    rng = np.random.default_rng(2)
    clip = compose([utterance("hələʊ mɑmɑ", unit=4)], "clara", rng, num_frames=128)
    assert clip.samples.shape == (128 * FRAME_SAMPLES,)
    assert clip.samples.dtype == np.int16
    assert clip.look.presentation == "female"
    (start, stop), k = clip.spans[0], 24_000
    outside = np.concatenate([clip.samples[: round(start * k)], clip.samples[round(stop * k) :]])
    assert np.abs(outside).max() <= 1
    assert (clip.samples[round(start * k) : round(stop * k)] == 1000).all()
    assert clip.events[0][1] == pytest.approx(start)
    assert clip.events[-1][2] == pytest.approx(stop)


def test_an_utterance_that_is_too_long_is_passed_over_and_voices_do_not_mix() -> None:
    rng = np.random.default_rng(0)
    clip = compose([utterance("m" * 200), utterance("mɑ", text="Ma.")], "clara", rng, num_frames=64)
    assert clip.texts == ("Ma.",)
    with pytest.raises(ValueError, match="adam"):
        compose([utterance("mɑ", voice="adam")], "clara", rng)
    with pytest.raises(ValueError, match="female"):
        compose([], "clara", rng, look=Look(presentation="male", hair_style="short"))


def test_plans_use_the_whole_corpus_and_repeat_with_the_seed() -> None:
    corpus = [utterance("mɑpɑ", voice=v, text=f"{v} {i}.") for v in ("clara", "adam") for i in range(20)]
    clips = list(plan_clips(corpus, 60, 5, num_frames=128))
    assert {t for c in clips for t in c.texts} == {u.text for u in corpus}
    again = list(plan_clips(corpus, 60, 5, num_frames=128))
    assert [c.caption for c in clips] == [c.caption for c in again]
    assert [c.events for c in clips] == [c.events for c in again]
    with pytest.raises(ValueError, match="no utterances"):
        list(plan_clips([], 1, 0))


def test_i420_there_and_back() -> None:
    flat = np.repeat(np.repeat(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8), 4, 0), 4, 1)
    back = rgb_from_i420(i420_from_rgb(flat))
    assert np.abs(back.astype(int) - flat).max() <= 4
    white = i420_from_rgb(np.full((16, 16, 3), 255, np.uint8))
    assert (white[:16] == 235).all()
    assert (white[16:] == 128).all()


def test_clip_sets_hold_what_render_gives(tmp_path: Path) -> None:
    corpus = [utterance("mɑpɑ", voice=v, text=f"{v} {i}.") for v in ("clara", "adam") for i in range(4)]
    clips = make_clips(tmp_path, corpus, 2, 9, num_frames=64, workers=2)
    assert clips.frames.shape == (2, 64, 384, 256)
    assert clips.samples.shape == (2, 64 * FRAME_SAMPLES)
    planned = list(plan_clips(corpus, 2, 9, num_frames=64))
    for i, clip in enumerate(planned):
        np.testing.assert_array_equal(clips.samples[i], clip.samples)
        assert clips.look(i) == clip.look
        motion, renderer = movement(clip), Renderer(clip.look)
        pose = motion.pose(30)
        rgb, boxes = renderer.frame(pose), renderer.boxes(pose)
        np.testing.assert_array_equal(clips.frames[i, 30], i420_from_rgb(rgb))
        np.testing.assert_array_equal(clips.boxes[i, 30], boxes)
        np.testing.assert_array_equal(clips.opening[i], motion.opening)
        np.testing.assert_array_equal(clips.controls[i], motion.controls)
        left, top, right, bottom = boxes[0]
        assert 50 < right - left < 100
        assert 20 < bottom - top < 70
