"""What a run tells of itself: lines of JSON, a page of curves made of them, and TensorBoard where it is installed."""

from __future__ import annotations

import html
import json
import math
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LINES = "journal.jsonl"
PAGE = "curves.html"
MAX_POINTS = 400
"""Of a curve; more are averaged."""


class Journal:
    """Of one run, written by its first process.

    Args:
        directory: the run's.
        step: that is next; what an earlier piece wrote after its last checkpoint is forgotten.
    """

    def __init__(self, directory: Path, step: int, title: str) -> None:
        self._path, self._page, self._title = directory / LINES, directory / PAGE, title
        lines = [line for line in read(self._path) if line["step"] < step]
        self._path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        self._file = self._path.open("a", encoding="utf-8")
        self._board: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=step)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures by name; those of a learner begin with its name and a slash."""
        # JSON has no infinities, and readers of lines are many.
        finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(name, value, step)

    def draw(self) -> None:
        """Write the page of curves anew."""
        part = self._page.with_suffix(".part")
        part.write_text(page(self._title, read(self._path)), encoding="utf-8")
        os.replace(part, self._page)
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        self.draw()
        self._file.close()
        if self._board is not None:
            self._board.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal; a last one that was broken off is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def page(title: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """Curves of all figures as one HTML page that needs nothing else."""
    names = list(dict.fromkeys(name for line in lines for name in line if name != "step"))
    figures = "\n".join(_figure(name, [(x["step"], x[name]) for x in lines if x.get(name) is not None]) for name in names)
    last = f"step {lines[-1]['step']}" if lines else "no step yet"
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title>
<style>
:root {{ color-scheme: light dark; font: 14px system-ui, sans-serif }}
body {{ margin: 2rem auto; max-width: 1200px; padding: 0 1rem }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 1.5rem }}
figure {{ margin: 0 }} figcaption {{ font-weight: 600; margin-bottom: .25rem }}
figcaption span {{ font-weight: 400; opacity: .7 }}
svg {{ width: 100%; border: 1px solid #8884; border-radius: 4px }}
polyline {{ fill: none; stroke: #2a6fdb; stroke-width: 1.5; vector-effect: non-scaling-stroke }}
.axis {{ display: flex; justify-content: space-between; opacity: .7; font-size: 12px }}
</style>
<h1>{html.escape(title)}</h1><p>{last}</p>
<main>
{figures}
</main></html>
"""


def _figure(name: str, points: Sequence[tuple[int, float]]) -> str:
    points = _thinned(points)
    if not points:
        return ""
    steps, values = [s for s, _ in points], [v for _, v in points]
    low, high = min(values), max(values)
    width, height = max(steps[-1] - steps[0], 1), (high - low) or 1.0
    drawn = " ".join(f"{(s - steps[0]) / width * 300:.1f},{100 - (v - low) / height * 96 - 2:.1f}" for s, v in points)
    label = html.escape(name)
    axis = (f"step {steps[0]}", f"{low:.4g} to {high:.4g}", f"{steps[-1]}")
    return (
        f"<figure><figcaption>{label} <span>{values[-1]:.4g}</span></figcaption>"
        f'<svg viewBox="0 0 300 100" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f'<polyline points="{drawn}"/></svg>'
        f'<div class="axis">{"".join(f"<span>{text}</span>" for text in axis)}</div></figure>'
    )


def _thinned(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    """Means of equally many neighbours."""
    size = -(-len(points) // MAX_POINTS) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(v for _, v in group) / len(group)) for group in groups]
