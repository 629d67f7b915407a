"""English captions of a look: templated, varied, and true.

Every phrase belongs to a value of an attribute, so what a caption says can be checked against the look. The lexicon is small and
closed (``vocabulary``): a word-level encoder covers it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from model.data.face import Look
from model.data.speech import VOICES

_PEOPLE = {
    ("female", "young"): ("a young woman", "a woman in her twenties", "a youthful woman", "a young lady"),
    ("female", "middle"): ("a middle-aged woman", "a woman in her forties", "an adult woman", "a woman of middle age"),
    ("female", "older"): ("an older woman", "a woman in her sixties", "an elderly woman", "a senior woman"),
    ("male", "young"): ("a young man", "a man in his twenties", "a youthful man", "a young fellow"),
    ("male", "middle"): ("a middle-aged man", "a man in his forties", "an adult man", "a man of middle age"),
    ("male", "older"): ("an older man", "a man in his sixties", "an elderly man", "a senior man"),
}
_ANY_AGE = {"female": ("a woman", "a lady"), "male": ("a man", "a gentleman")}
_SKIN = {
    "pale": ("very pale skin", "a very light complexion", "porcelain skin"),
    "fair": ("fair skin", "a light complexion", "light skin"),
    "olive": ("olive skin", "an olive complexion", "olive-toned skin"),
    "tan": ("tanned skin", "a tan complexion", "golden tan skin"),
    "brown": ("brown skin", "a brown complexion", "warm brown skin"),
    "dark": ("dark skin", "a deep dark complexion", "very dark skin"),
}
_HAIR_COLOUR = {
    "black": ("black", "jet black", "raven black"),
    "brown": ("dark brown", "deep brown", "brunette"),
    "chestnut": ("chestnut", "chestnut brown", "light brown"),
    "blond": ("blond", "golden", "fair blond"),
    "red": ("red", "ginger", "copper red"),
    "grey": ("grey", "silver", "silvery grey"),
}
# {} takes the colour.
_HAIR_STYLE = {
    "long": ("long straight {} hair", "long {} hair", "straight {} hair that falls past the shoulders"),
    "wavy": ("long wavy {} hair", "wavy {} hair", "{} hair in long waves"),
    "bob": ("a {} bob with bangs", "{} hair in a bob", "bobbed {} hair with a fringe"),
    "bun": ("{} hair in a bun", "{} hair tied up in a bun", "a bun of {} hair"),
    "ponytail": ("{} hair in a ponytail", "a {} ponytail", "{} hair pulled back in a ponytail"),
    "curly": ("curly {} hair", "{} curls", "thick curly {} hair"),
    "short": ("short {} hair", "short neat {} hair", "{} hair cut short"),
    "swept": ("swept-back {} hair", "{} hair swept to the side", "a tall {} quiff"),
    "buzz": ("a {} buzz cut", "very short cropped {} hair", "{} hair shaved short"),
    "bald": ("a bald head", "no hair", "a shaved bald head"),
}
_EYES = {
    "brown": ("brown eyes", "dark brown eyes", "warm brown eyes"),
    "blue": ("blue eyes", "bright blue eyes", "clear blue eyes"),
    "green": ("green eyes", "bright green eyes", "soft green eyes"),
    "grey": ("grey eyes", "cool grey eyes", "soft grey eyes"),
}
_GLASSES = {
    "none": (),
    "round": ("round glasses", "round brown glasses", "thin round spectacles"),
    "square": ("square glasses", "black square glasses", "thick rectangular glasses"),
}
_BEARD = {
    "none": (),
    "stubble": ("stubble", "light stubble", "a stubbly chin"),
    "moustache": ("a moustache", "a neat moustache", "a bushy moustache"),
    "full": ("a full beard", "a beard", "a thick beard"),
}
# {} takes the colour, with its article.
_GARMENT = {
    "t-shirt": ("{} t-shirt", "{} tee", "plain {} t-shirt"),
    "shirt": ("{} shirt", "{} collared shirt", "{} button-up shirt"),
    "sweater": ("{} sweater", "knitted {} sweater", "{} pullover"),
    "blazer": ("{} blazer", "{} jacket", "{} suit jacket"),
    "hoodie": ("{} hoodie", "{} hooded sweatshirt", "casual {} hoodie"),
}
_GARMENT_COLOUR = {
    "blue": ("blue", "navy blue", "denim blue"),
    "red": ("red", "dark red", "crimson"),
    "green": ("green", "forest green", "emerald green"),
    "grey": ("grey", "slate grey", "steel grey"),
    "yellow": ("yellow", "mustard yellow", "golden yellow"),
    "white": ("white", "off-white", "ivory"),
    "purple": ("purple", "violet", "plum"),
    "black": ("black", "charcoal black", "dark black"),
}
_PLACE = {
    "office": ("in an office", "in a modern office", "at the office with shelves and a plant behind"),
    "library": ("in a library", "in front of bookshelves", "in a library full of books"),
    "kitchen": ("in a kitchen", "in a tidy kitchen", "at home in the kitchen"),
    "studio": ("in a studio with colourful neon lights", "in a dark recording studio", "in a studio"),
    "park": ("in a park at dusk", "outdoors in a park at sunset", "in a park with an evening sky behind"),
    "plain light": ("against a plain light background", "in front of a cream wall", "before a plain beige backdrop"),
    "plain blue": ("against a plain blue background", "in front of a blue wall", "before a plain sky blue backdrop"),
    "plain dark": ("against a plain dark background", "in front of a dark grey wall", "before a plain charcoal backdrop"),
}
_LIGHT = {
    "bright": ("in bright light", "in clear daylight", "with bright even lighting"),
    "warm": ("in warm light", "in a warm golden glow", "with warm soft lighting"),
    "cool": ("in cool light", "in a cool bluish light", "with cool soft lighting"),
}
_MOOD = {
    "calm": ("with a calm expression", "looking calm and attentive", "with a relaxed neutral face"),
    "cheerful": ("with a friendly smile", "smiling warmly", "looking cheerful"),
}
_EARRINGS = ("gold earrings", "small golden earrings", "round gold earrings")
_VERBS = ("sits", "is seen", "talks to the camera", "looks at the viewer", "faces the camera", "speaks")
_OPENINGS = ("", "", "", "a portrait of ", "a close-up of ", "a video call with ", "a picture of ")


def caption(look: Look, rng: np.random.Generator, *, keep: float = 0.85) -> str:
    """Describe ``look`` in one or two sentences.

    Args:
        keep: chance that an attribute is named; who is seen (woman or man) and the hair always are.
    """

    def one(phrases: Sequence[str]) -> str:
        return phrases[int(rng.integers(len(phrases)))]

    def named() -> bool:
        return bool(rng.random() < keep)

    person = one(_PEOPLE[look.presentation, look.age] if named() else _ANY_AGE[look.presentation])
    hair = one(_HAIR_STYLE[look.hair_style]).format(one(_HAIR_COLOUR[look.hair_colour]))
    features = [hair]
    if look.beard != "none" and named():
        features.append(one(_BEARD[look.beard]))
    for phrases, chance in ((_SKIN[look.skin], 1.0), (_EYES[look.eye_colour], 0.8)):
        if named() and rng.random() < chance:
            features.append(one(phrases))
    adorned = [one(_GLASSES[look.glasses])] if look.glasses != "none" and named() else []
    if look.earrings and named():
        adorned.append(one(_EARRINGS))
    garment = _with_article(one(_GARMENT[look.garment]).format(one(_GARMENT_COLOUR[look.garment_colour])) if named() else "")
    place = one(_PLACE[look.place]) if named() else ""
    light = one(_LIGHT[look.light]) if named() else ""
    mood = one(_MOOD[look.mood]) if named() else ""
    worn = _listed([*([garment] if garment else []), *adorned])
    if rng.random() < 0.5:
        features += adorned
        worn = garment
    order = rng.permutation(len(features))
    features = [features[k] for k in order] if rng.random() < 0.5 else features
    pronoun = "she" if look.presentation == "female" else "he"
    shape = int(rng.integers(4))
    if shape == 0:
        body = f"{person} with {_listed(features)}"
        body += f", wearing {worn}," if worn else ""
        tail = " ".join(x for x in (one(_VERBS), place, light) if x)
        sentences = [f"{body} {tail}", f"{pronoun} is {mood}" if mood.startswith(("smiling", "looking")) else ""]
        if mood and not sentences[1]:
            sentences[0] += f" {mood}"
    elif shape == 1:
        tail = ", ".join(x for x in (f"wearing {worn}" if worn else "", mood) if x)
        scene = " ".join(x for x in (place, light) if x)
        sentences = [
            one(_OPENINGS)
            + f"{person} with {_listed(features)}"
            + (f", {tail}" if tail else "")
            + (f", {scene}" if scene else "")
        ]
    elif shape == 2:
        scene = " ".join(x for x in (one(_VERBS), place, light) if x)
        sentences = [f"{person} {scene}" + (f", {mood}" if mood else ""), f"{pronoun} has {_listed(features)}"]
        if worn:
            sentences[1] += f" and wears {worn}" if len(features) == 1 else f", and wears {worn}"
    else:
        scene = " ".join(x for x in (place, light) if x)
        head = (scene + ", " if scene else "") + f"{person} {one(_VERBS)}"
        head += f", {mood}" if mood else ""
        sentences = [head, f"{pronoun} has {_listed(features)}", f"{pronoun} wears {worn}" if worn else ""]
    return " ".join(s[0].upper() + s[1:] + "." for s in sentences if s)


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1] if items else ""


def _with_article(phrase: str) -> str:
    if not phrase:
        return ""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def asked(text: str) -> dict[str, str]:
    """What a caption says of a look, by attribute: values as :class:`model.data.face.Look` has them, ``"True"`` for earrings.

    What it does not say, or says in other words than :func:`caption`, is left out.
    """
    found: dict[str, str] = {}
    left = f" {' '.join(words(text))} "
    for phrase, values in _meanings():
        if f" {phrase} " in left and not values.keys() & found.keys():
            left = left.replace(f" {phrase} ", " | ", 1)
            found |= values
    return found


@cache
def _meanings() -> list[tuple[str, dict[str, str]]]:
    """Each phrase as its words, with what it says; the longest first, as it may hold others."""
    meanings: dict[str, dict[str, str]] = {}

    def mean(phrase: str, **values: str) -> None:
        meanings[" ".join(words(phrase))] = values

    for presentation, phrases in _ANY_AGE.items():
        for phrase in phrases:
            mean(phrase, presentation=presentation)
    for (presentation, age), people in _PEOPLE.items():
        for phrase in people:
            mean(phrase, presentation=presentation, age=age)
    for style, styles in _HAIR_STYLE.items():
        for phrase in styles:
            for colour, names in _HAIR_COLOUR.items() if "{}" in phrase else ():
                for name in names:
                    mean(phrase.format(name), hair_style=style, hair_colour=colour)
            if "{}" not in phrase:
                mean(phrase, hair_style=style)
    for garment, garments in _GARMENT.items():
        for phrase in garments:
            for colour, names in _GARMENT_COLOUR.items():
                for name in names:
                    mean(phrase.format(name), garment=garment, garment_colour=colour)
    tables: dict[str, Mapping[str, tuple[str, ...]]] = {
        **{"skin": _SKIN, "eye_colour": _EYES, "glasses": _GLASSES, "beard": _BEARD},
        **{"place": _PLACE, "light": _LIGHT, "mood": _MOOD},
    }
    for attribute, table in tables.items():
        for value, some in table.items():
            for phrase in some:
                mean(phrase, **{attribute: value})
    for phrase in _EARRINGS:
        mean(phrase, earrings="True")
    return sorted(meanings.items(), key=lambda meaning: -len(meaning[0]))


def words(text: str) -> list[str]:
    """The text's words in lower case, punctuation marks apart: what ``vocabulary`` lists."""
    return re.findall(r"[a-z]+(?:[-'][a-z]+)*|[.,]", text.lower())


