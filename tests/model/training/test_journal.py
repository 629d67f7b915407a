"""What a run tells of itself, over a break."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

from model.training.journal import MAX_POINTS, Journal, page, read


class Checked(HTMLParser):
    """Counts curves, and sees that what opens closes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.curves: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in ("figure", "figcaption", "svg", "main", "div", "span"):
            self._open.append(tag)
        if tag == "polyline":
            self.curves.append(dict(attributes)["points"] or "")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("figure", "figcaption", "svg", "main", "div", "span"):
            assert self._open.pop() == tag


def test_what_came_after_the_last_checkpoint_is_written_once(tmp_path: Path) -> None:
    first = Journal(tmp_path, 0, "a run")
    for step in range(5):
        first.write(step, {"student/loss": float(step)})
    first.close()
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"step": 5, "stud')  # a machine that went away
    second = Journal(tmp_path, 3, "a run")
    second.write(3, {"student/loss": 30.0, "student/norm": float("inf")})
    second.close()
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [(line["step"], line["student/loss"]) for line in lines] == [(0, 0), (1, 1), (2, 2), (3, 30)]
    assert lines[3]["student/norm"] is None
    assert read(tmp_path / "journal.jsonl") == lines
    assert len(Checked((tmp_path / "curves.html").read_text()).curves) == 1


def test_long_curves_are_thinned_and_names_escaped() -> None:
    lines = [{"step": i, "<loss>": 1.0 if i % 2 else 3.0} for i in range(4 * MAX_POINTS)]
    text = page("a & b", lines)
    (curve,) = Checked(text).curves
    assert len(curve.split()) == MAX_POINTS
    assert "2 to 2" in text  # means of neighbours
    assert "<loss>" not in text
    assert "a &amp; b" in text
    assert Checked(page("empty", [])).curves == []
