"""Nothing on the internet is asked: every contact with another machine is refused and counted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testkit.browser import run_server
from tests.support.contacts import command_path, counted


@pytest.mark.timeout(300)
def test_start_call_and_film_contact_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contacts = counted(tmp_path)
    for name in ("PYTHONPATH", "CONTACTS_LOG", "CONTACTS_OURS"):
        monkeypatch.setenv(name, contacts.environment[name])

    def run(*arguments: str, code: int = 0) -> str:
        done = subprocess.run([command_path(), *arguments], capture_output=True, text=True, timeout=240)
        assert done.returncode == code, done.stderr
        return done.stderr

    with run_server() as server:
        run("say", server.url, "Hello there.", "--record", str(tmp_path / "call.mp4"))
    # pocket where it was converted before, which takes long on a busy machine.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "avatar-rtc"
    engine = "pocket" if list(cache.glob("pocket-*")) else "fake"
    run("generate", "Hello.", "-o", str(tmp_path / "film.mp4"), "--engine", engine)
    assert contacts.outside() == []

    # What is there to be fetched is wanted from outside, and told where that cannot be reached: the count counts.
    told = run("download", "inference", "--dir", str(tmp_path / "weights"), "--yes", code=2)
    assert "cannot be reached" in told
    wanted = contacts.outside()
    assert wanted
    assert all("download" in command for _, _, command in wanted)


def test_a_child_of_a_child_is_counted_as_well(tmp_path: Path) -> None:
    contacts = counted(tmp_path)
    ask = "import socket; socket.getaddrinfo('www.example.com', 443)"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ask!r}], stderr=subprocess.DEVNULL)"
    subprocess.run([sys.executable, "-c", nested], env=contacts.environment, check=True)
    ((event, target, _),) = contacts.outside()
    assert (event, target) == ("socket.getaddrinfo", "www.example.com")
    subprocess.run([sys.executable, "-c", ask.replace("www.example.com", "127.0.0.1")], env=contacts.environment, check=True)
    assert len(contacts.outside()) == 1
