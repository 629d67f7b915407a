"""The rules that hold the architecture, as far as a machine can check them."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("avatar_rtc", "model", "signaling")

MAY_CATCH_EXCEPTION = {
    "avatar_rtc/cli.py": 1,
    "avatar_rtc/ears/listener.py": 1,
    "avatar_rtc/mind/mind.py": 1,
    "avatar_rtc/outputs/channels.py": 1,
    "avatar_rtc/outputs/webrtc.py": 1,
    "avatar_rtc/outputs/whip.py": 1,
    "avatar_rtc/sessions/listening.py": 1,
    "avatar_rtc/sessions/turns.py": 1,
    "avatar_rtc/sessions/session.py": 3,
    "signaling/http.py": 1,
}
"""The command line, the HTTP middleware, and the session: its run loop, the steps of its closing, what a client sends or is told
(a message, an event, an offer, what is sent back, a microphone), what a language model answers and a recogniser hears. These must
not end a call."""

MAX_CLASS_LINES = 350

TORCH_FREE_IN_MODEL = ("model.chunk", "model.stream", "model.errors", "model.text.prompt", "model.pocket")
"""The last one serves, and so does all that it imports."""


def sources(*packages: str) -> Iterator[Path]:
    for package in packages:
        yield from sorted((ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SERVICE = [module_of(path) for path in sources("avatar_rtc", "signaling")]
if importlib.util.find_spec("ray") is None:
    SERVICE = [module for module in SERVICE if module not in ("avatar_rtc.cluster.rays", "avatar_rtc.cluster.up")]


def test_imports_go_one_way() -> None:
    lint = subprocess.run([Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert lint.returncode == 0, lint.stdout


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        ([*SERVICE, *TORCH_FREE_IN_MODEL], ["torch", "onnxruntime"]),
        ([module_of(path) for path in sources("signaling")], ["aiortc", "av", "numpy"]),
        (["avatar_rtc.engine.worker", "avatar_rtc.fake"], ["aiortc", "av", "aiohttp"]),
    ],
    ids=["the service imports no torch", "the wire imports no media", "the engine's child imports no network"],
)
def test_importing_does_not_bring_in(modules: list[str], forbidden: list[str]) -> None:
    """In a fresh interpreter, because this one has imported everything."""
    imports = "\n".join(f"import {module}" for module in modules)
    script = f"{imports}\nimport sys\nprint(*({set(forbidden)!r} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True).split() == []


def test_the_codemap_leads_somewhere() -> None:
    """Each path, which counts from the root or from the one before it in its row."""
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    assert len(rows) > 20
    lost = []
    for row in rows:
        here = ROOT
        for name in re.findall(r"`([^`]+)`", row):
            path = next((path for path in (ROOT / name, here / name) if path.exists()), None)
            if path is None:
                lost.append(name)
            else:
                here = path if path.is_dir() else path.parent
    assert lost == []


def test_the_network_knows_no_media_library() -> None:
    for path in sources("model"):
        if path.parts[len(ROOT.parts) + 1] in ("data", "training", "evaluation"):
            continue
        assert not imported_names(path) & {"asyncio", "aiohttp", "aiortc", "av"}, path


def imported_names(path: Path) -> set[str]:
    """Top-level names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_few_places_catch_everything() -> None:
    found: dict[str, int] = {}
    for path in sources(*PACKAGES):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler) and catches_everything(node):
                name = str(path.relative_to(ROOT))
                found[name] = found.get(name, 0) + 1
    assert {name: count for name, count in found.items() if count > MAY_CATCH_EXCEPTION.get(name, 0)} == {}


def catches_everything(handler: ast.ExceptHandler) -> bool:
    """``except:`` and ``except Exception``; ``except BaseException`` only where it does not raise again."""
    types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {node.id for node in types if isinstance(node, ast.Name)}
    if "BaseException" in names:
        return not isinstance(handler.body[-1], ast.Raise)
    return handler.type is None or "Exception" in names


def test_no_class_of_the_service_is_long() -> None:
    """What is longer has more than one concern."""
    lengths = {
        f"{path.relative_to(ROOT)}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in sources("avatar_rtc", "signaling")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    assert {name: length for name, length in lengths.items() if length > MAX_CLASS_LINES} == {}


def test_nothing_is_without_a_name() -> None:
    homeless = {"utils", "util", "common", "helpers", "helper", "core", "misc"}
    assert [path for path in sources(*PACKAGES) if homeless & set(path.with_suffix("").relative_to(ROOT).parts)] == []


def test_nothing_runs_in_the_default_executor() -> None:
    """Whoever waits in it waits for whatever else is in it. Encoders have one of their own; the headless client has none."""
    for path in sources("avatar_rtc", "signaling"):
        if path == ROOT / "avatar_rtc" / "recording.py":
            continue
        text = path.read_text()
        assert "run_in_executor(None" not in text, path
        assert "to_thread(" not in text, path


def test_what_is_private_is_used_at_home() -> None:
    """Not of another object, and not of another module; only one file touches aiortc's insides."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sources("avatar_rtc", "signaling", "benchmarks")
        if path != ROOT / "avatar_rtc" / "outputs" / "aiortc_patches.py"
        for line, name in private_names_from_elsewhere(ast.parse(path.read_text()))
    ]
    assert found == []


def private_names_from_elsewhere(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Attributes ``_name`` of anything but ``self`` and ``cls``, and imports of such names, each with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            is_own = ast.unparse(node.value) in ("self", "cls", "super()")
            if is_private(node.attr) and not is_own and ast.unparse(node) != "os._exit":
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names if is_private(alias.name))


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def test_weights_are_loaded_strictly() -> None:
    for path in sources("model"):
        if path.parent.name not in ("training", "evaluation", "data"):
            assert "strict=False" not in path.read_text().replace("zip(", ""), path


def test_every_file_says_what_it_is_for() -> None:
    silent = [
        path for path in sources(*PACKAGES) if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []
