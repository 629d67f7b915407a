"""The alphabet that text is spoken in: one character a phoneme, as Kokoro and misaki write American English.

Capitals are diphthongs (A as in *day*, I *my*, O *go*, W *now*, Y *boy*) and the flapped t of *water* (T). A stress mark stands
before its vowel. A pause is made by punctuation and spaces, which are symbols too.
"""

from __future__ import annotations

VOWELS = "AIOWYaiuæɑɐəɛɜɪɔʊʌᵊᵻ"
CONSONANTS = "bdfhjklmnprstvwxyzðŋɡɹʃʒʤʧθT"
STRESSES = "ˈˌ"
PUNCTUATION = ';:,.!?—…"()“”'
SYMBOLS = " " + PUNCTUATION + STRESSES + VOWELS + CONSONANTS

PAUSE_ID = 0
"""Silence before, after and beside a line; also padding."""

IDS: dict[str, int] = {symbol: i for i, symbol in enumerate(SYMBOLS, 1)}
NUM_IDS = len(SYMBOLS) + 1


def phoneme_ids(phonemes: str) -> list[int]:
    """One id a character.

    Raises:
        KeyError: a character is not in the alphabet.
    """
    return [IDS[symbol] for symbol in phonemes]
