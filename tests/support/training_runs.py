"""Runs of the shipped configs at a size for tests: everything that they name, and the values that make them small."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from model.adapters.ovi import to_published
from model.dit.transformer import DualStreamTransformer
from model.training.build import open_run
from model.training.config import TrainConfig, load_train_config
from model.training.distributed import World
from model.training.run import Run
from model.training.trajectories import Trajectory, write_file
from testkit.published_files import TINY, Dice, write_config, write_published_files

CONFIGS = Path(__file__).parents[2] / "configs" / "train"
PROMPTS = [f"A person in room {i}. <S>Hello number {i}.<E>" for i in range(5)]
NUM_VIDEO, NUM_STATES = 4, 5


def write_everything(directory: Path) -> Path:
    """Weights, prompts and trajectories, as the commands before a run leave them."""
    write_published_files(directory / "weights", TINY, dtype=torch.float32)
    write_config(directory / "model.yaml", TINY)
    cells = TINY.geometry.patch_cells
    with torch.device("meta"):
        shapes = to_published(DualStreamTransformer(TINY.dit, cells).state_dict(), cells)
    for seed, name in enumerate(("student", "teacher", "critic"), 20):
        tensors = Dice(seed, torch.device("cpu"))({k: tuple(x.shape) for k, x in shapes.items()}, torch.float32)
        save_file({k: x.contiguous() for k, x in tensors.items()}, directory / "weights" / f"{name}.safetensors")
    with (directory / "prompts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text_prompt"], *([prompt] for prompt in PROMPTS)])
    (directory / "trajectories").mkdir()
    for i, prompt in enumerate(PROMPTS):
        dice = torch.Generator().manual_seed(i)
        video = torch.randn(NUM_STATES, NUM_VIDEO, 48, 4, 6, generator=dice)
        audio = torch.randn(NUM_STATES, NUM_VIDEO * 5, 20, generator=dice)
        write_file(directory / "trajectories" / f"{i}.pt", Trajectory(prompt, video, audio), prompt)
    return directory


def small(directory: Path, *more: str) -> list[str]:
    """What makes any of the configs small."""
    return [
        f"subject.model={directory}/model.yaml",
        "subject.teacher_model=null",
        f"subject.weights={directory}/weights",
        f"subject.text_features={directory}/features",
        f"subject.video_latents={NUM_VIDEO}",
        *(f"subject.starts.{role}={role}.safetensors" for role in ("student", "teacher", "critic")),
        "subject.starts.audio_tower=null",
        "precision={master: float32, compute: float32}",
        "batch=1",
        *more,
    ]


def config_of(name: str, directory: Path, *more: str) -> TrainConfig:
    """A shipped config, made small."""
    path = CONFIGS / f"{name}.yaml"
    data = "trajectories" if "kind: ode_init" in path.read_text() else "prompts"
    suffix = "" if data == "trajectories" else ".csv"
    return load_train_config(path, small(directory, f"stage.{data}={directory}/{data}{suffix}", *more))


def begin(name: str, directory: Path, run: Path, *more: str) -> Run:
    """Begin a run, or go on with it, in this process."""
    return open_run(config_of(name, directory, *more), run, World.alone(torch.device("cpu")))


def shipped() -> Sequence[str]:
    """Those of the published model."""
    return sorted(path.stem for path in CONFIGS.glob("hallo_live*.yaml"))
