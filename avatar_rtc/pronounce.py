"""Text as it will be spoken, printed a sentence a line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from model.errors import UnspeakableTextError
from model.text.g2p import Sentence, pronounce
from model.text.prompt import parse_prompt
from model.text.sentences import TextStream


def spoken(text: str) -> Iterator[Sentence]:
    """What a call says of one ``input``.

    Raises:
        ModelError: it is no prompt, or nothing in it can be spoken.
    """
    for line in parse_prompt(text).lines:
        yield from pronounce(line)


def spoken_of_pieces(pieces: Sequence[str]) -> Iterator[Sentence]:
    """The same of a reply in pieces, each sentence as soon as the pieces so far say that it ends.

    Raises:
        UnspeakableTextError: a sentence cannot be spoken.
    """
    stream = TextStream()
    for piece in pieces:
        for sentence in stream.feed(piece):
            yield from pronounce(sentence)
    for sentence in stream.finish():
        yield from pronounce(sentence)


def run(options: argparse.Namespace) -> int:
    """Prints what ``options.text`` (``-`` is standard input) or ``options.piece`` says."""
    text = sys.stdin.read() if options.text == "-" else options.text
    told = False
    for sentence in spoken(text) if text is not None else spoken_of_pieces(options.piece):
        print(sentence.spoken)
        if options.phonemes:
            print(f"    {sentence.phonemes}")
        told = True
    if not told:
        raise UnspeakableTextError("there is nothing to speak in these pieces: write some words in English letters")
    return 0
