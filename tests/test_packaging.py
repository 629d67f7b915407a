"""What is installed, and that it works from anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from avatar_rtc import extras, resources
from avatar_rtc.config import load_config

ROOT = Path(__file__).parent.parent
LOOK = """
from pathlib import Path
from avatar_rtc import cli, config, resources
assert resources.static_dir().parent == Path(resources.__file__).parent, "inside the package"
assert (resources.static_dir() / "index.html").is_file() and resources.download_table().is_file()
assert (resources.checkpoint_dir("pocket") / "dit.safetensors").is_file()
assert resources.prompts("demo").is_file() and resources.network("hallo_live").is_file()
for name in resources.server_configs():
    config.load_config(resources.server_config(name))
print(cli.main(["config", "pocket"]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where everything lies as a wheel would put it."""
    where = tmp_path_factory.mktemp("installed")
    scratch = tmp_path_factory.mktemp("scratch")
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "egg_info",
        "-e",
        str(scratch),
        "build",
        "-b",
        str(scratch),
        "--build-lib",
        str(where),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return where


def test_only_our_names_are_installed_and_nothing_that_only_training_needs(installed: Path) -> None:
    assert {path.name for path in installed.iterdir()} == {"avatar_rtc", "model", "signaling"}
    assert not list(installed.rglob("pocket_encoders"))
    for folder in ("static", "configs"):
        here = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"}
        assert {path.relative_to(installed / "avatar_rtc") for path in (installed / "avatar_rtc" / folder).rglob("*.*")} == here
    sources = {path.relative_to(ROOT) for name in ("avatar_rtc", "model", "signaling") for path in (ROOT / name).rglob("*.py")}
    assert {path.relative_to(installed) for path in installed.rglob("*.py")} == sources


def test_what_is_installed_finds_its_files_from_anywhere(installed: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", LOOK], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == resources.server_config("pocket").read_text() + "0\n"


def test_a_copy_of_the_shipped_config_serves_the_page_from_any_folder(tmp_path: Path) -> None:
    copy = tmp_path / "mine.yaml"
    copy.write_text(resources.server_config("pocket").read_text())
    assert load_config(copy) == load_config(resources.server_config("pocket"))
    assert load_config(copy).http.static_dir == resources.static_dir()


def test_a_missing_package_is_named_with_what_to_install() -> None:
    words = extras.remedy(ModuleNotFoundError("No module named 'transformers'", name="transformers.models"))
    assert words == "this needs transformers, which is not installed: pip install 'avatar-rtc[hallo-live]'"
    assert extras.remedy(ModuleNotFoundError("No module named 'nowhere'", name="nowhere")) is None


def test_the_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {extra: " ".join(lines).replace("-", "_") for extra, lines in project["optional-dependencies"].items()}
    for extra, modules in extras.MODULES.items():
        assert not [module for module in modules if module not in names[extra]]


def test_pocket_needs_nothing_that_only_the_published_model_uses() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {line.partition(">")[0] for line in project["optional-dependencies"]["hallo-live"]}
    assert not names & {line.partition(">")[0] for line in project["dependencies"]}
    probe = (
        "import sys; from avatar_rtc import app, client, doctor, generate; from model import pocket; "
        f"print({ {name.replace('-', '_') for name in names}!r} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", probe], text=True).strip() == "set()"
