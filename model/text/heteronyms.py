"""Words of which grammar or sense decides the sound, where the tagger is wrong or has no tag for it.

A rule gives a word another tag. Besides the treebank's there are tags of senses, which the lexicon knows: METAL, MUSIC, CV.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from model.text.lexicon import lexicon


@dataclass(frozen=True)
class Place:
    """A word in its sentence.

    Attributes:
        words: of the sentence, in small letters.
        tags: theirs.
        at: which one it is.
    """

    words: Sequence[str]
    tags: Sequence[str]
    at: int

    @property
    def word(self) -> str:
        return self.words[self.at]

    @property
    def tag(self) -> str:
        return self.tags[self.at]

    def word_at(self, offset: int) -> str:
        """A neighbour, empty beyond the sentence."""
        return self.words[self.at + offset] if 0 <= self.at + offset < len(self.words) else ""

    def tag_at(self, offset: int) -> str:
        return self.tags[self.at + offset] if 0 <= self.at + offset < len(self.tags) else ""

    @property
    def is_last(self) -> bool:
        """Whether no word follows before a pause."""
        return not self.word_at(1)[:1].isalpha()


@dataclass(frozen=True)
class Reading:
    """A rule: where it applies, and the tag that a word gets there.

    Attributes:
        policy: one sentence for readers of docs/text.md.
        words: to which it applies; None: to all that the lexicon reads in several ways.
        examples: sentences and their phonemes.
    """

    policy: str
    words: frozenset[str] | None
    tag: str
    applies: Callable[[Place], bool]
    examples: Mapping[str, str]


READINGS: list[Reading] = []


_Applies = Callable[[Place], bool]


def _reading(words: str | None, tag: str, examples: Mapping[str, str]) -> Callable[[_Applies], _Applies]:
    def add(applies: _Applies) -> _Applies:
        policy = " ".join((applies.__doc__ or "").split())
        READINGS.append(Reading(policy, None if words is None else frozenset(words.split()), tag, applies, examples))
        return applies

    return add


@_reading(None, "VBP", {"I object to that object.": "ˌI əbʤˈɛkt tə ðˈæt ˈɑbʤəkt.", "They object.": "ðˌA əbʤˈɛkt."})
def _after_a_pronoun(p: Place) -> bool:
    """What follows I, you, we or they, and comes before an article, a preposition or a pause, is a verb."""
    return p.tag == "NN" and p.word_at(-1) in ("i", "you", "we", "they") and _has_object_or_none(p)


@_reading(None, "VBZ", {"He objects to it.": "hˌi əbʤˈɛkts tʊ ɪt."})
def _after_he(p: Place) -> bool:
    """So is what ends in s after he, she or it."""
    return p.tag == "NNS" and p.word_at(-1) in ("he", "she", "it") and _has_object_or_none(p)


def _has_object_or_none(p: Place) -> bool:
    return p.is_last or p.tag_at(1) in ("TO", "IN", "DT", "PRP", "PRP$")


@_reading(None, "VB", {"Desert the desert.": "dəzˈɜɹt ðə dˈɛzəɹt.", "Polish the Polish table.": "pˈɑlɪʃ ðə pˈOlɪʃ tˈAbᵊl."})
def _command(p: Place) -> bool:
    """The first word before an article is a verb: a command."""
    has_object = p.tag_at(1) in ("DT", "PRP", "PRP$") and p.word_at(1) not in ("i", "we", "they", "he", "she")
    return p.at == 0 and p.tag[:2] in ("NN", "JJ") and has_object


@_reading("content", "JJ", {"The content made me content.": "ðə kˈɑntɛnt mˌAd mˌi kəntˈɛnt."})
def _made_content(p: Place) -> bool:
    """Who is content, feels so, or is made so."""
    feels = (
        "am is are was were be been feel feels felt seem seems seemed look looks looked quite very so not more 'm 're 's".split()
    )
    makes = "make makes made making keep keeps kept leave leaves left".split()
    is_joined = p.word_at(-1) == "and" and p.tag_at(-2) == "JJ" and p.is_last
    return is_joined or p.word_at(-1) in feels or (p.tag_at(-1) in ("PRP", "NNP", "NN", "NNS") and p.word_at(-2) in makes)


@_reading("invalid", "NN", {"The invalid had an invalid ticket.": "ði ˈɪnvəlɪd hæd ɐn ɪnvˈælɪd tˈɪkət."})
def _person(p: Place) -> bool:
    """An invalid before a verb is a person."""
    return p.tag_at(-1) in ("DT", "PRP$") and p.tag_at(1) in ("VBD", "VBZ", "VBP", "MD") and p.word_at(-1) != "that"


_TINY = frozenset(
    (
        "detail details amount amounts quantity quantities particle particles difference differences trace traces "
        "change changes fraction grains variation variations crack cracks particulars"
    ).split()
)


@_reading("minute", "JJ", {"A minute detail takes a minute.": "ɐ mInˈut dətˈAl tˈAks ɐ mˈɪnət."})
def _tiny(p: Place) -> bool:
    """A minute detail is a tiny one."""
    return p.word_at(1) in _TINY or p.word_at(-1) in ("very", "extremely", "most")


_OF_LEAD = frozenset(
    (
        "pipe pipes paint paints poisoning pencil pencils acid crystal glass shot bullet bullets weight weights "
        "plumbing batteries battery solder apron exposure ore mine mines sheet alloy"
    ).split()
)


@_reading("lead", "METAL", {"The lead pipe is old.": "ðə lˈɛd pˈIp ɪz ˈOld.", "Lead the team.": "lˈid ðə tˈim."})
def _metal(p: Place) -> bool:
    """Pipes, paint, poisoning and the like are of the metal."""
    of_it = p.word_at(-1) == "of" and p.word_at(-2) in "made out pound pounds ton tons piece levels traces lump sheet".split()
    with_others = p.word_at(-1) in ("and", "as") and p.word_at(-2) in "tin zinc copper mercury silver heavy".split()
    is_heavy = p.word_at(1) in ("is", "was") and p.word_at(2) in ("heavy", "toxic", "poisonous", "soft", "dense")
    return p.word_at(1) in _OF_LEAD or of_it or with_others or is_heavy


_FISH = frozenset(
    (
        "fish fishing fished caught catch sea striped lake river pond largemouth smallmouth fillet fillets grilled "
        "fried trout salmon perch bait hook angler anglers freshwater chilean lure spawn"
    ).split()
)


@_reading(
    "bass basses", "MUSIC", {"He plays bass in a band.": "hˌi plˈAz bˈAs ɪn ɐ bˈænd.", "We caught a bass.": "wˌi kˈɔt ɐ bˈæs."}
)
def _music(p: Place) -> bool:
    """Bass is the instrument or the voice, unless there is talk of fish."""
    return not _FISH.intersection(p.words)


@_reading("dove", "VBD", {"He dove into the pool.": "hˌi dˈOv ˈɪntu ðə pˈul.", "The dove dove.": "ðə dˈʌv dˈOv."})
def _dived(p: Place) -> bool:
    """Who dove into something dived."""
    return p.word_at(-1) in ("i", "you", "he", "she", "it", "we", "they", "who", "dove") or p.word_at(1) in (
        "into",
        "headfirst",
        "underwater",
        "deeper",
    )


@_reading("wound", "VBN", {"The bandage was wound around the wound.": "ðə bˈændɪʤ wʌz wˈWnd əɹˈWnd ðə wˈund."})
def _turned(p: Place) -> bool:
    """What was wound was turned."""
    return p.word_at(-1) in ("was", "were", "is", "are", "been", "being", "tightly", "be")


@_reading("bow", "VB", {"Take a bow.": "tˈAk ɐ bˈW."})
def _bend(p: Place) -> bool:
    """Who takes a bow bends."""
    return p.word_at(-1) in ("a", "final", "last") and any(
        p.word_at(-k) in ("take", "takes", "took", "taking", "taken") for k in (2, 3)
    )


@_reading("resume", "CV", {"Send your resume.": "sˈɛnd jʊɹ ɹˈɛzəmˌA.", "We resume the game.": "wˌi ɹəzˈum ðə ɡˈAm."})
def _curriculum_vitae(p: Place) -> bool:
    """A resume that somebody has is a curriculum vitae."""
    return p.tag_at(-1) in ("DT", "PRP$", "JJ", "POS") and p.tag[:2] in ("NN", "VB", "JJ")


@_reading("a", "NN", {"So a plus b is twelve.": "sˌO ˈA plˈʌs bˈi ɪz twˈɛlv."})
def _letter(p: Place) -> bool:
    """The letter a stands before a sign of arithmetic or a pause."""
    signs = "plus minus equals times squared cubed over divided sub".split()
    return p.word_at(1) in signs or p.word_at(1)[:1] in tuple(",;:!?)—")


_NAMED = {word: reading for reading in READINGS for word in reading.words or ()}
_GENERAL = tuple(reading for reading in READINGS if reading.words is None)


def retag(words: Sequence[str], tags: Sequence[str]) -> list[str]:
    """The tags of a sentence, changed where a rule applies."""
    lower = [word.lower() for word in words]
    changed = list(tags)
    for at, word in enumerate(lower):
        place = Place(lower, changed, at)
        if word in _NAMED:
            if _NAMED[word].applies(place):
                changed[at] = _NAMED[word].tag
            continue
        for reading in _GENERAL:
            if reading.applies(place) and (lexicon().has_verb(words[at]) or lexicon().has_verb(words[at].removesuffix("s"))):
                changed[at] = reading.tag
    return changed
