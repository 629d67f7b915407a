"""Runs of pocket's shipped configs, at a size for tests: what a user begins, breaks off, goes on with and gets out."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from avatar_rtc import cli
from model.chunk import StreamSettings
from model.config import ModelConfig
from model.errors import CheckpointError, ConfigError
from model.training.assemble import AUDIO_TOWER, assemble
from model.training.config import load_train_config
from model.training.run import Run
from model.training.stages import video_vae
from model.training.stages.vae import CRITICS, FROZEN, VAE, VAETraining
from model.training.stages.video_vae import VideoVAETraining
from model.training.starts import ENCODER_FILE, STATISTICS, encoder_file, make_vae, take_vae
from model.vae.causal import Memory
from model.vae.video import VideoVAE
from tests.model.support import next_chunk, open_pocket, tiny_networks
from tests.model.training.test_runs import same, state
from tests.support.pocket_runs import NUM_CLIPS, STAGES, begin, sample_trajectories, small, write_pocket
from tests.support.training_runs import CONFIGS

SEEN_TWICE = ("video_vae", "audio_vae")
"""Stages with two phases."""
AGAINST_CRITICS = ("stage.adversarial_weight=0.1",)


@pytest.fixture(autouse=True)
def few_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_vae, "NUM_MEASURED", NUM_CLIPS)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With trajectories, as a user samples them."""
    directory = write_pocket(tmp_path_factory.mktemp("pocket"))
    sample_trajectories(directory)
    return directory


def frozen(name: str) -> tuple[str, ...]:
    return ("stage.encoder_minutes=0",) if name in SEEN_TWICE else ()


def cases() -> list[object]:
    """Each stage, those with two phases in both, and the video VAE's against critics too."""
    critics = pytest.param("video_vae", (*frozen("video_vae"), *AGAINST_CRITICS), id="video_vae against critics")
    both = [critics, *(pytest.param(name, (), id=f"{name}, encoder learns") for name in SEEN_TWICE)]
    return [*both, *(pytest.param(name, frozen(name), id=name) for name in STAGES)]


def test_no_config_is_left_out() -> None:
    assert {path.stem for path in CONFIGS.glob("pocket_*.yaml")} == {f"pocket_{name}" for name in STAGES}


@pytest.mark.parametrize("name", STAGES)
def test_shipped_configs_name_files_of_the_checkout(name: str) -> None:
    config = load_train_config(CONFIGS / f"pocket_{name}.yaml")
    assert config.subject.model.is_file()


@pytest.mark.parametrize(("name", "values"), cases())
def test_every_shipped_config_runs(directory: Path, tmp_path: Path, name: str, values: tuple[str, ...]) -> None:
    run = begin(name, directory, tmp_path, "max_steps=2", *values)
    before = {key: x.clone() for key, x in state(run)}
    outcome = run.train()
    assert (outcome.first, outcome.last, outcome.why) == (0, 2, "done")
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert lines[1]["step"] == 1
    for learner in run.learners:
        learned = run.stage.learns(learner.name)
        changed = [key for key, x in state(run) if key in before and not torch.equal(x, before[key])]
        assert any(key.startswith(f"{learner.name}/") for key in changed) == learned
        assert (f"{learner.name}/loss" in lines[0]) == learned
    assert outcome.weights is not None
    assert {path.stem.removesuffix("_ema") for path in outcome.weights.iterdir()} == {x.name for x in run.learners}


@pytest.mark.parametrize(("name", "values"), cases())
def test_two_pieces_are_one_run_bit_for_bit(directory: Path, tmp_path: Path, name: str, values: tuple[str, ...]) -> None:
    values = *values, "max_steps=3"
    straight, first = (begin(name, directory, tmp_path / part, *values) for part in ("straight", "pieces"))
    for run, steps in ((straight, 3), (first, 2)):
        if run.stage.phase_at(run.seconds) > run.stage.phase:
            run._turn()
        for _ in range(steps):
            run.one_step(False)
    first._save(None, export=False)
    torch.rand(7)  # whatever else draws numbers meanwhile
    second = begin(name, directory, tmp_path / "pieces", *values)
    assert second.step == 2
    second.one_step(False)
    for learner in straight.learners:
        learner.moments()  # of one that has not learned yet there are none
    assert same(straight, second)
    for one, other in zip(straight.learners, second.learners, strict=True):
        buffers = dict(other.module.named_buffers())
        assert all(torch.equal(x, buffers[key]) for key, x in one.module.named_buffers())


