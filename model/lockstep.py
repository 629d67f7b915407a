"""Work that two devices share, each doing its half of it, from one thread of the host.

A *half* is a generator: it computes on its device, stops where the two give each other something, and at last returns what it
made. The halves need not be alike, but both have as many stops and give at the same ones. Between two stops lies a *segment*, and
segments are what can be recorded: one CUDA graph cannot span two devices.

What holds the order is events on the devices; the host waits for nothing. Copies go over two *lanes*, one each way, on streams of
their own, so that they pass beside the kernels:

- a lane begins after all that either device was given before, so nobody still reads or makes what it overwrites;
- it reads what a half gives once the segment that made it is done, and the half leaves that alone from then on;
- a half waits for the lane where it takes, and not before;
- at the end both devices wait for both lanes, so that whatever they do next may overwrite anything.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.graphs import RECORDING, WARM_UPS


class Exchange(NamedTuple):
    """What a half has made that the other needs, and where it wants the other's: in number and shapes as the other gives it."""

    mine: Sequence[Tensor]
    theirs: Sequence[Tensor]


class Stop(NamedTuple):
    """Where a half stops.

    Attributes:
        gives: an exchange that begins here, on both sides.
        takes: whether what follows needs the oldest exchange that this side has not taken yet.
    """

    gives: Exchange | None = None
    takes: bool = False


Half = Generator[Stop, None, tuple[Tensor, ...]]
Copies = Iterable[tuple[Tensor, Tensor]]
"""To, from."""


@dataclass(frozen=True)
class _Segment:
    replay: Callable[[], None]
    stop: Stop


@dataclass(frozen=True)
class _Record:
    inputs: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
    segments: tuple[list[_Segment], list[_Segment]]
    outputs: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


class _Lane:
    """Copies from one GPU to another, in order."""

    def __init__(self, source: torch.device, target: torch.device) -> None:
        self._source = torch.cuda.Stream(source)
        # PyTorch copies on the source's current stream and makes the target's wait for it.
        self._target = self._source if source == target else torch.cuda.Stream(target)

    def after(self, stream: torch.cuda.Stream) -> None:
        self._source.wait_stream(stream)

    def copy(self, copies: Copies) -> torch.cuda.Event:
        """What tells that they are done."""
        with torch.cuda.stream(self._source), torch.cuda.stream(self._target):
            for to, what in copies:
                to.copy_(what, non_blocking=True)
        return self._source.record_event()

    def before(self, stream: torch.cuda.Stream) -> None:
        stream.wait_stream(self._source)


