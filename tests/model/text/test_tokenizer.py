"""Caption words to numbers."""

from __future__ import annotations

import numpy as np
import pytest

from model.errors import PromptError
from model.text.tokenizer import SEPARATOR, CaptionTokenizer

TOKENIZER = CaptionTokenizer(("woman", "red", "voice", "warm"), max_words=9)


def test_scene_separator_voice_padding() -> None:
    assert TOKENIZER("A woman, in RED!", "a warm voice").tolist() == [2, 3, SEPARATOR, 5, 4, 0, 0, 0, 0]


def test_a_long_scene_leaves_room_for_the_voice() -> None:
    ids = TOKENIZER("red " * 50, "warm voice")
    assert len(ids) == 9
    assert ids[-3:].tolist() == [SEPARATOR, 5, 4]
    assert np.all(ids[:-3] == 3)


@pytest.mark.parametrize(("scene", "voice", "named"), [("一个女人", "warm voice", "scene"), ("red woman", "xyzzy", "voice")])
def test_words_that_the_model_does_not_know_are_told(scene: str, voice: str, named: str) -> None:
    with pytest.raises(PromptError, match=f"The {named} .* such as"):
        TOKENIZER(scene, voice)
