"""How the host stays out of the device's way: work that it launches in one piece, and never too far ahead.

CUDA graphs: a function of tensors is recorded once for each set of shapes, and later calls replay the record in one launch.

A record reads and writes where the first call did. So whatever the function uses besides its inputs has to stay where it is:
weights, caches, tables. Those of one owner, usually a stream's buffers, are recorded together and share their scratch memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]

WARM_UPS = 2
"""Calls before a record is made: kernels are compiled and chosen in them, which a record cannot hold."""

RECORDING = threading.Lock()
"""One record at a time in a process: to begin one waits for the device, which another that is being made would not survive."""


def _untried(function: Function, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Run a function with the kernels that are thought to be fast, without trying others."""
    tries, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    try:
        return function(*inputs)
    finally:
        torch.backends.cudnn.benchmark = tries


@dataclass(frozen=True)
class _Record:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class CudaGraphCache:
    """The records of one owner. For one thread at a time; its calls have to follow each other on one CUDA stream.

    Args:
        state: what the functions change beside their outputs, where that matters: it is put back after the calls that make a
            record.
        priority: of the recorded kernels on the device; below 0 they go before those of other streams.
    """

    def __init__(self, state: Sequence[Tensor] = (), priority: int = 0) -> None:
        self._state, self._priority = list(state), priority
        self._frozen = False
        self._records: dict[Hashable, _Record] = {}
        self._pool: Any = None

    def __len__(self) -> int:
        return len(self._records)

    def freeze(self) -> None:
        """From now on what has no record runs as it is: to make one takes longer than those wait who are being served."""
        self._frozen = True

    def __call__(self, key: Hashable, function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What ``function(*inputs)`` gives, recorded if it is new. The result is valid until the next call of any function here.

        Args:
            key: what tells functions apart, and all that decides what a function does besides shapes.
        """
        shapes = key, *((x.shape, x.dtype) for x in inputs)
        record = self._records.get(shapes)
        if record is None and self._frozen:
            return _untried(function, inputs)
        if record is None:
            with RECORDING, torch.cuda.device(inputs[0].device):
                record = self._records[shapes] = self._recorded(function, inputs)
        for mine, given in zip(record.inputs, inputs, strict=True):
            mine.copy_(given, non_blocking=True)
        record.graph.replay()
        return record.outputs

    def _recorded(self, function: Function, given: tuple[Tensor, ...]) -> _Record:
        inputs = tuple(x.clone() for x in given)
        before = [x.clone() for x in self._state]
        for _ in range(WARM_UPS):
            function(*inputs)
        for mine, kept in zip(self._state, before, strict=True):
            mine.copy_(kept)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(priority=self._priority)
        # Other threads go on with what a record must not hold, such as allocating memory.
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            outputs = function(*inputs)
        return _Record(graph, inputs, outputs)


class InFlight:
    """How far the host has run ahead of a device: pieces of work that were launched and are not done.

    With one piece launched behind the one that runs, a device is never idle. More of them only keep a launch waiting in the
    driver, which then stops the other threads' launches too, and bind what might still be decided otherwise.

    Args:
        device: elsewhere than on a GPU work is done when its call returns.
        limit: pieces.
    """

    def __init__(self, device: torch.device, limit: int = 2) -> None:
        self._device, self._limit = device, limit
        # With whether another piece was under way when it was launched.
        self._launched: deque[tuple[torch.cuda.Event, bool]] = deque()
        self._latest: torch.cuda.Event | None = None
        self.piece_s: float | None = None
        """What the latest piece took of those that began when another ended; None until there is one."""

    def record(self) -> None:
        """A piece ends here, on the current CUDA stream."""
        if self._device.type == "cuda":
            behind = self.num_launched > 0
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            self._launched.append((event, behind))

    @property
    def full(self) -> bool:
        """Whether to wait before more is launched."""
        return self.num_launched >= self._limit

    @property
    def num_launched(self) -> int:
        """Pieces that are not done."""
        while self._launched and self._launched[0][0].query():
            event, behind = self._launched.popleft()
            if behind and self._latest is not None:
                self.piece_s = self._latest.elapsed_time(event) / 1000
            self._latest = event
        return len(self._launched)

    def wait(self) -> None:
        """Until it is not."""
        while len(self._launched) >= self._limit:
            self._launched[0][0].synchronize()
            _ = self.num_launched
