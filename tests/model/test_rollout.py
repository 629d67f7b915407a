"""The block loop equals a slow and obvious one, sees nothing of the future, and never leaves its window."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.dit.attention import KeyValue
from model.dit.block import LayerPast, StreamView
from model.dit.cache import VideoContext
from model.dit.transformer import DualStreamTransformer, Flow
from model.rollout import Latents, Rollout, audio_window, roll_out
from model.sampling import NoiseTable, add_noise, clean_from_velocity
from tests.model.published import BLOCK, SHAPE, drawing, noise, open_rollout, read, run, tiny_dit
from tests.model.support import normal

RATIO = SHAPE.audio_per_video
TIMESTEPS = (1000.0, 937.5, 833.33331, 625.0)


def kept(rollout: Rollout) -> VideoContext:
    """Where it keeps earlier video."""
    assert isinstance(rollout.context, VideoContext)
    return rollout.context


def slow_loop(
    dit: DualStreamTransformer, noises: tuple[Tensor, Tensor], *, window: int = 10**6, context: float = 0.0
) -> list[Latents]:
    """The published loop written down plainly: no buffers, positions that grow for ever, and blocks that have left a window of
    so many latents cut off."""
    draw, table, ahead, text = drawing(), NoiseTable.shifted(5.0), dit.config.future_audio_latents, read(dit)
    blocks: list[Latents] = []
    memories: list[tuple[Flow, int]] = []

    def forward(video: Tensor, audio: Tensor, video_level: float, audio_levels: Tensor, first: int, start: int) -> Flow:
        held = [flow for flow, index in memories if index >= first]
        past = [
            LayerPast(
                KeyValue(*(torch.cat([f.memory[i].video_self[j] for f in held], dim=2) for j in (0, 1))) if held else None,
                None,
                KeyValue(*(torch.cat([f.memory[i].video_cross[j] for f in held], dim=2) for j in (0, 1))) if held else None,
                None,
            )
            for i in range(len(dit.layers))
        ]
        video_table, _ = dit.video_tables(torch.arange(start, start + BLOCK), 2, 3)
        audio_table, _ = dit.audio_tables(torch.arange(first * RATIO, first * RATIO + audio.shape[1]))
        return dit(
            video,
            audio,
            torch.full((1, BLOCK), video_level),
            audio_levels,
            StreamView(video_table, None, None, None, None),
            StreamView(audio_table, None, None, None, None),
            text,
            past,
        )

    for start in range(0, noises[0].shape[2], BLOCK):
        video = noises[0][:, :, start : start + BLOCK]
        audio = audio_window(noises[1], start * RATIO, BLOCK * RATIO, ahead)
        first = max(0, start + BLOCK - window)
        history = torch.cat([normal(1, 0, 5), *(b.audio for b in blocks[first // BLOCK :])], dim=1)
        for i, timestep in enumerate(TIMESTEPS):
            whole = torch.cat((history, audio), dim=1)
            times = torch.cat((torch.full((1, history.shape[1]), context), torch.full((1, audio.shape[1]), timestep)), dim=1)
            flow = forward(video, whole, timestep, times, first, start)
            clean_video = clean_from_velocity(video, flow.video, timestep / 1000)
            clean_audio = clean_from_velocity(whole, flow.audio, table.level(times).unsqueeze(-1))
            if i + 1 < len(TIMESTEPS):
                level = TIMESTEPS[i + 1] / 1000
                video = add_noise(clean_video, draw((BLOCK, 6, 4, 6)).transpose(0, 1).unsqueeze(0), level)
                window_audio = clean_audio[:, history.shape[1] :]
                audio = add_noise(window_audio, draw(tuple(window_audio.shape[1:])).unsqueeze(0), level)
        blocks.append(Latents(clean_video, clean_audio[:, history.shape[1] :][:, : BLOCK * RATIO]))
        memories.append((forward(clean_video, clean_audio, context, torch.full(times.shape, context), first, start), start))
    return blocks


def check_same(actual: list[Latents], expected: list[Latents], tolerance: float = 1e-4) -> None:
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.video, b.video, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(a.audio, b.audio, atol=tolerance, rtol=tolerance)


def differs(a: Latents, b: Latents) -> bool:
    return not (torch.allclose(a.video, b.video, atol=1e-5) and torch.allclose(a.audio, b.audio, atol=1e-5))


@pytest.mark.parametrize("ahead", [0, 3, 13])
@pytest.mark.parametrize("context", [0.0, 50.0])
def test_the_loop_equals_the_slow_one(ahead: int, context: float) -> None:
    dit, noises = tiny_dit(ahead), noise(6)
    check_same(run(open_rollout(dit, context_timestep=context), noises), slow_loop(dit, noises, context=context))


@pytest.mark.parametrize("ahead", [0, 4])
def test_a_rolled_window_equals_blocks_cut_off(ahead: int) -> None:
    """Only distances count, so that positions which start over give what positions which grow for ever give."""
    dit, noises = tiny_dit(ahead), noise(14)
    rolled = run(open_rollout(dit, window_latents=6), noises)
    check_same(rolled, slow_loop(dit, noises, window=6))
    whole = run(open_rollout(dit, window_latents=14), noises)
    check_same(rolled[:3], whole[:3], tolerance=0)
    assert differs(rolled[3], whole[3]), "a window that nothing leaves would show nothing here"


@pytest.mark.parametrize("config", [{}, {"sink_latents": 2}, {"sink_latents": 1}, {"continuation": "restart"}])
def test_positions_and_memory_are_bounded(config: dict[str, Any]) -> None:
    dit = tiny_dit(3)
    rollout = open_rollout(dit, window_latents=6, **config)
    context = kept(rollout)
    num_bytes, addresses = context.num_bytes, [kv.key.data_ptr() for pair in context.buffers for kv in pair]
    video_angles, audio_angles = (
        table.cos.unique(dim=0) for table in (dit.video_tables(torch.arange(6), 2, 3)[0], dit.audio_tables(torch.arange(33))[0])
    )
    seen = 0

    def inspect(_: object, given: tuple[object, ...]) -> None:
        nonlocal seen
        views = given[4], given[5]
        assert all(isinstance(view, StreamView) for view in views)
        for view, allowed in zip(views, (video_angles, audio_angles), strict=True):
            assert isinstance(view, StreamView)
            assert all((row == allowed).all(dim=1).any() for row in view.table.cos)
        assert rollout.num_latents + BLOCK <= 6
        seen += 1

    dit.register_forward_pre_hook(inspect)
    latents = run(rollout, noise(20))
    assert seen == 10 * 4 + 9
    assert all(torch.isfinite(block.video).all() and torch.isfinite(block.audio).all() for block in latents)
    assert context.num_bytes == num_bytes
    assert [kv.key.data_ptr() for pair in context.buffers for kv in pair] == addresses


def test_the_sink_stays_where_it_is() -> None:
    rollout, noises, num_sink = open_rollout(tiny_dit(), sink_latents=2), noise(14), 2 * 6

    def sinks() -> list[Tensor]:
        return [x[:, :, :num_sink].clone() for pair in kept(rollout).buffers for kv in pair for x in kv]

    run(rollout, (noises[0][:, :, :4], noises[1][:, :20]))
    first = sinks()
    rollout.update_cache()
    run(rollout, (noises[0][:, :, 4:], noises[1][:, 20:]))
    assert all(torch.equal(a, b) for a, b in zip(first, sinks(), strict=True))


def test_a_restart_goes_on_from_the_last_latent() -> None:
    rollout = open_rollout(tiny_dit(), continuation="restart")
    lengths = []
    for block in range(5):
        if not rollout.is_cache_current:
            rollout.update_cache()
        video, audio = noise(BLOCK, seed=block)
        rollout.begin(video, audio)
        lengths.append(rollout.num_latents)
        while rollout.denoise(drawing()) is None:
            pass
    assert lengths == [0, 2, 4, 1, 3]


@pytest.mark.parametrize("block", [1, 2])
def test_the_future_never_leaks(block: int) -> None:
    dit, noises = tiny_dit(), noise(6)
    other = noises[0].clone(), noises[1].clone()
    other[0][:, :, block * BLOCK] += 1
    before, after = run(open_rollout(dit), noises), run(open_rollout(dit), other)
    assert [differs(a, b) for a, b in zip(before, after, strict=True)] == [i >= block for i in range(3)]


def test_video_hears_the_look_ahead() -> None:
    noises = noise(6)
    other = noises[0], noises[1].clone()
    other[1][:, 13:] += 1
    for ahead, expected in ((0, False), (3, False), (4, True)):
        dit = tiny_dit(ahead)
        first, second = run(open_rollout(dit), noises)[0], run(open_rollout(dit), other)[0]
        assert differs(first, second) == expected, ahead


def test_room_that_was_never_written_is_never_read() -> None:
    dit, noises = tiny_dit(2), noise(6)
    poisoned = open_rollout(dit)
    for pair in kept(poisoned).buffers:
        for kv in pair:
            kv.key.fill_(torch.nan)
            kv.value.fill_(torch.nan)
    check_same(run(poisoned, noises), run(open_rollout(dit), noises), tolerance=0)


def test_a_stream_may_start_over_in_the_same_buffers() -> None:
    dit, noises = tiny_dit(2), noise(6)
    rollout = open_rollout(dit, read(dit, seed=6))
    run(rollout, noise(10, seed=50))
    rollout.update_cache()
    rollout.begin(*noise_of_a_block(dit))
    rollout.denoise(drawing())
    rollout.reset(read(dit))
    check_same(run(rollout, noises), run(open_rollout(dit), noises), tolerance=0)


def noise_of_a_block(dit: DualStreamTransformer) -> tuple[Tensor, Tensor]:
    video, audio = noise(BLOCK)
    return video, audio_window(audio, 0, BLOCK * RATIO, dit.config.future_audio_latents)


def test_a_batch_is_its_streams() -> None:
    dit = tiny_dit(2)
    noises, text = noise(4, batch=2), read(dit, batch=2)

    def run_with_zeros(rollout: Rollout, video: Tensor, audio: Tensor) -> list[Latents]:
        return list(roll_out(rollout, video, audio, [BLOCK] * 2, torch.zeros))

    both = run_with_zeros(open_rollout(dit, text), *noises)
    for i in (0, 1):
        one = type(text)(
            tuple(KeyValue(*(x[i : i + 1] for x in kv)) for kv in text.video),
            tuple(KeyValue(*(x[i : i + 1] for x in kv)) for kv in text.audio),
            None,
        )
        alone = run_with_zeros(open_rollout(dit, one), *(x[i : i + 1] for x in noises))
        check_same([Latents(b.video[i : i + 1], b.audio[i : i + 1]) for b in both], alone)


def test_a_block_may_begin_again() -> None:
    rollout, (video, audio) = open_rollout(tiny_dit()), noise(BLOCK)
    rollout.begin(*noise(BLOCK, seed=77))
    rollout.denoise(drawing())
    rollout.begin(video, audio)
    draw, block = drawing(), None
    while block is None:
        block = rollout.denoise(draw)
    check_same([block], run(open_rollout(tiny_dit()), (video, audio)), tolerance=0)


def test_new_text_is_heard_from_the_next_block() -> None:
    dit, noises = tiny_dit(), noise(4)
    rollout = open_rollout(dit)
    draw, latents = drawing(), []
    for start in (0, BLOCK):
        rollout.begin(noises[0][:, :, start : start + BLOCK], noises[1][:, start * RATIO : (start + BLOCK) * RATIO])
        block = None
        while block is None:
            block = rollout.denoise(draw)
        latents.append(block)
        rollout.update_cache()
        rollout.text = read(dit, seed=6)
    plain = run(open_rollout(dit), noises)
    assert [differs(a, b) for a, b in zip(latents, plain, strict=True)] == [False, True]


def test_a_stream_starts_from_a_picture() -> None:
    dit, (video, audio) = tiny_dit(), noise(4)
    picture = normal(1, 6, 1, SHAPE.height, SHAPE.width, seed=20)
    rollout, draw = open_rollout(dit), drawing()
    times: list[Tensor] = []
    dit.register_forward_pre_hook(lambda _, given: times.append(given[2].clone()))
    block = None
    rollout.begin(video[:, :, :BLOCK], audio[:, : BLOCK * RATIO], picture)
    while block is None:
        block = rollout.denoise(draw)
    rollout.update_cache()
    assert torch.equal(block.video[:, :, :1], picture)
    assert [t[0, 0].item() for t in times] == [0.0] * 5
    assert [t[0, -1].item() for t in times] == [*(pytest.approx(t) for t in TIMESTEPS), 0.0]
    rollout.begin(video[:, :, BLOCK:], audio[:, BLOCK * RATIO :])
    rollout.denoise(draw)
    assert times[-1].unique().tolist() == [1000.0], "later blocks are whole"


def test_a_finished_block_is_remembered_before_the_next() -> None:
    rollout = open_rollout(tiny_dit())
    run(rollout, noise(BLOCK))
    assert not rollout.is_cache_current
    with pytest.raises(AssertionError, match="remembered first"):
        rollout.begin(*noise(BLOCK))


@pytest.mark.parametrize(
    ("start", "ahead", "expected"),
    [(0, 0, [0, 1, 2]), (0, 2, [0, 1, 2, 3, 4]), (3, 2, [3, 4, 5, 3, 4]), (3, 7, [3, 4, 5, 3, 4, 5, 3, 4, 5, 3])],
)
def test_noise_past_the_end_of_a_clip_is_the_blocks_own(start: int, ahead: int, expected: list[int]) -> None:
    numbered = torch.arange(6.0).view(1, 6, 1)
    assert audio_window(numbered, start, 3, ahead).flatten().tolist() == expected


class OnDevice(TorchDispatchMode):
    """Fails on any operation that touches memory of the host; the meta device itself refuses to be read."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, result)):
            if isinstance(tensor, Tensor):
                assert tensor.is_meta, f"{func} touches the {tensor.device}"
        return result


