"""The judge of sound: Audiobox Aesthetics (arXiv 2502.05139) through its own package; three of its four axes are added up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.errors import CheckpointError, ConfigError
from model.rewards.judge import Clip

FILE = "audiobox-aesthetics/checkpoint.pt"
"""Place in the directory that ``avatar-rtc download reward`` fills."""
AXES = ("CE", "CU", "PQ")
"""Content enjoyment, content usefulness, production quality."""


class AestheticsJudge:
    """Implements :class:`model.rewards.judge.Judge`.

    Args:
        predict: a batch of ``{"path": samples [1, N], "sample_rate": ...}`` to a score of each axis, as the package has it.
        module: its network.
    """

    def __init__(self, predict: Callable[[list[dict[str, Any]]], Sequence[Mapping[str, float]]], module: nn.Module) -> None:
        self._predict, self.module = predict, module

    def __call__(self, clips: Sequence[Clip]) -> Mapping[str, Tensor]:
        asked = [{"path": clip.samples.cpu().unsqueeze(0), "sample_rate": clip.sample_rate_hz} for clip in clips]
        return {"aesthetics": torch.tensor([sum(float(found[axis]) for axis in AXES) for found in self._predict(asked)])}


def load_aesthetics_judge(weights: Path) -> AestheticsJudge:
    """
    Raises:
        CheckpointError: its file is missing; ConfigError: its package is.
    """
    path = weights / FILE
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: fetch it with 'avatar-rtc download reward'")
    if find_spec("audiobox_aesthetics") is None:
        raise ConfigError("the judge of sound needs its package: pip install 'avatar-rtc[reward]'")
    from audiobox_aesthetics.infer import initialize_predictor

    predictor: Any = initialize_predictor(str(path))
    return AestheticsJudge(predictor.forward, predictor.model)