@pytest.mark.parametrize("name", ["base", "dmd"])
def test_a_part_of_a_step_is_as_good_as_a_sample_more(directory: Path, tmp_path: Path, name: str) -> None:
    """Of what is an average over samples: rollouts. The base's losses weigh cells of the whole batch, so samples are drawn alike,
    and that is all."""
    gradients = []
    for i, values in enumerate((("batch=2", "accumulate=1"), ("batch=1", "accumulate=2"))):
        run = begin(name, directory, tmp_path / str(i), "max_steps=1", *values)
        if name == "base":
            parts = [run._draw(run.learners[0], part).tensors for part in range(int(values[1][-1]))]
            gradients.append({key: torch.cat([x[key] for x in parts]) for key in parts[0]})
            continue
        run.one_step(False)
        gradients.append({key: x for key, x in state(run) if key.endswith("exp_avg_sq")})
    for key, x in gradients[0].items():
        torch.testing.assert_close(x, gradients[1][key], rtol=5e-3, atol=float(x.float().abs().max()) * 1e-4, msg=key)


def test_the_video_tower_stays_bit_equal_in_an_audio_only_run(directory: Path, tmp_path: Path) -> None:
    run = begin("dmd_audio", directory, tmp_path, "max_steps=2")
    before = {learner.name: {key: x.clone() for key, x in learner.module.state_dict().items()} for learner in run.learners}
    run.train()
    for learner in run.learners:
        after = learner.module.state_dict()
        changed = {key for key, x in after.items() if not torch.equal(x, before[learner.name][key])}
        assert {key for key in changed if key.startswith("dit.audio_ends.") or ".audio." in key} == changed
        wanted = {key for key in after if key.startswith("dit.layers.0.audio.") and key.endswith("weight")}
        assert len(changed & wanted) > len(wanted) / 2


def vae_of(run: Run) -> VAETraining:
    assert isinstance(run.stage, VAETraining)
    return run.stage


@pytest.mark.parametrize("name", SEEN_TWICE)
def test_an_encoder_is_frozen_handed_over_and_never_changes_again(directory: Path, tmp_path: Path, name: str) -> None:
    values = "stage.encoder_minutes=10", "max_steps=4"
    learning = begin(name, directory, tmp_path, *values, "max_steps=2")
    learning.train()
    assert not (tmp_path / ENCODER_FILE).exists()
    average = learning.learners[-1].average
    assert average is not None
    learned = {key: x.clone() for key, x in average.tensors.items() if key.startswith("encoder.")}
    again = begin(name, directory, tmp_path, *values)
    again._before_s += 600  # as if the minutes had passed
    again.train()
    assert vae_of(again).phase == FROZEN
    handed_over = load_file(tmp_path / ENCODER_FILE)
    own = vae_of(again).vae.state_dict()
    assert all(torch.equal(own[key], x) for key, x in handed_over.items())
    assert all(torch.equal(handed_over[key], x) for key, x in learned.items()), "the averaged encoder stays"
    assert handed_over["latent_std"].shape == own["latent_std"].shape
    assert not torch.equal(handed_over["latent_std"], torch.ones_like(handed_over["latent_std"]))
    # A later piece knows that it is frozen, whatever the clock says, and hands it over if that was missed.
    (tmp_path / ENCODER_FILE).unlink()
    later = begin(name, directory, tmp_path, *values, "max_steps=5")
    later._before_s = 0.0
    assert (tmp_path / ENCODER_FILE).is_file()
    later.train()
    assert all(torch.equal(vae_of(later).vae.state_dict()[key], x) for key, x in handed_over.items())
    assert any(key.startswith("vae/decoder") for key, _ in state(later))