@pytest.mark.parametrize("config", [{"sink_latents": 2}, {"continuation": "restart"}])
def test_nothing_waits_for_the_device(config: dict[str, int | str]) -> None:
    """On the meta device, where there is nothing to wait for: no copy from the host, no value read back."""
    dit = tiny_dit(3).to("meta")
    rollout = open_rollout(dit, dit.read_text(torch.empty(1, 7, 16, device="meta"), (None, None), None), **config)
    video, audio = (torch.empty_like(x, device="meta") for x in noise(BLOCK))
    audio = torch.cat((audio, audio[:, :3]), dim=1)
    with OnDevice():
        for _ in range(5):
            rollout.begin(video, audio)
            while rollout.denoise(lambda shape: torch.empty(shape, device="meta")) is None:
                pass
            rollout.update_cache()
    assert rollout.num_latents > 0


@pytest.mark.parametrize("moment", ["finished", "remembered", "next in work"])
@pytest.mark.parametrize("kept", [1, 0])
@pytest.mark.parametrize("whole", [0, 1])
def test_what_is_cut_leaves_nothing_behind(moment: str, kept: int, whole: int) -> None:
    """Whenever the cut comes, also into the block before the newest, the next block is the same, and not a number of what was cut
    is read."""
    dit, (video, audio) = tiny_dit(), noise(10)

    def window(start: int) -> tuple[Tensor, Tensor]:
        return video[:, :, start : start + BLOCK], audio[:, start * RATIO : (start + BLOCK) * RATIO]

    def next_block(moment: str, whole: int, poison: bool) -> Latents:
        rollout, draw = open_rollout(dit, window_latents=8), drawing()
        num_latents = (2 + whole) * BLOCK
        blocks = roll_out(rollout, video[:, :, :num_latents], audio[:, : num_latents * RATIO], [BLOCK] * (2 + whole), draw)
        list(blocks)
        if moment != "finished":
            rollout.update_cache()
        if moment == "next in work":
            rollout.begin(*window(8))
            rollout.denoise(draw)
        if poison:
            for i, (video_made, audio_made) in enumerate(rollout._latest[-1 - whole :]):
                start = 0 if i else kept
                video_made[:, :, start:] = torch.nan
                audio_made[:, (2 + i * BLOCK + start) * RATIO :] = torch.nan
            for pair in rollout.context.buffers:  # type: ignore[attr-defined]
                for kv in pair:
                    for x in kv:
                        x[:, :, (2 + kept) * 6 :] = torch.nan
        rollout.rollback(whole * BLOCK + BLOCK - kept)
        if kept:
            assert not rollout.is_cache_current
            rollout.update_cache()
        assert rollout.num_latents == 2, "whole blocks are in view"
        rollout.begin(*window(4))
        draw, block = drawing(3), None
        while block is None:
            block = rollout.denoise(draw)
        return block

    check_same([next_block(moment, whole, poison=True)], [next_block("finished", 0, poison=False)])
