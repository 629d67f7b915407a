"""What the program finds around it: its files, beside the packages in a checkout and in an installed wheel alike; and cores."""

from __future__ import annotations

import os
from pathlib import Path

_BESIDE = Path(__file__).resolve().parent.parent


def static_dir() -> Path:
    """The page."""
    return _BESIDE / "static"


def checkpoint_dir(name: str) -> Path:
    """A checkpoint that is shipped, such as ``pocket``."""
    return _BESIDE / "model" / "weights" / name


def server_config(name: str) -> Path:
    """A server config that is shipped, such as ``pocket``."""
    return _BESIDE / "configs" / "server" / f"{name}.yaml"


def network(name: str) -> Path:
    """Sizes of a network, such as ``hallo_live``."""
    return _BESIDE / "configs" / "model" / f"{name}.yaml"


def prompts(name: str) -> Path:
    """A file of prompts that is shipped, such as ``demo``."""
    return _BESIDE / "configs" / "prompts" / f"{name}.csv"


def download_table() -> Path:
    """Where published weights come from."""
    return _BESIDE / "configs" / "download.yaml"


def num_cores() -> int:
    """What this process may use, which in a container is less than what the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