@pytest.mark.parametrize("name", SEEN_TWICE)
def test_a_vae_begins_with_a_checkpoints_encoder(directory: Path, tmp_path: Path, name: str) -> None:
    run = begin(name, directory, tmp_path, f"subject.starts.vae={directory}/start", "max_steps=1")
    assert vae_of(run).phase == FROZEN
    before = {key: x.clone() for key, x in vae_of(run).vae.state_dict().items()}
    stored = load_file(directory / "start" / f"{name}.safetensors")
    assert all(torch.equal(before[key], x) for key, x in stored.items()), "the decoder fits, and goes on"
    run.train()
    for key, x in vae_of(run).vae.state_dict().items():
        if key.startswith(("encoder.", "latent_")):
            assert torch.equal(x, before[key])
    assert load_file(tmp_path / ENCODER_FILE).keys() == {k for k in before if k.startswith(("encoder.", "latent_"))}


@pytest.mark.parametrize("name", SEEN_TWICE)
def test_a_checkpoints_encoder_may_go_on_learning(directory: Path, tmp_path: Path, name: str) -> None:
    start = f"subject.starts.vae={directory}/start", "stage.keep_encoder=false"
    run = begin(name, directory, tmp_path, *start, "max_steps=1")
    assert vae_of(run).phase != FROZEN
    before = {key: x.clone() for key, x in vae_of(run).vae.state_dict().items()}
    run.train()
    after = vae_of(run).vae.state_dict()
    assert any(not torch.equal(x, before[key]) for key, x in after.items() if key.startswith("encoder."))
    assert not (tmp_path / ENCODER_FILE).exists()


def test_an_encoder_that_goes_on_is_decoded_as_its_checkpoint_does(directory: Path, tmp_path: Path) -> None:
    """Latents that are not normalised while an encoder learns reach the decoder as those do that are."""
    run = begin("video_vae", directory, tmp_path, f"subject.starts.vae={directory}/start", "stage.keep_encoder=false")
    stage = vae_of(run)
    assert isinstance(stage, VideoVAETraining)
    assert isinstance(stage.vae, VideoVAE)
    stage.vae.latent_mean.fill_(0.5)
    stage.vae.latent_std.fill_(2.0)
    drawn = stage.draw(VAE, 0, [0], [torch.Generator().manual_seed(0)])
    drawn.tensors["noise"].zero_()
    packed = drawn.tensors["packed"]
    with torch.no_grad():
        expected = stage.vae.decode(stage.vae.encode(packed), Memory())
        torch.testing.assert_close(stage._decoded(drawn)[0], expected)


def test_critics_of_pictures_learn_once_the_encoder_is_frozen(directory: Path, tmp_path: Path) -> None:
    assert not begin("video_vae", directory, tmp_path / "learning", *AGAINST_CRITICS).stage.learns(CRITICS)
    quickly = "schedule={}", 'learners.critics.learning_rates={"^": 8.0e-4}'
    run = begin("video_vae", directory, tmp_path, *frozen("video_vae"), *AGAINST_CRITICS, *quickly)
    run.stage.begin(FROZEN)
    critics, vae = run.learners
    first, *_, last = (run.one_step(True) for _ in range(6))
    assert last["critics/loss"] < first["critics/loss"] / 2
    drawn = run._draw(vae, 0)
    for learner in run.learners:
        learner.zero(stay=False)
    run.stage.loss(VAE, drawn).total.backward()
    assert all(p.grad is None for p in critics.parameters.values()), "what teaches the decoder teaches no critic"
    assert all(p.grad is not None for name, p in vae.parameters.items() if name.startswith("decoder."))


