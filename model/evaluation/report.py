"""What judges found, as a table for a terminal, as JSON, and as one page with the films side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from model.evaluation.judge import Figure

TRUTH = "truth"
"""Name of the source that others' figures are told as shares of."""
JSON_FILE, PAGE_FILE = "figures.json", "index.html"

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 84rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .2rem; }
h2 { font-size: 1rem; font-weight: 500; margin: 2.2rem 0 .6rem; max-width: 60rem; }
.quiet { color: color-mix(in srgb, currentColor 62%, transparent); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .25rem .9rem .25rem 0; text-align: right; white-space: pre; font-variant-numeric: tabular-nums; }
th:first-child { text-align: left; font-weight: 400; }
tr + tr { border-top: 1px solid color-mix(in srgb, currentColor 14%, transparent); }
.films { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: 1.2rem; }
figure { margin: 0; min-width: 0; }
video { width: 100%; border-radius: .5rem; background: #000; }
figcaption { font-size: .85rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 0 .6rem; margin: .3rem 0 0; }
dd { margin: 0; }
"""


@dataclass
class JudgedFilm:
    """A film, and what each judge shows of it."""

    prompt: str
    path: Path
    found: dict[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass
class Column:
    """One source of films in the table, with its figures by name.

    Attributes:
        span_s: of a longer film, which this column is about; then its films are not those of the truth, and nothing is a share.
    """

    name: str
    figures: dict[str, float] = field(default_factory=dict)
    films: list[JudgedFilm] = field(default_factory=list)
    span_s: tuple[float, float] | None = None


@dataclass(frozen=True)
class Report:
    """All of it.

    Attributes:
        figures: lines of the table, in order.
        left_out: judges that did not take part, and what to do about it.
        about: date, command and machine, for the reader.
    """

    figures: Sequence[Figure]
    columns: Sequence[Column]
    left_out: Mapping[str, str]
    about: Mapping[str, Any]

    def rows(self) -> list[list[str]]:
        """Titles and figures as text; the first row names the columns. Lines that nobody has are left out."""
        truth = next((column.figures for column in self.columns if column.name == TRUTH), {})
        rows = [["", *(column.name for column in self.columns)]]
        for figure in self.figures:
            if any(figure.name in column.figures for column in self.columns):
                rows.append([figure.title, *(_told(figure, column, truth) for column in self.columns)])
        return rows

    def table(self) -> str:
        rows = self.rows()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [[row[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(row[1:], widths[1:], strict=True))] for row in rows]
        return "\n".join("  ".join(line).rstrip() for line in lines)

    def write(self, directory: Path) -> None:
        """:data:`JSON_FILE` and :data:`PAGE_FILE`; films have to lie below the directory."""
        told = {
            **self.about,
            "left_out": self.left_out,
            "sources": {
                column.name: {
                    "figures": {name: round(value, 4) for name, value in column.figures.items()},
                    "films": {film.path.name: {"prompt": film.prompt, **film.found} for film in column.films},
                }
                for column in self.columns
            },
        }
        (directory / JSON_FILE).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (directory / PAGE_FILE).write_text(self._page(directory), encoding="utf-8")

    def _page(self, directory: Path) -> str:
        head, *body = self.rows()
        cells = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in head)
        lines = [f"<tr>{cells}</tr>"]
        for title, *told in body:
            cells = "".join(f"<td>{escape(cell)}</td>" for cell in told)
            lines.append(f"<tr><th scope=row>{escape(title)}</th>{cells}</tr>")
        about = "<br>".join(escape(str(value)) for name, value in self.about.items() if name != "machine")
        missing = "".join(f"<li>{escape(name)} {escape(remedy)}</li>" for name, remedy in self.left_out.items())
        prompts = list(dict.fromkeys(film.prompt for column in self.columns for film in column.films))
        return "\n".join(
            (
                "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
                f"<title>Films judged</title><style>{_STYLE}</style>",
                f"<h1>Films judged</h1><p class=quiet>{about}</p>",
                f"<div class=scroll><table>{''.join(lines)}</table></div>",
                f"<p class=quiet>Not judged:</p><ul class=quiet>{missing}</ul>" if missing else "",
                *(self._side_by_side(prompt, directory) for prompt in prompts),
                "</html>",
            )
        )

    def _side_by_side(self, prompt: str, directory: Path) -> str:
        figures = []
        for column in self.columns:
            for film in (film for film in column.films if film.prompt == prompt):
                source = quote(str(film.path.relative_to(directory)))
                if column.span_s is not None:
                    source += "#t={:.1f},{:.1f}".format(*column.span_s)
                found = [(name, value) for shown in film.found.values() for name, value in shown.items()]
                told = "".join(f"<dt class=quiet>{escape(name)}</dt><dd>{escape(_plain(value))}</dd>" for name, value in found)
                figures.append(
                    f"<figure><video controls preload=metadata src='{source}'></video>"
                    f"<figcaption><b>{escape(column.name)}</b><dl>{told}</dl></figcaption></figure>"
                )
        return f"<h2>{escape(prompt)}</h2><div class=films>{''.join(figures)}</div>"


def _told(figure: Figure, column: Column, truth: Mapping[str, float]) -> str:
    value = column.figures.get(figure.name)
    if value is None:
        return ""
    told = format(value, figure.form)
    true = truth.get(figure.name) if column.span_s is None else None
    return f"{told} ({value / true:.0%})" if figure.shared and true and column.name != TRUTH else told


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {inner}" for name, inner in value.items()) or "none"
    return str(value)
