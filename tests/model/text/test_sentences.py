"""Where sentences end, in whole texts and in texts that come piece by piece."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.errors import UnspeakableTextError
from model.text.g2p import pronounce
from model.text.sentences import TextStream, sentence_spans


def spoken(text: str) -> list[str]:
    try:
        return [sentence.spoken for sentence in pronounce(text)]
    except UnspeakableTextError:
        return []


def streamed(pieces: Iterable[str]) -> list[str]:
    stream = TextStream()
    return [*itertools.chain.from_iterable(map(stream.feed, pieces)), *stream.finish()]


def heard(pieces: Iterable[str]) -> list[str]:
    return [sentence for line in streamed(pieces) for sentence in spoken(line)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Serves 4\n- 3 eggs\n- 2 cups flour", ["Serves 4", "- 3 eggs", "- 2 cups flour"]),
        ("# Plan\nWe leave on Friday.", ["# Plan", "We leave on Friday."]),
        ("1. Wash the rice. Twice.\n2. Boil water.", ["1. Wash the rice.", "Twice.", "2. Boil water."]),
        ("How many? 5. Then go.", ["How many?", "5.", "Then go."]),
        ("Take vitamin C. Then rest. Go with plan B. Thanks.", ["Take vitamin C.", "Then rest.", "Go with plan B.", "Thanks."]),
        ("I got an A. You too.", ["I got an A.", "You too."]),
        ("J.R.R. Tolkien met J. K. Rowling and George W. Bush.", ["J.R.R. Tolkien met J. K. Rowling and George W. Bush."]),
        ("I live in the U.S. It is big. See etc. Then sit.", ["I live in the U.S.", "It is big.", "See etc.", "Then sit."]),
        ("See vol. 2, fig. 3, ext. 22, b. 1970. It is no. 7.", ["See vol. 2, fig. 3, ext. 22, b. 1970.", "It is no. 7."]),
        ("Ask Dr. Kim at 9 a.m. about it, e.g. by phone.", ["Ask Dr. Kim at 9 a.m. about it, e.g. by phone."]),
        ("It is 3.5 percent, or $12.50. See node.js.", ["It is 3.5 percent, or $12.50.", "See node.js."]),
        ("Done.Next.Last.", ["Done.", "Next.", "Last."]),
        ("Wait... what? He said \"Go.\" Then left.", ["Wait... what?", 'He said "Go."', "Then left."]),
        ("**Stop.** Wait. [A. B](http://x.org/a. b) is it.", ["**Stop.**", "Wait.", "[A. B](http://x.org/a. b) is it."]),
        ("This line is long enough to have been wrapped by\nan editor. So-\ncalled.", None),
        ("It costs $5. Use `a. b` and \\(x. y\\) now.", ["It costs $5.", "Use `a. b` and \\(x. y\\) now."]),
        ("Hi<br>there. <p>One</p><p>Two</p>", ["Hi<br>", "there.", "<p>One</p>", "<p>Two</p>"]),
        ("👍! All good. 🎉🎉", ["👍! All good. 🎉🎉"]),
    ],
)  # fmt: skip
def test_sentences_end_where_people_would_pause(text: str, sentences: list[str] | None) -> None:
    found = [text[a:b].strip() for a, b in sentence_spans(text)]
    if sentences is None:
        assert [" ".join(s.split()) for s in found] == [
            "This line is long enough to have been wrapped by an editor.", "So- called.",
        ]  # fmt: skip
    else:
        assert found == sentences


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<think>The user greets me. I greet back.</think>Good morning!", ["Good morning!"]),
        ("Wait. <think>\nhm\n</think>\n\nDone.", ["Wait.", "Done."]),
        ("Run this:\n```python\nfor i in range(3):\n    print(i)\n```\nDone.", ["Run this:", "Done."]),
        ("Look:\n~~~\na. b\n```\nc\n~~~\nDone.", ["Look:", "Done."]),
        ("So.\n```\nnever closed. At all.", ["So."]),
        ("Yes.<tool_call>{\"a\": \"b. c\"}</tool_call> No. <!-- a. b --> Maybe.", ["Yes.", "No.", "Maybe."]),
        ("Hi. 👍 <think>a</think> 👍", ["Hi."]),
        ("Hi.\n[laughs]\n</div>\n---\n[1]: https://a.org\nBye.", ["Hi.", "Bye."]),
        ("a <thinker> b", ["a thinker b"]),
    ],
)  # fmt: skip
def test_what_is_no_speech_is_not_spoken(text: str, said: list[str]) -> None:
    assert spoken(text) == said
    assert heard(text) == said


def test_a_sentence_is_given_as_soon_as_it_is_sure_to_have_ended() -> None:
    stream = TextStream()
    assert [stream.feed(piece) for piece in ("Hello there", "! How", " are you? ", "I am", " Dr. ", "Lee. B", "ye")] == [
        [], ["Hello there!"], [], ["How are you?"], [], ["I am Dr. Lee."], [],
    ]  # fmt: skip
    assert stream.pending == "Bye"
    assert stream.finish() == ["Bye"]
    assert stream.finish() == []


@pytest.mark.parametrize(
    ("before", "after", "given"),
    [
        ("Let me look that up.", " Here it is.", ["Let me look that up."]),
        ("Let me look that up. ", "Here it is.", ["Let me look that up."]),
        ("One. Two!", " Three.", ["One.", "Two!"]),
        ("Really?!", " Yes.", ["Really?!"]),
        ('He said "Stop."', " Then he left.", ['He said "Stop."']),
        ("Hmm...", " Well.", ["Hmm..."]),
        ("**Done.**", " Next.", ["**Done.**"]),
        ("So do I.", " You too?", ["So do I."]),
        ("I said no.", " Never.", ["I said no."]),
        ("It was in 1999. ", "Then it ended.", ["It was in 1999."]),
        ("- 3 eggs\n", "- 2 cups", ["- 3 eggs"]),
        ("Half a sen", "tence.", []),
        ("A comma,", " and more.", []),
        ("Meet me at 3.", "15 p.m. today.", []),
        ("It is 3.", "5 km.", []),
        ("Ask Dr.", " Lee.", []),
        ("Ask Dr. ", "Lee.", []),
        ("It opens at 9 a.m.", " EST.", []),
        ("The U.", "S. team won.", []),
        ("J.", " R. Ito came.", []),
        ("Take vitamin C.", " Then rest.", []),
        ("Acme Inc.", " is here.", []),
        ("In Room No. 4. Or see Fig.", " 5.", ["In Room No. 4."]),
        ("1.", " Wash.", []),
        ("He is 6 ft.", " 2 in. tall.", []),
        ("See [the docs](https://ex.", "org/a. b) now.", []),
        ("So \\(a.", " b\\) is it.", []),
        ("A line of forty characters and a few more\n", "that goes on.", []),
        ("A line of forty characters and a few more\n\n", "Another.", ["A line of forty characters and a few more"]),
        ("<think>It is so.", " Yes.</think>Hi.", []),
        ("", "Hi.", []),
    ],
)
def test_a_finished_sentence_does_not_wait_for_the_next_piece_and_what_may_go_on_does(
    before: str, after: str, given: list[str]
) -> None:
    stream = TextStream()
    said = [*stream.feed(before), *stream.pause()]
    assert said == given
    assert stream.pause() == []
    rest = [*stream.feed(after), *stream.finish()]
    assert [sentence for line in [*said, *rest] for sentence in spoken(line)] == heard((before, after)), "nothing else changes"


def test_what_is_not_spoken_is_not_kept() -> None:
    stream = TextStream()
    stream.feed("Well. <think>")
    for _ in range(1000):
        assert stream.feed("Much. ") == []
        assert len(stream.pending) < 20
    assert [*stream.feed("</thi"), *stream.feed("nk>Hi."), *stream.finish()] == ["Hi."]


TEXTS = [
    "Serves 4\n- 3 eggs\n- 2 cups flour\n\n1. Wash. Twice.\n2. Boil\nDone.Next. Last",
    "<think>Plan. Steps.</think>Hi! Please ask Dr. Kim at 9 a.m. about it, e.g. by phone. Vitamin C. Then rest.",
    "The U.S. team met J. R. Ito on St. Marks Rd. today. It is 3.5 percent; $12.50. See [docs](https://ex.org/a. b)! Ok?",
    "Run:\n```py\nx = 1. # a\n```\nIt's `a. b`, **bold. Yes** \\(a. b\\) $$x. y$$ <br/>ok\n| a | b |\n|-|-|\n| 1 | 2 |\nend 👍!",
    "So-\ncalled line that goes on and on and on for long\nenough. 3 < 5 & x > y. A <b>tag. B</b> C. Who? [1] «Oui.» Non…\nok",
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_pieces_are_spoken_as_the_whole(text: str) -> None:
    whole = spoken(text)
    assert heard(text) == whole  # character by character
    for cut in range(1, len(text)):
        assert heard((text[:cut], text[cut:])) == whole, cut


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_pauses_anywhere_lose_nothing(text: str) -> None:
    def letters(given: Iterable[str]) -> str:
        return "".join(re.findall(r"\w", "".join(given)))

    for cut in range(1, len(text)):
        stream = TextStream()
        given = [*stream.feed(text[:cut]), *stream.pause(), *stream.feed(text[cut:]), *stream.pause(), *stream.finish()]
        assert letters(given) == letters(streamed((text,))), cut


PARTS = st.sampled_from(
    ["Hello", "the", " ", " ", ". ", ".", "! ", "\n", "\n\n", "- ", "1. ", "Dr. ", "J. ", "A", "**", "`", "```\n", "<think>",
     "</think>", "<b>", "$5", "$$", "[a", "](x", ")", "| a |", "5", "...", "😀", "U.S. ", "e.g. ", "https://a.org/b", "\\(",
     "\\)", "# ", "\"", "'", ",", "-", "It", "<!--", "-->"]
)  # fmt: skip


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(PARTS, max_size=14), st.data())
@example(["```\n", "A", "\n", "```\n"], None)
def test_any_text_reads_the_same_in_any_pieces(parts: list[str], data: st.DataObject | None) -> None:
    def words(sentences: list[str]) -> list[list[str]]:
        # Marks that stand alone go with a sentence of a whole text, and with none at the end of a stream.
        return [re.findall(r"\w+", sentence) for sentence in sentences]

    text = "".join(parts)
    whole = words(spoken(text))
    assert words([said for a, b in sentence_spans(text) for said in spoken(text[a:b].strip())]) == whole  # each by itself
    assert words(heard(text)) == whole
    if data is not None and text:
        cuts = sorted(data.draw(st.sets(st.integers(1, len(text)), max_size=4)))
        assert words(heard(text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)]))) == whole
