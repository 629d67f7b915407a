"""A checkpoint of a network that nobody has trained: what it costs is known before what it can do."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

from model.checkpoint import POCKET_DIR, make_networks, read_weights
from model.chunk import StreamSettings
from model.config import ModelConfig, load_yaml
from model.description import NETWORKS
from model.training import ranges


def write_checkpoint(config: Path, directory: Path) -> None:
    """Random weights for a network of this config, with pocket's words.

    Raises:
        model.errors.ConfigError: the config is wrong.
    """
    model = load_yaml(config, ModelConfig)
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(model.model_dump(mode="json")), encoding="utf-8")
    (directory / "words.txt").write_bytes((POCKET_DIR / "words.txt").read_bytes())
    torch.manual_seed(0)
    for name, network in zip(NETWORKS, make_networks(model, model.geometry.build()), strict=True):
        for parameter in network.parameters():  # heads begin at zero, and then all that follows computes with nothing else
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
        save_file(network.state_dict(), directory / f"{name}.safetensors")
    look = StreamSettings("A woman in a bright office.", "a warm voice")
    ranges.save(directory, ranges.measure(read_weights(directory), [look], 1))
