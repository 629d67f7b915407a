"""The published model as a stream without end: text in, chunks out, one video latent long.

A block goes: a few denoise passes; its latents go to the decoders, which work on a device and in a thread of their own; meanwhile
the clean pass makes the block history, and the next block begins. A chunk leaves as soon as its four pictures and its sound
are decoded. Text is said in utterances (:mod:`model.text.utterances`), each with a prompt of its own, of which only the
keys and values are replaced, between two blocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.adapters.hallo_live import load_generator
from model.adapters.mmaudio import load_bigvgan, load_mmaudio_vae
from model.adapters.umt5 import load_umt5
from model.adapters.wan import load_wan_decoder, load_wan_encoder
from model.chunk import AVChunk, Still, StreamInfo, StreamSettings
from model.config import HalloLiveConfig, load_yaml
from model.dit.transformer import DualStreamTransformer, TextMemory
from model.errors import ConfigError
from model.geometry import Geometry
from model.graphs import Graphs
from model.rollout import Latents, Rollout, RolloutShape
from model.text.umt5 import TextEncoder, UMT5Tokenizer
from model.text.utterances import MarkTrack, Utterances
from model.vae.audio_stream import AudioStreamDecoder, SoundStream
from model.vae.picture_stream import PictureStream
from model.vae.wan import WanDecoder, WanEncoder, channels_last, first_latent, fold_upsampling

GENERATOR = "Hallo-Live/hallolive_dit.pt"
TEXT_ENCODER = "Wan2.1-T2V-1.3B/models_t5_umt5-xxl-enc-bf16.pth"
TOKENIZER = "Wan2.1-T2V-1.3B/google/umt5-xxl"
VIDEO_VAE = "Wan2.2-TI2V-5B/Wan2.2_VAE.pth"
AUDIO_VAE = "MMAudio/ext_weights/v1-16.pth"
VOCODER = "MMAudio/ext_weights/best_netG.pt"
"""Places in the directory that ``avatar-rtc download inference`` fills."""

LISTENING = "The person listens quietly, mouth closed."
SILENCE = "Quiet room tone, nobody speaks."

Report = Callable[[str], None]

Piece = Future[tuple[np.ndarray, np.ndarray]]
"""Pictures uint8 [T, H * 3 / 2, W] and samples int16 [S] to come, one of them empty."""


@dataclass(frozen=True)
class Parts:
    """The published networks, loaded: the transformer on one device, the decoders on theirs, text on either."""

    config: HalloLiveConfig
    dit: DualStreamTransformer
    text: TextEncoder
    encoder: WanEncoder
    video: WanDecoder
    audio: AudioStreamDecoder


class Seat:
    """One speaker's buffers on the devices, and what is recorded over them. One stream has it at a time; the next finds it warm.

    Args:
        text: any, as long as what will be said.
    """

    def __init__(self, parts: Parts, geometry: Geometry, text: TextMemory) -> None:
        g = geometry
        on_gpu, decoders_on_gpu = (x.is_cuda for x in (parts.dit.video_ends.head.weight, parts.video.latent_mean))
        shape = RolloutShape(g.latent_height, g.latent_width, g.audio_latents_per_video_latent)
        self.rollout = Rollout(parts.dit, parts.config.rollout, shape, text, graphs=Graphs() if on_gpu else None)
        self.pictures = PictureStream(parts.video, records=decoders_on_gpu)
        self.sound = SoundStream(parts.audio, records=decoders_on_gpu)

    def begin(self, text: TextMemory) -> None:
        """A new stream."""
        self.rollout.reset(text)
        self.pictures.begin()
        self.sound.begin()


class HalloLive:
    """A loaded model. Implements :class:`model.stream.Model`."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.geometry: Geometry = parts.config.geometry.build()
        self._free_seats: list[Seat] = []
        g = self.geometry
        samples = g.audio_latent_samples * g.audio_latents_per_video_latent
        block, frames = g.block_video_latents, g.temporal_stride_frames
        self.info = StreamInfo(parts.config.name, g.width_px, g.height_px, g.fps, g.sample_rate_hz, frames, samples, block)
        # A full window, one that has moved, and what the decoders hold back meanwhile.
        self.warm_up_chunks = (-(-parts.config.rollout.window_latents // block) + 3) * block

    def open(self, settings: StreamSettings) -> HalloLiveStream:
        return HalloLiveStream(self, settings)

    @torch.inference_mode()
    def take_seat(self, text: TextMemory) -> Seat:
        """A free one, or a new one; hand it back with :meth:`free_seat`."""
        seat = self._free_seats.pop() if self._free_seats else Seat(self.parts, self.geometry, text)
        seat.begin(text)
        return seat

    def free_seat(self, seat: Seat) -> None:
        self._free_seats.append(seat)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Run every shape that a stream of whole blocks meets once, so that it is compiled and recorded."""
        g, config = self.geometry, self.parts.config
        head = self.parts.dit.video_ends.head.weight

        def draw(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, device=head.device)

        seat = self.take_seat(self.read(""))
        decoder = DecodeThread(self.parts, g, seat)
        num_blocks = config.rollout.window_latents // g.block_video_latents + 1
        num_blocks = max(num_blocks, 2 + config.audio_stream.left_latents // g.block_audio_latents)
        for _ in range(num_blocks):
            if not seat.rollout.remembers:
                seat.rollout.remember()
            video = draw((1, config.dit.video.latent_channels, g.block_video_latents, g.latent_height, g.latent_width))
            num_audio = g.block_audio_latents + config.dit.future_audio_latents
            seat.rollout.begin(video, draw((1, num_audio, config.dit.audio.latent_channels)))
            latents = seat.rollout.denoise(draw, leave=True)
            assert latents is not None
            for piece in decoder.submit(latents):
                piece.result()
        decoder.close()
        self.free_seat(seat)

    @torch.inference_mode()
    def encode(self, still: Still) -> Tensor:
        """The first latent of a stream that begins with a picture; see :func:`model.vae.wan.first_latent`."""
        image = torch.frombuffer(bytearray(still.rgb), dtype=torch.uint8).view(still.height_px, still.width_px, 3)
        g = self.geometry
        return first_latent(self.parts.encoder, image, g.height_px, g.width_px).to(self.parts.dit.video_ends.head.weight.device)

    @torch.inference_mode()
    def read(self, prompt: str) -> TextMemory:
        """A prompt as the transformer's layers see it."""
        head = self.parts.dit.video_ends.head.weight
        embedded = self.parts.text([prompt]).to(head.device, head.dtype)
        return self.parts.dit.read_text(embedded, (None, None), None)


class DecodeThread:
    """Latents of one stream to pictures and sound, in order, in a thread of its own."""

    def __init__(self, parts: Parts, geometry: Geometry, seat: Seat) -> None:
        self._seat, self._geometry = seat, geometry
        weight = parts.video.latent_mean
        self._device = weight.device
        self._audio_dtype = next(parts.audio.vae.parameters()).dtype
        self._on_gpu = self._device.type == "cuda"
        self._stream = torch.cuda.Stream(self._device) if self._on_gpu else None
        made_on = parts.dit.video_ends.head.weight.device
        self._outgoing = torch.cuda.Stream(made_on) if made_on.type == "cuda" and made_on != self._device else None
        self._thread = ThreadPoolExecutor(1, "decode")
        self._begins = True
        self._work: deque[Piece] = deque()

    @property
    def num_waiting(self) -> int:
        """Pieces that have not been taken."""
        return len(self._work)

    def submit(self, latents: Latents) -> list[Piece]:
        """Hand over a finished block. Its sound is decoded at once, then its pictures, latent by latent."""
        made = torch.cuda.Event() if latents.video.is_cuda else None
        if made is not None:
            made.record(torch.cuda.current_stream(latents.video.device))
        pieces = [self._thread.submit(self._decode_audio, latents.audio, made)]
        for index in range(latents.video.shape[2]):
            pieces.append(self._thread.submit(self._decode_video, latents.video[:, :, index : index + 1], made))
        self._work += pieces
        return pieces

    def take(self, *, wait: bool) -> tuple[np.ndarray, np.ndarray] | None:
        """The next piece, pictures uint8 [T, H * 3 / 2, W] and samples int16 [S], one of them empty; None if it is not ready."""
        if not self._work or not (wait or self._work[0].done()):
            return None
        return self._work.popleft().result()

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._work.clear()

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

    def _on_host(self, values: Tensor) -> np.ndarray:
        """A copy in the host's memory, complete; only this thread waits for it."""
        if not self._on_gpu:
            return values.numpy()
        pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        pinned.copy_(values, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(self._device))
        done.synchronize()
        return pinned.numpy()

    @torch.inference_mode()
    def _decode_audio(self, audio: Tensor, made: torch.cuda.Event | None) -> tuple[np.ndarray, np.ndarray]:
        with torch.cuda.stream(self._stream):
            latents = self._here(audio, made).to(self._audio_dtype).transpose(1, 2)
            wave = self._seat.sound.decode(latents)
            samples = self._on_host((wave[0].float().clamp(-1, 1) * 32767).to(torch.int16))
        return np.zeros((0, 0, 0), np.uint8), samples

    @torch.inference_mode()
    def _decode_video(self, latent: Tensor, made: torch.cuda.Event | None) -> tuple[np.ndarray, np.ndarray]:
        with torch.cuda.stream(self._stream):
            planes = self._on_host(self._seat.pictures.decode(self._here(latent, made))[0])
        begins, self._begins = self._begins, False
        if begins:  # the first latent has fewer pictures than time: hold the first one
            planes = np.concatenate([planes[:1].repeat(self._geometry.lead_in_frames, 0), planes])
        return planes, np.zeros(0, np.int16)


class HalloLiveStream:
    """One speaker. Implements :class:`model.stream.Stream`."""

    def __init__(self, model: HalloLive, settings: StreamSettings) -> None:
        self._model = model
        parts, g = model.parts, model.geometry
        self._block_s = float(g.block_duration_s)
        self._lines = Utterances(self._block_s, parts.config.rollout.window_latents // g.block_video_latents)
        self._marks = MarkTrack()
        self._begun_blocks = 0
        self._told_chunks = 0
        self._begin_look(settings)

    @torch.inference_mode()
    def _begin_look(self, settings: StreamSettings) -> None:
        model = self._model
        parts, g = model.parts, model.geometry
        self._settings = settings
        head = parts.dit.video_ends.head.weight
        self._device = head.device
        self._generator = torch.Generator(self._device).manual_seed(settings.seed)
        self._silent = model.read(f"{settings.scene} {LISTENING} <AUDCAP>{SILENCE}<ENDAUDCAP>")
        self._seat: Seat | None = (seat := model.take_seat(self._silent))
        self._rollout = seat.rollout
        self._first_latent = None if settings.still is None else model.encode(settings.still)
        self._decoder = DecodeThread(parts, g, seat)
        self._pictures: list[np.ndarray] = []
        self._sound: list[np.ndarray] = []
        self._blocks_to_say = 0
        self._in_work = False

    # What the service asks for

    @property
    def stage(self) -> str:
        if self._decoder.num_waiting > self._limit:
            return "vae"
        return "dit" if self._in_work or not self._rollout.remembers else "text"

    @property
    def _limit(self) -> int:
        """Pieces of one block; when more are waiting, the decoders are a whole block behind."""
        return self._model.geometry.block_video_latents + 1

    def push(self, reply_id: str, text: str, *, last: bool = True) -> None:
        self._lines.push(reply_id, text, last=last)
        if self._in_work and self._blocks_to_say == 0:
            self._in_work = False  # a block that only listens is begun again, so that the line is heard sooner
            self._begun_blocks -= 1

    def update(self, settings: StreamSettings) -> None:
        if settings != self._settings:
            self.close()
            self._begin_look(settings)

    def cancel(self) -> None:
        self._lines.cancel()
        self._marks.cancel()
        self._blocks_to_say = 0
        if self._in_work:
            self._in_work = False
            self._begun_blocks -= 1

    def close(self) -> None:
        self._decoder.close()
        if self._seat is not None:
            self._model.free_seat(self._seat)
            self._seat = None

    @torch.inference_mode()
    def step(self) -> AVChunk | None:
        if (chunk := self._chunk()) is not None:
            return chunk
        if not self._rollout.remembers:
            self._rollout.remember()
        elif self._in_work:
            finished = self._rollout.denoise(self._draw)
            if finished is not None:
                self._decoder.submit(finished)
                self._first_latent = None
                self._in_work = False
                self._blocks_to_say = max(0, self._blocks_to_say - 1)
        else:
            self._begin_block()
        return None

    # The life of a block

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self._generator, device=self._device)

    def _begin_block(self) -> None:
        config, g = self._model.parts.config, self._model.geometry
        if self._blocks_to_say == 0:
            self._rollout.text = self._silent
            utterance = self._lines.take()
            if utterance is not None:
                said = " ".join(f"<S>{line}<E>" for line in utterance.lines)
                scene, voice = self._settings.scene, self._settings.voice
                self._rollout.text = self._model.read(f"{scene} {said} <AUDCAP>{voice}<ENDAUDCAP>")
                if config.rollout.continuation == "restart":
                    self._rollout.restart()
                self._blocks_to_say = utterance.num_blocks
                start_s = self._begun_blocks * self._block_s
                self._marks.add(utterance, start_s, start_s + utterance.num_blocks * self._block_s)
        channels = config.dit.video.latent_channels, config.dit.audio.latent_channels
        video = self._draw((1, channels[0], g.block_video_latents, g.latent_height, g.latent_width))
        audio = self._draw((1, g.block_audio_latents + config.dit.future_audio_latents, channels[1]))
        self._rollout.begin(video, audio, self._first_latent)
        self._in_work = True
        self._begun_blocks += 1

    def _chunk(self) -> AVChunk | None:
        """The next chunk if it is decoded; where the decoders are a block behind, once it is."""
        info = self._model.info
        while True:
            have_pictures, have_sound = (sum(map(len, held)) for held in (self._pictures, self._sound))
            if have_pictures >= info.block_frames and have_sound >= info.block_samples:
                break
            piece = self._decoder.take(wait=self._decoder.num_waiting > self._limit)
            if piece is None:
                return None
            for held, new in zip((self._pictures, self._sound), piece, strict=True):
                if len(new):
                    held.append(new)
        pictures, sound = _cut(self._pictures, info.block_frames), _cut(self._sound, info.block_samples)
        start_s = self._told_chunks * info.block_duration_s
        speaking, marks = self._marks.tell(start_s, start_s + info.block_duration_s, info.sample_rate_hz)
        chunk = AVChunk(self._told_chunks, pictures, sound, info.fps, info.sample_rate_hz, speaking, marks)
        self._told_chunks += 1
        return chunk


def _cut(held: list[np.ndarray], length: int) -> np.ndarray:
    """Take the first ``length`` entries off a list of arrays."""
    together = np.concatenate(held)
    held[:] = [together[length:]] if len(together) > length else []
    return together[:length]


def load(
    model_dir: Path, config_path: Path, devices: Sequence[str], report: Report, *, dtype: torch.dtype | None = None
) -> HalloLive:
    """Load the published files.

    Args:
        model_dir: as ``avatar-rtc download inference --dir`` leaves it.
        config_path: see ``configs/model/hallo_live.yaml``.
        devices: the transformer's first; the decoders and the text encoder use the last.
        report: hears what is being loaded.
        dtype: of all weights; bfloat16 on GPUs and float32 on CPUs if None.

    Raises:
        model.errors.CheckpointError: a file is missing, damaged or not what it should be.
        model.errors.ConfigError: so is the config, or this machine has no such device.
    """
    config = load_yaml(config_path, HalloLiveConfig)
    first, last = (_device(name) for name in (devices[0], devices[-1]))
    if dtype is None:
        dtype = torch.bfloat16 if first.type == "cuda" else torch.float32
    report("loading the decoders")
    encoder = load_wan_encoder(model_dir / VIDEO_VAE, config.video_vae, device=last, dtype=dtype)
    # Sums of weights are made before rounding.
    video = load_wan_decoder(model_dir / VIDEO_VAE, config.video_vae, device=last)
    audio_vae = load_mmaudio_vae(model_dir / AUDIO_VAE, config.audio_vae, device=last, dtype=dtype)
    vocoder = load_bigvgan(model_dir / VOCODER, config.vocoder, device=last, dtype=dtype)
    report("loading the text encoder")
    tokenizer = UMT5Tokenizer(model_dir / TOKENIZER, config.text)
    umt5 = load_umt5(model_dir / TEXT_ENCODER, config.text, device=last, dtype=dtype)
    report("loading the transformer")
    dit = load_generator(model_dir / GENERATOR, config.dit, config.geometry.patch_cells, device=first, dtype=dtype)
    return serving(
        Parts(
            config,
            dit.requires_grad_(False).eval(),
            TextEncoder(tokenizer, umt5, config.text),
            encoder,
            video.requires_grad_(False).eval(),
            AudioStreamDecoder(audio_vae, vocoder, config.audio_stream),
        ),
        dtype,
        report,
    )


def serving(parts: Parts, dtype: torch.dtype, report: Report, *, warm: bool = True) -> HalloLive:
    """A model of loaded parts, their weights arranged for their devices and its shapes warm.

    Args:
        parts: the video decoder's weights in float32 still, or as they are.
        dtype: of the video decoder's.
        warm: compile and record now what else the first stream has to wait for.
    """
    if parts.video.latent_mean.is_cuda:
        torch.backends.cudnn.benchmark = True  # shapes are few and fixed
        fold_upsampling(parts.video)
        channels_last(parts.video.to(dtype))
    parts.video.to(dtype)
    model = HalloLive(parts)
    if parts.dit.video_ends.head.weight.is_cuda:
        parts.dit.settle()
        if warm:
            report("compiling and recording")
            model.warm_up()
    return model


def _device(name: str) -> torch.device:
    """Raises ``ConfigError`` for one that this machine lacks."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name!r} cannot be used ({reason}): choose cpu, or one of cuda:0, cuda:1 and so on") from None
    return device
