"""The plan of a clip on two devices: its prediction, the search for it, and that a clip made by it is the same clip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import clip
from benchmarks.clip import Plan, Shape, planned, predict
from benchmarks.hallo_live import clip_noise, draws
from model import hallo_live
from model.hallo_live import HalloLive
from testkit.published_files import TINY, write_config, write_published_files
from testkit.timed_devices import StageTimes

SMALL = Shape(num_blocks=2, block=2, num_denoise=2)
TIMES = StageTimes((10, 12), (6, 7), sound=1, first_latent=2, latent=5, latents=12, last_block=6)


@pytest.mark.parametrize(
    ("plan", "num_devices", "clip_ms", "first_ms", "latents_ms"),
    [
        # 10, 20 | 28 decoded; 30 remembered, 42, 54 | 65
        (Plan(), 2, 65, 23, 54),
        # 10, 20 | 28; a pass waits for that: 38, 50, 62 | 73
        (Plan(), 1, 73, 23, 62),
        # 6, 12 | 20; 22, 34, 46 | 57
        (Plan(first=2), 2, 57, 15, 46),
        # 6, 12, 18 | 26; 30, 37 | 48
        (Plan(first=3, last=1), 2, 48, 21, 37),
        # 6, 12 | 20; what is shared waits for that: 26, 33, 40 | 51
        (Plan(first=2, last=3), 2, 51, 15, 40),
        # 6, 12, 18 | 26; 30, 37 | 43
        (Plan(first=3, last=1, finishes=True), 2, 43, 21, 37),
        # 6, 12, 18, 25, 32 | 40 | 46
        (Plan(first=5, finishes=True), 2, 46, 35, 32),
    ],
)
def test_a_clip_is_predicted_as_by_hand(plan: Plan, num_devices: int, clip_ms: int, first_ms: int, latents_ms: int) -> None:
    found = predict(TIMES, plan, num_devices, SMALL)
    assert found == {"clip_ms": clip_ms, "first_pictures_ms": first_ms, "latents_ms": latents_ms}


def test_three_latents_go_into_one_call() -> None:
    # 10 | sound 11, 13, 25, 30, 35; 20 remembered, 32 | 35, sound 36, 48, 60
    found = predict(TIMES, Plan(), 2, Shape(num_blocks=2, block=6, num_denoise=1))
    assert found == {"clip_ms": 60, "first_pictures_ms": 13, "latents_ms": 32}


positive = st.floats(1, 100)


@settings(max_examples=30)
@given(
    passes=st.tuples(*[positive] * 3),
    split_passes=st.tuples(*[positive] * 3),
    rest=st.tuples(*[positive] * 5),
    plan=st.builds(Plan, first=st.integers(0, 4), last=st.integers(0, 4), finishes=st.booleans()),
)
def test_no_plan_is_predicted_to_be_faster_than_the_one_found(
    passes: tuple[float, ...], split_passes: tuple[float, ...], rest: tuple[float, ...], plan: Plan
) -> None:
    times, shape = StageTimes(passes, split_passes, *rest), Shape(3, 6, 2)
    best_ms = predict(times, planned(times, plan, shape)[0], shape=shape)["clip_ms"]
    for other in (plan, replace(plan, first=0, last=0)):
        assert best_ms <= predict(times, other, shape=shape)["clip_ms"]


def test_each_step_to_the_fastest_clip_is_predicted_to_be_no_slower() -> None:
    times = StageTimes()
    clips_ms = [predict(times, plans[0])["clip_ms"] for plans in clip.ladder(times).values()]
    assert clips_ms == sorted(clips_ms, reverse=True)
    assert clips_ms[-1] < clips_ms[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> HalloLive:
    """Two devices that are one, with a replica of the transformer and a second video decoder."""
    directory: Path = tmp_path_factory.mktemp("published")
    write_published_files(directory, TINY, dtype=torch.float32)
    write_config(directory / "config.yaml", TINY)
    network = clip.split_network(directory / "config.yaml")
    return hallo_live.load(directory, network, ("cpu", "cpu"), lambda message: None, finishes=True)


@torch.inference_mode()
def made(model: HalloLive, plan: Plan) -> tuple[clip.Made, list[str]]:
    """A clip of three blocks; and what was done in which order."""
    buffers, order = model.take_buffers(), []
    buffers.rollout.text = model.read("A woman in an office. <S>Hello.<E>")
    decoders = buffers.decoders(model.parts, model.geometry)

    def noted(owner: Any, name: str, note: Any) -> None:
        work = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            order.append(note(options))
            return work(*args, **options)

        setattr(owner, name, call)

    noted(buffers.rollout, "forward", lambda options: "shared" if options["split"] else "alone")
    noted(decoders, "submit", lambda _: "block")
    noted(decoders, "finish", lambda _: "finish")
    draw = draws(torch.Generator().manual_seed(0), torch.device("cpu"))
    noise = clip_noise(TINY, buffers.rollout.shape, 3 * TINY.geometry.block_video_latents, draw)
    found = clip.run(buffers.rollout, decoders, noise, 3, draw, plan)
    decoders.close()
    return found, order


@pytest.mark.parametrize(
    "plan",
    [
        Plan(first=4),
        Plan(finishes=True),
        Plan(first=6, last=2, finishes=True),
        Plan(first=14, finishes=True),
    ],
)
def test_a_planned_clip_is_the_same_clip(model: HalloLive, plan: Plan) -> None:
    plain, _ = made(model, Plan())
    found, order = made(model, plan)
    assert found.frames.shape == plain.frames.shape
    assert found.samples.shape == plain.samples.shape
    assert np.abs(found.frames.astype(int) - plain.frames).max() <= 1
    assert np.abs(found.samples.astype(int) - plain.samples).max() <= 1
    passes = [what for what in order if what in ("shared", "alone")]
    alone = 14 - plan.first - plan.last
    assert passes == ["shared"] * plan.first + ["alone"] * alone + ["shared"] * plan.last
    assert not {"block", "finish"} & set(order[: plan.first])
    assert order.count("block") == 3 - plan.finishes
    assert order.count("finish") == plan.finishes


def test_what_a_plan_says_of_a_second_device_is_passed_over_where_there_is_none(model: HalloLive) -> None:
    single = HalloLive(replace(model.parts, second=None, second_video=None))
    found, _ = made(single, Plan(first=6, last=2, finishes=True))
    plain, _ = made(single, Plan())
    assert np.array_equal(found.frames, plain.frames)
    assert np.array_equal(found.samples, plain.samples)
