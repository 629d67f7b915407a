from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.config import SamplingConfig
from model.sampling import euler_step
from tests.model.support import normal

levels = st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=8, unique=True).map(lambda values: sorted(values, reverse=True))


def sampling(timesteps: list[float]) -> SamplingConfig:
    return SamplingConfig(timesteps=tuple(timesteps), window_blocks=3, sink=True)


@given(levels)
def test_intervals_lead_from_the_first_level_to_nothing(timesteps: list[float]) -> None:
    steps = sampling(timesteps).intervals
    assert [start for start, _ in steps] == timesteps
    assert [stop for _, stop in steps] == [*timesteps[1:], 0.0]


@pytest.mark.parametrize("timesteps", [[], [1.1], [0.0], [1.0, 0.0], [0.5, 0.5], [0.5, 1.0], [0.5, -0.1], [-1.0]])
def test_levels_that_do_not_fall_are_refused(timesteps: list[float]) -> None:
    with pytest.raises(ValueError, match="must fall"):
        sampling(timesteps)


@given(levels)
def test_a_straight_path_is_followed_exactly(timesteps: list[float]) -> None:
    clean, noise = normal(2, 3).double(), normal(2, 3, seed=1).double()
    level = timesteps[0]
    x = (1 - level) * clean + level * noise
    for start, stop in sampling(timesteps).intervals:
        x = euler_step(x, noise - clean, start, stop)
        torch.testing.assert_close(x, (1 - stop) * clean + stop * noise)
    torch.testing.assert_close(x, clean)
