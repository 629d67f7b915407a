"""Configs of runs: strict, with paths that count from where they are written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from model.errors import ConfigError
from model.training.config import DMDStage, ScheduleConfig, load_train_config
from model.training.optimizers import LAST_SHARE, rate_at
from tests.support.training_runs import CONFIGS, shipped

DMD = CONFIGS / "hallo_live_dmd.yaml"


def test_the_shipped_configs_carry_the_published_values() -> None:
    ode, dmd, audio, small, small_ode, rewards = (
        load_train_config(CONFIGS / f"hallo_live_{name}.yaml")
        for name in ("ode_init", "dmd", "dmd_audio", "1_3b_dmd", "1_3b_ode_init", "dmd_rewards")
    )
    student, generator, critic = ode.learners["student"], dmd.learners["generator"], dmd.learners["critic"]
    assert list(student.learning_rates.values()) == [2e-6]
    assert (student.betas, student.weight_decay, student.clip_norm, student.trainable) == ((0.9, 0.999), 0.01, 10, None)
    assert (ode.batch, ode.max_steps, ode.sharding, ode.saving.every_steps, ode.seed) == (4, 8000, "hybrid", 500, 103)
    assert (generator.every, critic.every, dmd.batch, dmd.max_steps, dmd.sharding) == (5, 1, 1, 6000, "full")
    assert generator.learning_rates == {"^video_model": 2e-6, "^audio_model": 6e-6}
    assert critic.learning_rates == {"^video_model": 4e-7, "^audio_model": 1.2e-6}
    assert generator.betas == critic.betas == (0, 0.999)
    assert generator.trainable == critic.trainable == r"self_attn\.|cross_attn\."
    assert generator.average is not None
    assert (generator.average.decay, generator.average.from_step, critic.average) == (0.99, 200, None)
    stages = [config.stage for config in (dmd, audio, small, rewards) if isinstance(config.stage, DMDStage)]
    assert len(stages) == 4
    assert [stage.guidance.pair for stage in stages] == [(4, 5), (4, 5), (4, 3), (4, 5)]
    assert [stage.weights.pair for stage in stages] == [(0.85, 0.15), (0, 0.15), (0.85, 0.15), (0.85, 0.15)]
    assert [list(x.learning_rates.values()) for x in audio.learners.values()] == [[2e-6], [4e-7]]
    assert {x.frozen for x in audio.learners.values()} == {"^video_model"}
    assert audio.max_steps == 10_000
    assert small_ode.stage == ode.stage


@pytest.mark.parametrize("name", shipped())
def test_shipped_configs_name_files_of_the_checkout(name: str) -> None:
    subject = load_train_config(CONFIGS / f"{name}.yaml").subject
    assert subject.model.is_file()
    assert subject.teacher_model is None or subject.teacher_model.is_file()
    assert subject.weights == CONFIGS.parents[1] / "weights"


def test_a_typed_path_counts_from_here_and_a_written_one_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = yaml.safe_load(DMD.read_text())
    raw["subject"]["weights"] = "../w"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "run.yaml").write_text(yaml.safe_dump(raw))
    monkeypatch.chdir(tmp_path)
    config = load_train_config(Path("configs/run.yaml"), ["subject.text_features=some/features"])
    assert config.subject.weights == tmp_path / "w"
    assert config.subject.text_features == tmp_path / "some" / "features"


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("bath=2", "bath: unknown key"),
        ("learners.generator.clip=1", "learners.generator.clip: unknown key"),
        ("batch=0", "batch: input should be greater than 0"),
        ("learners.generator.trainable='('", "is no regular expression"),
        ("learners.student={learning_rates: {a: 1}}", r"learners of a dmd stage are ['critic', 'generator']"),
        ("stage.kind=gan", "stage"),
        ("batch", "write key=value"),
        ("batch.size=3", "batch is no section"),
        ("batch=[1", "not valid YAML"),
    ],
)
def test_what_cannot_be_is_said_with_its_place(assignment: str, says: str) -> None:
    assignments = ["batch=1", assignment] if assignment == "batch.size=3" else [assignment]
    with pytest.raises(ConfigError) as refusal:
        load_train_config(DMD, assignments)
    assert says in str(refusal.value)


def test_learning_rates_rise_and_fall() -> None:
    schedule = ScheduleConfig(warmup_steps=4, cooldown_steps=10)
    rates = [rate_at(step, 100, schedule) for step in (0, 3, 50, 90, 95, 99)]
    assert rates == pytest.approx([0.25, 1, 1, 1, 0.5, 0.1])
    assert rate_at(99, 100, ScheduleConfig(cooldown_steps=100)) == LAST_SHARE
