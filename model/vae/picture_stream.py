"""The published video decoder on a stream: latents in as they come, planes out, memory at one place.

The last latents of a stream can be decoded on two devices at once. The decoder is causal layer by layer: of the latents before, a
layer needs no more than what the same layer remembers of them. So while the first device decodes the first half, it hands what
each layer remembers to the second as soon as it is there, and that one decodes the second half a layer behind.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from model.graphs import CudaGraphCache
from model.vae.wan import FeatureCache, WanDecoder


class PictureStream:
    """One stream's pictures. The decoder is shared, the memory is the stream's own; it is made once and used again.

    Args:
        decoder: see :class:`model.vae.wan.WanDecoder`.
        records: whether calls are recorded and replayed, see :mod:`model.graphs`: one for each number of latents a call.
        priority: of their kernels.
        second: the same decoder on another device, for :meth:`finish`.
    """

    def __init__(self, decoder: WanDecoder, *, records: bool, priority: int = 0, second: WanDecoder | None = None) -> None:
        self._decoder, self._records, self._priority, self._second = decoder, records, priority, second
        self._cache: FeatureCache | None = None
        self._second_cache: FeatureCache | None = None
        self._graphs: CudaGraphCache | None = None
        self._begins, self._ended = True, False

    @property
    def can_finish(self) -> bool:
        """Whether there is a second device."""
        return self._second is not None

    def begin(self) -> None:
        """Forget everything: what comes next is a stream's first latent."""
        self._begins, self._ended = True, False

    def decode(self, latents: Tensor) -> Tensor:
        """I420 planes uint8 [B, T, H * 3 / 2, W] of the next latents [B, C, L, h, w]; valid until the next call.

        Raises:
            RuntimeError: the stream was finished and no other begun.
        """
        memory, begins = self._open(latents)
        decode = partial(self._decoder.planes, cache=memory, begins=begins)
        if self._graphs is None:
            return decode(latents)
        (planes,) = self._graphs(begins, lambda x: (decode(x),), latents)
        return planes

    def finish(self, first: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """Planes of a stream's last latents, as :meth:`decode` gives them, on two devices at once; nothing is recorded.

        Afterwards the second device knows what the stream was, the first no longer does: the stream is over.

        Args:
            first: on the first decoder's device [B, C, L, h, w].
            rest: what follows, on the second's; best as many.

        Returns:
            Those of each, in order on its device's current CUDA stream.

        Raises:
            RuntimeError: the stream was finished and no other begun.
        """
        assert self._second is not None
        memory, begins = self._open(first)
        self._ended = True
        if self._second_cache is None:
            self._second_cache = FeatureCache(tuple(torch.empty_like(t, device=rest.device) for t in memory.tensors))
        handover = _Handover(memory, self._second_cache, self._priority)

        @torch.inference_mode()
        def launch(second: WanDecoder, second_memory: FeatureCache) -> tuple[Tensor, Tensor]:
            # One half after the other: to launch one takes a small part of the time that a device is at work for it.
            with torch.cuda.stream(handover.here):
                planes = self._decoder.planes(first, memory, begins=begins, after=handover.send)
            with torch.cuda.stream(handover.there):
                return planes, second.planes(rest, second_memory, begins=False, before=handover.receive)

        planes = _launcher().submit(launch, self._second, self._second_cache).result()
        handover.end()
        return planes

    def _open(self, latents: Tensor) -> tuple[FeatureCache, bool]:
        """The memory, and whether the stream begins now."""
        if self._ended:
            raise RuntimeError("the stream of pictures is finished: begin another")
        if self._cache is None:
            _, self._cache = self._decoder(latents[:, :, :1])
            self._graphs = CudaGraphCache(self._cache.tensors, self._priority) if self._records else None
        begins, self._begins = self._begins, False
        return self._cache, begins


@cache
def _launcher() -> ThreadPoolExecutor:
    """The one thread that launches halves, which are not recorded: what cuDNN found to be fast, PyTorch keeps for each thread."""
    return ThreadPoolExecutor(1, "finish")


class _Lanes(NamedTuple):
    """CUDA streams: two that compute, one on each device, and both ends of the copies from the first to the second."""

    here: torch.cuda.Stream
    there: torch.cuda.Stream
    outgoing: torch.cuda.Stream
    incoming: torch.cuda.Stream


@cache
def _lanes(here: torch.device, there: torch.device, priority: int) -> _Lanes:
    """Made once: what the allocator keeps for a stream, here gigabytes, is of use to that stream alone."""
    devices = here, there
    # Streams of one priority may share a hardware queue. The second half is launched behind all copies, so it is better there
    # that what computes has a priority of its own, as decoders have.
    compute = (torch.cuda.Stream(device, priority) for device in devices)
    return _Lanes(*compute, *(torch.cuda.Stream(device) for device in devices))


class _Handover:
    """What the layers of a decoder remember, taken to another device layer by layer, each as soon as it is there.

    Nothing here waits on the host. Elsewhere than on GPUs everything runs in order.

    Args:
        source, target: of the two decoders; either may be in use on its device's current CUDA stream, up to now.
        priority: of the kernels that compute.
    """

    def __init__(self, source: FeatureCache, target: FeatureCache, priority: int) -> None:
        self._source, self._target = source.tensors, target.tensors
        self._arrived: list[torch.cuda.Event] = []
        devices = self._source[0].device, self._target[0].device
        self._lanes = _lanes(*devices, priority) if devices[0].type == "cuda" else None
        self.here = None if self._lanes is None else self._lanes.here
        """Where the first half is to be computed; None elsewhere than on GPUs."""
        self.there = None if self._lanes is None else self._lanes.there
        """And the second."""
        if self._lanes is not None:
            here, there, _, incoming = self._lanes
            for lane in (here, there):
                lane.wait_stream(torch.cuda.current_stream(lane.device))
            incoming.wait_stream(there)

    def send(self, layer: int) -> None:
        """The first decoder's layer has left what it remembers."""
        source, target = self._source[layer], self._target[layer]
        if self._lanes is None:
            target.copy_(source)
            return
        here, _, outgoing, incoming = self._lanes
        outgoing.wait_stream(here)
        # A copy between devices makes the current streams of both wait for each other: none that computes may be one.
        with torch.cuda.stream(incoming), torch.cuda.stream(outgoing):
            target.copy_(source, non_blocking=True)
        incoming.wait_stream(outgoing)
        self._arrived.append(incoming.record_event())

    def receive(self, layer: int) -> None:
        """The second decoder's layer is about to read what it shall remember."""
        if self._lanes is not None:
            self._lanes.there.wait_event(self._arrived[layer])

    def end(self) -> None:
        """Each device's current stream waits for its half and its end of the copies, so that what it does with memory comes after
        what was done here. The first device does not wait for the second's half."""
        for lane in self._lanes or ():
            torch.cuda.current_stream(lane.device).wait_stream(lane)