def test_a_checkpoint_without_its_encoder_is_named(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "start").symlink_to(directory / "start")
    with pytest.raises(CheckpointError, match=r"audio\.safetensors is missing"):
        begin("audio_vae", directory, tmp_path / "run", f"subject.starts.vae={tmp_path}/start")


def test_from_vaes_to_a_checkpoint_that_speaks(directory: Path, tmp_path: Path) -> None:
    """One stage begins with the other's run, and the last one is what serves."""
    for name in SEEN_TWICE:
        begin(name, directory, tmp_path / name, "max_steps=1", *frozen(name)).train()
    encoders = [f"subject.{kind}_encoder={tmp_path}/{kind}_vae" for kind in ("video", "audio")]
    base = begin("base", directory, tmp_path / "base", "max_steps=2", *encoders)
    base.train()
    start = f"subject.starts.student={tmp_path}/base"
    teacher = begin("teacher", directory, tmp_path / "teacher", "max_steps=1", start, *encoders)
    average = base.learners[0].average
    assert average is not None
    for key, x in teacher.learners[0].module.state_dict().items():
        if not key.startswith("labels."):
            torch.testing.assert_close(x, average.tensors[key], msg=key)
    starts = [f"subject.starts.{role}={tmp_path}/base" for role in ("teacher", "critic")]
    dmd = begin("dmd", directory, tmp_path / "dmd", "max_steps=1", start, *starts, "learners.generator.average.from_step=0")
    dmd.train()
    durations = begin("durations", directory, tmp_path / "durations", "max_steps=1", start).train()
    assert {"clara ms a phoneme", "theo length share"} <= durations.measured.keys()
    dmd_run, video_run, audio_run, said_run = (tmp_path / run for run in ("dmd", "video_vae", "audio_vae", "durations"))
    said = assemble(directory / "model.yaml", dmd_run, video_run, audio_run, tmp_path / "checkpoint", durations=said_run)
    assert said.startswith("tiny: ")
    assert encoder_file(tmp_path / "checkpoint", "video").is_file()
    from model.checkpoint import read_weights

    weights = read_weights(tmp_path / "checkpoint")
    predictor = load_file(tmp_path / "durations" / "weights" / "step_000001" / "predictor_ema.safetensors")
    for key, x in weights.text.durations.state_dict().items():  # in bfloat16, or a matrix in 8 bits
        error = (x - predictor[key]).abs().amax()
        assert error <= predictor[key].abs().amax() / (254 if x.ndim > 1 else 256)
    stream = open_pocket(weights).open(StreamSettings("A woman in an office.", "a warm voice", seed=1))
    assert next_chunk(stream).samples.any()
    # And parts of it from the checkpoint that is there, but one tower from the stage before, and a decoder moved towards another.
    there, twice, last = (tmp_path / name for name in ("checkpoint", "twice", "again"))
    shutil.copytree(there, twice)
    shutil.copytree(encoder_file(there, "video").parent, encoder_file(twice, "video").parent)
    decoder = load_file(twice / "video_vae.safetensors")
    save_file({name: x if name in STATISTICS else 2 * x for name, x in decoder.items()}, twice / "video_vae.safetensors")
    assemble(directory / "model.yaml", there, there, there, last, audio_tower=tmp_path / "base", softer=(twice, 0.5))
    again, before = read_weights(last), load_file(tmp_path / "base" / "weights" / "step_000002" / "student_ema.safetensors")
    for part, mine, theirs in (("dit", again.dit, weights.dit), ("text", again.text, weights.text)):
        for key, x in mine.state_dict().items():
            if AUDIO_TOWER.match(f"{part}.{key}"):
                true = before[f"{part}.{key}"]
                assert (x - true).abs().amax() <= true.abs().amax() / (254 if x.ndim > 1 else 256), key
            else:
                torch.testing.assert_close(x, theirs.state_dict()[key], msg=key)
    for key, x in again.video_vae.state_dict().items():
        share = 1.0 if key in STATISTICS else 1.5
        torch.testing.assert_close(x, share * weights.video_vae.state_dict()[key], rtol=1 / 256, atol=0, msg=key)


