"""A real TURN server on loopback."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

NO_COTURN = "coturn is not installed; 'make system' does it"
START_TIMEOUT_S = 5.0


@contextlib.contextmanager
def run_turn(secret: str) -> Iterator[str]:
    """coturn, which takes nobody but whom the secret vouches for; yields its URL.

    Raises:
        RuntimeError: there is none.
    """
    program = shutil.which("turnserver")
    if program is None:
        raise RuntimeError(NO_COTURN)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as directory:
        options = [f"--listening-port={port}", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1"]
        options += ["--allow-loopback-peers", "--no-cli"]
        options += [
            "--use-auth-secret",
            f"--static-auth-secret={secret}",
            "--realm=test",
            "--no-tls",
            "--no-dtls",
            "--no-tcp",
            "-n",
        ]
        options += ["--log-file=stdout", "--no-stdout-log", f"--pidfile={directory}/pid", f"--userdb={directory}/db"]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=directory)
        try:
            _wait_until_it_listens(port)
            yield f"turn:127.0.0.1:{port}?transport=udp"
        finally:
            process.kill()
            process.wait()


def _wait_until_it_listens(port: int) -> None:
    end_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end_s:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return
        time.sleep(0.05)
    raise RuntimeError("coturn did not start")
