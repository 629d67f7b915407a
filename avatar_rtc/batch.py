"""A file of prompts in, a directory of films out.

It may be interrupted and begun again: films that are there are not made twice. Several processes share the work as torchrun
starts them: process r of n takes every n-th prompt, from the r-th on.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av

from avatar_rtc.config import EngineConfig
from avatar_rtc.errors import BatchError
from avatar_rtc.generate import LEAD_BLOCKS, Film, OnProgress, generate
from model.chunk import StreamSettings
from model.errors import PromptError
from model.stream import Model

PROMPT_COLUMN = "text_prompt"
MAPPINGS_FILE = "video_prompt_mappings.json"
NAME_CHARS = 42
"""So much of a prompt is in the name of its film."""


@dataclass(frozen=True)
class Row:
    """A prompt, and the line of its file on which it ends, for messages."""

    line: int
    prompt: str


@dataclass(frozen=True)
class Share:
    """Which part of the work is ours: that of process ``rank`` of ``world``."""

    rank: int = 0
    world: int = 1

    @staticmethod
    def of_environment(environment: Mapping[str, str]) -> Share:
        """As torchrun says it, in RANK and WORLD_SIZE; all of it where nothing is said.

        Raises:
            BatchError: the two make no sense.
        """
        text = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
        if not all(value.isdecimal() for value in text) or not 0 <= int(text[0]) < int(text[1]):
            raise BatchError(
                f"RANK is {text[0]!r} and WORLD_SIZE {text[1]!r}: start with torchrun, or with RANK below WORLD_SIZE, from 0"
            )
        return Share(int(text[0]), int(text[1]))


@dataclass
class Outcome:
    """What became of our share of the films."""

    made: list[Film] = field(default_factory=list)
    num_there: int = 0
    refused: list[str] = field(default_factory=list)

    def summary(self) -> str:
        film_s, work_s = (sum(getattr(film, name) for film in self.made) for name in ("duration_s", "compute_s"))
        figures = f" ({film_s:.1f} s of film in {work_s:.1f} s, real-time factor {work_s / film_s:.2f})" if film_s else ""
        prompts = "prompt" if len(self.refused) == 1 else "prompts"
        return f"{len(self.made)} made{figures}, {self.num_there} already there, {len(self.refused)} {prompts} refused"


def read_prompts(path: Path) -> list[Row]:
    """The prompts of a CSV or TSV file, each once.

    Raises:
        BatchError: no table with a column ``text_prompt`` and prompts in it.
        OSError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BatchError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from None
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    table = csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter, strict=True)
    rows: dict[str, Row] = {}
    try:
        if PROMPT_COLUMN not in (table.fieldnames or ()):
            raise BatchError(
                f"{path} has no column {PROMPT_COLUMN!r}, only {', '.join(table.fieldnames or ()) or 'nothing'}: "
                f"its first line must be {PROMPT_COLUMN}, or names with {PROMPT_COLUMN} among them"
            )
        for cells in table:
            if None in cells:
                raise BatchError(f"{path}, line {table.line_num}: more cells than columns. Put the prompt in double quotes.")
            prompt = cells[PROMPT_COLUMN] or ""
            rows.setdefault(prompt, Row(table.line_num, prompt))
    except csv.Error as error:
        raise BatchError(
            f"{path}, line {table.line_num}: {error}. Put each prompt in double quotes, those inside doubled."
        ) from None
    if not rows:
        raise BatchError(f"{path} holds no prompt")
    return list(rows.values())


def film_name(prompt: str, height_px: int, width_px: int, seed: int) -> str:
    """The published name of a film: tags stripped, blanks and slashes replaced, cut, and a digest that keeps it apart."""
    words = re.sub(r"[\s/]", "_", re.sub(r"<.*?>", "", prompt))[:NAME_CHARS]
    digest = hashlib.md5(prompt.encode(), usedforsecurity=False).hexdigest()[:8]
    return f"{words}_{digest}_{height_px}x{width_px}_{seed}.mp4"


