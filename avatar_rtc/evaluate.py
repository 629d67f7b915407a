"""``avatar-rtc evaluate``: films of checkpoints, judged and put side by side."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from avatar_rtc import processor, resources
from model.chunk import StreamSettings
from model.errors import ConfigError, PromptTableError
from model.text.prompt import Prompt, parse_prompt
from model.text.prompt_table import MAPPINGS_FILE, Row, film_name, read_prompts, remember_films

if TYPE_CHECKING:
    from model.evaluation.judge import Figure, Judge
    from model.evaluation.report import Column
    from model.stream import Model

TRUTH, DECODED = "truth", "decoded"
SPEED_FILE = "speed.json"
"""In a source's directory: seconds of each film, those of making it, and GFLOP/s of products in float32 meanwhile."""
LONG_FILE = "long_{minutes:g}_minutes_{seed}.mp4"
END_S = 30.0
"""The beginning and the end of a long film are compared over so long."""
SECONDS_A_LINE = 1.0
"""No line is shorter: so many lines last for a long film."""
RTF, GFLOPS = "rtf", "gflops"


@dataclass(frozen=True)
class Source:
    """Where films come from: a checkpoint, or ``truth`` and ``decoded``, see :mod:`model.evaluation.truth`."""

    name: str
    checkpoint: Path | None


def parse_sources(texts: Sequence[str]) -> list[Source]:
    """
    Args:
        texts: directories, ``NAME=DIRECTORY``, ``truth``, ``decoded``.

    Raises:
        ConfigError: a directory is no checkpoint, or two have one name.
    """
    sources: list[Source] = []
    for text in texts:
        name, equals, place = text.partition("=")
        if text in (TRUTH, DECODED):
            sources.append(Source(text, None))
            continue
        directory = Path(place if equals else text)
        name = name if equals else directory.resolve().name
        if not (directory / "config.yaml").is_file():
            raise ConfigError(f"{directory} is no checkpoint: name a directory with config.yaml and *.safetensors, or truth")
        if name in (TRUTH, DECODED) or not name or Path(name).name != name:
            raise ConfigError(f"{name!r} cannot be the name of a checkpoint: write another one as NAME={directory}")
        sources.append(Source(name, directory))
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two checkpoints are named {name}: write NAME=DIRECTORY to tell them apart")
    if DECODED in names and all(source.checkpoint is None for source in sources):
        raise ConfigError("decoded is the truth through a checkpoint's VAEs: name a checkpoint too")
    return sources


def read_rows(path: Path, num: int | None) -> list[Row]:
    """Prompts of a table, or of a ``video_prompt_mappings.json``; the first ``num``.

    Raises:
        PromptTableError: there are none in it.
    """
    if path.suffix != ".json":
        return read_prompts(path)[:num]
    try:
        mappings = json.loads(path.read_text(encoding="utf-8"))
        prompts = list(dict.fromkeys(mappings.values()))
    except (ValueError, AttributeError):
        prompts = []
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise PromptTableError(f"{path} is no {MAPPINGS_FILE}: it must hold an object of films and their prompts")
    return [Row(line, prompt) for line, prompt in enumerate(prompts, 1)][:num]


def evaluate(options: argparse.Namespace) -> int:
    """Make what is missing, judge everything, and report."""
    from model.evaluation.judge import JUDGES, load_judges
    from model.evaluation.report import JSON_FILE, PAGE_FILE, Report

    if options.list:
        for name, entry in JUDGES.items():
            print(f"{name:10} {entry.summary}" + (f"; {remedy}" if (remedy := entry.missing()) else ""))
        return 0
    sources, rows = parse_sources(options.sources), read_rows(options.prompts, options.num)
    for row in rows:
        parse_prompt(row.prompt)
    if not sources:
        raise ConfigError("name what to evaluate: directories of checkpoints, or truth; --list shows the judges")
    # What cannot judge is found out before hours of films are made.
    left_out = {} if options.judges else {name: remedy for name, e in JUDGES.items() if (remedy := e.missing())}
    judges = load_judges(options.judges.split(",") if options.judges else [name for name in JUDGES if name not in left_out])
    for name, remedy in left_out.items():
        print(f"without the judge {name}: it {remedy}", file=sys.stderr)
    options.output.mkdir(parents=True, exist_ok=True)
    machine = processor.describe(resources.num_cores())
    films = _Films(options.output, sources, rows, options.seed, machine["float32_gflops"])
    longs = films.make(options.minutes)
    columns = list(_judged(films, judges, longs))
    figures: list[Figure] = [figure for judge in judges.values() for figure in judge.figures]
    about = {
        "measured": datetime.date.today().isoformat(),
        "command": " ".join(["avatar-rtc", *sys.argv[1:]]),
        "on": processor.headline(machine),
        "machine": machine,
    }
    report = Report([*figures, *_speed_figures()], columns, left_out, about)
    report.write(options.output)
    print(f"{len(rows)} prompts; {about['on']}\n\n{report.table()}\n\n{options.output / PAGE_FILE}, {options.output / JSON_FILE}")
    return 0


