"""A stream of the published model whose devices take time on a clock that nobody waits for.

The model is a real one, of any size; its passes and decoders compute at once, but are done when devices would be that take the
times given. So what decides when is the very code that serves, and an hour passes in a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from model.chunk import StreamInfo, StreamSettings
from model.decoding import AT_ONCE, Arrives, Decoders
from model.graphs import InFlight
from model.hallo_live import HalloLive, HalloLiveStream
from model.rollout import Latents

TEXT_MS = 16.0
"""A prompt that is new, until the transformer can read it."""
AUDIO_TOWER_MS = 12.0
"""Of a pass, whatever its video latents."""


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds: a pass of each block of a clip, the same if two devices share it, a block's sound, pictures of a stream's
    first latent, of another, and of as many as are decoded in one call (:data:`model.decoding.AT_ONCE`); a last block by two
    devices, its sound included."""

    passes: tuple[float, ...] = (64.0, 71.2, 78.6, 83.6, 94.5)
    split_passes: tuple[float, ...] = (35.6, 39.6, 43.6, 46.2, 51.9)
    sound: float = 14.9
    first_latent: float = 17.8
    latent: float = 57.5
    latents: float = 168.4
    last_block: float = 188.6

    def pictures(self, num_latents: int, *, begins: bool) -> float:
        """Of one call."""
        if begins:
            return self.first_latent
        return self.latents if num_latents == AT_ONCE else self.latent