def is_film(path: Path) -> bool:
    """Whether a whole film is there: both tracks, with a length, up to their end."""
    try:
        if not _has_all_boxes(path):
            return False
        with av.open(str(path)) as film:
            return all(any(stream.duration for stream in kind) for kind in (film.streams.video, film.streams.audio))
    except (OSError, av.FFmpegError):
        return False


def _has_all_boxes(path: Path) -> bool:
    """Whether the boxes of an MP4 file (ISO/IEC 14496-12) end where the file does. The index, in front, says nothing of that."""
    end = path.stat().st_size
    at = 0
    with path.open("rb") as film:
        while at < end:
            film.seek(at)
            head = film.read(16)
            size = int.from_bytes(head[:4], "big")
            size = int.from_bytes(head[8:], "big") if size == 1 else size
            if size < 8:
                return False
            at += size
    return at == end > 0


def generate_all(
    model: Model,
    rows: Sequence[Row],
    settings: StreamSettings,
    directory: Path,
    num_samples: int,
    share: Share,
    on_progress: OnProgress,
    on_film: Callable[[str], None],
    *,
    lead_blocks: int = LEAD_BLOCKS,
) -> Outcome:
    """Make our share of the films.

    Args:
        rows: all prompts. One that cannot be said is told and left out; the others are made all the same.
        settings: who says what does not say so itself. Sample k of a prompt has seed ``settings.seed + k``.
        directory: exists.
        on_progress: of the film in work; see :func:`avatar_rtc.generate.generate`.
        on_film: hears in a line what became of each film.
        lead_blocks: see :func:`avatar_rtc.generate.generate`.

    Raises:
        BatchError: the list of films that is there cannot be continued.
        OSError: a film cannot be written.
    """
    outcome = Outcome()
    for row in rows[share.rank :: share.world]:
        for seed in range(settings.seed, settings.seed + num_samples):
            name = film_name(row.prompt, model.info.height_px, model.info.width_px, seed)
            if is_film(directory / name):
                outcome.num_there += 1
                on_film(f"{name}: is there")
            else:
                try:
                    chosen = replace(settings, seed=seed)
                    film = generate(model, row.prompt, chosen, directory / name, on_progress, lead_blocks=lead_blocks)
                except PromptError as error:
                    outcome.refused.append(f"line {row.line}: {error}")
                    on_film(f"line {row.line} refused: {error}")
                    break
                outcome.made.append(film)
                on_film(f"{name}: {film.duration_s:.1f} s of film in {film.compute_s:.1f} s")
            _remember(directory, name, row.prompt)
    return outcome


def _remember(directory: Path, name: str, prompt: str) -> None:
    """Put a film into the directory's list, which other processes write to as well."""
    path = directory / MAPPINGS_FILE
    with _locked(path) as mappings:
        if mappings.get(name) != prompt:
            mappings[name] = prompt
            unfinished = path.with_name(f".{path.name}.part")
            unfinished.write_text(json.dumps(mappings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            unfinished.replace(path)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[dict[str, Any]]:
    """What the list holds, for as long as nobody else may write it."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            mappings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except ValueError:
            mappings = None
        if not isinstance(mappings, dict):
            raise BatchError(f"{path} is damaged: remove it and begin again, films that are there are listed anew")
        yield mappings


def on_our_gpu(engine: EngineConfig) -> EngineConfig:
    """Under torchrun, compute on the GPU that is ours as it counts processes of a machine; else as the config says."""
    rank = os.environ.get("LOCAL_RANK", "")
    if not rank.isdecimal():
        return engine
    import torch

    if not torch.cuda.is_available():
        return engine
    number = int(rank) % torch.cuda.device_count()
    torch.cuda.set_device(number)
    if engine.hallo_live is None:
        return engine
    return engine.model_copy(update={"hallo_live": engine.hallo_live.model_copy(update={"devices": (f"cuda:{number}",)})})
