from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_rtc.media.buffer import FADE_MS, Gate, MarkReached, PlayBuffer
from model.chunk import Mark, MarkKind
from tests.support.chunks import INFO, numbered_chunk, speaking_chunk

SLOT_SAMPLES = INFO.sample_rate_hz // INFO.fps


def mark(reply_id: str, kind: MarkKind, slot: int) -> Mark:
    """Where a slot begins."""
    return Mark(reply_id, kind, slot * SLOT_SAMPLES, slot * SLOT_SAMPLES)


def make_buffer(kept_s: float = 0.42) -> tuple[PlayBuffer, list[MarkReached]]:
    played: list[MarkReached] = []
    return PlayBuffer(INFO, played.append, kept_after_cancel_s=kept_s), played


@given(st.lists(st.one_of(st.just("put"), st.just("cancel"), st.integers(1, 12)), max_size=40))
def test_a_slot_never_parts_lips_from_voice(steps: list[str | int]) -> None:
    buffer, _ = make_buffer()
    buffer.put(speaking_chunk(0))
    puts, number = 1, 0
    for step in steps:
        if step == "put":
            buffer.put(speaking_chunk(puts))
            puts += 1
        elif step == "cancel":
            buffer.cancel()
            assert buffer.buffered_s <= 0.42
        else:
            for _ in range(int(step)):
                slot = buffer.slot(number)
                assert slot.number == number
                assert len(slot.samples) == SLOT_SAMPLES
                value = int(slot.frame[0, 0])
                # The voice of this very picture, fading or silent; never that of another one.
                assert set(np.unique(slot.samples)) <= set(range(value + 1))
                if slot.held:
                    assert not slot.samples.any()
                assert buffer.slot(number) is slot
                number += 1
    assert buffer.num_decided == number


def shown(buffer: PlayBuffer, numbers: range) -> list[int]:
    """Brightness of the pictures of these slots, which is their number in the stream where they are not faded."""
    return [int(buffer.slot(number).frame[0, 0]) for number in numbers]


def test_a_face_that_spoke_stands_still_in_an_underrun_which_is_counted_once() -> None:
    buffer, _ = make_buffer()
    buffer.put(speaking_chunk(0))
    slots = [buffer.slot(n) for n in range(11)]
    assert [slot.held for slot in slots] == [False] * 8 + [True] * 3
    assert (slots[-1].frame == slots[7].frame).all()
    assert (buffer.num_underruns, buffer.num_held_frames) == (1, 3)
    buffer.put(speaking_chunk(1))
    assert buffer.slot(11).frame[0, 0] == 9
    assert buffer.num_underruns == 1


def test_a_face_that_listened_goes_on_back_and_forth_and_fades_into_what_comes() -> None:
    buffer, _ = make_buffer()
    buffer.put(numbered_chunk(0))
    assert shown(buffer, range(8)) == [1, 2, 3, 4, 5, 6, 7, 8]
    slots = [buffer.slot(n) for n in range(8, 25)]
    assert [int(slot.frame[0, 0]) for slot in slots] == [7, 6, 5, 4, 3, 2, 1, 2, 3, 4, 5, 6, 7, 8, 7, 6, 5]
    assert all(slot.held and not slot.samples.any() for slot in slots)
    assert buffer.num_underruns == 1
    buffer.put(numbered_chunk(10))
    # From 5 to 81 and on, in fifths.
    assert shown(buffer, range(25, 33)) == [20, 36, 52, 68, 85, 86, 87, 88]


def test_of_a_face_that_listens_what_is_not_needed_is_left_out_and_what_comes_fades_in() -> None:
    buffer, played = make_buffer()
    buffer.put(numbered_chunk(0, marks=(mark("r", "end", 3),), speaking=True))
    buffer.put(numbered_chunk(1))
    buffer.shorten(0.4)
    assert buffer.buffered_frames == 10
    buffer.shorten(0.04)
    assert buffer.buffered_frames == 8, "nothing of a line"
    buffer.put(numbered_chunk(10))
    assert shown(buffer, range(8)) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [p.mark.kind for p in played] == ["end"]
    # From 8 to 81 and on, in fifths.
    assert shown(buffer, range(8, 16)) == [23, 38, 53, 69, 85, 86, 87, 88]
    assert buffer.num_underruns == 0


def test_another_look_does_not_fade_in() -> None:
    buffer, _ = make_buffer()
    buffer.put(numbered_chunk(0))
    shown(buffer, range(12))
    buffer.cut()
    buffer.put(numbered_chunk(10))
    assert shown(buffer, range(12, 20)) == [81, 82, 83, 84, 85, 86, 87, 88]
    assert set(shown(buffer, range(20, 40))) == set(range(81, 89)), "nor does the old one come back"


