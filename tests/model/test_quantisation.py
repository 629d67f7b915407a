"""Pictures in 8 bits: near those in float32, on the shipped weights, and of nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avatar_rtc.config import load_config
from avatar_rtc.resources import server_config
from model.checkpoint import POCKET_DIR, Weights, read_weights
from model.chunk import StreamSettings
from model.conversion import convert
from model.errors import CheckpointError
from model.parts import example_inputs
from model.pocket import Pocket
from model.torch_runtime import TorchRuntime
from model.training import ranges
from tests.model.support import MAN, tiny_weights

CLOSE_DB = 42
"""Peak signal to noise of bytes against those of float32: a square error of 4 of 255 squared, far below what a codec leaves."""


@pytest.fixture(scope="module")
def shipped() -> Weights:
    return read_weights(POCKET_DIR)


def decibels(ours: np.ndarray, truth: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(ours.astype(float) - truth).mean()))


@pytest.mark.slow
def test_pictures_of_all_looks_are_near_those_in_float32(shipped: Weights) -> None:
    """First blocks, where nothing is remembered, listening and speaking; and one block that remembers one made in 8 bits."""
    import openvino

    graph = convert(shipped, "decode_video", example_inputs(shipped)["decode_video"], "int8")
    request = openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    kernels = [
        node.get_rt_info()["primitiveType"].astype(str) for node in request.get_compiled_model().get_runtime_model().get_ops()
    ]
    assert sum(kernel.endswith("I8") for kernel in kernels) >= len(shipped.ranges)

    runtime = TorchRuntime(shipped, torch.device("cpu"))
    latents: list[np.ndarray] = []

    class Listening:
        memory, array, numpy = runtime.memory, runtime.array, runtime.numpy

        def __call__(self, part: str, *inputs: Any) -> tuple[torch.Tensor, ...]:
            if part == "decode_video":
                latents.append(runtime.numpy(inputs[0]))
            return runtime(part, *inputs)

    config = load_config(server_config("pocket"))
    voices = {voice.id: voice.voice for voice in config.voices}
    model = Pocket(shipped, Listening())
    first = model.first_video_memory
    for number, avatar in enumerate(config.avatars):
        stream = model.open(StreamSettings(avatar.scene, voices[avatar.voice]))
        if number % 2:
            stream.push("a", "Hello, nice to meet you.")
        remembered = [np.asarray(x) for x in first]
        for _ in range(1 if number else 2):
            while (chunk := stream.step()) is None:
                pass
            pictures, *remembered = [np.array(x) for x in request.infer([latents[-1], *remembered]).values()]
            assert decibels(pictures[0], chunk.frames) >= CLOSE_DB, avatar.name


def test_ranges_come_back_from_a_checkpoint_and_change_its_digest(tmp_path: Path) -> None:
    before = tiny_weights(tmp_path / "tiny")
    found = ranges.measure(before, [MAN], 1)
    ranges.save(tmp_path / "tiny", found)
    after = read_weights(tmp_path / "tiny")
    assert after.digest != before.digest
    assert [x.shape for x in after.ranges] == [x.shape for x in found]
    assert all(torch.equal(a, b) for a, b in zip(after.ranges, found, strict=True))


def test_ranges_of_another_network_are_refused(shipped: Weights, tmp_path: Path) -> None:
    tiny = tiny_weights(tmp_path)
    with pytest.raises(CheckpointError, match="another network"):
        convert(replace(tiny, ranges=shipped.ranges), "decode_video", example_inputs(tiny)["decode_video"], "int8")
