"""What a layer computes again for its gradients changes none of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model.config import RolloutConfig
from model.dit.transformer import DualStreamTransformer
from model.rollout import Latents
from model.sampling import NoiseTable
from model.training.dmd import SelfRollout, self_rollout
from model.training.ode import Trajectories, ode_loss
from model.training.views import BlockSizes
from tests.model.published import BLOCK, SHAPE, drawing, noise, read, tiny_dit
from tests.model.support import normal


def clip_loss(dit: DualStreamTransformer) -> Tensor:
    trajectories = Trajectories(normal(1, 4, 6, 4, 4, 6), normal(1, 4, 20, 5, seed=1))
    states, timesteps = torch.tensor([[2, 0]]), (1000.0, 800.0, 600.0)
    return ode_loss(dit, trajectories, states, read(dit), BlockSizes(2, 10), timesteps, NoiseTable.shifted(5.0)).total


def rollout_loss(dit: DualStreamTransformer) -> Tensor:
    rollout = SelfRollout(dit, RolloutConfig(window_latents=6), SHAPE, read(dit), 1)
    clip = self_rollout(rollout, Latents(*noise(6)), [BLOCK] * 3, drawing())
    return clip.video.square().mean() + clip.audio.square().mean()


@pytest.mark.parametrize("loss_of", [clip_loss, rollout_loss])
def test_recomputing_keeps_less_and_changes_no_gradient(loss_of: Callable[[DualStreamTransformer], Tensor]) -> None:
    gradients, kept = {}, {}
    for recomputes in (False, True):
        dit = tiny_dit().requires_grad_(True)
        dit.recomputes = recomputes
        sizes: dict[int, int] = {}
        weights = {p.data_ptr() for p in dit.parameters()}

        def keep(x: Tensor, sizes: dict[int, int] = sizes, weights: set[int] = weights) -> Tensor:
            storage = x.untyped_storage()
            if storage.data_ptr() not in weights:
                sizes[storage.data_ptr()] = storage.nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            loss = loss_of(dit)
        loss.backward()
        kept[recomputes] = sum(sizes.values())
        gradients[recomputes] = {name: p.grad for name, p in dit.named_parameters() if p.grad is not None}
    assert gradients[True].keys() == gradients[False].keys()
    for name, gradient in gradients[True].items():
        assert torch.equal(gradient, gradients[False][name]), name
    assert kept[True] < kept[False] / 2
