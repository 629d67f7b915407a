"""What is said when: marks, queues, cancelling, and a track without gaps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.chunk import Mark
from model.errors import UnspeakableTextError
from model.text.planner import BETWEEN_SENTENCES_S, LEAD_S, Durations, Planner
from model.text.track import PAUSE, PAUSE_S, TimedPhoneme, pauses, with_pauses

BLOCK_S, RATE_HZ = 0.32, 8000
BLOCK_SAMPLES = round(BLOCK_S * RATE_HZ)
MAX_DURATION_S = 1.0
"""The longest that the network ever predicts."""


def steady(duration_s: float = 0.05) -> Durations:
    return lambda phonemes: [duration_s] * len(phonemes)


def cycling(durations_s: Sequence[float]) -> Durations:
    source = itertools.cycle(durations_s)
    return lambda phonemes: list(itertools.islice(source, len(phonemes)))


def tell(planner: Planner, first_block: int, num_blocks: int) -> list[tuple[bool, list[Mark]]]:
    return [planner.marks_between(b * BLOCK_S, (b + 1) * BLOCK_S, RATE_HZ) for b in range(first_block, first_block + num_blocks)]


def on_time_line(told: list[tuple[bool, list[Mark]]], first_block: int = 0) -> list[tuple[str, str, str, int, int]]:
    """Marks with samples since the stream began: reply, kind, text, start, end."""
    return [
        (
            m.reply_id,
            m.kind,
            m.text,
            (first_block + i) * BLOCK_SAMPLES + m.start_sample,
            (first_block + i) * BLOCK_SAMPLES + m.end_sample,
        )
        for i, (_, marks) in enumerate(told)
        for m in marks
    ]


durations = st.lists(st.floats(0.0075, MAX_DURATION_S), min_size=1, max_size=7)


@settings(max_examples=25)
@given(durations_s=durations, first_block=st.integers(0, 5))
def test_a_line_is_told_once_in_order_and_as_typed(durations_s: list[float], first_block: int) -> None:
    planner = Planner(cycling(durations_s))
    planner.push("a", "Well, hello there. Good morning!", first_block * BLOCK_S, last=True)
    told = tell(planner, first_block, 200)
    marks = on_time_line(told, first_block)
    assert [(reply, kind, text) for reply, kind, text, *_ in marks] == [
        ("a", "start", ""),
        *(("a", "word", word) for word in ("Well,", "hello", "there.", "Good", "morning!")),
        ("a", "end", ""),
    ]
    starts = [start for *_, start, _ in marks]
    assert starts == sorted(starts)
    assert starts[0] == pytest.approx((first_block * BLOCK_S + LEAD_S) * RATE_HZ, abs=1)
    words = [(start, end) for _, kind, _, start, end in marks if kind == "word"]
    assert all(start < end for start, end in words)
    assert all(end <= next_start + 1 for (_, end), (next_start, _) in itertools.pairwise(words))
    assert starts[-1] >= words[-1][1] - 1
    for _, block_marks in told:
        assert all(0 <= m.start_sample <= BLOCK_SAMPLES for m in block_marks)
        assert [m.start_sample for m in block_marks] == sorted(m.start_sample for m in block_marks)
        assert all(m.start_sample == m.end_sample for m in block_marks if m.kind != "word")
    speaking = [i for i, (is_speaking, _) in enumerate(told) if is_speaking]
    assert speaking == list(range(speaking[-1] + 1)), "from the first block to the last, without a break"
    assert told[speaking[-1]][1][-1].kind == "end"


@settings(max_examples=25)
@given(durations_s=durations, wait_blocks=st.integers(0, 12))
def test_a_line_pushed_meanwhile_begins_after_the_one_before(durations_s: list[float], wait_blocks: int) -> None:
    planner = Planner(cycling(durations_s))
    planner.push("a", "Hello there.", 0.0, last=True)
    told = tell(planner, 0, wait_blocks)
    planner.push("b", "Good morning.", wait_blocks * BLOCK_S, last=True)
    marks = on_time_line(told + tell(planner, wait_blocks, 200))
    assert [(reply, kind) for reply, kind, *_ in marks] == [
        (reply, kind) for reply in "ab" for kind in ("start", "word", "word", "end")
    ]
    end = next(start for reply, kind, _, start, _ in marks if (reply, kind) == ("a", "end"))
    begin = next(start for reply, kind, _, start, _ in marks if (reply, kind) == ("b", "start"))
    at_once = (wait_blocks * BLOCK_S + LEAD_S) * RATE_HZ
    if begin == pytest.approx(at_once, abs=1):
        assert begin >= end
    else:
        assert begin == pytest.approx(end + BETWEEN_SENTENCES_S * RATE_HZ, abs=2)


def test_pieces_of_a_reply_end_once() -> None:
    planner = Planner(steady())
    planner.push("a", "Hello there,", 0.0, last=False)
    planner.push("a", "my friend.", 0.0, last=True)
    marks = on_time_line(tell(planner, 0, 50))
    assert [text for _, kind, text, *_ in marks if kind == "word"] == ["Hello", "there,", "my", "friend."]
    assert [kind for _, kind, *_ in marks].count("end") == 1
    assert marks[-1][1] == "end"


def test_pieces_of_a_reply_start_once() -> None:
    """A start is the first voiced moment of a reply, so that its second piece has none."""
    planner = Planner(steady())
    planner.push("a", "Hello there,", 0.0, last=False)
    planner.push("a", "my friend.", 0.0, last=True)
    assert [kind for _, kind, *_ in on_time_line(tell(planner, 0, 50))].count("start") == 1


def test_a_piece_that_is_not_the_last_does_not_end_the_reply() -> None:
    planner = Planner(steady())
    planner.push("a", "Hello there,", 0.0, last=False)
    assert all(kind != "end" for _, kind, *_ in on_time_line(tell(planner, 0, 50)))


@pytest.mark.parametrize("told_blocks", [0, 1, 2, 3])
def test_a_cancelled_line_is_told_no_more(told_blocks: int) -> None:
    planner = Planner(steady(0.1))
    planner.push("a", "Hello there, my friend.", 0.0, last=True)
    planner.push("b", "Never said.", 0.0, last=True)
    before = tell(planner, 0, told_blocks)
    assert all(is_speaking for is_speaking, _ in before)
    planner.cancel(told_blocks * BLOCK_S)
    assert tell(planner, told_blocks, 50) == [(False, [])] * 50
    assert all(p == PAUSE for p, *_ in planner.visible((told_blocks + 1) * BLOCK_S, 20.0))


def test_a_line_after_a_cancel_begins_at_once() -> None:
    planner = Planner(steady(0.1))
    planner.push("a", "A long line that goes on and on.", 0.0, last=True)
    tell(planner, 0, 2)
    planner.cancel(2 * BLOCK_S)
    planner.push("b", "Sorry.", 2 * BLOCK_S, last=True)
    marks = on_time_line(tell(planner, 2, 50), 2)
    assert {reply for reply, *_ in marks} == {"b"}
    assert marks[0][3] == pytest.approx((2 * BLOCK_S + LEAD_S) * RATE_HZ, abs=1)


def test_what_cannot_be_spoken_changes_nothing() -> None:
    planner, untouched = Planner(steady()), Planner(steady())
    for one in (planner, untouched):
        one.push("a", "Hello there.", 0.0, last=True)
    with pytest.raises(UnspeakableTextError):
        planner.push("b", "...", 0.0, last=True)
    assert planner.visible(0.0, 5.0) == untouched.visible(0.0, 5.0)
    assert tell(planner, 0, 50) == tell(untouched, 0, 50)


def check_tiled(track: list[TimedPhoneme], start_s: float, end_s: float) -> None:
    """No gap and no overlap of more than a millisecond from ``start_s`` to ``end_s``."""
    assert track[0][1] <= start_s + 1e-3
    assert track[-1][2] >= end_s - 1e-3
    for (_, _, end), (_, start, _) in itertools.pairwise(track):
        assert start == pytest.approx(end, abs=1.001e-3)
    assert all(b > a for _, a, b in track)
    assert all(b - a <= PAUSE_S + 1e-6 for p, a, b in track if p == PAUSE)


@settings(max_examples=40)
@given(durations_s=durations, start_s=st.floats(0, 12), length_s=st.floats(0.1, 3), push_block=st.integers(0, 9))
def test_the_track_has_no_gaps_and_no_overlaps(
    durations_s: list[float], start_s: float, length_s: float, push_block: int
) -> None:
    planner = Planner(cycling(durations_s))
    planner.push("a", "Hello. There!", 0.0, last=True)
    planner.push("b", "My friend.", push_block * BLOCK_S, last=True)
    check_tiled(planner.visible(start_s, start_s + length_s), start_s, start_s + length_s)


@settings(max_examples=40, derandomize=True)
@given(durations_s=durations, blocks=st.integers(1, 12))
def test_the_track_has_no_gaps_and_no_overlaps_after_a_cancel(durations_s: list[float], blocks: int) -> None:
    """The phoneme in which a line was cut may not go on under the next line."""
    planner = Planner(cycling(durations_s))
    planner.push("a", "Hello there, my friend.", 0.0, last=True)
    tell(planner, 0, blocks)
    planner.cancel(blocks * BLOCK_S)
    planner.push("b", "Sorry.", blocks * BLOCK_S, last=True)
    start_s = max(0.0, blocks * BLOCK_S - 1)
    check_tiled(planner.visible(start_s, start_s + 4), start_s, start_s + 4)


def test_the_past_stays_in_view_and_is_forgotten_later() -> None:
    planner = Planner(steady())
    planner.push("a", "Hello there.", 0.0, last=True)
    tell(planner, 0, 4)
    assert any(p != PAUSE for p, *_ in planner.visible(0.5, 2.0)), "a line that is over is still behind the next block"
    for block in range(4, 400):
        planner.marks_between(block * BLOCK_S, (block + 1) * BLOCK_S, RATE_HZ)
    assert planner._past == []


def test_silence_is_pauses() -> None:
    track = Planner(steady()).visible(1000.0, 1002.0)
    assert {p for p, *_ in track} == {PAUSE}
    check_tiled(track, 1000.0, 1002.0)


def test_pauses_are_equal_and_short() -> None:
    assert pauses(1.0, 1.0004) == []
    assert pauses(0.0, PAUSE_S) == [(PAUSE, 0.0, PAUSE_S)]
    track = pauses(1.0, 2.0)
    assert [round(b - a, 6) for _, a, b in track] == [0.25] * 4


def test_long_pauses_among_events_are_cut() -> None:
    track = with_pauses([("a", 0.1, 0.2), (PAUSE, 0.2, 0.9), ("b", 0.9, 1.0)], 1.1)
    assert [p for p, *_ in track] == [PAUSE, "a", PAUSE, PAUSE, PAUSE, "b", PAUSE]
    check_tiled(track, 0.0, 1.1)
