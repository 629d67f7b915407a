"""What the picture decoder's convolutions read of each channel, for graphs that compute them in 8 bits.

    python -m model.training.ranges model/weights/pocket

The looks that are offered listen and speak for some blocks each, from their first one on, in float32; a minute on two cores.
:mod:`model.training.assemble` does it too.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from model.checkpoint import Weights, read_weights
from model.chunk import StreamSettings
from model.description import RANGES
from model.pocket import Pocket
from model.quantisation import KERNEL
from model.torch_runtime import TorchRuntime

LINE = "Hello, nice to meet you. How are you today?"
NUM_BLOCKS = 4


class _Watch(TorchFunctionMode):
    """Notes what convolutions of :data:`KERNEL` read; of a picture decoder, which is all that has such."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d and tuple(args[1].shape[2:]) == KERNEL:
            x = args[0].transpose(0, 1).flatten(1)
            self.seen.append(torch.stack((x.amin(dim=1), x.amax(dim=1))))
        return func(*args, **(kwargs or {}))


def measure(weights: Weights, looks: Sequence[StreamSettings], num_blocks: int = NUM_BLOCKS) -> list[Tensor]:
    """Of each convolution in its order [2, C]: least and largest value of each channel that it reads."""
    model = Pocket(weights, TorchRuntime(weights, torch.device("cpu")))
    seen = [torch.stack(blocks) for blocks in zip(*_blocks(model, looks, num_blocks), strict=True)]
    return [torch.stack((x[:, 0].amin(dim=0), x[:, 1].amax(dim=0))) for x in seen]


def _blocks(model: Pocket, looks: Sequence[StreamSettings], num_blocks: int) -> Iterator[list[Tensor]]:
    for look in looks:
        for line in ("", LINE):
            stream = model.open(look)
            if line:
                stream.push("line", line)
            for _ in range(num_blocks):
                with _Watch() as watch:
                    while stream.step() is None:
                        pass
                yield watch.seen


def write(checkpoint: Path) -> None:
    """Measure a checkpoint's ranges and put them into it."""
    from model.data.captions import PRESETS  # which needs what draws faces
    from model.data.speech import VOICES

    looks = [StreamSettings(preset.caption, VOICES[preset.voice].descriptions[0]) for preset in PRESETS]
    save(checkpoint, measure(read_weights(checkpoint), looks))


def save(checkpoint: Path, ranges: Sequence[Tensor]) -> None:
    save_file({f"{i:02}": x.contiguous() for i, x in enumerate(ranges)}, checkpoint / RANGES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="directory of the checkpoint")
    write(parser.parse_args().checkpoint)


if __name__ == "__main__":
    main()
