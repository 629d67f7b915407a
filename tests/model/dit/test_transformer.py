"""What the transformer takes and gives, as those see it who spread it over processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from model.dit.attention import KeyValue
from model.dit.block import LayerMemory
from model.dit.transformer import Flow, TextMemory


def test_tensors_that_networks_pass_are_found() -> None:
    """Sharded weights are gathered for a backward pass when a gradient reaches an output that is found in this way."""
    one = KeyValue(torch.zeros(1), torch.ones(1))
    text, flow = TextMemory((one,), (one,), None), Flow(torch.zeros(2), torch.zeros(3), (LayerMemory(one, one, one, one),))
    assert len([x for x in pytree.tree_leaves(text) if isinstance(x, Tensor)]) == 4
    assert len([x for x in pytree.tree_leaves(flow) if isinstance(x, Tensor)]) == 10
