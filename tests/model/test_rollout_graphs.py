"""Passes that are recorded once and replayed give what passes do that run anew."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from model.config import RolloutConfig
from model.dit.transformer import DualStreamTransformer, TextMemory
from model.graphs import CudaGraphCache
from model.rollout import Latents, Rollout, roll_out
from tests.model.published import BLOCK, GPU_CONFIG, SHAPE, drawing, noise, open_rollout, read, run, tiny_dit
from tests.model.support import normal, randomise
from tests.support.traced_graphs import TracedGraphs

CONFIGS: list[dict[str, Any]] = [{}, {"sink_latents": 2}, {"continuation": "restart"}]


def replaying(dit: DualStreamTransformer, text: TextMemory | None = None, **config: Any) -> tuple[Rollout, TracedGraphs]:
    graphs = TracedGraphs()
    config = {"window_latents": 6, **config}
    return Rollout(dit, RolloutConfig(**config), SHAPE, text or read(dit), graphs=graphs), graphs


def check_same(actual: list[Latents], expected: list[Latents]) -> None:
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.video, b.video, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(a.audio, b.audio, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_replayed_stream_equals_one_that_runs(config: dict[str, Any]) -> None:
    """Through several turns of the window, and again in the same buffers with another text."""
    dit, noises = tiny_dit(3, num_layers=1), noise(12)
    rollout, graphs = replaying(dit, **config)
    check_same(run(rollout, noises), run(open_rollout(dit, **config), noises))
    num_records = len(graphs)
    assert num_records <= 6, "one for each length of the context, whatever the pass"
    other = read(dit, seed=6)
    rollout.reset(other)
    check_same(run(rollout, noises), run(open_rollout(dit, other, **config), noises))
    assert len(graphs) == num_records
    assert graphs.num_replays == 2 * (6 * 4 + 5)


def test_a_picture_and_new_text_reach_replayed_passes() -> None:
    dit, (video, audio) = tiny_dit(), noise(4)
    picture = normal(1, 6, 1, SHAPE.height, SHAPE.width, seed=20)

    def stream(rollout: Rollout) -> list[Latents]:
        blocks, draw = [], drawing()
        for start in (0, BLOCK):
            window = audio[:, start * 5 : (start + BLOCK) * 5]
            rollout.begin(video[:, :, start : start + BLOCK], window, picture if start == 0 else None)
            block = None
            while block is None:
                block = rollout.denoise(draw)
            blocks.append(block)
            rollout.update_cache()
            rollout.text = read(dit, seed=6)
        return blocks

    check_same(stream(replaying(dit)[0]), stream(open_rollout(dit)))


def test_streams_share_weights_and_nothing_else() -> None:
    """Two streams in turns, pass by pass, each as if it were alone; the text that one was given is not written to."""
    dit = tiny_dit(num_layers=1)
    texts, noises = (read(dit, seed=5), read(dit, seed=6)), (noise(6), noise(6, seed=40))
    kept = [text.clone() for text in texts]
    rollouts = [replaying(dit, text)[0] for text in texts]
    draws, got = [drawing(), drawing()], ([], [])  # type: ignore[var-annotated]
    for start in (0, 2, 4):
        for rollout, (video, audio) in zip(rollouts, noises, strict=True):
            rollout.begin(video[:, :, start : start + BLOCK], audio[:, start * 5 : (start + BLOCK) * 5])
        for _ in range(4):
            for rollout, draw, blocks in zip(rollouts, draws, got, strict=True):
                block = rollout.denoise(draw)
                if block is not None:
                    blocks.append(block)
        for rollout in rollouts:
            rollout.update_cache()
    for blocks, text, clip in zip(got, texts, noises, strict=True):
        check_same(blocks, run(open_rollout(dit, text), clip))
    for text, before in zip(texts, kept, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(text.tensors(), before.tensors(), strict=True))


def test_unused_room_is_never_read_by_a_replay() -> None:
    dit, noises = tiny_dit(2, num_layers=1), noise(10)
    poisoned, _ = replaying(dit)
    for pair in poisoned.context.buffers:  # type: ignore[attr-defined]
        for kv in pair:
            kv.key.fill_(torch.nan)
            kv.value.fill_(torch.nan)
    check_same(run(poisoned, noises), run(open_rollout(dit), noises))


def test_weights_arranged_for_serving_compute_the_same() -> None:
    dit, noises = tiny_dit(2), noise(6)
    expected, names = run(open_rollout(dit), noises), {k: v.clone() for k, v in dit.state_dict().items()}
    size = sum(p.untyped_storage().nbytes() for p in {p.untyped_storage().data_ptr(): p for p in dit.parameters()}.values())
    dit.prepare_for_inference()
    settled = sum(p.untyped_storage().nbytes() for p in {p.untyped_storage().data_ptr(): p for p in dit.parameters()}.values())
    assert settled == size, "nothing is held twice"
    check_same(run(open_rollout(dit), noises), expected)
    assert dit.state_dict().keys() == names.keys()
    assert all(torch.equal(dit.state_dict()[name], value) for name, value in names.items())


def test_rounded_weights_compute_about_the_same() -> None:
    """What is rounded is named in :mod:`model.dit.float8`; replays and whole passes agree as before."""
    dit, noises = tiny_dit(2), noise(6)
    expected = run(open_rollout(dit), noises)
    rounded = copy.deepcopy(dit).prepare_for_inference(float8=True)
    state = {name: x for name, x in rounded.state_dict().items() if name.startswith("layers")}
    kept = {name for name, x in state.items() if x.dtype == torch.float32 and x.ndim == 2 and "scale" not in name}
    assert {name.split(".")[-2] for name in kept if ".video." in name} == {"k", "v", "k_fusion", "v_fusion"}
    bits = [name for name, x in state.items() if x.dtype == torch.float8_e4m3fn]
    assert len(bits) == 5 * 2
    assert all(".video." in name for name in bits)
    found = run(open_rollout(rounded), noises)
    for a, b in zip(found, expected, strict=True):
        for x, y in ((a.video, b.video), (a.audio, b.audio)):
            assert 0 < (x - y).norm() / y.norm() < 0.2
    check_same(run(replaying(rounded)[0], noises), found)


# On a GPU


def gpu_dit(dtype: torch.dtype) -> DualStreamTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dit = DualStreamTransformer(GPU_CONFIG, 2)
    randomise(dit)
    return dit.requires_grad_(False).eval().to("cuda", dtype).prepare_for_inference()


def on_gpu(dit: DualStreamTransformer, graphs: CudaGraphCache | None) -> Rollout:
    text = dit.read_text(normal(1, 64, 16).to("cuda", dit.video_ends.head.weight.dtype), (None, None), None)
    return Rollout(dit, RolloutConfig(window_latents=6), SHAPE, text, graphs=graphs)


def gpu_run(rollout: Rollout, num_video: int = 12) -> list[Latents]:
    draw = drawing()
    clip = [x.cuda() for x in noise(num_video)]
    return list(roll_out(rollout, clip[0], clip[1], [BLOCK] * (num_video // BLOCK), lambda shape: draw(shape).cuda()))


@pytest.mark.gpu
@torch.inference_mode()
def test_graphs_equal_passes_that_run_and_both_are_near_float32() -> None:
    half = gpu_dit(torch.bfloat16)
    replayed, ran = gpu_run(on_gpu(half, CudaGraphCache())), gpu_run(on_gpu(half, None))
    exact = gpu_run(on_gpu(gpu_dit(torch.float32), None))
    for a, b, c in zip(replayed, ran, exact, strict=True):
        assert torch.equal(a.video, b.video)
        assert torch.equal(a.audio, b.audio)
        for x, y in ((a.video, c.video), (a.audio, c.audio)):
            assert (x.float() - y).norm() / y.norm() < 0.05


@pytest.mark.gpu
@torch.inference_mode()
def test_a_replay_reads_the_cache_as_it_is_now() -> None:
    rollout = on_gpu(gpu_dit(torch.bfloat16), CudaGraphCache())
    gpu_run(rollout, 4)
    rollout.update_cache()
    video, audio = (x.cuda() for x in noise(BLOCK, seed=3))

    def first_pass() -> torch.Tensor:
        rollout.begin(video, audio)
        block = rollout.denoise(lambda shape: torch.zeros(shape, device="cuda"), leave=True)
        assert block is not None
        rollout._clean, rollout._latest = None, []
        rollout.finished_audio = rollout.finished_audio[:, : -BLOCK * SHAPE.audio_per_video]
        return block.video.clone()

    first = first_pass()
    assert torch.equal(first_pass(), first)
    rollout.context.buffers[0][0].value[:, :, 0] += 1  # type: ignore[attr-defined]
    assert not torch.equal(first_pass(), first)


@pytest.mark.gpu
@torch.inference_mode()
@pytest.mark.parametrize("replay", [True, False])
def test_a_block_never_waits_for_the_gpu(replay: bool) -> None:
    rollout = on_gpu(gpu_dit(torch.bfloat16), CudaGraphCache() if replay else None)
    gpu_run(rollout)
    rollout.update_cache()
    clip = [x.cuda() for x in noise(BLOCK, seed=3)]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        rollout.begin(*clip)
        while rollout.denoise(lambda shape: torch.zeros(shape, device="cuda")) is None:
            pass
        rollout.update_cache()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@torch.inference_mode()
def test_after_a_cut_sealed_graphs_go_on() -> None:
    """The pass over what is left of a block has no record; the ones after it have, and nothing waits."""
    dit = gpu_dit(torch.bfloat16)
    made = []
    for graphs in (CudaGraphCache(), None):
        rollout = on_gpu(dit, graphs)
        gpu_run(rollout)
        if graphs is not None:
            graphs.freeze()
        rollout.rehearse_rollbacks(BLOCK)
        gpu_run(rollout, 6)
        rollout.update_cache()
        clip = [x.cuda() for x in noise(BLOCK, seed=3)]
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            rollout.rollback(1)
            rollout.update_cache()
            rollout.begin(*clip)
            block = rollout.denoise(lambda shape: torch.zeros(shape, device="cuda"), leave=True)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert block is not None
        made.append(block.video.clone())
    assert torch.equal(*made)
