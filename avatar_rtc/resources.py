"""What the program finds around it: its files, beside the packages in a checkout and inside one when installed; and cores."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_BESIDE = _PACKAGE.parent
_FILES = _PACKAGE if (_PACKAGE / "static").is_dir() else _BESIDE

GIVE_BACK_AFTER_S = 1.0
_giving_back: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None
"""The heap is the process's, and so is this."""


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


def give_back_memory_soon() -> None:
    """Collect what has ended and let the system have its memory, in a moment, because who calls still holds it. To be called in
    the event loop; for what ends together it is done once.

    The parts of a session or a connection refer to one another in circles, up to two megabytes a session, and Python looks for
    those only after dozens of sessions. glibc in turn keeps what is freed in between what is still used.
    """
    global _giving_back
    loop = asyncio.get_running_loop()
    is_due = _giving_back is not None and _giving_back[0] is loop and _giving_back[1].when() > loop.time() + GIVE_BACK_AFTER_S / 2
    if not is_due:
        _giving_back = loop, loop.call_later(GIVE_BACK_AFTER_S, _give_back_memory)


def _give_back_memory() -> None:
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)
