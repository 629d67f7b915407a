"""pocket's block loop: a few denoise passes over a block, then history takes in what a last pass leaves of it.

Both streams are appended to a memory of keys and values, so that a pass computes its own block and nothing else. It serves
(:mod:`model.pocket`), where passes are a runtime's and arrays are whatever it computes with, and it is what stage 2 rolls out,
with gradients (:mod:`model.training.pocket`). It decides what is run when, and computes next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from model.config import SamplingConfig
from model.dit.history import Array

View = TypeVar("View")


@dataclass
class Block(Generic[View]):
    """A block in work.

    Attributes:
        video, audio: latents, noisy until the last pass is done.
        view: what its passes are given besides.
        memory: what its last pass left, where that is what is remembered.
        passes: done.
    """

    video: Array
    audio: Array
    view: View
    memory: Sequence[Array] = ()
    passes: int = 0


class Memory(Protocol):
    """Earlier blocks; see :class:`model.dit.history.History`."""

    def commit(self, memory: Sequence[Array]) -> None: ...


class Passes(Protocol):
    """Runs the network over a block in work and the blocks before it."""

    def __call__(self, part: str, block: Block[Any], level: float) -> tuple[Array, ...]:
        """
        Args:
            part: ``denoise`` gives two velocities, ``remember`` what is remembered of the block, ``pass`` both, one after the
                other.
            level: of the block's noise, 0 when it is clean.
        """


class CachedRollout(Generic[View]):
    """One stream, or a batch of them in step. The order of a block's life: ``begin``, ``denoise`` until it says that no pass is
    left, ``finish``, ``update_cache``. Until it is finished a block may be given up, and nothing is left of it.

    Args:
        passes: the network; ``history`` is what it reads besides the block.
        sampling: noise levels of passes, and whether a block is remembered by a pass of its own.
    """

    def __init__(self, passes: Passes, sampling: SamplingConfig, history: Memory) -> None:
        self._passes, self._history = passes, history
        self._intervals, self._clean_pass = sampling.intervals, sampling.clean_pass
        self.block: Block[View] | None = None
        self._finished: Block[View] | None = None

    @property
    def is_cache_current(self) -> bool:
        """Whether all finished blocks are history, so that a new one may begin."""
        return self._finished is None

    @property
    def passes_left(self) -> bool:
        """Whether the block in work has passes to come."""
        return self.block is not None and self.block.passes < len(self._intervals)

    def begin(self, video_noise: Array, audio_noise: Array, view: View) -> Block[View]:
        """Begin a block, or begin it again."""
        assert self.is_cache_current, "the finished block has to be remembered first"
        self.block = Block(video_noise, audio_noise, view)
        return self.block

    def give_up(self) -> None:
        """The block in work, if there is one."""
        self.block = None

    def denoise(self, *, leave: bool = False) -> bool:
        """One pass over the block in work: Euler's step along the velocity. Whether more are to come.

        Args:
            leave: go all the way to clean latents with this pass, whatever its noise.
        """
        block = self.block
        assert block is not None, "no block has begun"
        level, next_level = self._intervals[block.passes]
        if leave:
            next_level = 0.0
        is_remembered = not next_level and not self._clean_pass
        video, audio, *block.memory = self._passes("pass" if is_remembered else "denoise", block, level)
        step = level - next_level
        block.video, block.audio = block.video - step * video, block.audio - step * audio
        block.passes = len(self._intervals) if leave else block.passes + 1
        return block.passes < len(self._intervals)

    def finish(self) -> Block[View]:
        """The block in work is part of the stream from now on: history, unless a clean pass has to make it that."""
        block = self.block
        assert block is not None, "no block has begun"
        if block.memory:
            self._history.commit(block.memory)
        else:
            self._finished = block
        self.block = None
        return block

    def update_cache(self) -> None:
        """The clean pass, where one is due: the finished block becomes history."""
        if self._finished is not None:
            self._history.commit(self._passes("remember", self._finished, 0.0))
            self._finished = None
