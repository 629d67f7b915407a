"""The video of a stream that reads all its audio anew in every pass, as all layers remember it: in order, at fixed addresses.

A pass writes the block in work behind the past, where the next pass overwrites it; ``commit`` declares it past.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model import kernels
from model.config import DiTConfig
from model.dit.attention import KeyValue, Room
from model.dit.block import LayerPast
from model.dit.rope import Rope


class VideoContext:
    """Video of one stream, or of a batch of them in step, as all layers remember it.

    Positions are places: the first latent in here has position 0, and when latents leave, those behind them move down and are
    rotated back. So no position ever reaches ``num_latents``, however long the stream runs.

    Args:
        config: sizes of the transformer.
        batch: streams.
        tokens: a latent.
        num_latents: room for so many, those of the block in work included.
        device, dtype: of the buffers.
        for_audio: whether audio reads it; without, video is kept as it sees itself and no other way.
    """

    def __init__(
        self,
        config: DiTConfig,
        batch: int,
        tokens: int,
        num_latents: int,
        device: torch.device,
        dtype: torch.dtype,
        *,
        for_audio: bool = True,
    ) -> None:
        self.capacity, self._tokens = num_latents, tokens
        self._time_scale = config.video.time_scale
        self._rope = Rope(config.video.dim // config.video.num_heads, config.rope_theta)

        def buffer(heads: int, dim: int) -> KeyValue:
            shape = batch, num_latents * tokens, heads, dim // heads  # as projections leave them, so that writing is one copy
            return KeyValue(*(torch.zeros(shape, device=device, dtype=dtype).transpose(1, 2) for _ in range(2)))

        video, audio = config.video, config.audio
        # As each layer's video sees itself, and as its audio sees video.
        towers = (video, audio) if for_audio else (video,)
        self.buffers = [tuple(buffer(tower.num_heads, tower.dim) for tower in towers) for _ in range(config.num_layers)]
        self.num_latents = 0

    @property
    def num_bytes(self) -> int:
        return sum(x.numel() * x.element_size() for layer in self.buffers for kv in layer for x in kv)

    def copies(self, other: VideoContext, start: int, stop: int) -> list[tuple[Tensor, Tensor]]:
        """To, from: what gives another context latents ``start`` to ``stop`` of this one, as far as it keeps such."""
        span = start * self._tokens, stop * self._tokens
        layers = zip(other.buffers, self.buffers, strict=True)
        pairs = [pair for theirs, mine in layers for pair in zip(theirs, mine[: len(theirs)], strict=True)]
        return [copy for to, what in pairs for copy in zip(to.span(*span), what.span(*span), strict=True)]

    def past(self) -> list[LayerPast]:
        """What a pass over the latents after the committed ones reads and writes."""
        length = self.num_latents * self._tokens
        rooms = [[Room(kv, length) for kv in layer] for layer in self.buffers]
        return [LayerPast(layer[0], None, layer[1] if len(layer) > 1 else None, None) for layer in rooms]

    def commit(self, num_latents: int) -> None:
        """The latents that the last pass wrote are past now."""
        assert self.num_latents + num_latents <= self.capacity
        self.num_latents += num_latents

    def clear(self) -> None:
        """Forget everything; the buffers stay."""
        self.num_latents = 0

    def drop(self, start: int, stop: int) -> None:
        """Forget latents ``start`` to ``stop``; those behind them take their places."""
        assert 0 <= start < stop <= self.num_latents
        if stop == self.num_latents:  # nobody moves
            self.num_latents = start
            return
        low, high, end = (n * self._tokens for n in (start, stop, self.num_latents))
        device = self.buffers[0][0].key.device
        back = torch.full((1,), (start - stop) * self._time_scale, device=device, dtype=torch.float64)
        table = self._rope.time_table(back)
        for layer in self.buffers:
            for kv in layer:
                ops = kernels.on(kv.key)
                ops.move_rotated(kv.key, low, high, end, table.pair)
                ops.move_rotated(kv.value, low, high, end, None)
        self.num_latents -= stop - start
