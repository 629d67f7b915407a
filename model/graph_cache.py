"""Where converted graphs are kept between starts, and how they come there."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from model.description import Description
from model.errors import CheckpointError
from model.runtime import computes_in_half

_GRAPH_VERSION = 3
"""Raise it when a change of code changes the converted graphs."""

Report = Callable[[str], None]


def cached_graphs(checkpoint_dir: Path, description: Description, report: Report | None = None) -> Path:
    """The directory of converted graphs of a checkpoint; they are converted on first use.

    Raises:
        CheckpointError: the checkpoint cannot be used, or the cache cannot be written.
    """
    half = computes_in_half()
    key = f"{_GRAPH_VERSION} {version('openvino')} {'half' if half else 'single'} {description.digest}"
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "avatar-rtc"
    directory = base / f"{description.config.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if not directory.is_dir():
        _convert(checkpoint_dir, directory, half, report or (lambda _: None))
    return directory


def _convert(checkpoint_dir: Path, directory: Path, half: bool, report: Report) -> None:
    """In a process of its own: what it takes in memory is then given back."""
    command = [sys.executable, "-m", "model.conversion", str(checkpoint_dir), str(directory), "--child"]
    command += ["--half"] if half else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    error = ""
    # It ends when its input is closed, however this process ends.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            error = told.get("error", "")
            if "part" in told:
                report(f"converting the network for this machine, once, which takes about half a minute: {told['part']}")
        process.wait()
    if process.returncode and not error:
        error = f"converting the network failed with status {process.returncode}; see what it wrote above"
    if error:
        raise CheckpointError(error)
