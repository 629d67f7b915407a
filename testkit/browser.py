"""A real server and a real browser, for the tests of the page and for what is measured in it."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from playwright.sync_api import Browser, Page, sync_playwright

from avatar_rtc import resources

T = TypeVar("T")

CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
)
FAKE_MICROPHONE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
"""A microphone that beeps, which every page may use."""
NO_CHROMIUM = "there is no Chromium on this machine: apt-get install chromium"
START_TIMEOUT_S = 180
"""Pocket's first start on a machine converts the network, and a busy one takes its time over that."""


def chromium_path() -> str | None:
    """The Chromium of this machine."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def microphone_flags(sound: Path) -> list[str]:
    """Of a Chromium whose one microphone, which it gives to every page, plays a WAV file once from when it is opened."""
    devices = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    return [*devices, f"--use-file-for-fake-audio-capture={sound}%noloop"]


@contextlib.contextmanager
def open_browser(*flags: str) -> Iterator[Browser]:
    """A headless Chromium with a profile of its own, which is thrown away.

    Args:
        flags: besides ours.

    Raises:
        RuntimeError: there is none.
    """
    path = chromium_path()
    if path is None:
        raise RuntimeError(NO_CHROMIUM)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*CHROMIUM_FLAGS, *flags])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class RunningServer:
    """``avatar-rtc serve`` as a process of its own."""

    url: str
    process: subprocess.Popen[str]
    log_path: Path

    def log(self) -> str:
        """What it has said on its console so far."""
        return self.log_path.read_text()

    def kill(self) -> None:
        """As a machine dies: nobody is told."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def run_server(engine: str = "fake", /, port: int = 0, **sections: dict[str, Any]) -> Iterator[RunningServer]:
    """Serve the page and its calls; stopped with SIGINT in the end, which does not wait for its calls.

    Args:
        engine: ``fake`` or ``pocket``.
        port: 0 takes a free one.
        sections: overrides of the shipped config, such as ``limits={"max_sessions": 1}``.

    Raises:
        RuntimeError: it did not start; the message holds what it said.
    """
    with run_command(("serve", "--engine", engine), port, sections) as server:
        yield server


@contextlib.contextmanager
def run_command(
    words: Sequence[str], port: int, sections: Mapping[str, dict[str, Any]], stop_s: float = 10.0
) -> Iterator[RunningServer]:
    """The same with the words of a command that serves, to which the config is added.

    Args:
        stop_s: so long it may take to end.
    """
    shipped = resources.server_config("pocket")
    config: dict[str, Any] = yaml.safe_load(shipped.read_text())
    config["http"] |= {"host": "127.0.0.1", "port": port, "static_dir": str(resources.static_dir())}
    for name, overrides in sections.items():
        config[name] = (config[name] or {}) | overrides
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "server.yaml"
        path.write_text(yaml.safe_dump(config))
        log_path = Path(directory) / "server.log"
        command = [str(Path(sys.executable).parent / "avatar-rtc"), *words, "--config", str(path)]
        with log_path.open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True)
            try:
                yield RunningServer(_address(process, log_path), process, log_path)
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)
                    try:
                        process.wait(stop_s)
                    except subprocess.TimeoutExpired:
                        process.kill()
                        process.wait()


def _address(process: subprocess.Popen[str], log_path: Path) -> str:
    """What the server prints when a call can start."""
    end_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end_s and process.poll() is None:
        found = re.search(r"ready: open (http://\S+)", log_path.read_text())
        if found:
            return found[1].rstrip("/")
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start:\n{log_path.read_text()}")


def eventually(page: Page, read: Callable[[], T], holds: Callable[[T], bool], what: str, timeout_s: float = 20.0) -> T:
    """Read again and again until it holds; for what no locator can express.

    Raises:
        AssertionError: it did not come to that; the message holds what was read last.
    """
    end_s = time.monotonic() + timeout_s
    while not holds(value := read()):
        if time.monotonic() > end_s:
            raise AssertionError(f"{what}: not within {timeout_s} s; last seen {value!r}")
        page.wait_for_timeout(50)
    return value


def stats(page: Page) -> dict[str, Any]:
    """What the page measured."""
    result: dict[str, Any] = page.evaluate("window.avatarStats()")
    return result


def call(page: Page, timeout_s: float = 30.0) -> dict[str, Any]:
    """Press Call and wait for the first picture."""
    page.get_by_role("button", name=re.compile("^(Call|Call again|Try again)$")).click()
    return eventually(page, lambda: stats(page), has_picture, "a first picture", timeout_s)


def has_picture(seen: dict[str, Any]) -> bool:
    return seen["state"] == "connected" and bool(seen["call"]) and seen["call"]["firstFrameMs"] is not None


def say(page: Page, text: str) -> None:
    """Type a line and press Enter."""
    page.get_by_label("What should be said?").fill(text)
    page.keyboard.press("Enter")
