"""Passes that two devices share give what one device alone gives, in any mixture."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from model import kernels
from model.config import DiTConfig, RolloutConfig, TowerConfig
from model.dit.halves import num_first
from model.dit.transformer import DualStreamTransformer, TextMemory
from model.graphs import CudaGraphCache
from model.kernels import eager
from model.rollout import Latents, Rollout, RolloutShape
from tests.model.published import BLOCK, GPU_CONFIG, SHAPE, drawing, noise, open_rollout, read, tiny_dit
from tests.model.support import normal, randomise
from tests.support.traced_graphs import TracedGraphs
from tests.support.traced_lockstep import LateLockstep, RacingLockstep

Chooses = Callable[[], bool]
RATIO = SHAPE.audio_per_video


def always() -> bool:
    return True


def never() -> bool:
    return False


def at_random(seed: int) -> Chooses:
    dice = random.Random(seed)
    return lambda: dice.random() < 0.5


def open_split(
    dit: DualStreamTransformer,
    text: TextMemory | None = None,
    *,
    records: bool = False,
    lockstep: LateLockstep | None = None,
    **config: Any,
) -> tuple[Rollout, LateLockstep]:
    config = {"window_latents": 6, **config}
    lockstep = LateLockstep(records=records) if lockstep is None else lockstep
    rollout = Rollout(
        dit,
        RolloutConfig(**config),
        SHAPE,
        text or read(dit),
        graphs=TracedGraphs() if records else None,
        second=dit.video_replica(torch.device("cpu")),
        lockstep=lockstep,
    )
    return rollout, lockstep


def stream(
    rollout: Rollout,
    noises: tuple[Tensor, Tensor],
    splits: Chooses,
    *,
    picture: Tensor | None = None,
    cuts: dict[int, int] | None = None,
    texts: dict[int, TextMemory] | None = None,
    draw: Callable[[tuple[int, ...]], Tensor] | None = None,
) -> list[Latents]:
    """Blocks of a clip; after those in ``cuts`` so many latents are taken back."""
    draw, blocks = draw or drawing(), []
    ahead = rollout.dit.config.future_audio_latents
    for number in range(noises[0].shape[2] // BLOCK):
        if texts and number in texts:
            rollout.text = texts[number]
        video = noises[0][:, :, number * BLOCK : (number + 1) * BLOCK]
        audio = noises[1][:, number * BLOCK * RATIO : (number + 1) * BLOCK * RATIO]
        rollout.begin(video, torch.cat((audio, audio[:, :ahead]), dim=1), picture if number == 0 else None)
        block = None
        while block is None:
            block = rollout.denoise(draw, split=splits())
        blocks.append(Latents(block.video.clone(), block.audio.clone()))
        if (num_cut := (cuts or {}).get(number)) is not None:
            if number % 2:
                rollout.update_cache(split=splits())
            rollout.rollback(num_cut)
        if not rollout.is_cache_current:
            rollout.update_cache(split=splits())
    return blocks


def check_same(actual: list[Latents], expected: list[Latents], tolerance: float = 1e-5) -> None:
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.video, b.video, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(a.audio, b.audio, atol=tolerance, rtol=tolerance)


def check_both_remember(rollout: Rollout) -> None:
    rollout._lockstep.meet()
    first, second = (side.context for side in rollout._sides)
    assert first.num_latents == second.num_latents > 0
    copies = first.copies(second, 0, first.num_latents)  # type: ignore[attr-defined]
    assert len(copies) == 2 * rollout.dit.config.num_layers  # the second keeps no video for audio
    for x, y in copies:
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("records", [False, True])
@pytest.mark.parametrize(
    ("config", "splits"),
    [({}, always), ({}, at_random(1)), ({"sink_latents": 2}, at_random(2)), ({"continuation": "restart"}, at_random(3))],
    ids=["always", "mixed", "sink", "restart"],
)
def test_shared_passes_equal_passes_of_one_device(records: bool, splits: Chooses, config: dict[str, Any]) -> None:
    """Through several turns of the window, with a look-ahead."""
    dit, noises = tiny_dit(3), noise(10)
    rollout, lockstep = open_split(dit, records=records, **config)
    check_same(stream(rollout, noises, splits), stream(open_rollout(dit, **config), noises, never))
    check_both_remember(rollout)
    if records:
        assert len(lockstep) > 1
        assert lockstep.num_played > 0


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_overwritten_that_a_slower_device_still_reads(seed: int) -> None:
    """Enough layers that they share what crosses over one way."""
    dit, noises = tiny_dit(1, num_layers=4), noise(6)
    rollout, lockstep = open_split(dit, records=True, lockstep=RacingLockstep(seed))
    check_same(stream(rollout, noises, at_random(seed) if seed else always), stream(open_rollout(dit), noises, never))
    check_both_remember(rollout)
    assert lockstep.num_played > 0


@pytest.mark.parametrize("records", [False, True])
@pytest.mark.parametrize("splits", [always, at_random(3)], ids=["always", "mixed"])
def test_a_picture_cuts_and_new_text_reach_both_devices(records: bool, splits: Chooses) -> None:
    """Cuts leave a block of one latent, whose tokens are split in the middle of it, or nothing of it."""
    dit, noises = tiny_dit(), noise(16)
    how: dict[str, Any] = {
        "picture": normal(1, 6, 1, SHAPE.height, SHAPE.width, seed=20),
        "cuts": {2: 1, 3: 1, 4: 2, 5: 2},
        "texts": {1: read(dit, seed=6), 3: read(dit, seed=7), 5: read(dit, seed=8)},
    }
    rollout, _ = open_split(dit, records=records)
    check_same(stream(rollout, noises, splits, **how), stream(open_rollout(dit), noises, never, **how))
    check_both_remember(rollout)
    rollout.reset(read(dit))
    check_same(stream(rollout, noise(6), splits), stream(open_rollout(dit), noise(6), never))


@pytest.mark.parametrize("splits", [always, at_random(4)], ids=["always", "mixed"])
def test_a_batch_is_shared(splits: Chooses) -> None:
    dit, noises = tiny_dit(2), noise(8, batch=2)
    text = read(dit, batch=2)
    rollout, _ = open_split(dit, text)
    found = stream(rollout, noises, splits, draw=torch.zeros)
    check_same(found, stream(open_rollout(dit, text), noises, never, draw=torch.zeros))


def test_settled_and_rounded_weights_are_shared_too() -> None:
    dit, noises = tiny_dit(), noise(6)
    for float8 in (False, True):
        one, (rollout, _) = copy.deepcopy(dit).prepare_for_inference(float8=float8), open_split(copy.deepcopy(dit))
        for side in rollout._sides:
            side.dit.prepare_for_inference(float8=float8)
        check_same(stream(rollout, noises, always), stream(open_rollout(one, read(dit)), noises, never))


def test_a_replay_reads_both_caches_as_they_are() -> None:
    dit = tiny_dit(num_layers=1)
    rollout, lockstep = open_split(dit, records=True)
    stream(rollout, noise(4), always)

    def first_pass() -> Tensor:
        rollout.begin(*noise(BLOCK, seed=3))
        block = rollout.denoise(torch.zeros, leave=True, split=True)
        assert block is not None
        rollout._clean, rollout._latest = None, []
        rollout.finished_audio = rollout.finished_audio[:, : -BLOCK * RATIO]
        return block.video.clone()

    first, num_records = first_pass(), len(lockstep)
    assert torch.equal(first_pass(), first)
    for side in rollout._sides:
        before = first_pass()
        side.context.buffers[0][0].value[:, :, 0] += 1  # type: ignore[attr-defined]
        assert not torch.equal(first_pass(), before)
    assert len(lockstep) == num_records


def test_unused_room_is_never_read() -> None:
    dit, noises = tiny_dit(2), noise(10)
    rollout, _ = open_split(dit, records=True)
    for side in rollout._sides:
        for layer in side.context.buffers:  # type: ignore[attr-defined]
            for kv in layer:
                for x in kv:
                    x.fill_(torch.nan)
    check_same(stream(rollout, noises, at_random(5)), stream(open_rollout(dit), noises, never))


def test_sealed_what_has_no_record_runs_on_the_first_device() -> None:
    dit, noises = tiny_dit(), noise(6)
    rollout, lockstep = open_split(dit, records=True)
    rollout.freeze_split()
    check_same(stream(rollout, noises, always), stream(open_rollout(dit), noises, never))
    assert len(lockstep) == lockstep.num_played == 0
    check_both_remember(rollout)


def test_latents_with_timesteps_of_their_own_are_not_cut_in_two() -> None:
    """A block of an odd number of latents, the first of which is given."""
    dit, (video, audio) = tiny_dit(), noise(3)
    picture = normal(1, 6, 1, SHAPE.height, SHAPE.width, seed=20)
    made = []
    for rollout in (open_split(dit)[0], open_rollout(dit)):
        rollout.begin(video, audio, picture)
        block = rollout.denoise(torch.zeros, leave=True, split=True)
        assert block is not None
        assert rollout._was_split == rollout.can_split
        made.append(block)
    check_same(made[:1], made[1:])


@pytest.mark.parametrize(
    ("num_tokens", "num_latents", "num_timesteps", "expected"),
    [
        (2976, 6, 1, 1248),  # the published block: the second has 27 times 64
        (2976, 6, 6, 2 * 496),
        (1488, 3, 3, 496),
        (992, 2, 2, 496),
        (496, 1, 1, 176),
        (12, 2, 1, 5),
        (12, 2, 2, 6),
        (2, 1, 1, 1),
    ],
)
def test_the_first_device_has_fewer_tokens(num_tokens: int, num_latents: int, num_timesteps: int, expected: int) -> None:
    assert num_first(num_tokens, num_latents, num_timesteps) == expected


def test_the_second_device_has_no_audio() -> None:
    """Of the audio tower's weights it has those that project video for it, and any other number there would be heard."""
    dit, noises = tiny_dit(3), noise(10)
    rollout, _ = open_split(dit)
    second = rollout._sides[1]
    assert not second.text.audio
    weights = dict(second.dit.named_parameters())
    here = {name for name, weight in weights.items() if not weight.is_meta}
    assert not any("audio_ends" in name for name in here)
    for tower, projects in (("audio", True), ("video", False)):
        of_tower = {name for name in weights if f".{tower}." in name}
        assert {name for name in of_tower if "_fusion" in name} == (of_tower & here if projects else of_tower - here)
    for name, weight in weights.items():
        if name not in here:
            parent, _, last = name.rpartition(".")
            setattr(second.dit.get_submodule(parent), last, torch.nn.Parameter(torch.full(weight.shape, torch.nan)))
    check_same(stream(rollout, noises, always), stream(open_rollout(dit), noises, never))


