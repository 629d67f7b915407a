"""What the text encoder makes of prompts, on disk: it is large, and needed once, before the networks that learn are there."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.errors import CheckpointError
from model.training.distributed import World

BATCH = 8


class Encodes(Protocol):
    """Prompts -> [B, S, D], zero behind each one's end; see :class:`model.text.umt5.TextEncoder`."""

    def __call__(self, prompts: Sequence[str]) -> Tensor: ...


class PromptFeatures:
    """A directory of one file a prompt, 8 kB a token at the published size: 1 MB for most.

    Args:
        num_tokens: that condition the transformer; files hold what is not zero of them.
    """

    def __init__(self, directory: Path, num_tokens: int) -> None:
        self._directory, self._num_tokens = directory, num_tokens

    def path(self, prompt: str) -> Path:
        digest = hashlib.md5(prompt.encode(), usedforsecurity=False).hexdigest()
        return self._directory / digest[:2] / f"{digest}.safetensors"

    def write(self, prompt: str, features: Tensor) -> None:
        """[S, D], whole or not at all."""
        path = self.path(prompt)
        path.parent.mkdir(parents=True, exist_ok=True)
        length = int(features.any(dim=1).nonzero().max()) + 1 if features.any() else 1
        part = path.with_suffix(f".{os.getpid()}.part")
        save_file({"features": features[:length].contiguous().cpu()}, part)
        os.replace(part, path)

    def read(self, prompt: str) -> Tensor:
        """[num_tokens, D] on the CPU, filled with zeros.

        Raises:
            CheckpointError: it is not there, or damaged.
        """
        path = self.path(prompt)
        try:
            features = load_file(path)["features"]
        except (OSError, SafetensorError, KeyError) as error:
            raise CheckpointError(f"{path}: no features of a prompt ({error}): remove it, and a run makes it anew") from None
        return F.pad(features, (0, 0, 0, self._num_tokens - features.shape[0]))

    def make(
        self,
        prompts: Sequence[str],
        open_encoder: Callable[[], contextlib.AbstractContextManager[Encodes]],
        world: World,
        on_progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> None:
        """Encode what is missing, this process its share; the encoder is opened only if something is."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if not self.path(prompt).is_file()]
        world.barrier()  # all have looked before any writes
        share = missing[world.rank :: world.size]
        if share:
            with open_encoder() as encode:
                for start in range(0, len(share), BATCH):
                    batch = share[start : start + BATCH]
                    for prompt, features in zip(batch, encode(batch), strict=True):
                        self.write(prompt, features)
                    on_progress(start + len(batch), len(share))
        world.barrier()


@contextlib.contextmanager
def on_loan(encoder: Encodes) -> Iterator[Encodes]:
    """An encoder whose memory is given back afterwards."""
    yield encoder
    del encoder
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