class Lockstep:
    """Two devices, or one that plays both. For one thread; its calls follow each other on the devices' current streams.

    Args:
        devices: the first has the inputs, and is given the outputs.
        records: whether segments are recorded once for each key and set of shapes, and replayed; see :mod:`model.graphs` for what
            that asks of them.
    """

    def __init__(self, devices: tuple[torch.device, torch.device], *, records: bool) -> None:
        self.devices = devices
        self._on_gpu = devices[0].type == "cuda"
        self._lanes = [_Lane(devices[i], devices[1 - i]) for i in (0, 1)] if self._on_gpu else []
        self._records: dict[Hashable, _Record] | None = {} if records else None
        self._frozen = False
        self._pools: list[Any] = []
        self._capturing: list[torch.cuda.Stream] = []

    def __len__(self) -> int:
        """How much is recorded."""
        return len(self._records or ())

    def freeze(self) -> None:
        """From now on nothing is recorded, and only what has been is :meth:`ready`."""
        self._frozen = True

    def on(self, side: int) -> AbstractContextManager[object]:
        """Makes a side's device the current one, which is where kernels of our own are launched."""
        return torch.cuda.device(self.devices[side]) if self._on_gpu else nullcontext()

    def ready(self, key: Hashable, *inputs: Tensor) -> bool:
        """Whether a call need not run segments one kernel after the other, which takes the host longer than one device alone."""
        return self._records is None or not self._frozen or _shapes(key, inputs) in self._records

    def __call__(self, key: Hashable, half: Callable[..., Half], *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the first half returns, then what the second does, on the first device; if recorded, valid until the next call.

        Args:
            key: what tells calls apart, and all that decides what a half does besides shapes.
            half: of a side, 0 or 1, and the inputs on its device.
        """
        if self._records is None:
            return self._run(half, (inputs, self._on_the_other(inputs)))
        shapes = _shapes(key, inputs)
        if shapes not in self._records:
            with RECORDING, _no_garbage():
                self._records[shapes] = self._recorded(half, inputs)
        record = self._records[shapes]
        for mine in record.inputs:
            for x, given in zip(mine, inputs, strict=True):
                x.copy_(given, non_blocking=True)
        self._play([self._replays(side, segments) for side, segments in enumerate(record.segments)])
        return self._on_the_first(record.outputs)

    def send(self, copies: Copies) -> None:
        """From the first device to the second, beside what they do. The second has it where it takes next, or after
        :meth:`meet`; until then neither may overwrite it."""
        self._depart()
        self._copy(0, copies)

    def meet(self) -> None:
        """Both devices wait for all copies."""
        for lane in self._lanes:
            for stream in self._streams():
                lane.before(stream)

    def _on_the_other(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(x.to(self.devices[1], non_blocking=True) for x in inputs)

    def _on_the_first(self, outputs: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
        return tuple(x.to(self.devices[0], non_blocking=True) for made in outputs for x in made)

    def _streams(self) -> list[torch.cuda.Stream]:
        return [torch.cuda.current_stream(device) for device in self.devices]

    # Both halves at once

    def _play(self, sides: Sequence[Iterator[Stop]]) -> None:
        self._depart()
        coming: tuple[deque[Any], deque[Any]] = (deque(), deque())
        for stops in zip(*sides, strict=True):
            first, second = (stop.gives for stop in stops)
            if first is not None and second is not None:
                self._arrive_at_lanes()
                coming[1].append(self._copy(0, zip(second.theirs, first.mine, strict=True)))
                coming[0].append(self._copy(1, zip(first.theirs, second.mine, strict=True)))
            for side, stop in enumerate(stops):
                if stop.takes:
                    self._take(side, coming[side].popleft())
        self.meet()

    def _depart(self) -> None:
        """The lanes begin after all that the devices were given."""
        for lane in self._lanes:
            for stream in self._streams():
                lane.after(stream)

    def _arrive_at_lanes(self) -> None:
        """What the halves give is made."""
        for lane, stream in zip(self._lanes, self._streams() if self._on_gpu else (), strict=True):
            lane.after(stream)

    def _copy(self, side: int, copies: Copies) -> Any:
        """From one side to the other; what :meth:`_take` needs to know."""
        if self._on_gpu:
            return self._lanes[side].copy(copies)
        for to, what in copies:
            to.copy_(what)
        return None

    def _take(self, side: int, done: Any) -> None:
        if self._on_gpu:
            self._streams()[side].wait_event(done)

    def _run(self, half: Callable[..., Half], inputs: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
        outputs: list[tuple[Tensor, ...]] = [(), ()]

        def steps(side: int) -> Iterator[Stop]:
            going = half(side, *inputs[side])
            while True:
                with self.on(side):
                    made = _advance(going)
                if not isinstance(made, Stop):
                    outputs[side] = made
                    break
                yield made
            yield Stop()

        self._play([steps(0), steps(1)])
        return self._on_the_first(outputs)

    # Records

    def _replays(self, side: int, segments: list[_Segment]) -> Iterator[Stop]:
        for segment in segments:
            with self.on(side):
                segment.replay()
            yield segment.stop

    def _recorded(self, half: Callable[..., Half], given: Sequence[Tensor]) -> _Record:
        inputs = tuple(x.clone() for x in given), tuple(x.to(self.devices[1], copy=True) for x in given)
        for _ in range(WARM_UPS):
            self._run(half, inputs)
        if self._on_gpu:
            for device in self.devices:
                torch.cuda.synchronize(device)
        segments: tuple[list[_Segment], list[_Segment]] = ([], [])
        outputs: list[tuple[Tensor, ...]] = []
        for side in (0, 1):
            # What a segment makes for later ones stays where it is, because the half holds it.
            going = half(side, *inputs[side])
            stop: Stop | None = None
            while len(segments[side]) == 0 or stop is not None:
                replay, made = self._segment(side, going)
                stop = made if isinstance(made, Stop) else None
                segments[side].append(_Segment(replay, stop or Stop()))
            assert not isinstance(made, Stop)
            outputs.append(made)
        return _Record(inputs, segments, (outputs[0], outputs[1]))

    def _segment(self, side: int, going: Half) -> tuple[Callable[[], None], Stop | tuple[Tensor, ...]]:
        """A record of what a half does up to its next stop, and what it stops with. Nothing is computed.

        Without what ``torch.cuda.graph`` does around each capture, which waits for the device and empties its cache.
        """
        if not self._pools:
            self._pools = [torch.cuda.graph_pool_handle() for _ in self.devices]
            self._capturing = [torch.cuda.Stream(device) for device in self.devices]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._capturing[side]):
            # Other threads go on with what a record must not hold, such as allocating memory.
            graph.capture_begin(self._pools[side], capture_error_mode="thread_local")
            try:
                made = _advance(going)
            finally:
                graph.capture_end()
        return graph.replay, made


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Collected before, and not meanwhile: to free another record's memory ends a capture in an error."""
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _shapes(key: Hashable, inputs: Sequence[Tensor]) -> Hashable:
    return key, *((x.shape, x.dtype) for x in inputs)


def _advance(half: Half) -> Stop | tuple[Tensor, ...]:
    try:
        return next(half)
    except StopIteration as end:
        return end.value
