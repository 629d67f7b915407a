"""The published audio decoder on a stream without end: latents in as they come, sound out without seams.

The decoder looks both ways, so a stream decodes a window: some latents again for their context, then the new ones. The newest are
held back until their right context is there. Decoded in windows as it was published, a latent would attend to whatever its window
happens to hold, and the sound would jump at every seam however much is held back. Here it attends to the same neighbours in
whichever window it is decoded; what remains at a seam is what the convolutions miss beyond the held latents. The first
latent after a seam fades from the one decoding to the next.

Shapes: latents [B, C, L]; wave [B, S] with S = L * samples_per_latent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import AudioStreamConfig
from model.graphs import CudaGraphCache
from model.vae.bigvgan import BigVGAN
from model.vae.mmaudio import MMAudioVAE


@dataclass(frozen=True)
class AudioStreamState:
    """One stream between two calls.

    Attributes:
        latents: the latest, oldest first; those held back are at the end. Their number grows to that of left context and
            hold-back together and stays there.
        num_held: latents that have not sounded yet.
        tail: what the last window made of the first of them [B, samples_per_latent]; empty where none has sounded or is held.
    """

    latents: Tensor
    num_held: int
    tail: Tensor


class AudioStreamDecoder:
    """Decoder and vocoder, shared by all streams. Holds nothing of a stream and never waits for the device.

    Once a stream's context is full, calls with equally many latents have equal shapes.
    """

    def __init__(self, vae: MMAudioVAE, vocoder: BigVGAN, config: AudioStreamConfig) -> None:
        self.vae, self.vocoder, self.config = vae, vocoder, config
        self.frames_per_latent = vae.config.frames_per_latent
        self.samples_per_latent = self.frames_per_latent * vocoder.config.hop_samples
        self._vocoder_context = -(-vocoder.reach_frames // self.frames_per_latent)

    def decode(self, latents: Tensor, state: AudioStreamState | None = None) -> tuple[Tensor, AudioStreamState]:
        """The sound of all latents so far that are no longer held back.

        Args:
            latents: the next [B, C, L], L >= 1.
            state: after the latents before; None at the start of a stream. It is not changed.

        Returns:
            The wave [B, S], float32. At a stream's start S is smaller by what is held back, later it is that of L latents.
        """
        window = latents if state is None else torch.cat((state.latents, latents), dim=2)
        num_new = latents.shape[2] + (0 if state is None else state.num_held)
        num_held = min(self.config.hold_back_latents, num_new)
        wave, tail = self._sound(window, num_new, num_held, state)
        kept = window[:, :, max(0, window.shape[2] - self.config.left_latents - num_held) :]
        return wave, AudioStreamState(kept, num_held, tail)

    def flush(self, state: AudioStreamState) -> Tensor:
        """The sound of what is held back, at the end of a stream [B, num_held * samples_per_latent]."""
        return self._sound(state.latents, state.num_held, 0, state)[0]

    def rollback(self, state: AudioStreamState, wave: Tensor, num_latents: int) -> tuple[AudioStreamState, Tensor]:
        """The state without the newest latents, those that have sounded included: what comes next fades from them.

        Args:
            wave: what the last call gave.
            num_latents: to forget, at most those held and those in ``wave``.

        Returns:
            The state, and what is left of the wave.
        """
        kept = state.latents[:, :, : state.latents.shape[2] - num_latents]
        num_sounded = num_latents - state.num_held
        if num_sounded <= 0:
            return AudioStreamState(kept, -num_sounded, state.tail), wave
        left = wave.shape[1] - num_sounded * self.samples_per_latent
        return AudioStreamState(kept, 0, wave[:, left : left + self.samples_per_latent]), wave[:, :left]

    def visible(self, num_latents: int, device: torch.device) -> Tensor:
        """Which latents attend to which [L queries, L keys]: those within reach, in any window."""
        past, future = self.config.left_latents // 2, self.config.hold_back_latents // 2
        position = torch.arange(num_latents, device=device)
        ahead = position[None] - position[:, None]
        return (ahead >= -past) & (ahead <= future)

    def _sound(self, window: Tensor, num_new: int, num_held: int, state: AudioStreamState | None) -> tuple[Tensor, Tensor]:
        """Wave of the window's last ``num_new`` latents but those held, and of the first one held."""
        batch, _, length = window.shape
        size, first, num_out = self.samples_per_latent, length - num_new, num_new - num_held
        if num_out == 0:
            nothing = torch.zeros(batch, 0, device=window.device)
            return nothing, nothing
        mel = self.vae.decode(window, self.visible(length, window.device))
        context = min(first, self._vocoder_context)
        wave = self.vocoder(mel[:, :, (first - context) * self.frames_per_latent :])[:, context * size :]
        sounding, tail = wave[:, : num_out * size], wave[:, num_out * size : num_out * size + size]
        if state is not None and state.tail.shape[1]:
            fade = torch.arange(1, size + 1, device=wave.device) / (size + 1)
            sounding = torch.cat((torch.lerp(state.tail, sounding[:, :size], fade), sounding[:, size:]), dim=1)
        return sounding, tail


class SoundStream:
    """One stream's sound, with its state at hand.

    Args:
        decoder: shared by all streams.
        records: whether calls are recorded and replayed, see :mod:`model.graphs`: one for each length that the window grows to.
        priority: of their kernels.
    """

    def __init__(self, decoder: AudioStreamDecoder, *, records: bool, priority: int = 0) -> None:
        self._decoder = decoder
        self.graphs = CudaGraphCache(priority=priority) if records else None
        self._state: AudioStreamState | None = None
        self._wave: Tensor | None = None

    @property
    def hold_back_latents(self) -> int:
        """See :class:`model.config.AudioStreamConfig`."""
        return self._decoder.config.hold_back_latents

    def begin(self) -> None:
        """Forget everything: what comes next is a stream's first latent."""
        self._state = self._wave = None

    def decode(self, latents: Tensor) -> Tensor:
        """As :meth:`AudioStreamDecoder.decode`; valid until the next call."""
        if self.graphs is None:
            self._wave, self._state = self._decoder.decode(latents, self._state)
            return self._wave
        state = self._state
        num_held, before = (None, ()) if state is None else (state.num_held, (state.latents, state.tail))

        def decode(latents: Tensor, *before: Tensor) -> tuple[Tensor, ...]:
            past = None if num_held is None else AudioStreamState(before[0], num_held, before[1])
            wave, left = self._decoder.decode(latents, past)
            return wave, left.latents, left.tail

        wave, window, tail = self.graphs(num_held, decode, latents, *before)
        held = min(self._decoder.config.hold_back_latents, latents.shape[2] + (num_held or 0))
        self._state = AudioStreamState(window.clone(), held, tail.clone())
        self._wave = wave
        return wave

    def rollback(self, num_latents: int) -> None:
        """Forget the newest latents of the last call, see :meth:`AudioStreamDecoder.rollback`."""
        assert self._state is not None
        assert self._wave is not None
        self._state, self._wave = self._decoder.rollback(self._state, self._wave, num_latents)
