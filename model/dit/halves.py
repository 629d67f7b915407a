"""One pass over a block, its work split between two devices; what one half computes.

The first device computes the audio tower, which is small, and fewer of the video tokens. Each device embeds, projects and feeds
forward its own video tokens, which look at all of them: so a layer's keys and values of the other's come over. Besides, the first
gives each layer's audio as video hears it, and is given the second's video as audio sees it.

The order differs from :class:`model.dit.block.FusionLayer`'s, the numbers do not: audio reads the video of a layer only once the
next layer's video keys and values are on their way. So the second device looks at video while the first is at audio, and two
segments make a layer::

    first    project video | audio: read video, project, look | video: look, read, feed forward; project the next layer's | ...
    second   project video | video: look                      | video: read, feed forward; project the next layer's       | ...
                           ^ keys and values of video         ^ of audio for video, of video for audio
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from model.config import TowerConfig
from model.dit.attention import KeyValue, Room
from model.dit.block import LayerPast, StreamView
from model.dit.transformer import DualStreamTransformer, TextMemory
from model.lockstep import Exchange, Half, Stop

FIRST_SHARE = 0.42
"""Of the video tokens, such that both devices end at about the same time. At full size on an H100 audio takes A = 12 ms of a pass
and video V = 55 to 86 ms, so (V - A) / 2V would be 0.39 to 0.43; but the second device also waits for each layer's keys."""

GRAIN = 64
"""Tokens: matrix products are made of tiles of so many rows, or twice as many."""


def num_first(num_tokens: int, num_latents: int, num_timesteps: int) -> int:
    """How many video tokens the first device computes: the first ones, and at most its share.

    The second has whole grains; whole latents where these have a timestep each, because a modulation is of whole latents.
    """
    grain = GRAIN if num_tokens >= 2 * GRAIN else 1
    if num_timesteps > 1:
        grain = num_tokens // num_latents
    share = math.ceil((1 - FIRST_SHARE) * num_tokens / grain)
    return num_tokens - grain * min(share, (num_tokens - 1) // grain)


def joined(dit: DualStreamTransformer, video: Tensor, made: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Velocity of video, shaped like ``video``, and of audio from what both halves return."""
    first, audio, second = made
    return dit.unpatchify(torch.cat((first, second), dim=1), video.shape), audio


class _Tokens:
    """Which of a block's tokens are a half's own."""

    def __init__(self, side: int, num_tokens: int, middle: int) -> None:
        spans = (0, middle), (middle, num_tokens)
        self._num, self.own, self._other = num_tokens, spans[side], spans[1 - side]

    @property
    def num_own(self) -> int:
        return self.own[1] - self.own[0]

    def room(self, past: Room) -> Room:
        """Behind the past, where the half's own keys and values go."""
        return Room(past.buffer, past.length + self.own[0])

    def seen(self, past: Room) -> KeyValue:
        """The past and all tokens of the block."""
        return past.buffer.span(0, past.length + self._num)

    def mine(self, past: Room) -> KeyValue:
        """The half's own keys and values."""
        return past.buffer.span(past.length + self.own[0], past.length + self.own[1])

    def theirs(self, past: Room) -> KeyValue:
        """The other's."""
        return past.buffer.span(past.length + self._other[0], past.length + self._other[1])


def half_pass(
    dit: DualStreamTransformer,
    side: int,
    video: Tensor,
    audio: Tensor,
    video_timesteps: Tensor,
    audio_timesteps: Tensor,
    video_view: StreamView,
    audio_view: StreamView,
    text: TextMemory,
    past: Sequence[LayerPast],
) -> Half:
    """What :meth:`DualStreamTransformer.forward` computes, by halves; see :func:`joined` for what they return.

    Args:
        side: 0 has audio and the first video tokens, 1 the other video tokens; of the audio tower's weights it uses only those
            that project video for it.
        video, audio, video_timesteps, audio_timesteps, video_view, audio_view: of the whole block, see there; without masks but
            that of text.
        text: for side 1 that of video is enough.
        past: video in rooms, and no audio; for side 1 video as it sees itself is enough.
    """
    num_latents, num_tokens = video.shape[2], video_view.table.cos.shape[-2]
    tokens = _Tokens(side, num_tokens, num_first(num_tokens, num_latents, video_timesteps.shape[1]))

    def slots(tower: TowerConfig, num_tokens: int) -> Tensor:
        """Two places for keys and values [2, B, H, T, K], laid out as projections leave them."""
        shape = 2, 2, video.shape[0], num_tokens, tower.num_heads, tower.dim // tower.num_heads
        return video.new_empty(shape).transpose(3, 4)

    # What crosses over one way. Made before anything else, because memory that this pass has used and given back may still be in
    # use when a lane writes there. Layers take turns: when one comes to a slot again, each device has taken what the other made
    # after it had taken what was there.
    heard = slots(dit.config.video, audio.shape[1])
    shown = slots(dit.config.audio, tokens.num_own) if side else None

    table, query_table = (None if x is None else x.span(*tokens.own) for x in (video_view.table, video_view.text_query_table))
    assert table is not None
    view = StreamView(table, query_table, None, video_view.text_mask, None)
    if video_timesteps.shape[1] > 1:
        start, stop = (token * num_latents // num_tokens for token in tokens.own)
        video_timesteps = video_timesteps[:, start:stop]
    v = dit.video_ends.stem(dit.patchify(video)[:, slice(*tokens.own)])
    video_e, video_e0 = dit.video_ends.time(video_timesteps)
    if side == 0:
        a = dit.audio_ends.stem(audio)
        audio_e, audio_e0 = dit.audio_ends.time(audio_timesteps)
    read_video: Callable[[Tensor], Tensor] | None = None
    for i, layer in enumerate(dit.fusion_layers()):
        own, audio_cross = past[i].video_self, heard[i % 2]
        cross = past[i].video_cross if shown is None else Room(KeyValue(*shown[i % 2]), 0)
        assert isinstance(own, Room)
        assert isinstance(cross, Room)
        vm = layer.video.modulate(video_e0)
        q, _ = layer.video.project(v, vm, table, tokens.room(own))
        yield Stop(Exchange(tokens.mine(own), tokens.theirs(own)), takes=side == 1 or i > 0)

        if side == 0:
            if read_video is not None:
                a = read_video(a)
            am = layer.audio.modulate(audio_e0)
            audio_q, audio_self = layer.audio.project(a, am, audio_view.table, None)
            a = layer.audio.attend_self(a, am, audio_q, audio_self, None)
            layer.video.cross_attn.project_other(a, audio_view.table, Room(KeyValue(*audio_cross), 0))
            read_video = partial(layer.audio.attend_others, m=am, view=audio_view, text=text.audio[i], other=tokens.seen(cross))
            yield Stop(Exchange([audio_cross], tokens.theirs(cross)), takes=True)

        v = layer.video.attend_self(v, vm, q, tokens.seen(own), None)
        layer.audio.cross_attn.project_other(v, table, cross)  # the first device's own tokens are those right behind the past
        if side == 1:
            yield Stop(Exchange(cross.buffer, [audio_cross]), takes=True)

        v = layer.video.attend_others(v, vm, view, text.video[i], KeyValue(*audio_cross))
    yield Stop(takes=side == 0)

    flow = dit.video_ends.out(v, dit.video_ends.modulate(video_e))
    if side == 1:
        return (flow,)
    assert read_video is not None
    return flow, dit.audio_ends.out(read_video(a), dit.audio_ends.modulate(audio_e))
