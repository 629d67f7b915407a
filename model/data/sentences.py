"""English sentences to speak: WordNet's usage examples and our own templates.

WordNet 3.0 (Princeton licence, free for any use) gives every-day vocabulary in natural syntax. The templates add what an
assistant says all day and dictionaries lack: greetings, questions, numbers, dates, names, one-word answers.

A sentence is *held out* when a hash of its words says so. The split does not depend on order, file or seed, so that no later
corpus can leak a sentence that was once judged.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from pathlib import Path

WORDNET_DIR = Path("/usr/share/wordnet")
"""Where Debian's package ``wordnet-base`` puts the dictionary."""

_QUOTED = re.compile(r'"([^"]+)"')
_CLEAN = re.compile(r"[A-Za-z][A-Za-z ,.'?!-]*")


def is_held_out(sentence: str) -> bool:
    """Whether training must never see this sentence: one in forty, chosen by its words alone."""
    words = " ".join(re.findall(r"[a-z']+", sentence.lower()))
    return hashlib.sha1(words.encode()).digest()[0] < 7


def wordnet_sentences(directory: Path = WORDNET_DIR, *, min_words: int = 4, max_words: int = 14) -> list[str]:
    """Usage examples from WordNet's data files, capitalised and closed with a full stop.

    Raises:
        FileNotFoundError: the dictionary is not there (``apt-get install wordnet-base``).
    """
    seen: dict[str, None] = {}
    for part in ("noun", "verb", "adj", "adv"):
        path = directory / f"data.{part}"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: install Debian's wordnet-base, or name its directory")
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            _, bar, gloss = line.partition("|")
            if not bar:
                continue
            for example in _QUOTED.findall(gloss):
                text = example.strip().strip(",;- ")
                if _CLEAN.fullmatch(text) and min_words <= len(text.split()) <= max_words:
                    text = text[0].upper() + text[1:]
                    seen[text if text[-1] in ".?!" else text + "."] = None
    return list(seen)


_NAMES = (
    "Anna James Maria David Priya Chen Fatima Lucas Emma Noah Olivia Sofia Peter Hannah Oscar Ruth Samuel Grace Leo Nina "
    "Thomas Julia Victor Alice Robert Diana Henry Clara Simon Laura Marcus Irene Walter Stella"
).split()
_CITIES = "London Paris Berlin Tokyo Boston Chicago Madrid Sydney Toronto Dublin Vienna Oslo Denver Seattle Lisbon Rome".split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_MONTHS = "January February March April May June July August September October November December".split()
_THINGS = (
    "the report/the new design/your order/the meeting/this question/the train/the weather/your account/the recipe/the garden/"
    "the kitchen/that song/the museum/the river/a cup of tea/the contract/the keyboard/our holiday/the bridge/the library"
).split("/")
_ADJECTIVES = (
    "lovely useful difficult simple quiet busy strange wonderful careful clear early warm gentle bright serious funny".split()
)
_VERBS = "look at/talk about/work on/think about/finish/understand/find/remember/check/change/share/improve".split("/")
_TEMPLATES = (
    "Hello, nice to meet you.|Hello {name}, how are you today?|Good morning, {name}.|Good evening, and welcome to {city}.|Hi there!|"
    "My name is {name}, and I live in {city}.|Nice to see you again, {name}.|How can I help you today?|What would you like to know?|"
    "Thank you very much.|You are welcome.|Of course.|Yes.|No.|Maybe later.|Sure, no problem.|I am sorry, I did not hear that.|"
    "Could you say that again, please?|Let me {verb} {thing} for you.|I think {thing} is {adj}.|Is {thing} {adj} enough?|"
    "We can {verb} {thing} on {day}.|Please {verb} {thing} before {day}.|The meeting starts at {hour} {minute}.|"
    "It is {hour} o'clock in {city}.|The appointment is on {month} {ordinal}.|That costs {number} dollars.|"
    "There are {number} people waiting.|Take the number {number} bus to {city}.|She was born in {year}.|In {year} we moved to {city}.|"
    "{name} and {name2} want to {verb} {thing}.|Why did {name} {verb} {thing}?|When will {thing} be ready?|Where is {thing}?|"
    "I would love to {verb} {thing} with you.|That is a {adj} idea, {name}.|What a {adj} day!|Everything is {adj} and {adj2}.|"
    "First we {verb} {thing}, then we {verb2} {thing2}.|If you like, we can {verb} {thing} together.|"
    "Tomorrow will be {adj} with about {number} degrees in {city}.|Do you remember {thing}?|I have {number} questions about {thing}.|"
    "Great, let us begin.|One moment, please.|Goodbye, {name}, see you on {day}.|Have a {adj} weekend!|Take care.|"
    "The answer is {number}.|It takes about {number} minutes to get to {city}.|I am here whenever you need me.|"
    "Can you tell me more about {thing}?|That sounds {adj}.|I am not sure, but I can {verb} {thing}.|Just a second.|Really?|Exactly!|"
    "{name}, could you please {verb} {thing} when you come back from {city}?|It was {adj} at first, but {thing} made it {adj2}.|"
    "We should {verb} {thing}, because it is too {adj}.|Okay, tell me what happened.|I feel {adj} about {thing}.|Well, that depends."
).split("|")
_UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
_ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth "
    "seventeenth eighteenth nineteenth twentieth"
).split()


def _number_words(n: int) -> str:
    if n < 20:
        return _UNITS[n]
    if n < 100:
        return _TENS[n // 10] + ("" if n % 10 == 0 else "-" + _UNITS[n % 10])
    return _UNITS[n // 100] + " hundred" + ("" if n % 100 == 0 else " and " + _number_words(n % 100))


def conversation_sentences(seed: int) -> Iterator[str]:
    """An endless, seeded stream of assistant talk, written out in words."""
    rng = random.Random(seed)
    while True:
        yield rng.choice(_TEMPLATES).format(
            name=rng.choice(_NAMES),
            name2=rng.choice(_NAMES),
            city=rng.choice(_CITIES),
            day=rng.choice(_DAYS),
            month=rng.choice(_MONTHS),
            ordinal=rng.choice(_ORDINALS),
            thing=rng.choice(_THINGS),
            thing2=rng.choice(_THINGS),
            verb=rng.choice(_VERBS),
            verb2=rng.choice(_VERBS),
            adj=rng.choice(_ADJECTIVES),
            adj2=rng.choice(_ADJECTIVES),
            hour=_UNITS[rng.randint(1, 12)],
            minute=_number_words(rng.choice((10, 15, 20, 30, 40, 45, 50))),
            number=_number_words(rng.choice((rng.randint(2, 20), rng.randint(21, 99), rng.randint(100, 999)))),
            year=f"nineteen {_number_words(rng.randint(20, 99))}",
        )


def training_sentences(count: int, seed: int, *, conversation_share: float = 0.3, directory: Path = WORDNET_DIR) -> list[str]:
    """``count`` sentences for training, no held-out one among them, shuffled by ``seed``."""
    rng = random.Random(seed)
    wordnet = [s for s in wordnet_sentences(directory) if not is_held_out(s)]
    rng.shuffle(wordnet)
    num_conversation = max(int(count * conversation_share), count - len(wordnet))
    talk = (s for s in conversation_sentences(seed) if not is_held_out(s))
    chosen = wordnet[: count - num_conversation] + [next(talk) for _ in range(num_conversation)]
    rng.shuffle(chosen)
    return chosen


def held_out_sentences(directory: Path = WORDNET_DIR) -> list[str]:
    """WordNet's held-out sentences, for judges only."""
    return [s for s in wordnet_sentences(directory) if is_held_out(s)]
