"""Attention in groups equals attention under the mask that the groups stand for; room equals concatenation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model.dit import masks
from model.dit.attention import KeyValue, Room, attend, seen
from model.dit.masks import Staircase
from model.kernels.eager import turn_by_product, turn_by_slices
from tests.model.support import normal

HEADS, CHANNELS = 2, 8
sizes = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=4)


def random_memory(tokens: int, seed: int) -> KeyValue:
    return KeyValue(*(normal(2, HEADS, tokens, CHANNELS, seed=seed + i) for i in (0, 1)))


@given(sizes, st.integers(0, 7))
def test_a_staircase_equals_its_mask(blocks: list[tuple[int, int]], ahead: int) -> None:
    queries, keys = zip(*blocks, strict=True)
    stairs = Staircase.of_blocks(queries, keys, ahead)
    q, memory = normal(2, HEADS, sum(queries), CHANNELS), random_memory(sum(keys), 1)
    torch.testing.assert_close(attend(q, memory, stairs), attend(q, memory, stairs.dense()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ahead", [0, 1, 3, 7])
def test_a_staircase_of_equal_blocks_is_the_future_expanding_mask(ahead: int) -> None:
    queries, keys = (torch.arange(3).repeat_interleave(n) for n in (4, 3))
    dense = masks.future_expanding(queries, keys, torch.arange(9), 3, ahead)
    assert torch.equal(Staircase.of_blocks((4,) * 3, (3,) * 3, ahead).dense(), dense)


def test_keys_of_zeros_behind_the_end_take_part() -> None:
    stairs = Staircase.of_blocks((2, 2), (3, 3), future_keys=2, num_keys=128)
    assert stairs.key_ends == (5, 8)
    q, memory = normal(2, HEADS, 4, CHANNELS), random_memory(6, 1)
    zeros = KeyValue(*(torch.cat((x, torch.zeros(2, HEADS, 2, CHANNELS)), dim=2) for x in memory))
    padded = attend(q, memory, stairs)
    torch.testing.assert_close(padded, attend(q, zeros, stairs.dense()), atol=1e-5, rtol=1e-5)
    clipped = attend(q, memory, Staircase.of_blocks((2, 2), (3, 3), future_keys=2))
    assert torch.equal(padded[:, :2], clipped[:, :2])
    assert not torch.allclose(padded[:, 2:], clipped[:, 2:], atol=1e-2)


def test_room_gives_what_concatenation_gives_at_the_same_address() -> None:
    buffer = KeyValue(*(torch.full((2, HEADS, 9, CHANNELS), torch.nan) for _ in range(2)))
    past, new, other = random_memory(4, 1), random_memory(3, 3), random_memory(3, 5)
    for x, y in zip(buffer, past, strict=True):
        x[:, :, :4] = y
    room = Room(buffer, 4)
    for tokens in (new, other):  # a second pass overwrites the first
        own = room.place(3)
        for x, y in zip(own, tokens, strict=True):
            x.copy_(y)
        visible = seen(room, own)
        assert isinstance(visible, KeyValue)
        for actual, wanted in zip(visible, tokens.after(past), strict=True):
            assert isinstance(wanted, Tensor)
            assert torch.equal(actual, wanted)
        assert visible.key.data_ptr() == buffer.key.data_ptr()
    assert buffer.key[:, :, 7:].isnan().all()
    assert seen(None, new) == new


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pairs_turn_alike_on_every_device(dtype: torch.dtype) -> None:
    x = normal(2, HEADS, 5, CHANNELS).to(dtype)
    assert torch.equal(turn_by_product(x), turn_by_slices(x))
    assert turn_by_slices(torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist() == [-2, 1, -4, 3]
