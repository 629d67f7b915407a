"""Latents of one stream to pictures and sound in the host's memory, in two threads and on a CUDA stream of their own.

Sound is decoded a block at once, as soon as the block is finished: the chunks before it wait for it, because its first latents
are their sound's right context. Pictures are decoded when they are asked for. What nobody has asked for can still be taken back,
so a new line need not wait until everything is seen that was made before it came.

One thread launches, the other waits for what is launched: so the next piece is behind the one that runs, and the device does not
rest until the host has heard that a piece is done and launched another, which beside busy threads takes milliseconds.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.graphs import InFlight
from model.rollout import Latents
from model.vae.audio_stream import SoundStream
from model.vae.picture_stream import PictureStream

PRIORITY = -1
"""Of kernels that decode: somebody waits for them. The passes beside them make what is seen later."""

AT_ONCE = 3
"""Latents of which pictures are decoded in one call, where as many are asked for: they take less time so, but the first of
them comes with the last. Six would take 12 GB."""

Piece = Future[np.ndarray]
"""Pictures uint8 [T, H * 3 / 2, W] or samples int16 [S] to come."""


Arrives = Callable[[], np.ndarray]
"""Waits for a piece that is launched."""

_Held = tuple[Tensor, torch.cuda.Event | None]
"""A latent, and what tells that it is made."""


def calls(num_latents: int, *, begins: bool) -> list[int]:
    """How many of the latents that are asked for together each call decodes. A stream's first comes alone: somebody may wait for
    it, and it has fewer pictures."""
    first = [1] if begins and num_latents else []
    num_calls, num_alone = divmod(num_latents - len(first), AT_ONCE)
    return [*first, *[AT_ONCE] * num_calls, *[1] * num_alone]


@dataclass
class Sound:
    """A block's samples to come. With all before them they are no more than ``at_most``, counted from the stream's first: the
    rest was cut."""

    piece: Piece
    at_most: int | None = None


class Decoders:
    """See the module's text. Called from one thread.

    Args:
        pictures, sound: what they remember is this stream's.
        made_on: the device whose current CUDA stream makes the latents.
        device: where they are decoded.
        audio_dtype: of the audio decoder's weights.
        lead_in_frames: pictures that the first latent has too few of; the first picture stands for them.
    """

    def __init__(
        self,
        pictures: PictureStream,
        sound: SoundStream,
        made_on: torch.device,
        device: torch.device,
        audio_dtype: torch.dtype,
        lead_in_frames: int,
    ) -> None:
        self._picture_stream, self._sound_stream = pictures, sound
        self._device, self._audio_dtype, self._lead_in_frames = device, audio_dtype, lead_in_frames
        self._on_gpu = device.type == "cuda"
        self._stream = torch.cuda.Stream(device, priority=PRIORITY) if self._on_gpu else None
        self._outgoing = torch.cuda.Stream(made_on, PRIORITY) if made_on.type == "cuda" and made_on != device else None
        self._launches, self._arrivals = (ThreadPoolExecutor(1, name) for name in ("decode", "decoded"))
        self._in_flight = InFlight(device)
        # Until pictures are asked for; until they have come.
        self._untouched = self._begins = True
        # Audio latents that have not sounded, and those that can be forgotten.
        self._num_unheard = self._num_forgettable = 0
        self._held: deque[_Held] = deque()
        self.pictures: deque[Piece] = deque()
        """Asked for and not taken, in order; whoever takes one removes it."""
        self.sound: deque[Sound] = deque()
        self.pictures_s = 0.0
        """What a latent's pictures took last, once the latent was made and what goes before them was decoded."""

    @property
    def num_held(self) -> int:
        """Latents whose pictures have not been asked for."""
        return len(self._held)

    def max_rollback(self, audio_per_video: int) -> int:
        """How many latents :meth:`rollback` can forget: of those held, those of the last block and the unheard ones before it."""
        return min(len(self._held), self._num_forgettable // audio_per_video)

    @property
    def num_waiting(self) -> int:
        """Latents whose pictures have not been taken."""
        return len(self._held) + len(self.pictures)

    @property
    def num_coming(self) -> int:
        """Pieces that were asked for and are not decoded."""
        return sum(not piece.done() for piece in self._coming)

    @property
    def _coming(self) -> list[Piece]:
        """Asked for and not taken."""
        return [*self.pictures, *(sound.piece for sound in self.sound)]

    def submit(self, latents: Latents) -> Piece:
        """Hand over a finished block. Its sound, which is decoded at once; its pictures are held."""
        return self._hear(latents, self._hold(latents))

    def _hold(self, latents: Latents) -> torch.cuda.Event | None:
        """Keep a block's latents; the event that tells that they are made."""
        made = torch.cuda.Event() if latents.video.is_cuda else None
        if made is not None:
            made.record(torch.cuda.current_stream(latents.video.device))
        self._held.extend((latent, made) for latent in latents.video.split(1, dim=2))
        return made

    def _hear(self, latents: Latents, made: torch.cuda.Event | None) -> Piece:
        self._num_forgettable = self._num_unheard + latents.audio.shape[1]
        self._num_unheard = min(self._num_forgettable, self._sound_stream.hold_back_latents)
        piece = self._piece(self._decode_sound, latents.audio, made)
        self.sound.append(Sound(piece))
        return piece

    def ask(self, num_latents: int | None = None) -> list[Piece]:
        """Have the pictures of the next latents decoded; of all if no number is given. A piece for each of the :func:`calls`."""
        num = len(self._held) if num_latents is None else min(num_latents, len(self._held))
        sizes = calls(num, begins=self._untouched)
        self._untouched &= not sizes
        pieces = [self._piece(self._decode_pictures, [self._held.popleft() for _ in range(size)]) for size in sizes]
        self.pictures.extend(pieces)
        return pieces

    def finish(self, latents: Latents) -> tuple[Piece, list[Piece]]:
        """Hand over a stream's last block, and have all pictures decoded that nobody has asked for, a block's at most.

        Where there is a second decoder on the device that makes the latents, it does half of them: so make no others meanwhile.
        They come in one piece then, and the sound is decoded behind this device's half, which is done before the other's.

        Returns:
            The sound, and the pictures.
        """
        if not self._picture_stream.can_finish or len(self._held) + latents.video.shape[2] < 2:
            return self.submit(latents), self.ask()
        made = self._hold(latents)
        begun = self._run(self._begin_last, [self._held.popleft() for _ in range(len(self._held))])
        sound, piece = self._hear(latents, made), self._piece(self._end_last, begun)
        self.pictures.append(piece)
        return sound, [piece]

    def rollback(self, num_latents: int, audio_per_video: int) -> None:
        """Forget the newest of those held, at most :meth:`max_rollback`, and their sound, which may have been taken already."""
        for _ in range(num_latents):
            self._held.pop()
        self._num_forgettable -= num_latents * audio_per_video
        self._num_unheard = max(0, self._num_unheard - num_latents * audio_per_video)
        self._run(self._forget_sound, num_latents * audio_per_video)

    def wait(self, timeout_s: float) -> None:
        """Until something that was asked for is decoded, but no longer than this."""
        coming = [piece for piece in self._coming if not piece.done()]
        if coming:
            wait(coming, timeout_s, "FIRST_COMPLETED")
        else:
            time.sleep(timeout_s)

    def close(self) -> None:
        """What is launched is waited for: the stream that comes next uses the same buffers."""
        self._arrivals.shutdown(wait=False, cancel_futures=True)
        self._launches.shutdown(wait=True, cancel_futures=True)
        self._arrivals.shutdown(wait=True)
        for stream in (self._stream, self._outgoing):
            if stream is not None:
                stream.synchronize()
        self._held.clear()
        self.pictures.clear()
        self.sound.clear()

    def _run(self, work: Callable[..., Any], *inputs: Any) -> Future[Any]:
        return self._launches.submit(work, *inputs)

    def _piece(self, launch: Callable[..., Arrives], *inputs: Any) -> Piece:
        return self._arrivals.submit(self._arrive, self._run(launch, *inputs))

    # In the thread that waits

    def _arrive(self, launched: Future[Arrives]) -> np.ndarray:
        return launched.result()()

    def _led_in(self, planes: np.ndarray) -> np.ndarray:
        begins, self._begins = self._begins, False
        if begins:  # the first latent has fewer pictures than time: hold the first one
            planes = np.concatenate([planes[:1].repeat(self._lead_in_frames, 0), planes])
        return planes

    # In the thread that launches

    def _here(self, latents: Tensor, made: torch.cuda.Event | None) -> Tensor:
        """Latents on this device, once they are made."""
        if made is None:
            return latents.to(self._device)
        # On the other device's usual stream the copy would queue behind the passes that follow.
        stream = self._stream if latents.device == self._device else self._outgoing
        assert stream is not None
        with torch.cuda.stream(stream):
            stream.wait_event(made)
            return latents.to(self._device, non_blocking=self._on_gpu)

    def _on_host(self, *parts: Tensor) -> Arrives:
        """A copy in the host's memory of what follows each other in dim 0."""
        if not self._on_gpu:
            whole = torch.cat(parts).numpy()
            return lambda: whole
        lengths = [len(part) for part in parts]
        pinned = torch.empty((sum(lengths), *parts[0].shape[1:]), dtype=parts[0].dtype, pin_memory=True)
        for place, part in zip(pinned.split(lengths), parts, strict=True):
            place.copy_(part, non_blocking=True)
        copied = [torch.cuda.current_stream(part.device).record_event() for part in parts]

        def arrives() -> np.ndarray:
            for event in copied:
                event.synchronize()
            return pinned.numpy()

        return arrives

    @torch.inference_mode()
    def _decode_sound(self, audio: Tensor, made: torch.cuda.Event | None) -> Arrives:
        self._in_flight.wait()
        with torch.cuda.stream(self._stream):
            latents = self._here(audio, made).to(self._audio_dtype).transpose(1, 2)
            wave = self._sound_stream.decode(latents)
            arrives = self._on_host((wave[0].float().clamp(-1, 1) * 32767).to(torch.int16))
            self._in_flight.record()
        return arrives

    @torch.inference_mode()
    def _forget_sound(self, num_latents: int) -> None:
        with torch.cuda.stream(self._stream):
            self._sound_stream.rollback(num_latents)

    @torch.inference_mode()
    def _decode_pictures(self, held: Sequence[_Held]) -> Arrives:
        self._in_flight.wait()
        with torch.cuda.stream(self._stream):
            here = torch.cat([self._here(*one) for one in held], dim=2)
            start = self._now()
            planes = self._on_host(self._picture_stream.decode(here)[0])
            end = self._now()
            self._in_flight.record()

        def arrives() -> np.ndarray:
            whole = self._led_in(planes())
            taken_s = end - start if isinstance(start, float) else start.elapsed_time(end) / 1000
            self.pictures_s = taken_s / len(held)
            return whole

        return arrives

    def _now(self) -> Any:
        """Seconds; on a GPU an event on the current CUDA stream."""
        if not self._on_gpu:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @torch.inference_mode()
    def _begin_last(self, held: Sequence[_Held]) -> tuple[Tensor, Tensor]:
        """Planes of each half, on its device."""
        half = -(-len(held) // 2)
        with torch.cuda.stream(self._outgoing), torch.cuda.stream(self._stream):
            first = torch.cat([self._here(*one) for one in held[:half]], dim=2)
            with torch.cuda.stream(self._outgoing):
                for _, made in held[half:]:
                    if made is not None and self._outgoing is not None:
                        self._outgoing.wait_event(made)
                rest = torch.cat([latent for latent, _ in held[half:]], dim=2)
            return self._picture_stream.finish(first, rest)

    @torch.inference_mode()
    def _end_last(self, begun: Future[tuple[Tensor, Tensor]]) -> Arrives:
        with torch.cuda.stream(self._outgoing), torch.cuda.stream(self._stream):
            planes = self._on_host(*(part[0] for part in begun.result()))
        return lambda: self._led_in(planes())
