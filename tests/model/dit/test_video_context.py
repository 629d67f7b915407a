from __future__ import annotations

import pytest
import torch

from model.dit.attention import KeyValue, Room
from model.dit.cache import VideoContext
from model.dit.rope import Rope
from tests.model.published import tiny_dit_config
from tests.model.support import normal

TOKENS, LATENTS = 6, 8


def open_context() -> VideoContext:
    return VideoContext(tiny_dit_config(), 1, TOKENS, LATENTS, torch.device("cpu"), torch.float32)


def written(context: VideoContext, raw: KeyValue, num_latents: int) -> None:
    """``raw`` unrotated keys and values [1, heads, tokens, 24] as the next latents of every buffer."""
    table = Rope(24, 10_000.0).video_table(torch.arange(LATENTS), 2, 3)
    start = context.num_latents * TOKENS
    table = table.span(start, start + num_latents * TOKENS)
    for past in context.past():
        for room in (past.video_self, past.video_cross):
            heads = room.buffer.key.shape[1]
            place = room.place(num_latents * TOKENS)
            place.key.copy_(table.rotate(raw.key[:, :heads]))
            place.value.copy_(raw.value[:, :heads])
    context.commit(num_latents)


@pytest.mark.parametrize(("start", "stop"), [(0, 2), (0, 7), (3, 5), (5, 7), (2, 6)])
def test_what_moves_down_is_what_would_have_been_written_there(start: int, stop: int) -> None:
    context, direct = open_context(), open_context()
    raw = KeyValue(*(normal(1, 2, 7 * TOKENS, 24, seed=i) for i in (0, 1)))
    written(context, raw, 7)
    context.drop(start, stop)
    keep = [i for i in range(7 * TOKENS) if not start * TOKENS <= i < stop * TOKENS]
    left = 7 - (stop - start)
    assert context.num_latents == left
    written(direct, KeyValue(raw.key[:, :, keep], raw.value[:, :, keep]), left)
    for pair, expected in zip(context.buffers, direct.buffers, strict=True):
        for kv, wanted in zip(pair, expected, strict=True):
            for x, y in zip(kv, wanted, strict=True):
                torch.testing.assert_close(x[:, :, : left * TOKENS], y[:, :, : left * TOKENS], atol=1e-5, rtol=1e-5)


def test_each_tower_remembers_video_in_its_own_heads() -> None:
    context = open_context()
    for own, cross in context.buffers:
        assert own.key.shape == (1, 2, LATENTS * TOKENS, 24)
        assert cross.value.shape == (1, 1, LATENTS * TOKENS, 24)
    assert context.num_bytes == 2 * 2 * 3 * LATENTS * TOKENS * 24 * 4
    assert all(past.audio_self is None and past.audio_cross is None for past in context.past())


def test_a_context_without_audio_is_given_what_it_keeps() -> None:
    config = tiny_dit_config()
    context, other = open_context(), VideoContext(config, 1, TOKENS, LATENTS, torch.device("cpu"), torch.float32, for_audio=False)
    raw = KeyValue(*(normal(1, 2, 7 * TOKENS, 24, seed=i) for i in (0, 1)))
    written(context, raw, 7)
    for to, what in context.copies(other, 2, 7):
        to.copy_(what)
    assert 3 * other.num_bytes == 2 * context.num_bytes
    for (own, _), (kept,) in zip(context.buffers, other.buffers, strict=True):
        for x, y in zip(own, kept, strict=True):
            assert torch.equal(x[:, :, 2 * TOKENS : 7 * TOKENS], y[:, :, 2 * TOKENS : 7 * TOKENS])
            assert not y[:, :, : 2 * TOKENS].any()
    assert all(isinstance(past.video_self, Room) and past.video_cross is None for past in other.past())


def test_there_is_no_room_beyond_the_window() -> None:
    context = open_context()
    context.commit(LATENTS)
    with pytest.raises(AssertionError):
        context.commit(1)
