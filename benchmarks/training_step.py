"""What a step of training costs at full size: seconds and memory of stage 1 and stage 2, with random weights, text and data.

    torchrun --nproc-per-node 2 --no-python -- python -m benchmarks.training_step configs/train/hallo_live_ode_init.yaml
    torchrun --nproc-per-node 2 --no-python -- python -m benchmarks.training_step configs/train/hallo_live_dmd.yaml \\
        --set precision.master=bfloat16

The config is a shipped one, its files are replaced by what is made here, in a temporary directory: no weights are needed. Nothing
is saved. In stage 2 the first step is the generator's and the critic's, the next ones the critic's alone; the first of all warms
up. By arithmetic (docs/training.md) two H100 hold stage 1 with precision.master=bfloat16, two H200 also stage 2 so.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from pathlib import Path

import torch

from model.training.build import build_stage
from model.training.config import DMDStage, HalloLiveSubject, TrainConfig, load_train_config
from model.training.distributed import World
from model.training.hallo_live import HalloLive
from model.training.run import Run
from model.training.trajectories import Trajectory, write_file

NUM_PROMPTS, NUM_TOKENS = 2, 128


def made_up(path: Path, values: list[str], directory: Path, world: World) -> TrainConfig:
    """A config whose prompts, features and trajectories are there, and whose networks begin at random."""
    stage = load_train_config(path, values).stage
    data = f"stage.prompts={directory}/prompts.csv" if isinstance(stage, DMDStage) else f"stage.trajectories={directory}"
    starts = [f"subject.starts.{role}=random" for role in ("student", "teacher", "critic")]
    features = f"subject.text_features={directory}/features"
    config = load_train_config(path, [data, *starts, "subject.starts.audio_tower=null", features, *values])
    assert isinstance(config.subject, HalloLiveSubject), "of hallo-live: pocket is too small to be worth it"
    subject = HalloLive(config.subject, config.seed)
    if world.rank == 0:
        prompts = [f"Prompt {i}." for i in range(NUM_PROMPTS)]
        with (directory / "prompts.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["text_prompt"], *([prompt] for prompt in prompts)])
        unwanted = config.subject.unwanted
        for prompt in (*prompts, unwanted.video, unwanted.audio):
            tokens = min(NUM_TOKENS, subject.model.text.text_len)
            subject.features.write(prompt, torch.randn(tokens, subject.model.dit.text_dim).to(torch.bfloat16) * 0.1)
        (channels, length, *cells), audio = subject.clip
        states = len(subject.timesteps) + 1
        for i, prompt in enumerate(prompts):
            video = torch.randn(states, length, channels, *cells, dtype=torch.float16)
            trajectory = Trajectory(prompt, video, torch.randn(states, *audio, dtype=torch.float16))
            write_file(directory / f"{i}.pt", trajectory, prompt)
    world.barrier()
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="of configs/train")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="in place of what the config says")
    parser.add_argument("--directory", type=Path, help="for made-up data, seen by all machines (default: a temporary one)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures to this JSON file")
    options = parser.parse_args()
    world = World.join(load_train_config(options.config, options.set).sharding)
    try:
        run(options, world)
    finally:
        world.leave()


def run(options: argparse.Namespace, world: World) -> None:
    """Time the steps; the first process tells."""

    def tell(line: str) -> None:
        if world.rank == 0:
            print(line, flush=True)

    directory = options.directory or Path(tempfile.gettempdir()) / "training_step"
    directory.mkdir(parents=True, exist_ok=True)
    config = made_up(options.config, options.set, directory, world)
    began_s = time.monotonic()
    training = Run(config, build_stage(config, world, tell), directory / f"run_{time.time_ns()}", world)
    rows = []
    tell(f"ready after {time.monotonic() - began_s:.0f} s, on {world.size} x {world.device.type}")
    for _ in range(options.steps):
        if world.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        figures = training.one_step(logs=True)
        row = {"step": training.step, **{name: value for name, value in figures.items() if name != "seconds"}}
        tell(json.dumps(row))
        rows.append(row)
    if options.out is not None and world.rank == 0:
        options.out.write_text(json.dumps({"config": config.model_dump(mode="json"), "steps": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