def _speed_figures() -> list[Figure]:
    from model.evaluation.judge import Figure

    return [
        Figure(RTF, "real-time factor, film encoder included", ".2f"),
        Figure(GFLOPS, "  products in float32 then, GFLOP/s", ".0f"),
    ]


class _Films:
    """The films of all sources, below one directory."""

    def __init__(self, directory: Path, sources: Sequence[Source], rows: Sequence[Row], seed: int, gflops: float) -> None:
        self._gflops = gflops
        self.directory, self.sources, self.rows, self._seed = directory, sources, rows, seed
        self.of: dict[str, dict[str, tuple[str, int]]] = {source.name: {} for source in sources}
        """By source, prompt and seed of each file."""

    def make(self, minutes: float | None) -> dict[str, Path]:
        """Whatever is not there yet; long films by source, if there are to be such."""
        from tqdm import tqdm

        from avatar_rtc.batch import is_film

        longs: dict[str, Path] = {}
        # Each row has a seed of its own, or all faces would blink at once.
        numbered = [(row, self._seed + i) for i, row in enumerate(self.rows)]
        with tqdm(total=len(numbered) * len(self.sources), unit="film", disable=not sys.stderr.isatty()) as bar:
            for source in self.sources:
                directory = self.directory / source.name
                directory.mkdir(exist_ok=True)
                maker = self._maker(source)
                for row, seed in numbered:
                    bar.set_postfix_str(source.name)
                    name = film_name(row.prompt, *maker.size, seed)
                    if not is_film(directory / name):
                        maker.make(parse_prompt(row.prompt), seed, directory / name)
                    remember_films(directory, {name: row.prompt})
                    self.of[source.name][name] = (row.prompt, seed)
                    bar.update()
                if minutes is not None and source.checkpoint is not None:
                    longs[source.name] = directory / LONG_FILE.format(minutes=minutes, seed=self._seed)
                    if not is_film(longs[source.name]):
                        bar.set_postfix_str(f"{source.name}: {minutes:g} minutes on end")
                        maker.make(self._long_prompt(minutes), self._seed, longs[source.name], until_s=60 * minutes)
        return longs

    def _long_prompt(self, minutes: float) -> Prompt:
        """As many lines as can be said in that time, of all prompts in turn, by whom the first one asks for."""
        parsed = [parse_prompt(row.prompt) for row in self.rows]
        lines = [line for prompt in parsed for line in prompt.lines]
        return replace(parsed[0], lines=tuple(islice(cycle(lines), math.ceil(60 * minutes / SECONDS_A_LINE))))

    def _maker(self, source: Source) -> _Maker:
        if source.checkpoint is not None:
            return _OfCheckpoint(source.checkpoint, self._gflops)
        return _Drawn(next((s.checkpoint for s in self.sources if s.checkpoint), None) if source.name == DECODED else None)

    def truth_of(self, source: Source, name: str) -> Path | None:
        """The drawn film that a decoded one shows."""
        if source.name != DECODED or TRUTH not in self.of:
            return None
        return self.directory / TRUTH / name


class _Maker(Protocol):
    """Makes films of one source."""

    size: tuple[int, int]

    def make(self, prompt: Prompt, seed: int, path: Path, *, until_s: float = math.inf) -> None:
        """One film; a checkpoint's is cut at ``until_s``."""


class _OfCheckpoint:
    def __init__(self, checkpoint: Path, gflops: float) -> None:
        from model.description import read_description

        geometry = read_description(checkpoint).geometry
        self._gflops = gflops
        self._checkpoint, self.size = checkpoint, (geometry.height_px, geometry.width_px)
        self._model: Model | None = None

    def make(self, prompt: Prompt, seed: int, path: Path, *, until_s: float = math.inf) -> None:
        from avatar_rtc.config import load_config
        from avatar_rtc.generate import generate
        from avatar_rtc.models import load_checkpoint

        if self._model is None:
            self._model = load_checkpoint(self._checkpoint, lambda _: None)
        presets = load_config(resources.server_config("pocket"))
        voices = {voice.id: voice.voice for voice in presets.voices}
        settings = StreamSettings(presets.avatars[0].scene, voices[presets.avatars[0].voice], seed=seed)
        film = generate(self._model, prompt, settings, path, lambda *_: None, until_s=until_s)
        _remember_speed(path, film.duration_s, film.compute_s, self._gflops)


