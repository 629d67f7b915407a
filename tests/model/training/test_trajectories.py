"""Data for stage 1: sampled as the teacher samples, kept whole, packed under the published names and read back."""

from __future__ import annotations

import json
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch

from avatar_rtc import cli
from model.dit.transformer import TextMemory
from model.errors import ConfigError, TrainingError
from model.rollout import Latents
from model.sampling import euler_step
from model.text.prompt_table import film_name
from model.training.config import SamplingConfig, Streams
from model.training.dmd import Scorer
from model.training.sampling import sample
from model.training.teacher import kept_states, teacher_table, whole_forward
from model.training.trajectories import Trajectory, TrajectoryFiles, open_trajectories, pack, read_file, write_file
from tests.model.published import noise, read, tiny_dit
from tests.model.support import normal
from tests.support.training_runs import CONFIGS, PROMPTS, small, write_everything


def written(directory: Path, prompts: list[str]) -> Path:
    directory.mkdir()
    for i, prompt in enumerate(prompts):
        write_file(directory / f"{i}.pt", Trajectory(prompt, normal(5, 4, 6, 4, 6, seed=i), normal(5, 20, 5, seed=-i)), prompt)
    return directory


def test_a_published_lmdb_comes_out_and_is_read_back(tmp_path: Path) -> None:
    source = written(tmp_path / "files", ["One.", "Two.", "One."])
    assert pack([source], tmp_path / "packed") == (2, 1)
    base = lmdb.open(str(tmp_path / "packed"), readonly=True, lock=False)
    with base.begin() as view:
        keys = {bytes(key).decode() for key, _ in view.cursor()}
        assert keys == {
            *(f"{name}_{i}_data" for name in ("video_latents", "audio_latents", "prompts") for i in range(2)),
            *(f"{name}_shape" for name in ("video_latents", "audio_latents", "prompts")),
        }
        shapes = [view.get(f"{name}_shape".encode()) for name in ("video_latents", "audio_latents", "prompts")]
        assert shapes == [b"2 5 4 6 4 6", b"2 5 20 5", b"2"]
        video = np.frombuffer(view.get(b"video_latents_1_data") or b"", np.float16).reshape(5, 4, 6, 4, 6)
        assert view.get(b"prompts_1_data") == b"Two."
    base.close()
    np.testing.assert_array_equal(video, normal(5, 4, 6, 4, 6, seed=1).half().numpy())
    packed, files = open_trajectories(tmp_path / "packed"), TrajectoryFiles(source)
    assert packed.prompts() == ["One.", "Two."]
    assert [x.prompt for x in packed] == packed.prompts()  # type: ignore[attr-defined]
    for i in range(2):
        assert packed[i].prompt == files[i].prompt
        assert torch.equal(packed[i].video, files[i].video.half())
        assert torch.equal(packed[i].audio, files[i].audio.half())


