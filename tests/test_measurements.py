"""Documents say what was measured, and files of measurements hold one processor's figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import measurements

AVX2 = {"processor": "AMD EPYC", "instruction_sets": ["AVX2"], "limits": [], "cores": 2, "threads": 2, "float32_gflops": 107.0}
ZEN4 = {**AVX2, "instruction_sets": ["AVX2", "AVX-512"]}


@pytest.mark.parametrize("path", measurements.TABLES, ids=lambda path: path.name)
def test_documents_say_what_the_files_hold(path: Path) -> None:
    assert measurements.renewed(path) == path.read_text(), "python -m benchmarks.measurements writes the table anew"


def test_each_benchmark_adds_its_part_and_other_processors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "avx2.json"
    monkeypatch.setattr("sys.argv", ["latency.py", "--engine", "pocket", "--out", str(path)])
    waits = {f"{name}_ms": {"p95": 1500} for name in ("call_to_frame", "text_to_frame", "interrupt")}
    measurements.keep(path, "latency", {"machine": AVX2, **waits})
    measurements.keep(path, "skew", {"machine": {**AVX2, "float32_gflops": 99.0}, "skew_ms": {"abs_p95": 31.4}})
    figures = json.loads(path.read_text())
    assert figures["latency"]["command"] == "python -m benchmarks.latency --engine pocket"
    assert figures["skew"]["machine"]["float32_gflops"] == 99
    before = path.read_text()
    with pytest.raises(SystemExit, match=r"holds figures of AMD EPYC, 2 cores; AVX2; .*\nthis is AMD EPYC, 2 cores; AVX2, AVX"):
        measurements.keep(path, "skew", {"machine": ZEN4, "skew_ms": {"abs_p95": 1.0}})
    assert path.read_text() == before
    monkeypatch.setattr(measurements, "FILES", (path,))
    table = measurements.full_table()
    assert "| 2 cores of AMD EPYC, AVX2 |" in table
    assert "| 1.50 s; 1.50 s; 1.50 s |" in table
    assert "| 31 ms |" in table
    assert "| not measured |" in table
    assert "| interruption to silence, p95 | 1.50 s |" in measurements.headline_table()