# On GPUs: one that plays both devices, or two

LARGER = DiTConfig(
    video=TowerConfig(dim=1024, ffn_dim=4096, num_heads=8, latent_channels=6),
    audio=TowerConfig(dim=1024, ffn_dim=4096, num_heads=8, latent_channels=5, stem="conv", time_scale=0.2),
    num_layers=8,
    text_dim=16,
    freq_dim=16,
)
CASES = [
    pytest.param(config, shape, last, id=f"{name}, {last}")
    for name, config, shape in (
        ("small", GPU_CONFIG, SHAPE),
        ("larger", LARGER, RolloutShape(height=32, width=62, audio_per_video=RATIO)),
    )
    for last in ("cuda:0", "cuda:1")
]


def on_gpus(
    config: DiTConfig, shape: RolloutShape, last: str, dtype: torch.dtype = torch.bfloat16
) -> tuple[Rollout, Rollout, Rollout]:
    """Three streams of the same weights: in float32, in ``dtype``, and one in it that may be split."""
    if int(last[-1]) >= torch.cuda.device_count():
        pytest.skip("one GPU")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dit = DualStreamTransformer(config, 2)
    randomise(dit)
    wide = dit.requires_grad_(False).eval().to("cuda:0")
    dit = copy.deepcopy(wide).to(dtype)
    second = dit.video_replica(torch.device(last)).prepare_for_inference()
    prompt, rule = normal(1, 64, 16).to("cuda:0"), RolloutConfig(window_latents=6)
    text = dit.prepare_for_inference().read_text(prompt.to(dtype), (None, None), None)
    exact = Rollout(wide, rule, shape, wide.read_text(prompt, (None, None), None))
    return (
        exact,
        Rollout(dit, rule, shape, text, graphs=CudaGraphCache()),
        Rollout(dit, rule, shape, text, graphs=CudaGraphCache(), second=second),
    )