def test_a_packing_that_fails_leaves_nothing(tmp_path: Path) -> None:
    source = written(tmp_path / "files", ["One.", "Two."])
    write_file(source / "9.pt", Trajectory("Three.", normal(5, 2, 6, 4, 6), normal(5, 20, 5)), "Three.")
    with pytest.raises(TrainingError, match=r"9\.pt: video_latents is \[5, 2, 6, 4, 6\], that of the files before it"):
        pack([source], tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
    (source / "9.pt").write_bytes(b"no trajectory")
    with pytest.raises(TrainingError, match=r"9\.pt is damaged"):
        pack([source], tmp_path / "packed")
    (source / "9.pt").unlink()
    assert pack([source], tmp_path / "packed") == (2, 0)
    with pytest.raises(ConfigError, match="is there already"):
        pack([source], tmp_path / "packed")


def sampled(**values: object) -> tuple[list[Latents], TextMemory, TextMemory, Latents]:
    dit = tiny_dit()
    prompt, unwanted, start = read(dit), read(dit, seed=8), Latents(*noise(4))
    config = SamplingConfig(steps=4, **values)  # type: ignore[arg-type]
    states = sample(Scorer(dit, prompt, unwanted), start, config, teacher_table(4, 5.0), kept_states(4, 5))
    return states, prompt, unwanted, start


def test_without_guidance_it_is_eulers_method() -> None:
    states, prompt, _, start = sampled(guidance=Streams(video=1.0, audio=1.0), skip_layer=None)
    table, dit = teacher_table(4, 5.0), tiny_dit()
    levels = [*table.levels.tolist(), 0.0]
    video, audio = start.video, start.audio
    for i, timestep in enumerate(table.timesteps.tolist()):
        torch.testing.assert_close(states[i].video, video)
        times = torch.full((1, 1), timestep)
        flow = whole_forward(dit, video, audio, times, times, prompt)
        video = euler_step(video, flow.video, levels[i], levels[i + 1])
        audio = euler_step(audio, flow.audio, levels[i], levels[i + 1])
    torch.testing.assert_close(states[-1].video, video)
    torch.testing.assert_close(states[-1].audio, audio)


def test_guidance_counts_for_each_stream_and_the_layer_is_left_out_of_the_unwanted_pass_alone() -> None:
    """Of the first step, whose inputs are the noise whatever guidance is."""
    dit, level = tiny_dit(), teacher_table(4, 5.0).levels
    for skip_layer in (None, 1):
        states, prompt, unwanted, start = sampled(guidance=Streams(video=4.0, audio=3.0), skip_layer=skip_layer)
        times = torch.full((1, 1), 1000.0)
        right = whole_forward(dit, start.video, start.audio, times, times, prompt)
        wrong = whole_forward(dit, start.video, start.audio, times, times, unwanted, skip_layer)
        for name, scale in (("video", 4.0), ("audio", 3.0)):
            velocity = getattr(wrong, name) + scale * (getattr(right, name) - getattr(wrong, name))
            expected = getattr(start, name) - float(level[0] - level[1]) * velocity
            torch.testing.assert_close(getattr(states[1], name), expected, rtol=1e-4, atol=1e-5)


def run(*arguments: str) -> int:
    return cli.main(["train", *arguments])


def test_from_prompts_to_stage_1_as_a_user_does_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sampled, broken off, sampled again, packed, and trained on."""
    directory = write_everything(tmp_path / "everything")
    path, config = tmp_path / "new", str(CONFIGS / "hallo_live_ode_init.yaml")
    values = [*small(directory, f"stage.trajectories={path}"), "stage.sampling={steps: 4, skip_layer: 1}", "max_steps=1"]
    sets = [part for value in values for part in ("--set", value)]
    sample_it = "sample-ode", config, "--prompts", str(directory / "prompts.csv"), *sets
    assert run(*sample_it, "--num", "2") == 0
    assert f"{path}: 2 made, 0 already there" in capsys.readouterr().out
    first = {file.name: file.stat().st_mtime_ns for file in path.glob("*.pt")}
    assert run(*sample_it) == 0
    assert f"{path}: 3 made, 2 already there" in capsys.readouterr().out
    assert {name: (path / name).stat().st_mtime_ns for name in first} == first
    assert sorted(file.name for file in path.iterdir()) == sorted(film_name(x, 64, 96, 103)[:-4] + ".pt" for x in PROMPTS)
    assert run("pack-ode", str(path), "--output", str(tmp_path / "packed")) == 0
    assert run("pack-ode", str(tmp_path / "packed"), "--unpack", "--output", str(tmp_path / "files")) == 0
    again = {x.prompt: x for x in map(read_file, (tmp_path / "files").glob("*.pt"))}
    for trajectory in map(read_file, path.glob("*.pt")):
        assert torch.equal(again[trajectory.prompt].video, trajectory.video)
    packed = [*small(directory, f"stage.trajectories={tmp_path / 'packed'}"), "max_steps=1"]
    assert run(config, "--run", str(tmp_path / "run"), *(part for value in packed for part in ("--set", value))) == 0
    assert "all steps are done" in capsys.readouterr().out


def test_trajectories_of_other_clips_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = write_everything(tmp_path / "everything")
    values = small(directory, f"stage.trajectories={directory}/trajectories", "subject.video_latents=6")
    sets = [part for value in values for part in ("--set", value)]
    assert run(str(CONFIGS / "hallo_live_ode_init.yaml"), "--run", str(tmp_path / "run"), *sets) == 2
    error = capsys.readouterr().err
    assert "video trajectories are [5, 4, 48, 4, 6], the model asks for [5, 6, 48, 4, 6]" in error
    assert "Traceback" not in error


def test_films_are_mapped_to_their_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.csv").write_text("text_prompt\nOne.\nTwo.\n")
    films = tmp_path / "films"
    films.mkdir()
    (films / film_name("Two.", 512, 992, 103)).touch()
    (films / "other.mp4").touch()
    arguments = "map-films", str(films), "--prompts", str(tmp_path / "prompts.csv")
    assert run(*arguments) == 0
    assert "1 films; 1 have no prompt, 1 prompts no film" in capsys.readouterr().out
    assert json.loads((films / "video_prompt_mappings.json").read_text()) == {film_name("Two.", 512, 992, 103): "Two."}
    assert run(*arguments, "--size", "256x256") == 2
    assert "correct --seed and --size" in capsys.readouterr().err
