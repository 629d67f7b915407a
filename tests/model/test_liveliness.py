"""Movement besides the mouth: as often as people's, in step with speech, smooth, and the same however it is asked for."""

from __future__ import annotations

import numpy as np

from model.data.captions import caption
from model.data.face import Look
from model.liveliness import CONTROLS, SCALES, SMILES, Liveliness, TimedPhoneme, per_latent, resting_smile

FPS = 25
COLUMN = {name: i for i, name in enumerate(CONTROLS)}


def speech(start_s: float, syllables: int) -> list[TimedPhoneme]:
    """Stressed syllables of 0.3 s each, then a full stop."""
    events: list[TimedPhoneme] = []
    for i in range(syllables):
        at = start_s + 0.3 * i
        events += [("ˈ", at, at + 0.02), ("m", at + 0.02, at + 0.12), ("ɑ", at + 0.12, at + 0.3)]
    end = start_s + 0.3 * syllables
    return [*events, (".", end, end + 0.1)]


def track(seconds: float, events: list[TimedPhoneme] | None = None, seed: int = 0, smile: float = 0.3) -> np.ndarray:
    live = Liveliness(np.random.default_rng(seed), smile, FPS)
    rows = []
    for first in range(0, round(seconds * FPS), 8):
        near = [e for e in events or [] if e[2] > first / FPS - 1 and e[1] < (first + 8) / FPS + 1]
        rows.append(live.advance(8, near))
    return np.concatenate(rows)


def blinks(rows: np.ndarray) -> int:
    shut = rows[:, COLUMN["blink"]] > 0.7
    return int(np.count_nonzero(np.diff(shut.astype(int)) == 1))


def test_people_blink_every_two_to_six_seconds_whether_they_speak_or_listen() -> None:
    for events in ([], speech(2, 180)):
        rate = np.mean([blinks(track(60, events, seed)) for seed in range(8)])
        assert 12 <= rate <= 24, "a minute"


def test_gaze_shifts_and_heads_turn() -> None:
    rows = track(60)
    for name, least in (("yaw", 0.06), ("gaze_x", 0.05), ("pitch", 0.01), ("roll", 0.01)):
        assert rows[:, COLUMN[name]].std() > least, name


def test_heads_nod_more_where_they_speak() -> None:
    """Nods move the head down by more than its sway: compared on the same seeds, hence the same sway."""
    quiet, loud = (
        np.stack([track(30, events, seed)[:, COLUMN["shift_y"]] for seed in range(6)]) for events in ([], speech(1, 90))
    )
    assert np.diff(loud, axis=1).std() > 1.3 * np.diff(quiet, axis=1).std()


def test_brows_rise_on_a_question() -> None:
    events = speech(1, 6)
    question = [*events[:-1], ("?", events[-1][1], events[-1][2])]
    end = round(events[-1][1] * FPS)
    asked, told = (
        np.mean([track(6, e, seed)[end - 8 : end + 8, COLUMN["brow_left"]].max() for seed in range(8)])
        for e in (question, events)
    )
    assert asked > told + 0.2


def test_nothing_jumps_even_if_a_line_is_broken_off() -> None:
    """The largest step of a picture while a line is taken away in the middle is no larger than blinks and glances make anyway."""
    slow = [COLUMN[name] for name in ("yaw", "pitch", "roll", "shift_x", "shift_y", "breath", "brow_left", "smile")]
    events = speech(1, 20)
    for cut_s in np.arange(1.5, 4.0, 0.32):
        live = Liveliness(np.random.default_rng(3), 0.3, FPS)
        rows = [live.advance(8, [e for e in events if e[1] < cut_s or first / FPS < cut_s]) for first in range(0, 200, 8)]
        steps = np.abs(np.diff(np.concatenate(rows)[:, slow], axis=0)) / SCALES[slow]
        assert steps.max() < 1.0


def test_the_same_seed_moves_alike_and_another_does_not() -> None:
    np.testing.assert_array_equal(track(10, speech(1, 9), 5), track(10, speech(1, 9), 5))
    assert np.abs(track(10, seed=5) - track(10, seed=6)).max() > 0.1


def test_values_come_a_latent_in_units_of_their_scale() -> None:
    rows = track(1.28)
    latents = per_latent(rows, 4)
    assert latents.shape == (8, 4 * len(CONTROLS))
    np.testing.assert_allclose(latents[1].reshape(4, -1) * SCALES, rows[4:8], rtol=1e-6)


def test_whoever_a_caption_calls_cheerful_in_whatever_words_smiles() -> None:
    """As the face was drawn that the network learned it with."""
    moods = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        look = Look.sample(rng)
        text = caption(look, rng, keep=1.0)
        assert resting_smile(text) == SMILES[look.mood], text
        moods.add(look.mood)
    assert moods == set(SMILES)
    assert resting_smile("Someone who Smiles.") > resting_smile("A woman in a kitchen.")


def test_a_smile_at_rest_may_change() -> None:
    face = Liveliness(np.random.default_rng(0), SMILES["calm"], 25)
    calm = face.advance(250, [])[:, CONTROLS.index("smile")].mean()
    face.smile = SMILES["cheerful"]
    assert face.advance(250, [])[:, CONTROLS.index("smile")].mean() > calm + 0.3
