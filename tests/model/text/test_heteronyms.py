from __future__ import annotations

import pytest

from model.text.g2p import pronounce
from model.text.heteronyms import READINGS, Reading


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: reading.policy)
def test_a_reading_sounds_as_its_examples_show(reading: Reading) -> None:
    assert reading.policy.endswith(".")
    assert {text: pronounce(text)[0].phonemes for text in reading.examples} == dict(reading.examples)


@pytest.mark.parametrize(
    ("text", "phonemes"),
    [
        ("The site went live. We live here.", "ðə sˈIt wˈɛnt lˈIv. wˌi lˈɪv hˈɪɹ."),
        ("He wound the bandage on the wound.", "hˌi wˈWnd ðə bˈændɪʤ ˌɔn ðə wˈund."),
        ("Read the book she read.", "ɹˈid ðə bˈʊk ʃi ɹˈɛd."),
        ("Close the door close to you.", "klˈOz ðə dˈɔɹ klˈOs tə ju."),
        ("I refuse the refuse.", "ˌI ɹəfjˈuz ðə ɹˈɛfjˌus."),
        ("They present the present.", "ðˌA pɹizˈɛnt ðə pɹˈɛzᵊnt."),
        ("She tears up; a tear in her eye.", "ʃˌi tˈɛɹz ˌʌp; ɐ tˈɪɹ ɪn hɜɹ ˈI."),
        ("I got an A. You too.", "ˌI ɡɑt ɐn ˈA. jˌu tˈu."),
        ("They lead the team.", "ðˌA lˈid ðə tˈim."),
    ],
)
def test_what_the_tagger_knows_stays(text: str, phonemes: str) -> None:
    assert " ".join(sentence.phonemes for sentence in pronounce(text)) == phonemes
