from __future__ import annotations

import pytest

from avatar_rtc.ears.turn_detector import Started, Stopped, TurnDetector

LEVELS = {"_": 0.0, "s": 0.4, "V": 0.9}
"""Silence, something soft, a voice."""


def changes(blocks: str, end_of_turn_ms: int = 500) -> dict[int, Started | Stopped]:
    """What changes with which of the blocks, of 32 ms each."""
    detector = TurnDetector(32, end_of_turn_ms)
    heard = {index: detector.hear(LEVELS[block]) for index, block in enumerate(blocks)}
    return {index: change for index, change in heard.items() if change is not None}


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ("_" * 100, {}),
        ("_" * 20 + "V" * 5 + "_" * 40, {}),  # a cough
        ("_" * 20 + "s" * 40, {}),  # too soft to begin with
        ("_" * 20 + "V" * 10 + "_" * 30, {25: Started(10), 45: Stopped(30)}),
        ("V" * 10 + "_" * 30, {5: Started(0), 25: Stopped(10)}),  # there is nothing before the first block
        ("_" * 20 + "VVV____VVV" + "_" * 30, {29: Started(10), 45: Stopped(30)}),  # a plosive
        ("_" * 20 + "VVV_____VVV" + "_" * 30, {}),  # two clicks
        ("_" * 20 + "V" * 8 + "s" * 20 + "_" * 30, {25: Started(10), 63: Stopped(48)}),  # soft goes on
        ("_" * 20 + "V" * 8 + "_" * 15 + "V" + "_" * 30, {25: Started(10), 59: Stopped(44)}),  # a pause in a turn
        ("V" * 8 + "_" * 16 + "V" * 8 + "_" * 20, {5: Started(0), 23: Stopped(8), 29: Started(14), 47: Stopped(32)}),
        ("V" * 8 + "_" * 16 + "_" * 2 + "V" * 8, {5: Started(0), 23: Stopped(8), 31: Started(16)}),
    ],
)
def test_turns_begin_with_speech_and_end_with_silence(blocks: str, expected: dict[int, Started | Stopped]) -> None:
    assert changes(blocks) == expected


def test_how_much_silence_ends_a_turn_is_a_setting() -> None:
    assert changes("V" * 8 + "_" * 40, end_of_turn_ms=1000)[39] == Stopped(8)


def test_a_turn_that_does_not_end_is_cut_where_a_recogniser_takes_no_more() -> None:
    found = list(changes("V" * 1000).values())
    assert found[:3] == [Started(0), Stopped(937), Started(937)]


def test_no_block_belongs_to_two_turns() -> None:
    found = list(changes("V" * 8 + "_" * 7 + "V" * 8 + "_" * 7, end_of_turn_ms=200).values())
    assert found == [Started(0), Stopped(8), Started(8), Stopped(23)]