@dataclass
class Clock:
    """Seconds, moved by hand."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += max(0.0, seconds)


class _Timed(Future[Any]):
    """What is done at a time of the clock."""

    def __init__(self, clock: Clock, at_s: float) -> None:
        super().__init__()
        self._clock, self.at_s = clock, at_s

    def done(self) -> bool:
        return self._clock.now_s >= self.at_s

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        now_s, self._clock.now_s = self._clock.now_s, self.at_s
        super().add_done_callback(fn)
        self._clock.now_s = now_s


class Devices:
    """Two queues, or one of which the decoders take their share at once.

    Args:
        times: of stages; a pass takes what the nearest context given takes.
        split: whether two devices share passes while the decoders rest; what is decoded meanwhile goes first, and they wait.
    """

    def __init__(self, clock: Clock, times: StageTimes, num_devices: int, *, split: bool = False) -> None:
        self.clock, self.times, self.num_devices, self.split = clock, times, num_devices, split
        self.passes_until_s = self.decoders_until_s = self.split_until_s = 0.0
        self.num_split = self.num_passes = 0

    def work(self, milliseconds: float) -> float:
        """On the transformer's device; when it is done."""
        self.passes_until_s = max(self.clock.now_s, self.passes_until_s) + milliseconds / 1000
        return self.passes_until_s

    def one_pass(self, num_before: int, num_video: int, block: int, split: bool) -> None:
        """Over so many video latents, behind others; by rule of three where it is not a whole block."""
        times = self.times.split_passes if split else self.times.passes
        if split:  # no sooner than what is being decoded is done
            self.passes_until_s = max(self.passes_until_s, self.decoders_until_s)
        whole_ms = times[min(len(times), max(1, -(-(num_before + num_video) // block))) - 1]
        self.work(AUDIO_TOWER_MS + (whole_ms - AUDIO_TOWER_MS) * num_video / block)
        self.num_passes += 1
        if split:
            self.num_split += 1
            self.split_until_s = self.passes_until_s

    def read(self, milliseconds: float) -> None:
        """A prompt, on the decoders' device, before the passes that follow."""
        until_s = max(self.clock.now_s, self.split_until_s) + milliseconds / 1000
        self.passes_until_s = max(self.passes_until_s, until_s) if self.num_devices > 1 else self.work(milliseconds)

    def decode(self, milliseconds: float, made_s: float) -> float:
        start_s = max(self.clock.now_s, self.decoders_until_s, made_s)
        self.decoders_until_s = start_s + milliseconds / 1000
        if self.num_devices == 1 and self.passes_until_s > start_s:
            self.passes_until_s += milliseconds / 1000
        if self.split_until_s > start_s:
            self.split_until_s += milliseconds / 1000
            self.passes_until_s = max(self.passes_until_s, self.split_until_s)
        return self.decoders_until_s


class _TimedInFlight(InFlight):
    def __init__(self, devices: Devices) -> None:
        super().__init__(torch.device("cpu"))
        self._devices = devices
        self._until_s: list[float] = []

    def record(self) -> None:
        if self.num_launched:
            self.piece_s = self._devices.passes_until_s - self._until_s[-1]
        self._until_s.append(self._devices.passes_until_s)

    @property
    def num_launched(self) -> int:
        self._until_s = [at_s for at_s in self._until_s if at_s > self._devices.clock.now_s]
        return len(self._until_s)


class _TimedDecoders(Decoders):
    """Grey pictures and silence, of the right lengths."""

    devices: Devices
    info: StreamInfo
    hold_back_latents: int
    latent_samples: int
    num_unheard = 0

    def _run(self, work: Callable[..., Any], *inputs: Any) -> Future[Any]:
        """At once; what takes time is a piece."""
        done: Future[Any] = Future()
        done.set_result(work(*inputs))
        return done

    def _piece(self, launch: Callable[..., Any], *inputs: Any) -> Future[Any]:
        times, made_s = self.devices.times, self._made_s
        pictures = launch.__name__ == "_decode_pictures"
        cost_ms = times.sound
        if pictures:
            (held,) = inputs
            cost_ms = times.pictures(len(held), begins=self._begins)
            self.pictures_s = cost_ms / 1000 / len(held)
        piece = _Timed(self.devices.clock, self.devices.decode(cost_ms, made_s))
        piece.set_result(launch(*inputs)())
        return piece

    _made_s = 0.0

    def _decode_pictures(self, held: Sequence[object]) -> Arrives:
        self._begins = False
        info = self.info
        return lambda: np.full((len(held) * info.chunk_frames, info.height_px * 3 // 2, info.width_px), 128, np.uint8)

    def _decode_sound(self, audio: torch.Tensor, made: object) -> Arrives:
        self.num_unheard += audio.shape[1]
        num_sounding = max(0, self.num_unheard - self.hold_back_latents)
        self.num_unheard -= num_sounding
        return lambda: np.zeros(num_sounding * self.latent_samples, np.int16)

    def _forget_sound(self, num_latents: int) -> None:
        self.num_unheard = max(0, self.num_unheard - num_latents)

    def submit(self, latents: Latents) -> Any:
        self._made_s = self.devices.passes_until_s
        return super().submit(latents)

    def wait(self, timeout_s: float) -> None:
        clock = self.devices.clock
        coming = [p.at_s for p in (*self.pictures, *(s.piece for s in self.sound)) if isinstance(p, _Timed) and not p.done()]
        clock.now_s = min([clock.now_s + timeout_s, *coming])


def open_timed(model: HalloLive, settings: StreamSettings, devices: Devices) -> HalloLiveStream:
    """A stream of ``model``, whose clock must be that of ``devices``."""
    assert model.clock is devices.clock
    stream = model.open(settings)
    rollout, block = stream.rollout, model.geometry.block_video_latents
    stream._in_flight, stream._shares_device = _TimedInFlight(devices), devices.num_devices == 1
    stream.decoders.__class__ = _TimedDecoders
    g, config = model.geometry, model.parts.config
    facts = {
        "info": model.info,
        "hold_back_latents": config.audio_stream.hold_back_latents,
        "latent_samples": g.audio_latent_samples,
    }
    vars(stream.decoders).update(facts, devices=devices)
    forward, say = rollout.forward, stream._say

    def run(video: torch.Tensor, *rest: Any, split: bool = False) -> Any:
        devices.one_pass(rollout.num_latents, video.shape[2], block, split and devices.split)
        return forward(video, *rest)

    def read(prompt: str) -> None:
        if prompt != stream._read:
            devices.read(TEXT_MS)
        say(prompt)

    rollout.forward, stream._say = run, read  # type: ignore[method-assign, assignment]
    return stream
