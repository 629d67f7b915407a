"""What :class:`model.lockstep.Lockstep` does on two GPUs, on any device: segments run again at the addresses of the first time,
and copies arrive as late as they may."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.lockstep import Copies, Half, Lockstep, Stop, _advance


class Tape(TorchDispatchMode):
    """Operations with the tensors that they read and wrote. Played again, each puts its result where the first one is."""

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self._operations.append((func, args, kwargs or {}, made))
        return made

    def play(self) -> None:
        for func, args, kwargs, made in self._operations:
            again = func(*args, **kwargs)
            for new, old in zip(tree_leaves(again), tree_leaves(made), strict=True):
                if isinstance(old, Tensor) and new.untyped_storage().data_ptr() != old.untyped_storage().data_ptr():
                    old.copy_(new)


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
            tape.play()

        return replay, made
