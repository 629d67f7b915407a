"""Machines of a cluster, each a process of this one with ports of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from testkit.browser import RunningServer, run_command

STOP_S = 30.0


@contextlib.contextmanager
def run_machine(name: str, ray_port: int, *, begins: bool = False, **sections: dict[str, Any]) -> Iterator[RunningServer]:
    """``avatar-rtc cluster up``, on the fake engine.

    Args:
        ray_port: where the first machine is joined.
        begins: this is the first one.
        sections: overrides of the shipped config.
    """
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    where = ("--ray-port", str(ray_port)) if begins else ("--address", f"127.0.0.1:{ray_port}")
    with run_command(("cluster", "up", "--name", name, "--engine", "fake", *where), 0, sections, STOP_S) as machine:
        yield machine


@contextlib.contextmanager
def run_head(ray_port: int) -> Iterator[None]:
    """Ray alone, for machines that are all alike: the first of a cluster cannot be started again without the others."""
    from avatar_rtc.cluster import rays

    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    place = rays.Place(None, "head", None, ray_port)
    with (
        tempfile.TemporaryDirectory(prefix="avatar-ray-", ignore_cleanup_errors=True) as directory,
        rays.running(place, directory),
    ):
        yield


def free_port() -> int:
    """One that was free a moment ago."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def node_process(machine: RunningServer) -> int:
    """The process id of its node: engine, media and seats."""
    return _process(machine, b"ray::Node")


def ray_process(machine: RunningServer) -> int:
    """That of its Ray."""
    return _process(machine, b"ray.scripts.scripts")


def _process(machine: RunningServer, command: bytes) -> int:
    """The process below a machine's that has this in its command line."""
    parents = {}
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            pid = int(path.name)
            parents[pid] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if command in (path / "cmdline").read_bytes():
                found.append(pid)
    for pid in found:
        ancestor = pid
        while ancestor not in (0, machine.process.pid):
            ancestor = parents.get(ancestor, 0)
        if ancestor:
            return pid
    raise RuntimeError(f"no process of {command.decode()} is below {machine.process.pid} (we are {os.getpid()})")