def test_learning_rates_fall_over_the_end_of_a_piece(directory: Path, tmp_path: Path) -> None:
    shares: list[float] = []
    run = begin("durations", directory, tmp_path, "max_steps=100000", "schedule={}")
    run.train(minutes=0.01, on_step=lambda report: shares.append(report.figures["learning rate share"]), cooldown=0.5)
    assert shares[0] == 1
    assert shares[-1] < 0.3
    assert all(a >= b for a, b in itertools.pairwise(shares))


def test_a_cooldown_without_minutes_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", str(CONFIGS / "pocket_base.yaml"), "--cooldown", "0.5"]) == 2
    assert "--cooldown is a share of --minutes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "assignment", "says"),
    [
        ("dmd", "stage.prompts=prompts.csv", "pocket's prompts are those of its clips"),
        ("dmd_rewards", "stage.rewards.weights=null", "rewards.weights is missing"),
        ("base", "stage.kind=dmd", "stage.guidance"),
        ("base", "subject.block=3", "subject.block: unknown key"),
        ("video_vae", "stage.encoder_minutes=-1", "stage.encoder_minutes"),
        ("video_vae", "stage.adversarial_weight=-1", "stage.adversarial_weight"),
        ("durations", "stage.kokoro_model=kokoro.onnx", "kokoro_model and kokoro_voices go together"),
    ],
)
def test_what_cannot_be_is_said_with_its_place(name: str, assignment: str, says: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_train_config(CONFIGS / f"pocket_{name}.yaml", [assignment])
    assert says in str(refusal.value)


def test_trajectories_of_other_clips_are_refused(directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = [part for value in small("ode_init", directory, "subject.blocks=5") for part in ("--set", value)]
    assert cli.main(["train", str(CONFIGS / "pocket_ode_init.yaml"), "--run", str(tmp_path / "run"), *sets]) == 2
    assert "video trajectories are [3, 8, 4, 8, 8], the model asks for [3, 10, 4, 8, 8]" in capsys.readouterr().err


def test_trajectories_hold_states_at_the_levels_of_the_passes(directory: Path) -> None:
    from model.training.trajectories import open_trajectories

    found = open_trajectories(directory / "trajectories")
    assert sorted(found.prompts()) == ["clip 0 from block 0", "clip 1 from block 0", "clip 2 from block 0"]
    run = begin("ode_init", directory, directory / "unused")
    table, kept = run.stage._subject.trajectory_plan(4)  # type: ignore[attr-defined]
    assert table.levels.tolist() == [1.0, 0.75, 0.5, 0.25]
    assert kept == [0, 3, 4], "the passes of the run's config, and the end"
    video: Tensor = found[0].video.float()
    assert video[0].std() == pytest.approx(1, abs=0.1), "the first state is noise"


def test_a_frozen_decoder_is_measured(directory: Path, tmp_path: Path) -> None:
    outcome = begin("video_vae", directory, tmp_path, "max_steps=1", *frozen("video_vae")).train()
    movement = {"mouth motion correlation", "mouth motion energy"}
    assert {"luma PSNR dB", "mouth L1", "eye chroma L1"} | movement | {"face sharpness"} == outcome.measured.keys()
    assert '"luma PSNR dB"' in (tmp_path / "journal.jsonl").read_text()


def test_a_vae_that_has_its_encoder_in_its_file_is_taken_whole(directory: Path, tmp_path: Path) -> None:
    config = ModelConfig.model_validate(yaml.safe_load((directory / "model.yaml").read_text()))
    networks = tiny_networks(config)
    save_file(networks["audio_vae"].state_dict(), tmp_path / "audio_vae.safetensors")
    vae = make_vae(config, "audio")
    assert take_vae(vae, tmp_path, "audio")
    own = vae.state_dict()
    assert all(torch.equal(own[key], x) for key, x in networks["audio_vae"].state_dict().items())
