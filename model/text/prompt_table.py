"""Tables of prompts, and the published names of the films that are made of them."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import PromptTableError

PROMPT_COLUMN = "text_prompt"
MAPPINGS_FILE = "video_prompt_mappings.json"
NAME_CHARS = 42
"""So much of a prompt is in the name of its film."""


@dataclass(frozen=True)
class Row:
    """A prompt, and the line of its file on which it ends, for messages."""

    line: int
    prompt: str


def read_prompts(path: Path) -> list[Row]:
    """The prompts of a CSV or TSV file, each once.

    Raises:
        PromptTableError: no table with a column ``text_prompt`` and prompts in it.
        OSError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptTableError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from None
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    table = csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter, strict=True)
    rows: dict[str, Row] = {}
    try:
        if PROMPT_COLUMN not in (table.fieldnames or ()):
            raise PromptTableError(
                f"{path} has no column {PROMPT_COLUMN!r}, only {', '.join(table.fieldnames or ()) or 'nothing'}: "
                f"its first line must be {PROMPT_COLUMN}, or names with {PROMPT_COLUMN} among them"
            )
        for cells in table:
            if None in cells:
                raise PromptTableError(
                    f"{path}, line {table.line_num}: more cells than columns. Put the prompt in double quotes."
                )
            prompt = cells[PROMPT_COLUMN] or ""
            rows.setdefault(prompt, Row(table.line_num, prompt))
    except csv.Error as error:
        raise PromptTableError(
            f"{path}, line {table.line_num}: {error}. Put each prompt in double quotes, those inside doubled."
        ) from None
    if not rows:
        raise PromptTableError(f"{path} holds no prompt")
    return list(rows.values())


def film_name(prompt: str, height_px: int, width_px: int, seed: int) -> str:
    """The published name of a film: tags stripped, blanks and slashes replaced, cut, and a digest that keeps it apart."""
    words = re.sub(r"[\s/]", "_", re.sub(r"<.*?>", "", prompt))[:NAME_CHARS]
    digest = hashlib.md5(prompt.encode(), usedforsecurity=False).hexdigest()[:8]
    return f"{words}_{digest}_{height_px}x{width_px}_{seed}.mp4"


def remember_films(directory: Path, films: dict[str, str]) -> None:
    """Put films into the directory's list of them and their prompts, which other processes write to as well.

    Raises:
        PromptTableError: the list that is there cannot be continued.
    """
    path = directory / MAPPINGS_FILE
    with _locked(path) as mappings:
        if any(mappings.get(name) != prompt for name, prompt in films.items()):
            mappings.update(films)
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
            raise PromptTableError(f"{path} is damaged: remove it and begin again, films that are there are listed anew")
        yield mappings
