"""What the judges of films find in films whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avatar_rtc.resources import prompts
from model.data.captions import PRESETS, asked, caption
from model.data.face import Look, Renderer
from model.data.motion import animate
from model.data.sentences import is_held_out
from model.errors import ConfigError
from model.evaluation.faces import load_reader
from model.evaluation.film import SAMPLE_RATE_HZ, Film
from model.evaluation.judge import JUDGES, Figure, load_judges
from model.evaluation.look import LookAsAsked
from model.evaluation.movement import count_blinks
from model.evaluation.pitch import Pitch
from model.evaluation.report import Column, JudgedFilm, Report
from model.evaluation.speech import misheard, words
from model.evaluation.voice import WINDOW_SAMPLES, filled_windows, without_pauses
from model.evaluation.words import Words
from model.text.prompt import Prompt, parse_prompt
from model.text.prompt_table import read_prompts

RATE = SAMPLE_RATE_HZ


def film(prompt: Prompt, pictures: np.ndarray | None = None, samples: np.ndarray | None = None) -> Film:
    pictures = np.zeros((50, 64, 64, 3), np.uint8) if pictures is None else pictures
    times_s = (np.arange(len(pictures)) + 0.5) / 25
    return Film(Path("film.mp4"), prompt, pictures, times_s, 25, np.zeros(RATE, np.float32) if samples is None else samples)


# Words


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("The answer is twenty-eight.", "the answer is 28"),
        ("It costs one hundred and five dollars.", "It costs $105."),
        ("I was born in nineteen eighty-four.", "I was born in 1984."),
        ("The meeting starts at eleven fifteen.", "The meeting starts at 11:15."),
        ("It is twelve o'clock.", "It is twelve oclock"),
    ],
)
def test_numerals_count_as_the_words_that_they_are(said: str, heard: str) -> None:
    assert words(said) == words(heard)


def test_errors_belong_to_the_word_at_which_they_happen() -> None:
    said = "one two three four".split()
    assert misheard(said, "one two three four".split()) == [0, 0, 0, 0]
    assert misheard(said, "one three four".split()) == [0, 1, 0, 0]
    assert misheard(said, "one two uh well three for".split()) == [0, 2, 0, 1]
    assert misheard(said, []) == [1, 1, 1, 1]
    assert misheard([], ["noise"]) == [1]


def test_kinds_of_lines_are_counted_apart() -> None:
    judge = Words(lambda _: "Good morning there. Room 28 is free and the other one is taken this whole morning too")
    lines = ("Good morning.", "Room twenty-eight is free.", "And the other one is taken this whole morning.")
    found = judge.one(film(Prompt(None, lines, None)))
    assert found is not None
    assert judge.all([found]) == pytest.approx({"wer": 2 / 16, "wer_short": 1 / 2, "wer_numbers": 0.0, "wer_long": 1 / 9})
    assert judge.one(film(Prompt("A man.", (), None))) is None


# Voices


def test_pauses_are_cut_and_windows_are_full() -> None:
    tone = 0.2 * np.sin(np.arange(RATE) * 0.1).astype(np.float32)
    quiet = np.zeros(2 * RATE, np.float32)
    speech = without_pauses(np.concatenate((quiet, tone, quiet, tone, tone, quiet)))
    assert len(speech) / RATE == pytest.approx(3 + 0.3, abs=0.05)
    assert np.abs(speech[:320]).max() > 0.1
    assert np.abs(speech[-320:]).max() > 0.1
    (window,) = filled_windows(speech)
    assert len(window) == WINDOW_SAMPLES
    np.testing.assert_array_equal(window[len(speech) : 2 * len(speech)], speech)
    long = np.arange(2.5 * WINDOW_SAMPLES)
    windows = filled_windows(long)
    assert (len(windows), windows[0][0], windows[-1][-1]) == (3, 0, long[-1])
    assert len(without_pauses(quiet)) == 0


@pytest.mark.parametrize(("pitch_hz", "voice", "right"), [(110, "a deep male voice", 1), (210, "a deep male voice", 0)])
def test_a_low_voice_is_a_mans(pitch_hz: float, voice: str, right: float) -> None:
    pulses = (np.cumsum(np.full(2 * RATE, pitch_hz / RATE)) % 1 < 0.1).astype(np.float32) * 0.5
    judge = Pitch()
    found = judge.one(film(Prompt(None, ("Hello.",), voice), samples=pulses - pulses.mean()))
    assert found is not None
    assert found.shown["pitch_hz"] == pytest.approx(pitch_hz, rel=0.03)
    assert judge.all([found]) == {"gender_right": right}


# Faces


def test_what_a_caption_says_is_read_from_it_and_nothing_else() -> None:
    rng = np.random.default_rng(5)
    for _ in range(100):
        look = Look.sample(rng)
        said = asked(caption(look, rng, keep=0.7))
        assert said["presentation"] == look.presentation
        assert {name: str(getattr(look, name)) for name in said} == said
    for preset in PRESETS:
        said = asked(preset.caption)
        assert len(said) >= 11
        assert {name: str(getattr(preset.look, name)) for name in said} == said


def test_the_reader_knows_a_drawn_face_and_what_it_does() -> None:
    look = PRESETS[5].look  # an older man with glasses and a moustache
    motion, renderer = animate([], 4.0, np.random.default_rng(3), smile=0.6), Renderer(look)
    pictures = np.stack([renderer.frame(motion.pose(i)) for i in range(0, 100)])
    reader = load_reader()
    poses = reader.read(pictures).poses
    assert np.corrcoef(poses["yaw"], motion.poses[:, 0])[0, 1] > 0.8
    assert count_blinks(poses["blink"]) == count_blinks(motion.poses[:, 5]) > 0
    judge = LookAsAsked(reader)
    right = judge.one(film(Prompt(PRESETS[5].caption, ("Hello.",), None), pictures))
    wrong = judge.one(film(Prompt("A man with blue eyes and a full beard.", ("Hello.",), None), pictures))
    assert right is not None
    assert wrong is not None
    assert judge.all([right])["look_right"] > 0.9
    assert wrong.shown["wrong"] == {"beard": "moustache, not full", "eye_colour": "grey, not blue"}


def test_a_lid_that_trembles_blinks_once() -> None:
    assert count_blinks(np.array([0, 0.2, 0.6, 0.4, 0.7, 0.1, 0, 0.55, 0.9, 0])) == 2


# Prompts, judges, report


def test_the_prompts_were_held_out_of_training() -> None:
    parsed = [parse_prompt(row.prompt) for row in read_prompts(prompts("held_out"))]
    assert len(parsed) == 100
    assert [line for prompt in parsed for line in prompt.lines if not is_held_out(line)] == []
    assert min(len(asked(prompt.scene or "")) for prompt in parsed) >= 6


def test_a_judge_that_cannot_judge_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match="choose of words, voice"):
        load_judges(["everything"])
    for name, entry in JUDGES.items():
        if (remedy := entry.missing()) is not None:
            with pytest.raises(ConfigError, match=r"pip install 'avatar-rtc\[evaluate"):
                load_judges([name])
            assert entry.modules[0] in remedy or len(entry.modules) > 1


def test_the_table_tells_shares_of_the_truth_and_the_page_shows_films(tmp_path: Path) -> None:
    figures = [Figure("blinks", "blinks a minute", ".1f", shared=True), Figure("wer", "words", ".1%"), Figure("mos", "voice")]
    columns = [
        Column("truth", {"blinks": 16.0}),
        Column(
            "pocket", {"blinks": 12.0, "wer": 0.021}, [JudgedFilm("A <man>", tmp_path / "pocket" / "a b.mp4", {"w": {"x": 1}})]
        ),
    ]
    columns.append(Column("end", {"blinks": 9.0}, [JudgedFilm("A <man>", tmp_path / "long.mp4")], (570.0, 600.0)))
    report = Report(figures, columns, {"voice": "needs distillmos"}, {"on": "a machine"})
    assert report.rows() == [
        ["", "truth", "pocket", "end"],
        ["blinks a minute", "16.0", "12.0 (75%)", "9.0"],
        ["words", "", "2.1%", ""],
    ]
    assert report.table().splitlines()[1].split("  ")[0] == "blinks a minute"
    report.write(tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "src='pocket/a%20b.mp4'" in page
    assert "src='long.mp4#t=570.0,600.0'" in page
    assert "A &lt;man&gt;" in page
    assert "<man>" not in page
