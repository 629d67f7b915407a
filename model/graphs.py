"""CUDA graphs: a function of tensors is recorded once for each set of shapes, and later calls replay the record in one launch.

A record reads and writes where the first call did. So whatever the function uses besides its inputs has to stay where it is:
weights, caches, tables. Those of one owner, usually a stream's buffers, are recorded together and share their scratch memory.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]

_WARM_UPS = 2
"""Calls before a record is made: kernels are compiled and chosen in them, which a record cannot hold."""


@dataclass(frozen=True)
class _Record:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Graphs:
    """The records of one owner. For one thread at a time; its calls have to follow each other on one CUDA stream.

    Args:
        state: what the functions change beside their outputs, where that matters: it is put back after the calls that make a
            record.
    """

    def __init__(self, state: Sequence[Tensor] = ()) -> None:
        self._state = list(state)
        self._records: dict[Hashable, _Record] = {}
        self._pool: Any = None

    def __len__(self) -> int:
        return len(self._records)

    def __call__(self, key: Hashable, function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What ``function(*inputs)`` gives, recorded if it is new. The result is valid until the next call of any function here.

        Args:
            key: what tells functions apart, and all that decides what a function does besides shapes.
        """
        shapes = key, *((x.shape, x.dtype) for x in inputs)
        record = self._records.get(shapes)
        if record is None:
            with torch.cuda.device(inputs[0].device):
                record = self._records[shapes] = self._recorded(function, inputs)
        for mine, given in zip(record.inputs, inputs, strict=True):
            mine.copy_(given, non_blocking=True)
        record.graph.replay()
        return record.outputs

    def _recorded(self, function: Function, given: tuple[Tensor, ...]) -> _Record:
        inputs = tuple(x.clone() for x in given)
        before = [x.clone() for x in self._state]
        for _ in range(_WARM_UPS):
            function(*inputs)
        for mine, kept in zip(self._state, before, strict=True):
            mine.copy_(kept)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        # Other threads go on with what a record must not hold, such as allocating memory.
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            outputs = function(*inputs)
        return _Record(graph, inputs, outputs)