class _Drawn:
    size = (256, 256)

    def __init__(self, checkpoint: Path | None) -> None:
        from model.evaluation.truth import DecodedFilms, DrawnFilms

        self._drawn = DrawnFilms()
        self._decoded = DecodedFilms(checkpoint) if checkpoint is not None else None

    def make(self, prompt: Prompt, seed: int, path: Path, *, until_s: float = math.inf) -> None:
        from avatar_rtc.generate import FilmWriter
        from model.chunk import StreamInfo

        chunk = self._drawn.film(prompt, seed)
        if self._decoded is not None:
            chunk = self._decoded.film(chunk)
        height, width = self.size
        info = StreamInfo("drawn", width, height, chunk.fps, chunk.sample_rate_hz, len(chunk.frames), len(chunk.samples))
        with FilmWriter(path, info) as writer:
            writer.write(chunk)


def _remember_speed(film: Path, film_s: float, work_s: float, gflops: float) -> None:
    path = film.with_name(SPEED_FILE)
    speeds = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**speeds, film.name: [round(film_s, 3), round(work_s, 3), gflops]}, indent=1) + "\n")


def _speed(directory: Path, names: Sequence[str]) -> dict[str, float]:
    """Figures of films that were made here; of some it may not be known."""
    path = directory / SPEED_FILE
    speeds: dict[str, list[float]] = json.loads(path.read_text()) if path.exists() else {}
    known = [speeds[name] for name in names if name in speeds]
    if not known:
        return {}
    film_s, work_s, gflops = (sum(column) for column in zip(*known, strict=True))
    return {RTF: work_s / film_s, GFLOPS: gflops / len(known)}


def _judged(films: _Films, judges: dict[str, Judge], longs: dict[str, Path]) -> Iterator[Column]:
    from tqdm import tqdm

    from model.evaluation.film import Film, read_film
    from model.evaluation.report import Column, JudgedFilm

    def judged(name: str, of: Sequence[tuple[str, Callable[[], Film]]]) -> Column:
        column, found = Column(name), {judge: [] for judge in judges}  # type: ignore[var-annotated]
        for prompt, read in tqdm(of, name, unit="film", disable=not sys.stderr.isatty()):
            film = read()
            shown: dict[str, Any] = {}
            for judge_name, judge in judges.items():
                # A judge that talks to itself must not get into the result.
                with contextlib.redirect_stdout(sys.stderr):
                    finding = judge.one(film)
                if finding is not None:
                    found[judge_name].append(finding)
                    shown[judge_name] = finding.shown
            column.films.append(JudgedFilm(prompt, film.path, shown))
        for judge_name, findings in found.items():
            if findings:
                column.figures |= judges[judge_name].all(findings)
        return column

    for source in films.sources:
        directory = films.directory / source.name

        def reader(name: str, prompt: str, source: Source = source, directory: Path = directory) -> Callable[[], Film]:
            parsed = parse_prompt(prompt)
            if source.checkpoint is None:
                from model.evaluation.truth import as_spoken

                parsed = as_spoken(parsed)
            return lambda: replace(read_film(directory / name, parsed), truth=films.truth_of(source, name))

        column = judged(source.name, [(prompt, reader(name, prompt)) for name, (prompt, _) in films.of[source.name].items()])
        column.figures |= _speed(directory, list(films.of[source.name]))
        yield column
        if source.name in longs:
            path, first = longs[source.name], parse_prompt(films.rows[0].prompt)
            length_s = read_length_s(path)
            for title, start_s in (("first", 0.0), ("last", max(0.0, length_s - END_S))):

                def part(start_s: float = start_s, path: Path = path, first: Prompt = first) -> Film:
                    return read_film(path, first, (start_s, start_s + END_S))

                column = judged(
                    f"{source.name}, {title} {END_S:.0f} s of {length_s / 60:.0f} min", [(films.rows[0].prompt, part)]
                )
                column.span_s = (start_s, min(start_s + END_S, length_s))
                yield column


def read_length_s(path: Path) -> float:
    """Of a film."""
    import av

    with av.open(str(path)) as container:
        return float(container.duration or 0) / av.time_base
