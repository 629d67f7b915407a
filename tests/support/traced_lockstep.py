"""What :class:`model.lockstep.Lockstep` does on two GPUs, on any device: segments run again at the addresses of the first time,
and copies arrive as late as they may."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from model.lockstep import Copies, Half, Lockstep, Stop, _advance
from tests.support.tape import Tape

_Event = tuple[int, int]
"""A queue, and how much of it is done then."""


class LateLockstep(Lockstep):
    """Copies are made no sooner than the other side takes them."""

    def __init__(self, *, records: bool) -> None:
        super().__init__((torch.device("cpu"), torch.device("cpu")), records=records)
        self._on_the_way: tuple[deque[list[tuple[Tensor, Tensor]]], ...] = (deque(), deque())
        self.num_played = 0

    def _copy(self, side: int, copies: Copies) -> Any:
        self._on_the_way[side].append(list(copies))
        return self._on_the_way[side][-1]

    def _take(self, side: int, done: Any) -> None:
        """All up to the one that is taken, in order."""
        lane = self._on_the_way[1 - side]
        while any(waiting is done for waiting in lane):
            for to, what in lane.popleft():
                to.copy_(what)

    def meet(self) -> None:
        for side in (0, 1):
            while lane := self._on_the_way[1 - side]:
                self._take(side, lane[0])

    def _segment(self, side: int, going: Half) -> tuple[Callable[[], None], Stop | tuple[Tensor, ...]]:
        with Tape() as tape:
            made = _advance(going)

        def replay() -> None:
            self.num_played += 1
            self._replay(side, tape.play)

        return replay, made

    def _replay(self, side: int, play: Callable[[], None]) -> None:
        play()


class RacingLockstep(LateLockstep):
    """Devices and lanes run ahead of each other as far as events let them, another one each time."""

    def __init__(self, seed: int) -> None:
        super().__init__(records=True)
        self._dice = random.Random(seed)
        self._queues: list[list[tuple[Callable[[], None], Sequence[_Event]]]] = [[], [], [], []]  # two devices, two lanes
        self._num_done = [0] * 4

    def _put(self, queue: int, work: Callable[[], None] = lambda: None, after: Sequence[_Event] = ()) -> _Event:
        """What tells that this and all before it is done."""
        self._queues[queue].append((work, after))
        return queue, len(self._queues[queue])

    def _replay(self, side: int, play: Callable[[], None]) -> None:
        self._put(side, play)

    def _depart(self) -> None:
        for lane in (2, 3):
            self._put(lane, after=[self._put(0), self._put(1)])

    def _arrive_at_lanes(self) -> None:
        for side in (0, 1):
            self._put(2 + side, after=[self._put(side)])

    def _copy(self, side: int, copies: Copies) -> Any:
        pairs = list(copies)

        def copy() -> None:
            for to, what in pairs:
                to.copy_(what)

        return self._put(2 + side, copy)

    def _take(self, side: int, done: Any) -> None:
        self._put(side, after=[done])

    def meet(self) -> None:
        self._dice.shuffle(order := list(range(4)))
        while any(self._num_done[i] < len(queue) for i, queue in enumerate(self._queues)):
            queue = next(i for i in order if self._is_ready(i))
            self._queues[queue][self._num_done[queue]][0]()
            self._num_done[queue] += 1

    def _is_ready(self, queue: int) -> bool:
        number = self._num_done[queue]
        if number == len(self._queues[queue]):
            return False
        return all(self._num_done[other] >= count for other, count in self._queues[queue][number][1])
