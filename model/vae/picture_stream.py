"""The published video decoder on a stream: latents in as they come, planes out, memory at one place."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from model.graphs import Graphs
from model.vae.wan import FeatureCache, WanDecoder


class PictureStream:
    """One stream's pictures. The decoder is shared, the memory is the stream's own; it is made once and used again.

    Args:
        decoder: see :class:`model.vae.wan.WanDecoder`.
        records: whether calls are recorded and replayed, see :mod:`model.graphs`: one for each number of latents a call.
        priority: of their kernels.
    """

    def __init__(self, decoder: WanDecoder, *, records: bool, priority: int = 0) -> None:
        self._decoder, self._records, self._priority = decoder, records, priority
        self._cache: FeatureCache | None = None
        self._graphs: Graphs | None = None
        self._begins = True

    def begin(self) -> None:
        """Forget everything: what comes next is a stream's first latent."""
        self._begins = True

    def decode(self, latents: Tensor) -> Tensor:
        """I420 planes uint8 [B, T, H * 3 / 2, W] of the next latents [B, C, L, h, w]; valid until the next call."""
        if self._cache is None:
            _, self._cache = self._decoder(latents[:, :, :1])
            self._graphs = Graphs(self._cache.tensors, self._priority) if self._records else None
        begins, self._begins = self._begins, False
        decode = partial(self._decoder.planes, cache=self._cache, begins=begins)
        if self._graphs is None:
            return decode(latents)
        (planes,) = self._graphs(begins, lambda x: (decode(x),), latents)
        return planes
