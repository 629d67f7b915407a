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
from model.runtime import Arithmetic, arithmetic

_GRAPH_VERSION = 5
"""Raise it when a change of code changes the converted graphs."""

Report = Callable[[str], None]


def cached_graphs(
    checkpoint_dir: Path, description: Description, report: Report | None = None, wanted: Arithmetic | None = None
) -> Path:
    """The directory of converted graphs of a checkpoint; they are converted on first use.

    Args:
        wanted: what they compute in; what is fastest here, if None.

    Raises:
        CheckpointError: the checkpoint cannot be used, or the cache cannot be written.
    """
    wanted = wanted or chosen_arithmetic(description)
    key = f"{_GRAPH_VERSION} {version('openvino')} {wanted} {description.digest}"
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "avatar-rtc"
    directory = base / f"{description.config.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if not directory.is_dir():
        _convert(checkpoint_dir, directory, wanted, report or (lambda _: None))
    return directory


def chosen_arithmetic(description: Description) -> Arithmetic:
    """What graphs of a checkpoint compute in on this machine."""
    fastest = arithmetic()
    return fastest if fastest != "int8" or description.has_ranges else "float32"


def _convert(checkpoint_dir: Path, directory: Path, wanted: Arithmetic, report: Report) -> None:
    """In a process of its own: what it takes in memory is then given back."""
    command = [sys.executable, "-m", "model.conversion", str(checkpoint_dir), str(directory), "--for", wanted, "--child"]
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
