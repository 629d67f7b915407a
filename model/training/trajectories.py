"""Trajectories of the teacher on disk, in both published forms: a ``.pt`` file a prompt, as they are sampled, or one LMDB.

LMDB keys and shapes are the published ones: ``video_latents_{i}_data``, ``audio_latents_{i}_data`` (float16) and
``prompts_{i}_data`` (UTF-8) of sample i; ``video_latents_shape``, ``audio_latents_shape`` and ``prompts_shape`` with the numbers
of a whole array, the samples' first, parted by blanks.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from model.errors import ConfigError, TrainingError

MAP_BYTES = 10 << 40
"""Address room of an LMDB, as published; the file is as large as what is in it."""
VIDEO, AUDIO, PROMPTS = "video_latents", "audio_latents", "prompts"


@dataclass(frozen=True)
class Trajectory:
    """States of one sampling, from noise to clean: video [S, F, C, h, w], audio [S, L, C]."""

    prompt: str
    video: Tensor
    audio: Tensor


class TrajectorySet(Protocol):
    """Trajectories by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Trajectory: ...

    def prompts(self) -> list[str]:
        """Of all, in their order."""


def open_trajectories(path: Path) -> TrajectorySet:
    """A directory of ``.pt`` files, or an LMDB.

    Raises:
        TrainingError: it is neither, or empty.
    """
    found: TrajectorySet = TrajectoryLMDB(path) if (path / "data.mdb").is_file() else TrajectoryFiles(path)
    if not len(found):
        raise TrainingError(f"{path} holds no trajectories: make some with 'avatar-rtc train sample-ode'")
    return found


def write_file(path: Path, trajectory: Trajectory, formatted_prompt: str) -> None:
    """One ``.pt`` file as the published sampler writes it, whole or not at all."""
    part = path.with_suffix(f".{os.getpid()}.part")
    torch.save(
        {
            "prompt": trajectory.prompt,
            "formatted_prompt": formatted_prompt,
            "video_ode": trajectory.video.unsqueeze(0).cpu(),
            "audio_ode": trajectory.audio.unsqueeze(0).cpu(),
        },
        part,
    )
    os.replace(part, path)


def read_file(path: Path) -> Trajectory:
    """
    Raises:
        TrainingError: it is damaged, or something else.
    """
    try:
        found = torch.load(path, "cpu", weights_only=True, mmap=True)
        return Trajectory(found["prompt"], found["video_ode"][0], found["audio_ode"][0])
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError, IndexError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrainingError(f"{path} is damaged or no trajectory ({reason}): remove it and sample it again") from None


class TrajectoryFiles:
    """A directory of ``.pt`` files, in the order of their names."""

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise TrainingError(f"{directory}: no such directory of trajectories: make it with 'avatar-rtc train sample-ode'")
        self._paths = sorted(directory.glob("*.pt"))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Trajectory:
        return read_file(self._paths[index])

    def prompts(self) -> list[str]:
        return [read_file(path).prompt for path in self._paths]  # mapped: the latents are not read


class TrajectoryLMDB:
    """A published LMDB, read."""

    def __init__(self, directory: Path) -> None:
        self._path = directory
        lmdb = _lmdb()
        try:
            self._base = lmdb.open(str(directory), readonly=True, lock=False, readahead=False, subdir=True)
        except lmdb.Error as error:
            raise TrainingError(f"{directory} is no LMDB ({error}): pack it again with 'avatar-rtc train pack-ode'") from None
        self._shapes = {name: self._shape(name) for name in (VIDEO, AUDIO)}

    def _get(self, key: str) -> bytes:
        with self._base.begin() as view:
            found = view.get(key.encode())
        if found is None:
            raise TrainingError(f"{self._path} has no {key}: pack it again with 'avatar-rtc train pack-ode'")
        return bytes(found)

    def _shape(self, name: str) -> tuple[int, ...]:
        return tuple(int(n) for n in self._get(f"{name}_shape").split())

    def __len__(self) -> int:
        return self._shapes[VIDEO][0]

    def __getitem__(self, index: int) -> Trajectory:
        if not 0 <= index < len(self):
            raise IndexError(index)
        video, audio = (self._array(name, index) for name in (VIDEO, AUDIO))
        return Trajectory(self._prompt(index), video, audio)

    def prompts(self) -> list[str]:
        return [self._prompt(i) for i in range(len(self))]

    def _prompt(self, index: int) -> str:
        return self._get(f"{PROMPTS}_{index}_data").decode()

    def _array(self, name: str, index: int) -> Tensor:
        flat = np.frombuffer(self._get(f"{name}_{index}_data"), np.float16)
        shape = self._shapes[name][1:]
        if flat.size != np.prod(shape):
            raise TrainingError(f"{self._path}: {name}_{index}_data has {flat.size} numbers, its shape is {list(shape)}")
        return torch.from_numpy(flat.copy()).view(shape)


def pack(
    sources: Sequence[Path], directory: Path, on_progress: Callable[[int, int], None] = lambda done, of: None
) -> tuple[int, int]:
    """All trajectories of some directories as one LMDB, each prompt once. It is whole, or not there.

    Returns:
        How many are in it, and how many were left out because their prompt was there already.

    Raises:
        TrainingError: there are none, or they differ in shape; ConfigError: the LMDB is there already.
    """
    if directory.exists():
        raise ConfigError(f"{directory} is there already: remove it, or choose another")
    paths = [path for source in sources for path in sorted(source.glob("*.pt"))]
    if not paths:
        raise TrainingError(f"no .pt file in {', '.join(map(str, sources))}: make some with 'avatar-rtc train sample-ode'")
    part = directory.with_name(f".{directory.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    base = _lmdb().open(str(part), map_size=MAP_BYTES, subdir=True)
    seen: set[str] = set()
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        for done, path in enumerate(paths):
            trajectory = read_file(path)
            if trajectory.prompt not in seen:
                _put(base, len(seen), trajectory, shapes, path)
                seen.add(trajectory.prompt)
            on_progress(done + 1, len(paths))
        with base.begin(write=True) as change:
            for name, shape in {**shapes, PROMPTS: ()}.items():
                change.put(f"{name}_shape".encode(), " ".join(map(str, (len(seen), *shape))).encode())
        base.sync(True)
    finally:
        base.close()
    os.replace(part, directory)
    return len(seen), len(paths) - len(seen)


def _put(base: Any, number: int, trajectory: Trajectory, shapes: dict[str, tuple[int, ...]], path: Path) -> None:
    with base.begin(write=True) as change:
        for name, x in ((VIDEO, trajectory.video), (AUDIO, trajectory.audio)):
            if shapes.setdefault(name, tuple(x.shape)) != tuple(x.shape):
                raise TrainingError(f"{path}: {name} is {list(x.shape)}, that of the files before it {list(shapes[name])}")
            change.put(f"{name}_{number}_data".encode(), x.to(torch.float16).numpy().tobytes())
        change.put(f"{PROMPTS}_{number}_data".encode(), trajectory.prompt.encode())


def _lmdb() -> Any:
    try:
        import lmdb
    except ImportError:
        raise ConfigError("LMDB files need the package lmdb: pip install 'avatar-rtc[train]'") from None
    return lmdb
