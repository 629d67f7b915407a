"""Each fixture found is checked by the function that is registered for its module."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden import dit, training
from tests.golden.fixture import Check, Fixture
from tests.golden.mmaudio import check_bigvgan, check_mmaudio_vae
from tests.golden.umt5 import check_umt5
from tests.golden.wan import check_wan

CHECKS: dict[str, Check] = {
    "BigVGAN vocoder": check_bigvgan,
    "CausalFusionModel (streaming": dit.check_streaming,
    "CausalFusionModel training forward": dit.check_masked,
    "DualStreamCausalInferencePipeline": dit.check_pipeline,
    "FlowMatchScheduler": dit.check_scheduler,
    "FusionModel (bidirectional": dit.check_bidirectional,
    "MMAudio 16k mel front-end + 1-D VAE": check_mmaudio_vae,
    "Stage-1 ODE": training.check_ode_loss,
    "Stage-2 dual-stream DMD: critic": training.check_critic_loss,
    "Stage-2 dual-stream DMD: generator": training.check_generator_loss,
    "Stage-2 reward": training.check_rewards,
    "UMT5 encoder": check_umt5,
    "Wan2.2 VAE": check_wan,
}
"""Keys are the beginnings of a fixture's ``module`` field."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    directory = Path(metafunc.config.getoption("golden"))
    paths = sorted(p for p in directory.glob("*.json") if p.with_suffix(".safetensors").exists())
    missing = pytest.param(None, marks=pytest.mark.skip(reason=f"no golden fixtures in {directory}: name them with --golden DIR"))
    metafunc.parametrize("path", paths or [missing], ids=lambda path: path.stem if path else "none")


def test_the_published_numbers(path: Path) -> None:
    fixture = Fixture.read(path)
    module = fixture.meta["module"]
    check = next((check for name, check in CHECKS.items() if module.startswith(name)), None)
    if check is None:
        pytest.skip(f"no check for module {module!r} yet")
    check(fixture)
