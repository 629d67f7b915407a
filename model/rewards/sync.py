"""The lip-sync judge: faces are followed through a clip, and each is measured by SyncNet against the sound."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from model.errors import CheckpointError, ConfigError
from model.rewards.faces import FaceDetector, cut_out, detect, follow
from model.rewards.judge import Clip
from model.rewards.syncnet import FACE_PX, FPS, SAMPLE_RATE_HZ, SyncNet, confidence
from model.weight_files import fill

SYNCNET_FILE, FACES_FILE = "LatentSync-1.6/auxiliary/syncnet_v2.model", "LatentSync-1.6/auxiliary/sfd_face.pth"
"""Places in the directory that ``avatar-rtc download reward`` fills."""


class SyncJudge:
    """Implements :class:`model.rewards.judge.Judge`: the mean confidence over a clip's faces, 0 where there is none."""

    def __init__(self, detector: FaceDetector, network: SyncNet) -> None:
        self._detector, self._network = detector.eval().requires_grad_(False), network.eval().requires_grad_(False)
        self.module: nn.Module = nn.ModuleList([self._detector, self._network])

    def __call__(self, clips: Sequence[Clip]) -> Mapping[str, Tensor]:
        return {"sync": torch.tensor([self._one(clip) for clip in clips])}

    def _one(self, clip: Clip) -> float:
        if clip.fps != FPS:
            raise ConfigError(f"the lip-sync judge wants {FPS} frames a second, not {clip.fps}: train without it")
        sound = resampled(clip.samples, clip.sample_rate_hz, SAMPLE_RATE_HZ)
        tracks = follow([detect(self._detector, frame) for frame in clip.frames])
        found = []
        for track in tracks:
            faces = cut_out(clip.frames, track, FACE_PX)
            samples = sound[track.first * SAMPLE_RATE_HZ // FPS :]
            found.append(confidence(self._network, faces, samples)[0])
        return sum(found) / len(found) if found else 0.0


def resampled(samples: Tensor, rate_hz: int, wanted_hz: int) -> Tensor:
    """Samples [N] at another rate, what lies above the lower one's half taken away; a whole clip at once."""
    if rate_hz == wanted_hz:
        return samples
    num = round(len(samples) * wanted_hz / rate_hz)
    spectrum = torch.fft.rfft(samples)[: num // 2 + 1]
    return torch.fft.irfft(spectrum, num) * (num / len(samples))


def load_sync_judge(weights: Path) -> SyncJudge:
    """From the published files.

    Raises:
        CheckpointError: one is missing, damaged, or something else.
    """
    detector, network = FaceDetector(), SyncNet()
    fill_published(detector, weights / FACES_FILE)
    fill_published(network, weights / SYNCNET_FILE)
    return SyncJudge(detector, network)


def fill_published(module: nn.Module, path: Path) -> None:
    """Of an old torch file, which cannot be mapped, and which lacks what batch norms count."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: fetch it with 'avatar-rtc download reward'")
    try:
        found = torch.load(path, "cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is damaged or no file of weights ({reason}): fetch it again") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, not named tensors: is it the right file?")
    counts = {name: x for name, x in module.state_dict().items() if name.endswith("num_batches_tracked")}
    fill(module, {**counts, **found}, path, dtype=torch.float32)
