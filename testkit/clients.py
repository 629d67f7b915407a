"""Clients of others, as their packages on npm have them, made into one script for a page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CLIENTS = Path(__file__).parent.parent / "tests" / "clients"
"""Pins the packages."""
NO_CLIENTS = "the npm packages of tests/clients are not installed: make test does"


def has_clients() -> bool:
    """Whether the packages are there."""
    return (CLIENTS / "node_modules" / ".package-lock.json").exists()


def bundle(script: str, path: Path) -> None:
    """Write a script with all that it imports into one file that a page can load as a module.

    Raises:
        RuntimeError: it imports what is not there; the message says what.
    """
    esbuild = [str(Path(sys.executable).parent / "node"), str(CLIENTS / "node_modules" / "esbuild" / "bin" / "esbuild")]
    done = subprocess.run(
        [*esbuild, "--bundle", "--format=esm", "--log-level=warning", f"--outfile={path}"],
        input=script,
        cwd=CLIENTS,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
