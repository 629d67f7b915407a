"""Linear layers in 8 bits: an option that is faster and not exact.

Weights are float8 (e4m3) with one scale for each output, inputs are rounded as they come with one scale for each token, sums are
wide. Large products only: what is small, or sets the scale of everything after it, stays as it is: the audio tower (its few rows
cost what reading its weights costs, and cuBLAS has no such product for 30 of them), embeddings, timesteps, heads, keys and values
of text and of the other stream.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model import kernels
from model.kernels import eager


class Float8Linear(nn.Module):
    """What linear layers of one input compute, side by side, about.

    Args:
        layers: their weights are rounded once, here.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, *layers: nn.Linear) -> None:
        super().__init__()
        weight, scale = eager.quantise(torch.cat([layer.weight.detach() for layer in layers]))
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.t().contiguous())
        self.register_buffer("bias", torch.cat([layer.bias.detach() for layer in layers]))

    def forward(self, x: Tensor, *, gelu: bool = False) -> Tensor:
        """[..., D] -> [..., outputs]; of GELU (its tanh form) of ``x`` if asked."""
        ops = kernels.on(x)
        rows, scale = ops.quantise(x.flatten(0, -2), gelu=gelu)
        return ops.scaled_product(rows, scale, self.weight, self.scale, self.bias).unflatten(0, x.shape[:-1])
