"""The published block loop: a few denoise passes over each block, then a clean pass that makes it history.

Video is appended to a memory of keys and values. Audio is not: each pass reads all of it anew, finished latents at the context
timestep, then the block's at the noise of the pass, then the look-ahead's, which are thrown away. Nothing masks it, so finished
audio listens to the block in work, and is heard differently in every pass.

Serve it under ``torch.inference_mode``; training goes through it with gradients, see :mod:`model.training.dmd`.

Lengths are counted in latents; one video latent goes with a fixed number of audio latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from model.config import RolloutConfig
from model.dit.block import LayerPast, StreamView
from model.dit.cache import VideoContext
from model.dit.halves import half_pass, joined
from model.dit.rope import RotaryTable
from model.dit.transformer import DualStreamTransformer, Flow, TextMemory
from model.graphs import CudaGraphCache
from model.lockstep import Half, Lockstep
from model.sampling import NoiseTable, add_noise, clean_from_velocity

Draw = Callable[[tuple[int, ...]], Tensor]
"""Gives standard normal noise of a shape. Called for video, then for audio, with batch and time flattened: [B * F, C, h, w] and
[B * L, C], so that a seeded generator gives what the published loop draws."""


@dataclass(frozen=True)
class RolloutShape:
    """Sizes of a stream's latents: a picture's height and width in cells, and audio latents a video latent."""

    height: int
    width: int
    audio_per_video: int


@dataclass(frozen=True)
class Latents:
    """A finished block: video [B, C, F, h, w] and audio [B, L, C]."""

    video: Tensor
    audio: Tensor


class Context(Protocol):
    """Earlier video; see :class:`model.dit.cache.VideoContext`."""

    @property
    def num_latents(self) -> int: ...

    def past(self) -> list[LayerPast] | None: ...

    def commit(self, num_latents: int) -> None: ...

    def clear(self) -> None: ...

    def drop(self, start: int, stop: int) -> None: ...


@dataclass
class _Side:
    """What one device has of a stream."""

    dit: DualStreamTransformer
    context: Context
    text: TextMemory
    video_table: RotaryTable
    audio_table: RotaryTable

    def given(self, start: int, num_tokens: int, num_audio: int) -> tuple[Any, ...]:
        """What a pass is given besides its inputs, over so many tokens and audio latents; the first token's place."""
        return (
            StreamView(self.video_table.span(start, start + num_tokens), None, None, self.text.mask, None),
            StreamView(self.audio_table.span(0, num_audio), None, None, self.text.mask, None),
            self.text,
            self.context.past(),
        )


@dataclass
class _Block:
    """A block in work: what the next pass denoises."""

    video: Tensor
    audio: Tensor
    num_audio: int
    passes: int = 0


