"""Each fixture found is checked by the function that is registered for its module."""

from __future__ import annotations

from pathlib import Path

import pytest

from testkit.golden import Check, Fixture, pairs_in
from tests.golden import dit, training
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


def check_of(fixture: Fixture) -> Check:
    """Fails, rather than skips, where there is none: a fixture that nobody checks looks like one that passes."""
    module = fixture.meta["module"]
    check = next((check for name, check in CHECKS.items() if module.startswith(name)), None)
    if check is None:
        pytest.fail(f"{fixture.path}: nothing checks module {module!r} of fixture {fixture.meta['fixture']!r}", pytrace=False)
    return check


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "path" not in metafunc.fixturenames:
        return
    directory = Path(metafunc.config.getoption("golden"))
    missing = pytest.param(None, marks=pytest.mark.skip(reason=f"no golden fixtures in {directory}: name them with --golden DIR"))
    metafunc.parametrize("path", pairs_in(directory) or [missing], ids=lambda path: path.stem if path else "none")


@pytest.mark.timeout(900)  # the largest take minutes on a busy machine
def test_the_published_numbers(path: Path) -> None:
    fixture = Fixture.read(path)
    check_of(fixture)(fixture)


def test_what_nobody_checks_is_named(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path / "a.json", {"module": "Something new", "fixture": "new_one"}, {})
    with pytest.raises(pytest.fail.Exception, match=r"Something new.*new_one"):
        check_of(fixture)
