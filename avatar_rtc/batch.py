"""A file of prompts in, a directory of films out.

It may be interrupted and begun again: films that are there are not made twice. Several processes share the work as torchrun
starts them: process r of n takes every n-th prompt, from the r-th on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import av

from avatar_rtc.config import EngineConfig
from avatar_rtc.errors import BatchError
from avatar_rtc.generate import LEAD_CHUNKS, Film, OnProgress, generate
from model.chunk import StreamSettings
from model.errors import PromptError
from model.stream import Model
from model.text.prompt_table import Row, film_name, remember_films


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
    lead_chunks: int = LEAD_CHUNKS,
) -> Outcome:
    """Make our share of the films.

    Args:
        rows: all prompts. One that cannot be said is told and left out; the others are made all the same.
        settings: who says what does not say so itself. Sample k of a prompt has seed ``settings.seed + k``.
        directory: exists.
        on_progress: of the film in work; see :func:`avatar_rtc.generate.generate`.
        on_film: hears in a line what became of each film.
        lead_chunks: see :func:`avatar_rtc.generate.generate`.

    Raises:
        PromptTableError: the list of films that is there cannot be continued.
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
                    film = generate(model, row.prompt, chosen, directory / name, on_progress, lead_chunks=lead_chunks)
                except PromptError as error:
                    outcome.refused.append(f"line {row.line}: {error}")
                    on_film(f"line {row.line} refused: {error}")
                    break
                outcome.made.append(film)
                on_film(f"{name}: {film.duration_s:.1f} s of film in {film.compute_s:.1f} s")
            remember_films(directory, {name: row.prompt})
    return outcome


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
