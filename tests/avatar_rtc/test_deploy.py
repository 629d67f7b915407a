"""What ``deploy/`` repeats of the package and its config. Whether an image can be built and run no test says, but
dev/log/2026-11.md does.
"""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from avatar_rtc import resources
from avatar_rtc.config import IceConfig, load_config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = (DEPLOY / "compose.yaml").read_text()
SERVICES = yaml.safe_load(COMPOSE)["services"]
CONFIG = load_config(resources.server_config("pocket"))


def test_image_and_install_take_what_the_package_is_made_of_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", lambda **given: told.update(given))
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    folders = {told["package_dir"].get(name, name.replace(".", "/")).split("/")[0] for name in told["packages"]}
    assert {"avatar_rtc", "static"} <= folders
    wanted = folders | {"pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"}

    parts = re.search(r'^parts="(.+)"$', (DEPLOY / "install.sh").read_text(), re.MULTILINE)
    assert parts is not None
    assert set(parts[1].split()) == wanted
    assert all((ROOT / name).exists() for name in wanted)

    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == wanted | {"deploy/install.sh"}
    assert not (ROOT / ".containerignore").exists(), "podman would read it in place of .dockerignore"


def test_what_compose_is_given_is_kept_out_of_git() -> None:
    given = re.findall(r"> (deploy/\S+)", COMPOSE) + re.findall(r"^#   cp \S+ (\S+)", COMPOSE, re.MULTILINE)
    assert set(given) == {"deploy/.env", "deploy/avatar-rtc.yaml"}
    assert {f"/{path}" for path in given} <= set((ROOT / ".gitignore").read_text().splitlines())


def test_whoever_stops_the_service_waits_for_longer_than_its_calls_go_on() -> None:
    texts = [(DEPLOY / name).read_text() for name in ("compose.yaml", "Containerfile", "kuberay.yaml")]
    texts += [(ROOT / "docs" / "deployment.md").read_text()]
    wait_s = re.compile(r"(?:stop_grace_period|--stop-timeout|--time|terminationGracePeriodSeconds):? (\d+)")
    waits_s = [wait_s.findall(text) for text in texts]
    assert all(waits_s)
    assert {float(wait) for found in waits_s for wait in found} == {CONFIG.limits.drain_s + 15}


def test_compose_fits_the_config() -> None:
    service, turn = SERVICES["avatar-rtc"], SERVICES["turn"]
    assert f"http://{CONFIG.http.host}:{CONFIG.http.port}/livez" in service["healthcheck"]["test"][-1]
    assert service["depends_on"] == ["turn"], "compose stops turn last, so that relayed calls can end"

    shown = re.search(r"^#   (ice: .+)$", COMPOSE, re.MULTILINE)
    assert shown is not None
    (server,) = IceConfig.model_validate(yaml.safe_load(shown[1])["ice"]).servers
    assert server.secret_env in service["environment"]
    assert any(option.startswith(f"--static-auth-secret=${{{server.secret_env}:?") for option in turn["command"])