class Rollout:
    """One stream, or a batch of them in step. The order of a block's life: ``begin``, ``denoise`` until it returns the finished
    block, ``update_cache``. Between finishing and remembering there is time to hand out what is finished; until the next block is
    finished, :meth:`rollback` may take the end of it back.

    With a second transformer a pass may be split over both devices, and the next one not: of what the second has not computed of
    the history, it is given copies.

    Nothing here waits for the device: all that decides what runs is a host integer. Tables and buffers are made once. With
    graphs, one for each length of the context serves all passes, the clean one too; then text has one length.

    Args:
        dit: the transformer; the device and type of its parameters are the stream's.
        config: passes and window.
        shape: sizes of latents.
        text: what is to be said; it may be replaced between blocks.
        context: where earlier video is kept; buffers for a whole window if None.
        graphs: records passes over these buffers and replays them; None runs each pass anew.
        second: the transformer's :meth:`~DualStreamTransformer.video_replica`, on a second device as a rule; None computes every
            pass on the first.
        lockstep: what drives both devices in a pass that is split; made here if None.

    Attributes:
        finished_audio: [B, L, C], what every pass reads anew.
    """

    def __init__(
        self,
        dit: DualStreamTransformer,
        config: RolloutConfig,
        shape: RolloutShape,
        text: TextMemory,
        context: Context | None = None,
        graphs: CudaGraphCache | None = None,
        second: DualStreamTransformer | None = None,
        lockstep: Lockstep | None = None,
    ) -> None:
        self.dit, self.config, self.shape = dit, config, shape
        self._graphs = graphs
        parameter, batch = dit.video_ends.head.weight, text.video[0].key.shape[0]
        self._device, self._dtype = parameter.device, dit.dtype
        self._grid = dit.grid(shape.height, shape.width)
        self._tokens = self._grid[0] * self._grid[1]
        table = NoiseTable.shifted(config.shift)
        self.timesteps = table.warped(config.steps)
        self._levels = [table.level_of(t) for t in self.timesteps]
        self._context_level = table.level_of(config.context_timestep)
        window = config.window_latents
        num_audio = window * shape.audio_per_video
        self._no_audio = torch.zeros(batch, 0, dit.config.audio.latent_channels, device=self._device, dtype=self._dtype)
        video_table = dit.video_tables(torch.arange(window), *self._grid)[0]
        audio_table = dit.audio_tables(torch.arange(num_audio + dit.config.future_audio_latents))[0]

        def side(dit: DualStreamTransformer, text: TextMemory, context: Context | None = None, *, hears: bool) -> _Side:
            device = dit.video_ends.head.weight.device
            own_text = text.to(device) if graphs is None else text.to(device).clone()
            context = context or VideoContext(dit.config, batch, self._tokens, window, device, self._dtype, for_audio=hears)
            return _Side(dit, context, own_text, video_table.to(device), audio_table.to(device))

        self._sides = [side(dit, text, context, hears=True)]
        if second is not None:
            self._sides.append(side(second, text.without_audio(), hears=False))
            devices = self._device, second.video_ends.head.weight.device
            self._lockstep = Lockstep(devices, records=graphs is not None) if lockstep is None else lockstep
        self.reset(text)

    def reset(self, text: TextMemory | None = None) -> None:
        """Begin a new stream in the same buffers; with the text of the one before if none is given."""
        if text is not None:
            self.text = text
        if self.can_split:
            self._lockstep.meet()  # what is on its way would come into the new one
        for side in self._sides:
            side.context.clear()
        self.finished_audio = self._no_audio
        self._block: _Block | None = None
        self._clean: tuple[Tensor, Tensor] | None = None
        # The newest blocks that may still be taken back, video and audio as their clean passes read them, newest last.
        self._latest: list[tuple[Tensor, Tensor]] = []
        self._first_latent: Tensor | None = None

    def freeze_split(self) -> None:
        """From now on passes are split only as some have been; see :meth:`model.lockstep.Lockstep.freeze`."""
        if self.can_split:
            self._lockstep.freeze()

    @property
    def can_split(self) -> bool:
        """Whether there is a second device to share passes with."""
        return len(self._sides) > 1

    @property
    def context(self) -> Context:
        """Earlier video, on the first device."""
        return self._sides[0].context

    @property
    def text(self) -> TextMemory:
        """What is being said."""
        return self._sides[0].text

    @text.setter
    def text(self, text: TextMemory) -> None:
        for i, side in enumerate(self._sides):
            read = text.without_audio() if i else text
            if self._graphs is None:
                side.text = read.to(side.dit.video_ends.head.weight.device)
            else:  # where the graphs read it
                side.text.copy_(read)

    @property
    def num_latents(self) -> int:
        """Video latents in view of the next block."""
        return self.context.num_latents

    @property
    def is_cache_current(self) -> bool:
        """Whether all finished blocks are history, so that a new one may begin."""
        return self._clean is None

    def begin(self, video_noise: Tensor, audio_noise: Tensor, first_latent: Tensor | None = None) -> None:
        """Begin a block, or begin it again; a full window makes room first.

        Args:
            video_noise: [B, C, F, h, w]; audio_noise: [B, L + look-ahead, C], see :func:`audio_window`.
            first_latent: [B, C, 1, h, w], a clean latent that the block starts from, as it is: an encoded picture.
        """
        assert self.is_cache_current, "the finished block has to be remembered first"
        num_video = video_noise.shape[2]
        self._make_room(num_video)
        num_audio = num_video * self.shape.audio_per_video
        assert audio_noise.shape[1] == num_audio + self.dit.config.future_audio_latents
        self._first_latent = None if first_latent is None else first_latent.to(self._dtype)
        self._block = _Block(self._started(video_noise.to(self._dtype)), audio_noise.to(self._dtype), num_audio)

    def _started(self, video: Tensor) -> Tensor:
        """``video`` with the given first latent, if there is one."""
        return video if self._first_latent is None else torch.cat((self._first_latent, video[:, :, 1:]), dim=2)

    def _make_room(self, num_video: int) -> None:
        window, have = self.config.window_latents, self.context.num_latents
        if have + num_video <= window:
            return
        assert num_video < window, f"a block of {num_video} latents does not fit a window of {window}"
        if self.config.continuation == "restart":
            self.restart()
        else:  # whole blocks leave, as they came
            sink = self.config.sink_latents
            self._drop(sink, min(have, sink + num_video * -(-(have + num_video - window) // num_video)))

    def restart(self) -> None:
        """Forget all but the last latent: what comes next begins where the model's clips begin. Only between two blocks."""
        assert self.is_cache_current, "the finished block has to be remembered first"
        if self.num_latents > 1:
            self._drop(0, self.num_latents - 1)

    def _drop(self, start: int, stop: int) -> None:
        """Latents leave, in sound too; blocks that they belong to can no longer be taken back."""
        ratio = self.shape.audio_per_video

        def without(audio: Tensor) -> Tensor:
            return torch.cat((audio[:, : start * ratio], audio[:, stop * ratio :]), dim=1)

        self.finished_audio = without(self.finished_audio)
        self._latest = [
            (video, without(audio)) for (video, audio), first in zip(self._latest, self._firsts(), strict=True) if stop <= first
        ]
        self._forget(start, stop)

    def _firsts(self) -> list[int]:
        """Where the newest blocks begin in the contexts; one that is not remembered yet begins behind them."""
        sizes = [video.shape[2] for video, _ in self._latest]
        end = self.num_latents if self.is_cache_current else self.num_latents + sum(sizes[-1:])
        return [end - sum(sizes[i:]) for i in range(len(sizes))]

    def _forget(self, start: int, stop: int) -> None:
        """Latents leave the contexts; the second device's may not have all of them."""
        if self.can_split:
            self._lockstep.meet()  # what moves may be on its way there
        for i, side in enumerate(self._sides):
            last = min(stop, side.context.num_latents)
            if start < last:
                with self._lockstep.on(i) if i else nullcontext():
                    side.context.drop(start, last)

    def _share(self) -> None:
        """Give the second device what it does not have of the history, beside what either computes."""
        first, second = (side.context for side in self._sides)
        missing = first.num_latents - second.num_latents
        if missing:
            span = second.num_latents, first.num_latents
            assert isinstance(first, VideoContext)
            assert isinstance(second, VideoContext)
            self._lockstep.send(first.copies(second, *span))
            second.commit(missing)

    @property
    def max_rollback(self) -> int:
        """How many latents :meth:`rollback` can take back: those of the two newest blocks, where enough lies before them."""
        num = 0
        for (video, _), first in zip(self._latest[::-1], self._firsts()[::-1], strict=True):
            if first < self.config.sink_latents + video.shape[2]:
                break
            num += video.shape[2]
        return num

    def rollback(self, num_latents: int) -> None:
        """Give up the block in work, and the last latents of those finished before it: what comes next follows the others.

        Nothing is left of what is taken back: of a block that loses a part, the others are remembered anew, without it. The
        oldest latents make room for them, so that whole blocks are in view as before, and passes have lengths that they know.

        Args:
            num_latents: to take back, at most :attr:`max_rollback`.
        """
        self._block = None
        if num_latents == 0:
            return
        assert num_latents <= self.max_rollback
        num_audio = self.finished_audio.shape[1] - num_latents * self.shape.audio_per_video
        self.finished_audio = self.finished_audio[:, :num_audio]
        while num_latents > 0:
            video, audio = self._latest.pop()
            if self.is_cache_current:
                self._forget(self.num_latents - video.shape[2], self.num_latents)
            self._clean = None
            num_kept = max(0, video.shape[2] - num_latents)
            num_latents -= video.shape[2] - num_kept
        if num_kept:
            self._clean = video[:, :, :num_kept], audio[:, :num_audio]
            self._latest.append(self._clean)
            sink = self.config.sink_latents
            self._drop(sink, sink + num_kept)
            self._clean = self._latest[-1]

    def rehearse_rollbacks(self, num_video: int) -> None:
        """Run each pass that may follow a rollback in blocks of so many latents once, so that its kernels are there; then forget.

        Those of a full window are recorded, nothing is after them. None is shared with the second device, which then decodes what
        bridges the time.
        """
        dit, batch = self.dit.config, self._no_audio.shape[0]
        lengths = range(num_video, self.config.window_latents - num_video + 1, num_video)
        full = lengths[-2:]  # as many are left if one block is taken back, or two
        for before in (*full, *lengths[:-2]):
            if before not in full and self._graphs is not None:
                self._graphs.freeze()
            for kept in range(1, num_video):
                for side in self._sides:
                    side.context.clear()
                    side.context.commit(before - kept)
                video = self._no_audio.new_zeros(batch, dit.video.latent_channels, kept, self.shape.height, self.shape.width)
                audio = self._no_audio.new_zeros(batch, before * self.shape.audio_per_video, dit.audio.latent_channels)
                self.forward(video, audio, self.config.context_timestep, 0)
        self.reset()

    def denoise(self, draw: Draw, *, leave: bool = False, split: bool = False) -> Latents | None:
        """One pass over the block in work; the finished block if it was the last.

        Args:
            draw: noise for the next pass; not called in the last one.
            leave: finish the block with this pass, whatever its noise.
            split: share the pass with the second device, if there is one and it can be shared. To be asked for only while that
                device rests: a pass is done when the slower half is.
        """
        block, history = self._block, self.finished_audio.shape[1]
        assert block is not None, "no block has begun"
        audio = torch.cat((self.finished_audio, block.audio), dim=1)
        timestep, level = self.timesteps[block.passes], self._levels[block.passes]
        flow = self.forward(block.video, audio, timestep, history, split=split)
        video = self._started(clean_from_velocity(block.video, flow.video, level))
        audio_levels = self._per_latent(history, self._context_level, block.audio.shape[1], level)
        audio = clean_from_velocity(audio, flow.audio, audio_levels.float().unsqueeze(-1))
        block.passes += 1
        if block.passes < len(self.timesteps) and not leave:
            self._renoise(block, video, audio[:, history:], draw)
            return None
        finished = audio[:, history : history + block.num_audio]
        self.finished_audio = torch.cat((self.finished_audio, finished), dim=1)
        # The clean pass reads this prediction for the history too, not what was finished before.
        self._block, self._clean = None, (video, audio)
        self._latest = [*self._latest[-1:], (video.detach(), audio.detach())]
        return Latents(video, finished)

    def _renoise(self, block: _Block, video: Tensor, audio: Tensor, draw: Draw) -> None:
        level = self._levels[block.passes]
        batch, channels, num_video, *cells = video.shape
        noise = draw((batch * num_video, channels, *cells)).unflatten(0, (batch, -1)).transpose(1, 2)
        block.video = self._started(add_noise(video, noise, level))
        noise = draw((batch * audio.shape[1], audio.shape[2])).unflatten(0, (batch, -1))
        block.audio = add_noise(audio, noise, level)

    def clean_pass(self, *, split: bool = False) -> int:
        """The pass over the finished block that :meth:`update_cache` needs, without the rest: it may be run again.

        Returns:
            The block's latents.
        """
        assert self._clean is not None, "no block is finished"
        video, audio = self._clean
        self.forward(video, audio, self.config.context_timestep, 0, split=split)
        return video.shape[2]

    def update_cache(self, *, split: bool = False) -> None:
        """The clean pass: the finished block becomes history. ``split`` as in :meth:`denoise`."""
        num_video = self.clean_pass(split=split)
        for side in self._sides if self._was_split else self._sides[:1]:
            side.context.commit(num_video)
        if self.can_split:
            self._share()
        self._clean = self._first_latent = None

    def _per_latent(self, num_past: int, past: float, num_new: int, new: float) -> Tensor:
        """float64 [1, num_past + num_new], made on the device."""
        both = [self._full(num_past, past), self._full(num_new, new)]
        return torch.cat(both, dim=1)

    def _full(self, num: int, value: float) -> Tensor:
        return torch.full((1, num), value, device=self._device, dtype=torch.float64)

    def forward(self, video: Tensor, audio: Tensor, timestep: float, num_history: int, *, split: bool = False) -> Flow:
        """One forward of the transformer, over latents that lie behind the history in the window.

        Args:
            video: [B, C, F, h, w]; audio: [B, L, C], the first ``num_history`` of which are finished.
            timestep: of all that is not finished.
            split: as in :meth:`denoise`.
        """
        batch, first, num_video = video.shape[0], self.num_latents, video.shape[2]
        context = self.config.context_timestep
        audio_timesteps = self._per_latent(num_history, context, audio.shape[1] - num_history, timestep)
        # One timestep for the whole block, so that its modulation is computed once.
        video_timesteps = self._full(1, timestep)
        if self._first_latent is not None:
            video_timesteps = self._per_latent(1, context, num_video - 1, timestep)
        inputs = video, audio, video_timesteps.expand(batch, -1), audio_timesteps.expand(batch, -1)
        self._was_split = split and self._splits(first, inputs)
        if self._was_split:
            self._share()
            flow_video, flow_audio = joined(self.dit, video, self._lockstep(first, partial(self._half, first), *inputs))
            return Flow(flow_video, flow_audio, memory=())
        if self._graphs is None:
            return self._eager(first, *inputs)

        def flow(*x: Tensor) -> tuple[Tensor, Tensor]:
            made = self._eager(first, *x)
            return made.video, made.audio

        flow_video, flow_audio = self._graphs(first, flow, *inputs)
        return Flow(flow_video, flow_audio, memory=())

    def _eager(self, first: int, video: Tensor, audio: Tensor, *timesteps: Tensor) -> Flow:
        """One forward over video latents that begin at the place ``first``."""
        return self.dit(video, audio, *timesteps, *self._given(0, first, video, audio))

    def _half(self, first: int, side: int, video: Tensor, audio: Tensor, *timesteps: Any) -> Half:
        """What one device computes of it."""
        return half_pass(self._sides[side].dit, side, video, audio, *timesteps, *self._given(side, first, video, audio))

    def _given(self, side: int, first: int, video: Tensor, audio: Tensor) -> tuple[Any, ...]:
        return self._sides[side].given(first * self._tokens, video.shape[2] * self._tokens, audio.shape[1])

    def _splits(self, first: int, inputs: tuple[Tensor, ...]) -> bool:
        """Whether both devices are ready to share a pass."""
        return self.can_split and self._lockstep.ready(first, *inputs)


def audio_window(noise: Tensor, start: int, num_audio: int, ahead: int) -> Tensor:
    """A block's noise and that of its look-ahead from a clip's [B, L, C]; past the clip's end the block's own is repeated."""
    window, own = noise[:, start : start + num_audio + ahead], noise[:, start : start + num_audio]
    while (missing := num_audio + ahead - window.shape[1]) > 0:
        window = torch.cat((window, own[:, :missing]), dim=1)
    return window


def roll_out(rollout: Rollout, video_noise: Tensor, audio_noise: Tensor, blocks: Sequence[int], draw: Draw) -> Iterator[Latents]:
    """A clip from its noise, block after block, each handed out before it is remembered. The last one is not remembered at all.

    Args:
        video_noise: [B, C, F, h, w]; audio_noise: [B, L, C], for the whole clip.
        blocks: video latents of each block.
    """
    start, ratio = 0, rollout.shape.audio_per_video
    for num_video in blocks:
        if not rollout.is_cache_current:
            rollout.update_cache()
        window = audio_window(audio_noise, start * ratio, num_video * ratio, rollout.dit.config.future_audio_latents)
        rollout.begin(video_noise[:, :, start : start + num_video], window)
        finished = None
        while finished is None:
            finished = rollout.denoise(draw)
        yield finished
        start += num_video