def gpu_noise(shape: RolloutShape, num_video: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    video = normal(1, 6, num_video, shape.height, shape.width, seed=seed)
    return video.cuda(), normal(1, num_video * RATIO, 5, seed=seed + 1).cuda()


def gpu_zeros(shape: tuple[int, ...]) -> Tensor:
    return torch.zeros(shape, device="cuda:0")


def apart(actual: list[Latents], expected: list[Latents]) -> float:
    """The largest relative L2 distance."""
    pairs = [pair for a, b in zip(actual, expected, strict=True) for pair in ((a.video, b.video), (a.audio, b.audio))]
    return max(float((x.float() - y.float()).norm() / y.float().norm()) for x, y in pairs)


@pytest.mark.gpu
@torch.inference_mode()
@pytest.mark.parametrize(("config", "shape", "last"), CASES)
@pytest.mark.parametrize("splits", [always, at_random(6)], ids=["always", "mixed"])
def test_on_gpus_shared_passes_are_near_those_of_one(config: DiTConfig, shape: RolloutShape, last: str, splits: Chooses) -> None:
    """The window turns, every record is replayed. Other matrix kernels round otherwise, and a network of random weights makes
    much of it, so the measure is how far one device alone is from float32; the next test looks closer. Twice the same is the same
    to the last digit, or something was read too early."""
    exact, solo, shared = on_gpus(config, shape, last)
    clip, cuts = gpu_noise(shape, 16), {4: 1, 5: 2}
    expected = stream(exact, clip, never, cuts=cuts, draw=gpu_zeros)
    alone = apart(stream(solo, clip, never, cuts=cuts, draw=gpu_zeros), expected)
    assert apart(stream(shared, clip, splits, cuts=cuts, draw=gpu_zeros), expected) < 1.5 * alone
    shared.reset()
    first = stream(shared, clip, always, cuts=cuts, draw=gpu_zeros)
    for _ in range(2):
        shared.reset()
        again = stream(shared, clip, always, cuts=cuts, draw=gpu_zeros)
        assert all(torch.equal(a.video, b.video) and torch.equal(a.audio, b.audio) for a, b in zip(again, first, strict=True))


@pytest.mark.gpu
@torch.inference_mode()
@pytest.mark.parametrize(("config", "shape", "last"), CASES)
@pytest.mark.parametrize("splits", [never, always, at_random(6)], ids=["never", "always", "mixed"])
def test_on_gpus_the_same_kernels_are_exact_in_float32(
    config: DiTConfig, shape: RolloutShape, last: str, splits: Chooses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but attention, which knows only half precision, and the feed-forward part, which is matrix products."""
    exact, _, shared = on_gpus(config, shape, last, torch.float32)
    clip, cuts = gpu_noise(shape, 16), {4: 1, 5: 2}
    with torch.backends.cudnn.flags(allow_tf32=False):
        expected = stream(exact, clip, never, cuts=cuts, draw=gpu_zeros)
        fused = vars(import_module("model.kernels.fused"))
        ops = SimpleNamespace(**{**fused, "attention": eager.attention, "mlp": eager.mlp})
        monkeypatch.setattr(kernels, "on", lambda _: ops)
        assert apart(stream(shared, clip, splits, cuts=cuts, draw=gpu_zeros), expected) < 1e-3


@pytest.mark.gpu
@torch.inference_mode()
@pytest.mark.parametrize(("config", "shape", "last"), CASES[:2])
def test_shared_blocks_never_wait_for_a_gpu(config: DiTConfig, shape: RolloutShape, last: str) -> None:
    shared = on_gpus(config, shape, last)[2]
    for splits in (never, always):
        stream(shared, gpu_noise(shape, 12), splits, draw=gpu_zeros)
    clip = gpu_noise(shape, BLOCK, seed=3)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        stream(shared, clip, always, draw=gpu_zeros)
        stream(shared, clip, at_random(7), draw=gpu_zeros)
    finally:
        torch.cuda.set_sync_debug_mode("default")
