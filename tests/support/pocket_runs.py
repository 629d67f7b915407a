"""Runs of pocket's shipped configs at a size for tests: the data that they learn from, and the values that make them small."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from avatar_rtc import cli
from model.config import ModelConfig
from model.data.captions import caption
from model.data.face import Look
from model.data.speech import Utterance
from model.liveliness import CONTROLS
from model.rewards.faces import FaceDetector
from model.rewards.sync import FACES_FILE, SYNCNET_FILE
from model.rewards.syncnet import SyncNet
from model.training.build import open_run
from model.training.config import TrainConfig, load_train_config
from model.training.distributed import World
from model.training.run import Run
from model.training.stages.durations import Example, write_examples
from model.training.starts import encoder_file
from tests.model.support import tiny_config, tiny_networks
from tests.support.training_runs import CONFIGS

CPU = torch.device("cpu")
NUM_CLIPS, NUM_BLOCKS, BLOCKS = 3, 6, 4
"""Clips, blocks of each, blocks of a sequence; one more than the window holds."""
STAGES = ("video_vae", "audio_vae", "base", "teacher", "ode_init", "dmd", "dmd_rewards", "dmd_audio", "durations")


def pocket_config(num_layers: int = 1) -> dict[str, object]:
    """Tiny, told how to move, with pictures that pieces can be cut of and all the captions' words."""
    raw = tiny_config()
    raw["geometry"] |= {"height_px": 128, "width_px": 128, "patch_cells": [4, 4]}
    raw["dit"] |= {"control_channels": 4 * len(CONTROLS), "num_layers": num_layers}
    raw["text"] |= {"num_words": 300, "max_words": 48}
    return raw


def write_pocket(directory: Path) -> Path:
    """A model, a checkpoint with its encoders beside it, and data as ``prepare`` leaves it."""
    raw = pocket_config()
    (directory / "model.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    _write_start(directory / "start", raw)
    for name in ("clips", "first"):
        _write_clips(directory / "data" / name)
    (directory / "data" / "utterances.pkl").write_bytes(pickle.dumps([_spoken("clara", 0.1), _spoken("theo", 0.2)]))
    write_judges(directory / "weights")
    examples = [
        Example(v, "hɛlO"[: 2 + i % 3] + "a" * (i % 5), (3,) * (2 + i % 3 + i % 5)) for i in range(15) for v in ("clara", "theo")
    ]
    write_examples(directory / "durations.jsonl", examples)
    return directory


def write_judges(directory: Path) -> None:
    """Files with the published names and forms of the lip-sync judge, with random weights."""
    for name, module in ((SYNCNET_FILE, SyncNet()), (FACES_FILE, FaceDetector())):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(module.state_dict(), directory / name)


def _write_start(directory: Path, raw: dict[str, object]) -> None:
    directory.mkdir()
    (directory / "config.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    for name, network in tiny_networks(ModelConfig.model_validate(raw)).items():
        tensors = network.state_dict()
        save_file({k: x for k, x in tensors.items() if not k.startswith("encoder.")}, directory / f"{name}.safetensors")
        if name.endswith("_vae"):
            path = encoder_file(directory, "video" if name == "video_vae" else "audio")
            path.parent.mkdir(exist_ok=True)
            save_file({k: x for k, x in tensors.items() if k.startswith("encoder.")}, path)


def _write_clips(directory: Path) -> None:
    directory.mkdir(parents=True)
    rng, num_frames = np.random.default_rng(0), NUM_BLOCKS * 8
    boxes = np.zeros((NUM_CLIPS, num_frames, 2, 4), np.int16)
    boxes[:, :, 0], boxes[:, :, 1] = (50, 80, 80, 100), (40, 30, 90, 50)
    arrays: dict[str, np.ndarray] = {
        "frames": rng.integers(0, 256, (NUM_CLIPS, num_frames, 192, 128), dtype=np.uint8),
        "samples": (rng.standard_normal((NUM_CLIPS, num_frames * 320)) * 3000).astype(np.int16),
        "boxes": boxes,
        "opening": np.zeros((NUM_CLIPS, num_frames), np.float32),
        "controls": rng.standard_normal((NUM_CLIPS, num_frames, len(CONTROLS))).astype(np.float32) * 0.1,
    }
    for name, array in arrays.items():
        np.save(directory / f"{name}.npy", array)
    events = [(p, 0.2 + 0.08 * i, 0.28 + 0.08 * i) for i, p in enumerate("hɛlOhɛlO")]
    lines = []
    for voice in ("clara", "theo", "clara"):
        look = Look.sample(rng, "male" if voice == "theo" else "female")
        lines.append(json.dumps({"voice": voice, "caption": caption(look, rng), "events": events, "look": asdict(look)}))
    (directory / "clips.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (directory / "done").touch()


def _spoken(voice: str, level: float) -> Utterance:
    samples = (np.sin(np.arange(16_000) * 0.1) * level * 32767).astype(np.int16)
    return Utterance(voice, "Hello.", "hɛlO", np.full(6, 7, np.int16), samples)


def small(name: str, directory: Path, *more: str) -> list[str]:
    """What makes one of pocket's configs small. Networks begin with the checkpoint; those of VAEs with nothing."""
    start = directory / "start"
    subject = [f"subject.model={directory}/model.yaml", f"subject.data={directory}/data", f"subject.blocks={BLOCKS}"]
    if not name.endswith("_vae"):
        subject += [f"subject.{kind}_encoder={start}" for kind in ("video", "audio")]
        subject += [f"subject.starts.{role}={start}" for role in ("student", "teacher", "critic")]
    stage = {
        "ode_init": [f"stage.trajectories={directory}/trajectories", "stage.sampling.steps=4"],
        "durations": [f"stage.examples={directory}/durations.jsonl"],
        "audio_vae": ["stage.latents=16"],
        "dmd_rewards": [f"stage.rewards.weights={directory}/weights"],
    }
    return [*subject, *stage.get(name, []), "precision={master: float32, compute: float32}", "batch=2", "log_every=1", *more]


def config_of(name: str, directory: Path, *more: str) -> TrainConfig:
    """A shipped config, made small."""
    return load_train_config(CONFIGS / f"pocket_{name}.yaml", small(name, directory, *more))


def begin(name: str, directory: Path, run: Path, *more: str) -> Run:
    """Begin a run, or go on with it, in this process."""
    return open_run(config_of(name, directory, *more), run, World.alone(CPU))


def sample_trajectories(directory: Path) -> None:
    """One of each clip, as a user samples them."""
    sets = [part for value in small("ode_init", directory) for part in ("--set", value)]
    assert cli.main(["train", "sample-ode", str(CONFIGS / "pocket_ode_init.yaml"), "--num", str(NUM_CLIPS), *sets]) == 0
