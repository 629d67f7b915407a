"""What the program finds around it: its files, beside the packages in a checkout and inside one when installed; and cores."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_BESIDE = _PACKAGE.parent
_FILES = _PACKAGE if (_PACKAGE / "static").is_dir() else _BESIDE


def static_dir() -> Path:
    """The page."""
    return _FILES / "static"


def checkpoint_dir(name: str) -> Path:
    """A checkpoint that is shipped, such as ``pocket``."""
    return _BESIDE / "model" / "weights" / name


def server_config(name: str) -> Path:
    """A server config that is shipped, such as ``pocket``."""
    return _FILES / "configs" / "server" / f"{name}.yaml"


def server_configs() -> list[str]:
    """Names of those that are shipped."""
    return _names(server_config("*"))


def network(name: str) -> Path:
    """Sizes of a network, such as ``hallo_live``."""
    return _FILES / "configs" / "model" / f"{name}.yaml"


def prompts(name: str) -> Path:
    """A file of prompts that is shipped, such as ``demo``."""
    return _FILES / "configs" / "prompts" / f"{name}.csv"


def prompt_files() -> list[str]:
    """Names of those that are shipped."""
    return _names(prompts("*"))


def download_table() -> Path:
    """Where published weights come from."""
    return _FILES / "configs" / "download.yaml"


def _names(pattern: Path) -> list[str]:
    return sorted(path.stem for path in pattern.parent.glob(pattern.name))


def num_cores() -> int:
    """What this process may use, which in a container is less than what the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def give_back_memory() -> None:
    """Let the system have what was freed. glibc keeps it in between what is still used, about a megabyte for each connection that
    has ended, until there is a lot. Takes a millisecond or two; elsewhere than with glibc it does nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
