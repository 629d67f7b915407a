"""One pass over a block, its video tokens split between two devices; what one half computes.

Each device has all weights and the whole video context. It embeds, projects and feeds forward its half of the tokens, which look
at all of them: so a layer's keys and values of the other half come over, those that video reads and those that audio reads. The
audio tower is small, and each device computes all of it.

The order differs from :class:`model.dit.block.FusionLayer`'s, the numbers do not: audio reads the video of a layer only once the
next layer's video keys and values are on their way, so that copies pass beside kernels, one kind beside the audio tower and the
other beside the feed-forward part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from model.dit.attention import KeyValue, Room
from model.dit.block import LayerPast, StreamView
from model.dit.transformer import DualStreamTransformer, TextMemory
from model.lockstep import Exchange, Half, Stop


class _Tokens:
    """Which of a block's tokens are a half's own."""

    def __init__(self, side: int, num_tokens: int) -> None:
        middle = num_tokens // 2
        halves = (0, middle), (middle, num_tokens)
        self._num, self.own, self._other = num_tokens, halves[side], halves[1 - side]

    def room(self, past: Room) -> Room:
        """Behind the past, where the half's own keys and values go."""
        return Room(past.buffer, past.length + self.own[0])

    def seen(self, past: Room) -> KeyValue:
        """The past and all tokens of the block."""
        return past.buffer.span(0, past.length + self._num)

    def exchange(self, past: Room) -> Exchange:
        """The half's own keys and values for the others'."""
        mine, theirs = (past.buffer.span(past.length + start, past.length + stop) for start, stop in (self.own, self._other))
        return Exchange(mine, theirs)

    def gather(self, x_BTC: Tensor) -> tuple[Tensor, Exchange]:
        """Room for all tokens with the half's own in it, and the exchange that fills it."""
        whole = x_BTC.new_empty(x_BTC.shape[0], self._num, x_BTC.shape[2])
        whole[:, slice(*self.own)] = x_BTC
        return whole, Exchange([whole[:, slice(*self.own)]], [whole[:, slice(*self._other)]])


def can_halve(num_latents: int, video_timesteps: Tensor) -> bool:
    """Whether tokens can be halved: latents with a timestep each have to stay whole."""
    return video_timesteps.shape[1] == 1 or num_latents % 2 == 0


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
    """What :meth:`DualStreamTransformer.forward` computes, by halves; returns the whole velocity of video and audio.

    Args:
        side: 0 has the first half of the video tokens, 1 the second.
        video, audio, video_timesteps, audio_timesteps, video_view, audio_view: of the whole block, see there, such that
            :func:`can_halve`; without masks but that of text.
        past: video in rooms, and no audio.
    """
    patches = dit.patchify(video)
    tokens = _Tokens(side, patches.shape[1])
    table, query_table = (None if x is None else x.span(*tokens.own) for x in (video_view.table, video_view.text_query_table))
    assert table is not None
    view = StreamView(table, query_table, None, video_view.text_mask, None)
    if video_timesteps.shape[1] > 1:
        video_timesteps = video_timesteps.chunk(2, dim=1)[side]
    v = dit.video_ends.stem(patches[:, slice(*tokens.own)])
    video_e, video_e0 = dit.video_ends.time(video_timesteps)
    a = dit.audio_ends.stem(audio)
    audio_e, audio_e0 = dit.audio_ends.time(audio_timesteps)
    read_video: Callable[[Tensor], Tensor] | None = None
    for i, layer in enumerate(dit.fusion_layers()):
        own, cross = past[i].video_self, past[i].video_cross
        assert isinstance(own, Room)
        assert isinstance(cross, Room)
        vm, am = layer.video.modulate(video_e0), layer.audio.modulate(audio_e0)
        q, _ = layer.video.project(v, vm, table, tokens.room(own))
        yield Stop(tokens.exchange(own), takes=read_video is not None)

        if read_video is not None:
            a = read_video(a)
        audio_q, audio_self = layer.audio.project(a, am, audio_view.table, None)
        a = layer.audio.look(a, am, audio_q, audio_self, None)
        yield Stop(takes=True)

        v = layer.video.look(v, vm, q, tokens.seen(own), None)
        layer.audio.cross_attn.project_other(v, table, tokens.room(cross))
        yield Stop(tokens.exchange(cross))

        audio_cross = layer.video.cross_attn.project_other(a, audio_view.table, None)
        v = layer.video.read(v, vm, view, text.video[i], audio_cross)
        read_video = partial(layer.audio.read, m=am, view=audio_view, text=text.audio[i], other=tokens.seen(cross))
    flow, exchange = tokens.gather(dit.video_ends.out(v, video_e))
    yield Stop(exchange, takes=True)

    assert read_video is not None
    flow_audio = dit.audio_ends.out(read_video(a), audio_e)
    yield Stop(takes=True)

    return dit.unpatchify(flow, video.shape), flow_audio
