"""What stages learn from, before they do."""

from __future__ import annotations

import numpy as np
import pytest

from model.data.speech import Utterance
from model.training.prepare import LEVEL_DB, levelled


def spoken(voice: str, level: float) -> Utterance:
    samples = (np.sin(np.arange(24_000) * 0.05) * level * 32767).astype(np.int16)
    return Utterance(voice, "Hello.", "hɛlO", np.full(6, 7, np.int16), samples)


def test_voices_come_to_one_level_and_keep_their_own_differences() -> None:
    quiet, loud, louder = levelled([spoken("clara", 0.05), spoken("theo", 0.2), spoken("theo", 0.4)])
    level_db = [10 * np.log10(np.square(u.samples / 32768).mean()) for u in (quiet, loud, louder)]
    assert level_db[0] == pytest.approx(LEVEL_DB, abs=0.1)
    assert level_db[2] - level_db[1] == pytest.approx(6.02, abs=0.1)
    assert 10 * np.log10(np.mean(10 ** (np.asarray(level_db[1:]) / 10))) == pytest.approx(LEVEL_DB, abs=0.1)
