"""Real text, as people type it, against what must be heard."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.errors import UnspeakableTextError
from model.text.g2p import MAX_PHONEMES, NO_WORD, Sentence, pronounce
from model.text.lexicon import Following, Onset, lexicon
from model.text.phonemes import IDS, PUNCTUATION, phoneme_ids
from model.text.spelling import spelling_reader


def heard(text: str) -> str:
    return " ".join(sentence.phonemes for sentence in pronounce(text))


def captions(text: str) -> list[str]:
    return [word.text for sentence in pronounce(text) for word in sentence.words]


def check_consistent(sentence: Sentence) -> None:
    assert 0 < len(sentence.phonemes) <= MAX_PHONEMES
    assert sentence.phonemes == sentence.phonemes.strip()
    assert len(phoneme_ids(sentence.phonemes)) == len(sentence.phonemes) == len(sentence.word_index)
    owners = [i for i in sentence.word_index if i != NO_WORD]
    assert owners == sorted(owners)
    assert set(owners) == set(range(len(sentence.words)))
    for phoneme, owner in zip(sentence.phonemes, sentence.word_index, strict=True):
        assert (owner == NO_WORD) == (phoneme == " " or phoneme in PUNCTUATION)
    for i, word in enumerate(sentence.words):
        first = sentence.word_index.index(i)
        assert sentence.phonemes[first : first + len(word.phonemes)] == word.phonemes


@pytest.mark.parametrize(
    ("text", "phonemes"),
    [
        ("Hello there.", "həlˈO ðˈɛɹ."),
        ("The apple, the tree.", "ði ˈæpᵊl, ðə tɹˈi."),
        ("I want to eat and to go to.", "ˌI wˈɑnt tʊ ˈit ænd tə ɡˌO tu."),
        ("It is a B.", "ˌɪt ɪz ɐ bˈi."),
        ("Come in.", "kˈʌm ˈɪn."),
        ("He used to use it.", "hˌi jˈust tə jˈuz ɪt."),
        # heteronyms
        ("I read it yesterday.", "ˌI ɹˈɛd ɪt jˈɛstəɹdˌA."),
        ("I will read it.", "ˌI wɪl ɹˈid ɪt."),
        ("They live for live music.", "ðˌA lˈɪv fɔɹ lˈIv mjˈuzɪk."),
        ("Record a record.", "ɹəkˈɔɹd ɐ ɹˈɛkəɹd."),
        ("The wind will wind.", "ðə wˈɪnd wɪl wˈInd."),
        # contractions and possessives
        ("I'm sure you don't.", "ˌIm ʃˈʊɹ ju dˈOnt."),
        ("The parents' minds", "ðə pˈɛɹᵊnts mˈIndz"),
        ("I'd've", "ˌIdəv"),
        # compounds and letters
        ("state-of-the-art", "stˈAtʌvðiˈɑɹt"),
        ("NASA, FBI, U.S.", "nˈæsə, ˌɛfbˌiˈI, jˌuˈɛs."),
        ("my iPhone and GitHub", "mI ˈIfˌOn ænd ɡˈɪthˌʌb"),
        ("shout HELLO", "ʃˈWt həlˈO"),
        # marks
        ("No way -- really?", "nˈO wˈA — ɹˈiᵊli?"),
        ('She said "yes" (twice).', "ʃˌi sˈɛd “jˈɛs” (twˈIs)."),
        ("'hello' and 'tis", "“həlˈO” ænd tˈɪz"),
        ("café ＡＢＣ ﬁne", "kæfˈA ˌAbˌisˈi fˈIn"),
    ],
)
def test_sound(text: str, phonemes: str) -> None:
    assert heard(text) == phonemes


@pytest.mark.parametrize(
    ("typed", "spoken"),
    [
        ("$5", "five dollars"),
        ("$5.99", "five dollars and ninety nine cents"),
        ("$0.50", "fifty cents"),
        ("-$20", "minus twenty dollars"),
        ("£1", "one pound"),
        ("20 USD", "twenty dollars"),
        ("$3.2 billion", "three point two billion dollars"),
        ("$5M", "five million dollars"),
        ("9:30 am", "nine thirty A.M"),
        ("10:05pm", "ten oh five P.M"),
        ("5:00", "five o'clock"),
        ("14:00", "fourteen hundred"),
        ("10/12/2019", "October twelfth, twenty nineteen"),
        ("2019-10-12", "October twelfth, twenty nineteen"),
        ("March 3, 2024", "March third, twenty twenty four"),
        ("Jan. 5th", "January fifth"),
        ("3 March", "the third of March"),
        ("in 1905 and 2005", "in nineteen oh five and two thousand five"),
        ("the 1990s and '80s", "the nineteen nineties and eighties"),
        ("1,234", "one thousand two hundred thirty four"),
        ("1234567", "one million two hundred thirty four thousand five hundred sixty seven"),
        ("3.14", "three point one four"),
        ("-5", "minus five"),
        ("007", "zero zero seven"),
        ("1st, 22nd and 100th", "first, twenty second and one hundredth"),
        ("1/2 or 3/4", "one half or three quarters"),
        ("2 1/2 cups", "two and a half cups"),
        ("50%", "fifty percent"),
        ("5-7 days", "five to seven days"),
        ("5km", "five kilometers"),
        ("1 km", "one kilometer"),
        ("20°C", "twenty degrees Celsius"),
        ("100 km/h", "one hundred kilometers per hour"),
        ("6 ft", "six feet"),
        ("5 in the garden", "five in the garden"),
        ("555-1234", "five five five, one two three four"),
        ("(555) 123-4567", "five five five, one two three, four five six seven"),
        ("Dr. Smith", "Doctor Smith"),
        ("St. Louis", "Saint Louis"),
        ("Main St.", "Main Street."),
        ("e.g. this", "for example this"),
        ("Henry VIII", "Henry the eighth"),
        ("World War II", "World War two"),
        ("2+2=4", "two plus two equals four"),
        ("R&D", "R and D"),
        ("and/or", "and or"),
        ("24/7", "twenty four seven"),
        ("5 x 3", "five by three"),
        ("https://example.com/docs", "example dot com slash docs"),
        ("bob@example.org", "bob at example dot org"),
        ("#Happy", "hashtag Happy"),
        ("#1", "number one"),
        ("version 2.0.1", "version two point zero point one"),
        ("B2B", "B two B"),
        ("room 12B", "room twelve B"),
        ("a 4K TV for 10k", "a four K TV for ten thousand"),
        ("**bold** and _italic_", "bold and italic"),
        ("[a link](https://x.org)", "a link"),
        ("`code`", "code"),
        ("π", "pi"),
    ],
)
def test_writing_is_read_as_words(typed: str, spoken: str) -> None:
    assert heard(typed).rstrip(".") == heard(spoken).rstrip(".")


@pytest.mark.parametrize(
    "text", ["It costs $5, on March 3, 2024!", "Hello 😀 world 👍🏽!", "- one\n- two — three 😀", "I'm 25-years-old."]
)
def test_captions_show_what_was_typed(text: str) -> None:
    assert " ".join(captions(text)).split() == text.split()


def test_how_words_are_read_is_told_where_that_is_not_as_they_are_written() -> None:
    words = [
        word
        for sentence in pronounce("Dr. Lee's well-known 1st NASA talk, at 9:45 p.m. on March 3rd: 20%!")
        for word in sentence.words
    ]
    assert {word.text: word.spoken for word in words if word.spoken} == {
        "Dr.": "Doctor",
        "1st": "first",
        "9:45 p.m.": "nine forty five P M",
        "March 3rd:": "March third",
        "20%!": "twenty percent",
    }


def test_words_read_together_are_one_caption() -> None:
    assert captions("On March 3, 2024 I paid $3.2 billion.") == ["On", "March 3, 2024", "I", "paid", "$3.2 billion."]


def test_each_phoneme_belongs_to_a_word() -> None:
    (sentence,) = pronounce("Pay $5, Bob.")
    assert [(w.text, w.phonemes) for w in sentence.words] == [("Pay", "pˈA"), ("$5,", "fˈIv dˈɑləɹz"), ("Bob.", "bˈɑb")]
    assert [w.spoken for w in sentence.words] == ["", "five dollars", ""]
    assert sentence.word_index == (0, 0, 0, -1, 1, 1, 1, 1, -1, 1, 1, 1, 1, 1, 1, 1, -1, -1, 2, 2, 2, 2, -1)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three?", 3),
        ("Mr. Brown met J. K. Rowling.", 1),
        ("I am at 5 p.m. here, e.g. now", 1),
        ('"Is it?" he said.', 1),
        ("In the U.N. (and not here).", 1),
        ("one\ntwo\n\nthree", 3),
        ("Come on Jan. 5 and ask for no. 7.", 1),
    ],
)
def test_sentences(text: str, count: int) -> None:
    assert len(pronounce(text)) == count


def test_a_long_sentence_is_cut_at_a_clause_and_nothing_is_lost() -> None:
    text = "We went to the market, where we bought some apples, " * 8 + "and then we went home."
    sentences = pronounce(text)
    assert len(sentences) > 1
    assert all(s.phonemes.endswith((",", ".")) for s in sentences)
    assert captions(text) == text.split()


def test_a_word_that_is_too_long_is_cut_and_captioned_once() -> None:
    text = "9" * 200
    assert captions(text)[0] == text
    assert set(captions(text)[1:]) == {""}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Hello мир, friend", "Cyrillic"),
        ("你好 there", "Chinese"),
        ("مرحبا", "Arabic"),
        ("say שלום", "Hebrew"),
        ("λόγος", "Greek"),
        ("ありがとう", "Japanese"),
    ],
)
def test_other_scripts_are_named_with_the_word(text: str, name: str) -> None:
    with pytest.raises(UnspeakableTextError, match=name) as caught:
        pronounce(text)
    offending = next(w for w in text.split() if not w.isascii())
    assert offending in str(caught.value)


@pytest.mark.parametrize("text", ["", "   ", "😀😀", "...", "?!", "\n\n", "---", "\u200b", "( )"])
def test_nothing_to_speak(text: str) -> None:
    with pytest.raises(UnspeakableTextError, match="nothing to speak"):
        pronounce(text)


def test_unknown_words_are_read_by_their_letters() -> None:
    for word, phonemes in {"blorp": "blˈɔɹp", "zent": "zˈɛnt", "frindle": "fɹˈɪndᵊl"}.items():
        assert word not in lexicon()
        assert spelling_reader().read(word) == phonemes
    assert heard("xkcd") == "ˌɛkskˌAsˌidˈi"
    assert heard("Blorp's") == "blˈɔɹps"


def test_names_that_the_lexicon_lacks() -> None:
    assert heard("Simon and Olivia love Google") == "sˈImən ænd əlˈɪviə lˈʌv ɡˈuɡᵊl"


def test_every_entry_is_in_the_alphabet() -> None:
    for word, phonemes in lexicon().readings():
        assert set(phonemes) - set("ɾʔ") <= set(IDS), word


def test_weak_words_depend_on_what_follows() -> None:
    read = lexicon().read
    assert [read("the", "DT", Following(onset)) for onset in (Onset.VOWEL, Onset.CONSONANT)] == ["ði", "ðə"]
    assert [read("to", "TO", Following(onset)) for onset in Onset] == ["tʊ", "tə", "tu"]


@pytest.mark.parametrize(
    "text",
    [
        "word " * 20_000,
        "blorp" * 20_000,
        "a." * 50_000,
        "[" * 99_000 + "yes",
        "vs. " * 25_000,
        *(
            pytest.param(text, marks=pytest.mark.slow)
            for text in ("1" * 100_000, "a-" * 50_000, "'" * 99_999 + "a", "x@" * 50_000)
        ),
    ],
    ids=lambda text: text[:5],
)
def test_100_kb_are_read_in_bounded_time(text: str) -> None:
    start = time.process_time()
    for sentence in pronounce(text):
        check_consistent(sentence)
    assert time.process_time() - start < 30  # seconds, and no more than a few on an idle machine


WRITING = st.text(
    st.sampled_from("abcdeiIAMxyz 0123456789 .,:;!?'\"-—/$%&@#()[]*_\n°€+=<>~^|`…’“”é😀²½\u200d\u0301"), max_size=60
)


@settings(max_examples=300)
@given(st.one_of(st.text(max_size=60), WRITING))
@example("ﷺ")
@example("Ⅷ ① ㎏ ™ 𝒜 ᵃ ª")
@example("'")
@example("a\u0300.b'c-'d")
@example("5 in.")
@example("1/0 0/0 99/99/99 25:61")
def test_any_text_is_spoken_or_refused(text: str) -> None:
    try:
        sentences = pronounce(text)
    except UnspeakableTextError:
        return
    assert sentences
    for sentence in sentences:
        check_consistent(sentence)


@settings(max_examples=100)
@given(
    st.lists(
        st.sampled_from(
            ["Hello", "$5", "3", "March", "2024", "9:30", "am", "Dr.", "Smith", "😀", "-", "don't", "5", "km", "U.S.", "—"]
        ),
        min_size=1,
    ).map(" ".join)
)
def test_no_typed_word_is_lost_or_doubled(text: str) -> None:
    try:
        assert " ".join(captions(text)).split() == text.split()
    except UnspeakableTextError:
        assert not any(c.isalnum() for c in text)