def test_the_loop_holds_nothing_of_a_mouth_that_speaks() -> None:
    buffer, _ = make_buffer()
    start, end = mark("r", "start", 2), mark("r", "end", 5)
    buffer.put(numbered_chunk(0, marks=(start, end), speaking=True))
    shown(buffer, range(8))
    assert set(shown(buffer, range(8, 30))) == {7, 8}, "what came after the end of the line"
    buffer.put(numbered_chunk(1, marks=(start,), speaking=True))
    shown(buffer, range(30, 38))
    buffer.cancel()
    assert set(shown(buffer, range(38, 50))) == {16}
    buffer.put(numbered_chunk(2, speaking=True), muted=True)
    assert set(shown(buffer, range(50, 58))) == {17, 18, 19, 20, 21, 22, 23, 24}
    assert set(shown(buffer, range(58, 70))) == {24}


def test_nothing_passes_a_gate_before_enough_is_there_behind_it() -> None:
    buffer, played = make_buffer()
    marks = mark("a", "start", 0), mark("a", "end", 4), mark("b", "start", 6)
    gate = Gate(0.4)
    buffer.put(numbered_chunk(0, marks=marks, speaking=True), gates=[(4, gate)])
    assert shown(buffer, range(4)) == [1, 2, 3, 4]
    assert [(p.mark.reply_id, p.mark.kind) for p in played] == [("a", "start"), ("a", "end")], (
        "what ends at a gate is over before it"
    )
    assert buffer.buffered_behind_s(gate) == buffer.buffered_s == 0.16
    assert all(buffer.slot(n).held for n in range(4, 20))
    buffer.put(numbered_chunk(1, speaking=True))
    assert not buffer.slot(20).held, "12 pictures are more than 0.4 s"
    assert buffer.buffered_behind_s(gate) is None
    assert played[-1].mark.reply_id == "a"
    assert shown(buffer, range(21, 23)) == [6, 7]
    assert played[-1].mark.reply_id == "b"
    assert buffer.num_underruns == 0


def test_a_cancel_opens_every_gate() -> None:
    buffer, _ = make_buffer()
    buffer.put(numbered_chunk(0), gates=[(0, Gate(60.0))])
    assert buffer.slot(0).held
    buffer.cancel()
    assert not buffer.slot(1).held


def test_cancel_fades_the_voice_and_lets_the_pictures_play_on() -> None:
    buffer, played = make_buffer()
    mark = Mark("r", "word", 1000, 2000, "late")
    buffer.put(numbered_chunk(0, marks=(mark,)))
    buffer.slot(0)
    buffer.cancel()
    slots = [buffer.slot(n) for n in range(1, 8)]
    assert not any(slot.held for slot in slots)
    assert [int(slot.frame[0, 0]) for slot in slots] == [2, 3, 4, 5, 6, 7, 8]
    sound = np.concatenate([slot.samples for slot in slots])
    fade_samples = INFO.sample_rate_hz * FADE_MS // 1000
    assert sound[0] == 2
    assert (np.diff(sound[:fade_samples]) <= 0).all()
    assert not sound[fade_samples:].any()
    assert not played


def test_cancel_keeps_at_most_so_many_pictures() -> None:
    buffer, _ = make_buffer(kept_s=0.4)
    for index in range(3):
        buffer.put(numbered_chunk(index))
    buffer.cancel()
    assert buffer.buffered_frames == 10
    buffer.put(numbered_chunk(3), muted=True)
    assert buffer.buffered_frames == 10
    buffer.put(numbered_chunk(4))
    assert buffer.buffered_frames == 18


def test_the_chunk_itself_is_not_changed() -> None:
    buffer, _ = make_buffer()
    chunk = numbered_chunk(0)
    before = chunk.samples.copy()
    buffer.put(chunk)
    buffer.cancel()
    assert (chunk.samples == before).all()


def test_marks_are_told_at_their_moment_with_media_times() -> None:
    buffer, played = make_buffer()
    marks = (
        Mark("r", "start", 320, 320),
        Mark("r", "word", 320, 3000, "long"),
        Mark("r", "end", 2560, 2560),
    )
    buffer.put(numbered_chunk(0))
    buffer.put(numbered_chunk(1, marks=marks))
    for number in range(9):
        buffer.slot(number)
    assert not played
    buffer.slot(9)
    assert [p.mark.kind for p in played] == ["start", "word"]
    assert played[0].media_s == pytest.approx(0.36)
    assert played[1].end_media_s == pytest.approx(0.32 + 3000 / 8000)
    for number in range(10, 16):
        buffer.slot(number)
    assert played[-1].mark.kind == "end"
    assert played[-1].media_s == pytest.approx(0.64)


def test_what_does_not_fit_is_refused() -> None:
    buffer, _ = make_buffer()
    with pytest.raises(ValueError, match="nothing to show"):
        buffer.slot(0)
    other = numbered_chunk(0, info=INFO.__class__("x", 32, 16, 25, 8000, 8, 2560))
    with pytest.raises(ValueError, match="chunk 0"):
        buffer.put(other)
    buffer.put(numbered_chunk(0))
    with pytest.raises(ValueError, match="slot 2 before slot 0"):
        buffer.slot(2)
