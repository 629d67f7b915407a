"""A stream, block by block over its history, gives what the masked forward of training gives; nothing sees what it must not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.checkpoint import Weights
from model.config import ModelConfig
from model.dit import masks
from model.dit.history import HIDDEN, History, HistoryShape
from model.dit.positions import Ladder
from model.dit.rope import Rope
from model.dit.transformer import DualStreamTransformer
from model.noise import Noise
from model.runtime import Runtime
from model.torch_runtime import TorchRuntime
from model.training.objective import Sequence, masked_forward
from model.training.views import TextBatch
from tests.model.support import normal, tiny_model, tiny_networks, tiny_weights

FLOW_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Clip:
    """Latents of consecutive blocks, text around them, and the noise level of the last block; all others are clean."""

    blocks: tuple[int, ...]
    video: Tensor
    audio: Tensor
    tokens: Tensor
    times: Tensor
    timed: Tensor
    level: float = 700.0

    def shifted(self, blocks: int, block_time: float) -> Clip:
        return replace(
            self,
            blocks=tuple(b + blocks for b in self.blocks),
            times=torch.where(self.timed, self.times + blocks * block_time, 0),
        )


def make_clip(config: ModelConfig, blocks: tuple[int, ...], seed: int = 0) -> Clip:
    geometry = config.geometry.build()
    block_time = float(geometry.block_audio_latents)
    num_caption, per_block = config.text.num_scene_tokens, 3
    times = [
        (b + (i + 0.4) / per_block) * block_time
        for b in (*blocks, blocks[-1] + 1, blocks[-1] + 2, blocks[-1] + 6)
        for i in range(per_block)
    ]
    num_text = num_caption + len(times)
    return Clip(
        blocks,
        normal(1, config.dit.video.latent_channels, 2 * len(blocks), geometry.latent_height, geometry.latent_width, seed=seed),
        normal(1, len(blocks) * geometry.block_audio_latents, config.dit.audio.latent_channels, seed=seed + 1),
        normal(1, num_text, config.text.dim, seed=seed + 2),
        torch.tensor([[0.0] * num_caption + times], dtype=torch.float64),
        (torch.arange(num_text) >= num_caption).unsqueeze(0),
    )


def masked(dit: DualStreamTransformer, config: ModelConfig, clip: Clip) -> list[Tensor]:
    """Velocities of all blocks, video and audio flattened together: one [N] a block."""
    geometry = config.geometry.build()
    timesteps = torch.zeros(1, len(clip.blocks))
    timesteps[:, -1] = clip.level
    text = TextBatch(clip.tokens, clip.times, clip.timed, torch.ones_like(clip.timed))
    no_control = torch.zeros(1, clip.video.shape[2], 0)
    sequence = Sequence(clip.video, clip.audio, no_control, torch.tensor([clip.blocks]))
    flow = masked_forward(dit, config, geometry, sequence, text, timesteps)
    return by_block(flow.video, flow.audio, len(clip.blocks))


def by_block(video: Tensor, audio: Tensor, num_blocks: int) -> list[Tensor]:
    return [
        torch.cat((v.flatten(), a.flatten()))
        for v, a in zip(video.chunk(num_blocks, dim=2), audio.chunk(num_blocks, dim=1), strict=True)
    ]


def places(shape: HistoryShape) -> list[tuple[int, int]]:
    """Tokens a block and tokens of the sink, of each array of a history."""
    return [(tokens, sink) for _, _, tokens, sink in shape.kinds for _ in range(2)] * shape.config.num_layers


def without_slot(masks: list[np.ndarray], shape: HistoryShape, slot: int) -> list[np.ndarray]:
    """Masks that hide one block of the history as well."""
    hiding = []
    for mask, (_, _, tokens, sink) in zip(masks, shape.kinds, strict=True):
        mask = mask.copy()
        mask[..., sink + slot * tokens : sink + (slot + 1) * tokens] = HIDDEN
        hiding.append(mask)
    return hiding


def empty_history(shape: HistoryShape, value: float = 0.0) -> History:
    return History(shape, [torch.full(size, value) for size in shape.shapes])


def streamed(weights: Weights, runtime: Runtime, clip: Clip, history: History | None = None) -> list[Tensor]:
    """Velocities of all blocks, each pass over the history of those before; the last at its noise level, the others clean.

    A clip whose second block does not follow its first is a crop: the first block leaves its sink and is then as far away as any.
    """
    config, dit, geometry = weights.config, weights.dit, weights.geometry
    shape = weights.history_shape
    history = history or empty_history(shape)
    tables = dit.text_tables(clip.times, clip.timed)
    assert tables[0] is not None
    assert tables[1] is not None
    text = dit.read_text(clip.tokens, tables, None).tensors()
    per_video, per_audio = geometry.block_video_latents, geometry.block_audio_latents
    latent_s = geometry.audio_latent_samples / geometry.sample_rate_hz
    flows = []
    for i, block in enumerate(clip.blocks):
        video_index = (block * per_video + torch.arange(per_video, dtype=torch.float64)).unsqueeze(0)
        audio_index = (block * per_audio + torch.arange(per_audio, dtype=torch.float64)).unsqueeze(0)
        video_table, video_text_table = dit.video_tables(video_index, geometry.grid_height, geometry.grid_width)
        audio_table, _ = dit.audio_tables(audio_index)
        assert video_text_table is not None
        rotary = tuple(t for table in (video_table, video_text_table, audio_table) for t in (table.cos, table.sin))
        start = block * per_audio
        near = (clip.times >= start - config.text.past_s / latent_s) & (
            clip.times < start + per_audio + config.text.future_s / latent_s
        )
        masks = history.masks
        if i and clip.blocks[1] != clip.blocks[0] + 1 and i <= shape.num_blocks:
            masks = without_slot(masks, shape, 0)
        inputs = (
            clip.video[:, :, i * per_video : (i + 1) * per_video],
            clip.audio[:, i * per_audio : (i + 1) * per_audio],
            *runtime("modulate", torch.tensor([clip.level if i == len(clip.blocks) - 1 else 0.0])),
            *rotary,
            torch.where(near | ~clip.timed, 0.0, HIDDEN).view(1, 1, 1, -1),
            *masks,
            *text,
            *history.arrays,
        )
        video, audio = runtime("denoise", *inputs)
        flows.append(torch.cat((video.flatten(), audio.flatten())))
        history.commit(runtime("remember", *inputs))
    return flows


@pytest.fixture(scope="module", params=[True, False], ids=["sink", "no sink"])
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return tiny_weights(tmp_path_factory.mktemp("checkpoint"), sink=request.param)


@pytest.fixture(scope="module")
def runtime(weights: Weights) -> TorchRuntime:
    return TorchRuntime(weights, torch.device("cpu"))


CONSECUTIVE, CROP = tuple(range(7)), (0, *range(37, 43))


def check_equal(ours: list[Tensor], theirs: list[Tensor], tolerance: float = FLOW_TOLERANCE) -> None:
    for ours_one, theirs_one in zip(ours, theirs, strict=True):
        assert ours_one.abs().mean() > 0.1, "the flow is trivial, so equality would say nothing"
        torch.testing.assert_close(ours_one, theirs_one, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("blocks", [(0,), (0, 1), CONSECUTIVE, CROP], ids=["first", "second", "window slides", "crop"])
def test_a_stream_equals_the_masked_forward(weights: Weights, runtime: TorchRuntime, blocks: tuple[int, ...]) -> None:
    clip = make_clip(weights.config, blocks)
    check_equal(streamed(weights, runtime, clip), masked(weights.dit, weights.config, clip))


def test_a_stream_does_not_care_how_long_it_has_run(weights: Weights, runtime: TorchRuntime) -> None:
    clip = make_clip(weights.config, CONSECUTIVE)
    late = clip.shifted(10**7, weights.geometry.block_audio_latents)
    check_equal(streamed(weights, runtime, clip), streamed(weights, runtime, late))


def test_the_masked_forward_does_not_care_where_a_clip_lies(weights: Weights) -> None:
    clip = make_clip(weights.config, CONSECUTIVE)
    late = clip.shifted(10**6, weights.geometry.block_audio_latents)
    check_equal(masked(weights.dit, weights.config, clip), masked(weights.dit, weights.config, late))


# -- what is seen ----------------------------------------------------------------------------------------------------------------


def changed_video(clip: Clip, block: int) -> Clip:
    video = clip.video.clone()
    video[:, :, 2 * block : 2 * block + 2] += 1
    return replace(clip, video=video)


def changed_audio(clip: Clip, block: int) -> Clip:
    audio = clip.audio.clone()
    length = audio.shape[1] // len(clip.blocks)
    audio[:, block * length : (block + 1) * length] += 1
    return replace(clip, audio=audio)


def changed_text(clip: Clip, visible: Tensor) -> Clip:
    return replace(clip, tokens=torch.where(visible.unsqueeze(-1), clip.tokens + 1, clip.tokens))


def both_ways(weights: Weights, runtime: TorchRuntime) -> tuple[Callable[[Clip], list[Tensor]], Callable[[Clip], list[Tensor]]]:
    return partial(masked, weights.dit, weights.config), partial(streamed, weights, runtime)


def differing(before: list[Tensor], after: list[Tensor]) -> set[int]:
    """Numbers of the blocks whose flow is not the same to the last bits."""
    return {i for i, (a, b) in enumerate(zip(before, after, strict=True)) if not torch.allclose(a, b, atol=1e-6, rtol=0)}


@pytest.mark.parametrize("change", [changed_video, changed_audio])
def test_the_future_never_leaks(weights: Weights, runtime: TorchRuntime, change: Callable[[Clip, int], Clip]) -> None:
    clip = make_clip(weights.config, CONSECUTIVE)
    for block in (1, 4, 6):
        other = change(clip, block)
        seen_masked = differing(masked(weights.dit, weights.config, clip), masked(weights.dit, weights.config, other))
        seen_streamed = differing(streamed(weights, runtime, clip), streamed(weights, runtime, other))
        assert seen_masked == seen_streamed
        assert min(seen_masked) == block
        assert {block, min(block + 1, 6)} <= seen_masked


def test_text_is_seen_within_its_window(weights: Weights, runtime: TorchRuntime) -> None:
    """Of the last block (its own past is changed as well, so only that block's own view is asked about)."""
    config, geometry = weights.config, weights.geometry
    clip = make_clip(config, (5,))
    latent_s = geometry.audio_latent_samples / geometry.sample_rate_hz
    low, high = 5 * 8 - config.text.past_s / latent_s, 6 * 8 + config.text.future_s / latent_s
    near = (clip.times >= low) & (clip.times < high)
    beyond = changed_text(clip, clip.timed & ~near)
    assert (clip.timed & ~near).any()
    for run in both_ways(weights, runtime):
        assert differing(run(clip), run(beyond)) == set()
        for index in torch.nonzero(near[0]).flatten().tolist():
            one = torch.zeros_like(clip.timed)
            one[0, index] = True
            assert differing(run(clip), run(changed_text(clip, one))) == {0}
        assert differing(run(clip), run(changed_text(clip, ~clip.timed))) == {0}, "the caption is seen from everywhere"


def test_what_is_said_later_changes_nothing_earlier(weights: Weights, runtime: TorchRuntime) -> None:
    clip = make_clip(weights.config, CONSECUTIVE)
    # future_s is three blocks: phonemes of block 5 are seen from block 2 on.
    later = changed_text(clip, clip.timed & (clip.times >= 5 * 8) & (clip.times < 6 * 8))
    for run in both_ways(weights, runtime):
        assert differing(run(clip), run(later)) == {2, 3, 4, 5, 6}


@pytest.mark.parametrize("sink", [True, False])
def test_what_has_left_the_window_is_forgotten(tmp_path: Path, sink: bool) -> None:
    """With one layer a block reaches back two windows, once by self-attention and once across; the sink reaches on for ever."""
    config = tiny_model(num_layers=1, window_blocks=2, sink=sink)
    dit = tiny_networks(config)["dit"]
    assert isinstance(dit, DualStreamTransformer)
    clip = make_clip(config, tuple(range(6)))
    before = masked(dit, config, clip)
    assert differing(before, masked(dit, config, changed_audio(clip, 2))) == {2, 3, 4}
    assert differing(before, masked(dit, config, changed_video(clip, 2))) == {2, 3, 4}
    assert differing(before, masked(dit, config, changed_audio(clip, 0))) == {0, 1, 2}
    assert differing(before, masked(dit, config, changed_video(clip, 0))) == (set(range(6)) if sink else {0, 1, 2})


def test_future_audio_is_seen_where_the_config_says_so() -> None:
    blocks = tuple(range(4))
    sees = {}
    for ahead in (0, 2):
        config = tiny_model(num_layers=1, window_blocks=2, sink=False, future_audio_latents=ahead)
        dit = tiny_networks(config)["dit"]
        assert isinstance(dit, DualStreamTransformer)
        clip = make_clip(config, blocks)
        sees[ahead] = differing(masked(dit, config, clip), masked(dit, config, changed_audio(clip, 2)))
    assert sees == {0: {2, 3}, 2: {1, 2, 3}}


# -- masks -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [0, 1, 3, 4])
def test_the_future_expanding_mask_shows_exactly_those_keys(ahead: int) -> None:
    blocks, per_block, window, first = torch.arange(5), 4, 2, 100
    queries = first + blocks
    keys = queries.repeat_interleave(per_block)
    index = torch.arange(first * per_block, (first + 5) * per_block)
    mask = masks.future_expanding(queries, keys, index, per_block, ahead, window)
    for query in range(5):
        seen = set(torch.nonzero(mask[query]).flatten().tolist())
        start, stop = max(0, (query - window + 1) * per_block), min(5 * per_block, (query + 1) * per_block + ahead)
        assert seen == set(range(start, stop))


def test_the_causal_mask_shows_the_window() -> None:
    mask = masks.block_causal(torch.tensor([0, 7, 8, 9]), torch.tensor([0, 7, 8, 9]), 2)
    assert mask.int().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


def test_the_sink_is_seen_after_its_own_block() -> None:
    mask = masks.sink(torch.tensor([[3, 4, 900]]), torch.tensor([3]), 2)
    assert mask.int().tolist() == [[[0, 0], [1, 1], [1, 1]]]


# -- rotary positions ------------------------------------------------------------------------------------------------------------


def test_scores_depend_on_distance_alone() -> None:
    rope = Rope(24, 400.0)
    q, k = normal(1, 1, 1, 24), normal(1, 1, 1, 24, seed=1)

    def score(at: float, other: float) -> float:
        times = (torch.tensor([t], dtype=torch.float64) for t in (at, other))
        a, b = (rope.time_table(t).rotate(x) for t, x in zip(times, (q, k), strict=True))
        return float((a * b).sum())

    assert score(5, 2) == pytest.approx(score(10**7 + 5, 10**7 + 2), abs=1e-5)
    assert score(5, 2) != pytest.approx(score(5, 3), abs=1e-2)


def test_a_token_without_time_looks_the_same_from_everywhere() -> None:
    rope = Rope(24, 400.0)
    q, k = normal(1, 1, 1, 24), normal(1, 1, 1, 24, seed=1)
    untimed = rope.time_table(torch.zeros(1), torch.tensor([False])).rotate(k)
    scores = [float((rope.time_table(torch.tensor([t])).rotate(q) * untimed).sum()) for t in (0.0, 3.0, 1000.0)]
    assert scores == pytest.approx([scores[0]] * 3, abs=1e-5)
    assert abs(scores[0]) > 1e-2


def test_without_time_equals_never_having_had_one() -> None:
    rope, k = Rope(24, 400.0), normal(1, 1, 6, 24)
    late, early = (rope.video_table(torch.tensor([t]), 2, 3).rotate(k) for t in (1000.0, 0.0))
    torch.testing.assert_close(rope.without_time(late), rope.without_time(early))


# -- the history -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shape() -> HistoryShape:
    return HistoryShape(tiny_model().dit, num_blocks=2, video_tokens=12, audio_tokens=8, sink_tokens=6)


def full_memory(shape: HistoryShape, value: float) -> list[Tensor]:
    """What a block whose keys and values are all ``value`` leaves."""
    one = [(heads, tokens) for heads, _, tokens, _ in shape.kinds]
    return [torch.full((1, heads, tokens, 24), value) for heads, tokens in one for _ in range(2)] * shape.config.num_layers


def in_view(history: History, shape: HistoryShape) -> list[Tensor]:
    """Of each array, what the masks leave of it."""
    seen = [torch.from_numpy(mask[0, 0, 0]) == 0 for mask in history.masks for _ in range(2)] * shape.config.num_layers
    return [array[:, :, mask[: array.shape[2]]] for array, mask in zip(history.arrays, seen, strict=True)]


def test_a_commit_replaces_the_oldest_block(shape: HistoryShape) -> None:
    shape = replace(shape, sink_tokens=0)
    history = empty_history(shape)
    assert {array.shape[2] for array in in_view(history, shape)} == {0}
    for number in range(1, 7):
        history.commit(full_memory(shape, number))
        expected = {float(n) for n in (number - 1, number) if n > 0}
        seen = in_view(history, shape)
        assert [set(array.flatten().tolist()) for array in seen] == [expected] * 16
        assert [array.shape[2] for array in seen] == [tokens * min(number, 2) for tokens, _ in places(shape)]


def test_a_block_always_sees_itself(shape: HistoryShape) -> None:
    history = empty_history(shape)
    for number in range(4):
        for mask, (_, _, tokens, sink) in zip(history.masks, shape.kinds, strict=True):
            assert mask.shape == (1, 1, 1, sink + 3 * tokens)
            assert (mask[..., -tokens:] == 0).all()
        history.commit(full_memory(shape, number))


def test_the_sink_survives_and_has_no_time(shape: HistoryShape) -> None:
    history = empty_history(shape)
    assert all(array.shape[2] == 0 for array in in_view(history, shape))
    for number in range(1, 51):
        history.commit(full_memory(shape, number))
    rope = Rope(24, shape.config.rope_theta)
    for i, array in enumerate(in_view(history, shape)):
        _, sink = places(shape)[i]
        assert set(array[:, :, sink:].flatten().tolist()) == {49.0, 50.0}
        if i % 8 == 0:
            assert (array[:, :, :sink, : rope.num_time_channels] == 0).all()
            assert (array[:, :, :sink, rope.num_time_channels :] == 1).all()
        elif i % 8 == 1:
            assert (array[:, :, :sink] == 1).all()


def test_what_was_never_written_is_never_seen(weights: Weights, runtime: TorchRuntime) -> None:
    clip = make_clip(weights.config, CONSECUTIVE)
    clean = streamed(weights, runtime, clip)
    poisoned = empty_history(weights.history_shape, 1e4)
    check_equal(streamed(weights, runtime, clip, poisoned), clean, tolerance=0)


def test_poison_in_the_window_does_show(weights: Weights, runtime: TorchRuntime) -> None:
    clip = make_clip(weights.config, CONSECUTIVE)
    poisoned = replace(clip, audio=clip.audio.clone())
    poisoned.audio[:, :8] = torch.nan
    assert streamed(weights, runtime, poisoned)[1].isnan().any()


def test_a_denoise_pass_leaves_the_history_alone(
    weights: Weights, runtime: TorchRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two commits every pass reads the same bits."""
    versions: list[list[Tensor]] = []
    commit = History.commit

    def watched(self: History, memory: SequenceOf[Tensor]) -> None:
        if versions:
            assert all(torch.equal(a, b) for a, b in zip(versions[-1], self.arrays, strict=True))
        commit(self, memory)
        versions.append([array.clone() for array in self.arrays])

    monkeypatch.setattr(History, "commit", watched)
    streamed(weights, runtime, make_clip(weights.config, CONSECUTIVE))
    assert len(versions) == len(CONSECUTIVE)
    assert all(not torch.equal(a[-1], b[-1]) for a, b in itertools.pairwise(versions))


def test_the_history_does_not_move(shape: HistoryShape) -> None:
    history = empty_history(shape)
    addresses = [array.data_ptr() for array in history.arrays]
    for number in range(50):
        history.commit(full_memory(shape, number))
    assert [array.data_ptr() for array in history.arrays] == addresses


# -- on the host -----------------------------------------------------------------------------------------------------------------


def test_the_host_s_tables_are_those_of_the_network() -> None:
    times, timed = torch.tensor([3.5, 0.0, 10**7 + 5.25], dtype=torch.float64), torch.tensor([True, False, True])
    rope, ladder = Rope(24, 400.0), Ladder(24, 400.0)
    pairs = [
        (rope.time_table(times), ladder.time_rows(times.numpy())),
        (rope.time_table(times, timed), ladder.time_rows(times.numpy(), timed.numpy())),
        (rope.video_table(times, 2, 3), ladder.video_rows(times.numpy(), 2, 3)),
    ]
    for table, rows in pairs:
        for ours, theirs in zip(rows, table.pair, strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", [0, 1, 2**32 + 7])
def test_the_host_s_noise_is_that_of_training(seed: int) -> None:
    """Of sizes with a rest, too, and one after the other."""
    noise, generator = Noise(seed), torch.Generator().manual_seed(seed)
    for shape in ((1, 4, 2, 8), (16,), (3, 11), (1, 5, 7)):
        theirs = torch.randn(shape, generator=generator)
        torch.testing.assert_close(torch.from_numpy(noise.draw(shape)), theirs, atol=2e-6, rtol=0)