def vocabulary() -> list[str]:
    """All words that captions and voice descriptions can hold, sorted."""
    tables: tuple[Mapping[str, tuple[str, ...]], ...] = (
        *(_SKIN, _HAIR_COLOUR, _HAIR_STYLE, _EYES, _GLASSES, _BEARD, _GARMENT),
        *(_GARMENT_COLOUR, _PLACE, _LIGHT, _MOOD, _ANY_AGE),
    )
    phrases = [p for table in tables for value in table.values() for p in value]
    phrases += [p for value in _PEOPLE.values() for p in value]
    phrases += [*_EARRINGS, *_VERBS, *_OPENINGS, "with wearing and wears she he has is a an . ,"]
    phrases += [p for voice in VOICES.values() for p in voice.descriptions]
    return sorted({word for phrase in phrases for word in words(phrase)})


@dataclass(frozen=True)
class Preset:
    """A ready-made avatar for the product's page."""

    name: str
    caption: str
    voice: str
    look: Look


PRESETS: tuple[Preset, ...] = (
    Preset(
        "Clara",
        "A young woman with long wavy red hair, fair skin and green eyes, wearing a "
        "green sweater, sits in a library in warm light with a friendly smile.",
        "clara",
        Look(
            "female", "young", "fair", "red", "wavy", "green", "none", "none", "sweater", "green", "library", "warm", "cheerful"
        ),
    ),
    Preset(
        "Adam",
        "A middle-aged man with short black hair, a full beard, brown skin and brown eyes, "
        "wearing a blue blazer, sits in an office in bright light with a friendly smile.",
        "adam",
        Look(
            "male",
            "middle",
            "brown",
            "black",
            "short",
            "brown",
            "none",
            "full",
            "blazer",
            "blue",
            "office",
            "bright",
            "cheerful",
            jaw=1.05,
        ),
    ),
    Preset(
        "Maya",
        "A young woman with curly black hair, dark skin, brown eyes and gold earrings, "
        "wearing a yellow t-shirt, sits in a studio in cool light with a friendly smile.",
        "maya",
        Look(
            "female",
            "young",
            "dark",
            "black",
            "curly",
            "brown",
            "none",
            "none",
            "t-shirt",
            "yellow",
            "studio",
            "cool",
            "cheerful",
            earrings=True,
        ),
    ),
    Preset(
        "Theo",
        "A young man with swept-back chestnut hair, light stubble, fair skin and blue eyes, "
        "wearing a white shirt, sits in a park at dusk in warm light with a friendly smile.",
        "theo",
        Look(
            "male",
            "young",
            "fair",
            "chestnut",
            "swept",
            "blue",
            "none",
            "stubble",
            "shirt",
            "white",
            "park",
            "warm",
            "cheerful",
            jaw=1.05,
        ),
    ),
    Preset(
        "Ines",
        "A middle-aged woman with a dark brown bob with bangs, olive skin, brown eyes and round "
        "glasses, wearing a purple blazer, sits in an office in bright light with a calm expression.",
        "clara",
        Look(
            "female", "middle", "olive", "brown", "bob", "brown", "round", "none", "blazer", "purple", "office", "bright", "calm"
        ),
    ),
    Preset(
        "Walter",
        "An older man with short grey hair, a moustache, pale skin, grey eyes and round "
        "glasses, wearing a red sweater, sits in a library in warm light with a friendly smile.",
        "adam",
        Look(
            "male",
            "older",
            "pale",
            "grey",
            "short",
            "grey",
            "round",
            "moustache",
            "sweater",
            "red",
            "library",
            "warm",
            "cheerful",
            jaw=1.03,
        ),
    ),
    Preset(
        "Nina",
        "A young woman with blond hair in a ponytail, very pale skin, blue eyes and gold "
        "earrings, wearing a blue hoodie, sits in a kitchen in bright light with a friendly smile.",
        "maya",
        Look(
            "female",
            "young",
            "pale",
            "blond",
            "ponytail",
            "blue",
            "none",
            "none",
            "hoodie",
            "blue",
            "kitchen",
            "bright",
            "cheerful",
            earrings=True,
        ),
    ),
    Preset(
        "Omar",
        "A young man with a black buzz cut, tanned skin, brown eyes and square glasses, wearing a "
        "grey t-shirt, sits against a plain blue background in bright light with a calm expression.",
        "theo",
        Look(
            "male",
            "young",
            "tan",
            "black",
            "buzz",
            "brown",
            "square",
            "none",
            "t-shirt",
            "grey",
            "plain blue",
            "bright",
            "calm",
            jaw=1.05,
        ),
    ),
)
