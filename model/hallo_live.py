"""The published model as a stream without end: text in, chunks out, one video latent long.

A block goes: a few denoise passes; its latents go to the decoders (:mod:`model.decoding`); meanwhile the clean pass makes the
block history, and the next block begins. A chunk leaves as soon as its four pictures and its sound are decoded. Text is said in
utterances (:mod:`model.text.utterances`), each with a prompt of its own, of which only the keys and values are replaced, between
two blocks.

Who says when a chunk is due gets blocks just in time: the later one begins, the newer is the text that it may say. A line that
comes while the face only listens abandons the block in work, and takes back of those before it what is not needed to bridge the
time until the line can be seen; an interruption does the same to a line. So that there is such a bridge at any time, a block
begins early enough to be abandoned in work and made once more. Passes do not wait until a chunk is asked for: see
:attr:`HalloLiveStream.due_s`.
"""

from __future__ import annotations

import copy
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.adapters.hallo_live import load_generator
from model.adapters.mmaudio import load_bigvgan, load_mmaudio_vae
from model.adapters.umt5 import load_umt5
from model.adapters.wan import load_wan_decoder, load_wan_encoder
from model.chunk import AVChunk, Image, StreamInfo, StreamSettings
from model.config import HalloLiveConfig, load_yaml
from model.decoding import PRIORITY, Decoders
from model.dit.transformer import DualStreamTransformer, TextMemory
from model.errors import ConfigError
from model.geometry import Geometry
from model.graphs import CudaGraphCache, InFlight
from model.rollout import Rollout, RolloutShape
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

PATIENCE_S = 0.005
"""A step that can only wait does so no longer, so that commands are heard."""
LEAD_DECAY = 0.75
"""By this what a block takes is forgotten with each one."""
SLACK_S = 0.04
"""So much before it is needed a block should be there."""
MAX_KEPT_PROMPTS = 32
"""Prompts of which the text encoder's output is kept, 4 MB each at the published size."""


@dataclass(frozen=True)
class Parts:
    """The published networks, loaded: the transformer on one device, the decoders on theirs, text on either. ``second`` is the
    transformer's :meth:`~DualStreamTransformer.video_replica` on the decoders' device, which shares passes with it;
    ``second_video`` a video decoder on the transformer's, for :meth:`model.decoding.Decoders.finish`."""

    config: HalloLiveConfig
    dit: DualStreamTransformer
    text: TextEncoder
    encoder: WanEncoder
    video: WanDecoder
    audio: AudioStreamDecoder
    second: DualStreamTransformer | None = None
    second_video: WanDecoder | None = None


class Reader:
    """Prompts as the transformer's layers see them. What the text encoder made of the latest ones is kept: the silent prompt
    comes back after each line.

    Args:
        records: whether keys and values are computed by a graph; then they are valid until the next prompt is read.
    """

    def __init__(self, parts: Parts, *, records: bool) -> None:
        self._encoder, self._dit = parts.text, parts.dit
        self._graphs = CudaGraphCache() if records else None
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def __call__(self, prompt: str) -> TextMemory:
        head = self._dit.video_ends.head.weight
        if prompt not in self._kept:
            self._kept[prompt] = self._encoder([prompt]).to(head.device, head.dtype)
            if len(self._kept) > MAX_KEPT_PROMPTS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(prompt)
        embedded = self._kept[prompt]
        if self._graphs is None:
            return self._dit.read_text(embedded, (None, None), None)

        def read(embedded: Tensor) -> tuple[Tensor, ...]:
            return tuple(self._dit.read_text(embedded, (None, None), None).tensors())

        return TextMemory.of(self._graphs("text", read, embedded))


class StreamBuffers:
    """One speaker's buffers on the devices, and what is recorded over them. One stream has it at a time; the next finds it warm.

    Args:
        text: any, as long as what will be said.
    """

    def __init__(self, parts: Parts, geometry: Geometry, text: TextMemory) -> None:
        g = geometry
        on_gpu, decoders_on_gpu = (x.is_cuda for x in (parts.dit.video_ends.head.weight, parts.video.latent_mean))
        shape = RolloutShape(g.latent_height, g.latent_width, g.audio_latents_per_video_latent)
        self.graphs = CudaGraphCache() if on_gpu else None
        self.rollout = Rollout(parts.dit, parts.config.rollout, shape, text, graphs=self.graphs, second=parts.second)
        self.pictures = PictureStream(parts.video, records=decoders_on_gpu, priority=PRIORITY, second=parts.second_video)
        self.sound = SoundStream(parts.audio, records=decoders_on_gpu, priority=PRIORITY)
        self.lead_s = float(g.block_duration_s)
        """From a block's beginning until its sound is there: what was seen of late, long ones remembered for longer."""

    def saw_lead(self, lead_s: float) -> None:
        self.lead_s = max(lead_s, LEAD_DECAY * self.lead_s)

    def begin(self) -> None:
        """A new stream."""
        self.rollout.reset()
        self.pictures.begin()
        self.sound.begin()

    def freeze(self) -> None:
        """All that a stream usually needs is recorded."""
        for graphs in (self.graphs, self.sound.graphs):
            if graphs is not None:
                graphs.freeze()

    def decoders(self, parts: Parts, geometry: Geometry) -> Decoders:
        """For a new stream."""
        audio_dtype = next(parts.audio.vae.parameters()).dtype
        made_on, device = parts.dit.video_ends.head.weight.device, parts.video.latent_mean.device
        return Decoders(self.pictures, self.sound, made_on, device, audio_dtype, geometry.lead_in_frames)


class HalloLive:
    """A loaded model. Implements :class:`model.stream.Model`.

    Args:
        clock: seconds; chunks are due by it.
    """

    def __init__(self, parts: Parts, clock: Callable[[], float] = time.monotonic) -> None:
        self.parts, self.clock = parts, clock
        self.geometry: Geometry = parts.config.geometry.build()
        self._reader = Reader(parts, records=parts.dit.video_ends.head.weight.is_cuda)
        self._free_buffers: list[StreamBuffers] = []
        g = self.geometry
        samples = g.audio_latent_samples * g.audio_latents_per_video_latent
        block, frames = g.block_video_latents, g.temporal_stride_frames
        self.info = StreamInfo(parts.config.name, g.width_px, g.height_px, g.fps, g.sample_rate_hz, frames, samples, block)
        # A full window, one that has moved, and what the decoders hold back meanwhile.
        self.warm_up_chunks = (-(-parts.config.rollout.window_latents // block) + 3) * block

    def open(self, settings: StreamSettings) -> HalloLiveStream:
        return HalloLiveStream(self, settings)

    @torch.inference_mode()
    def take_buffers(self) -> StreamBuffers:
        """A free one, or a new one; hand it back with :meth:`free_buffers`. Its text is that of the one who had it."""
        buffers = self._free_buffers.pop() if self._free_buffers else StreamBuffers(self.parts, self.geometry, self.read(""))
        buffers.begin()
        return buffers

    def free_buffers(self, buffers: StreamBuffers) -> None:
        self._free_buffers.append(buffers)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Run every shape that a stream meets once, so that it is compiled and recorded."""
        g, config = self.geometry, self.parts.config
        head = self.parts.dit.video_ends.head.weight
        ratio, block = g.audio_latents_per_video_latent, g.block_video_latents

        def draw(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, device=head.device)

        buffers = self.take_buffers()
        rollout, decoders = buffers.rollout, buffers.decoders(self.parts, g)

        def make(*, split: bool = False, finish: bool = False) -> None:
            if not rollout.is_cache_current:
                rollout.update_cache(split=split)
            video = draw((1, config.dit.video.latent_channels, block, g.latent_height, g.latent_width))
            audio = draw((1, g.block_audio_latents + config.dit.future_audio_latents, config.dit.audio.latent_channels))
            rollout.begin(video, audio)
            latents = rollout.denoise(draw, leave=True, split=split)
            assert latents is not None
            (decoders.finish(latents)[0] if finish else decoders.submit(latents)).result()

        num_blocks = config.rollout.window_latents // block + 1
        for _ in range(max(num_blocks, 2 + config.audio_stream.left_latents // g.block_audio_latents)):
            make()
            while decoders.num_held:  # one by one, as a call wants them
                decoders.ask(1)[0].result()
        if self.parts.second_video is not None:
            make(finish=True)
        if rollout.can_split:
            rollout.reset()
            for _ in range(num_blocks):
                make(split=True)
        if buffers.graphs is not None:
            by_latents = config.rollout.rollback == "latent"
            make()
            for num_latents in range(1, decoders.max_rollback(ratio) + 1) if by_latents else (block,):
                decoders.rollback(num_latents, ratio)
                for _ in range(2):  # until the sound's window is full again
                    make()
            if by_latents:
                rollout.rehearse_rollbacks(block)
            buffers.freeze()
        rollout.freeze_split()
        decoders.close()
        self.free_buffers(buffers)

    @torch.inference_mode()
    def encode(self, image: Image) -> Tensor:
        """The first latent of a stream that begins with a picture; see :func:`model.vae.wan.first_latent`."""
        rgb = torch.frombuffer(bytearray(image.rgb), dtype=torch.uint8).view(image.height_px, image.width_px, 3)
        g = self.geometry
        return first_latent(self.parts.encoder, rgb, g.height_px, g.width_px).to(self.parts.dit.video_ends.head.weight.device)

    @torch.inference_mode()
    def read(self, prompt: str) -> TextMemory:
        """A prompt as the transformer's layers see it; on a GPU valid until the next one is read."""
        return self._reader(prompt)


class HalloLiveStream:
    """One speaker. Implements :class:`model.stream.Stream`.

    Attributes:
        rollout, decoders: what its pictures and sound are made with; other ones after another look.
    """

    def __init__(self, model: HalloLive, settings: StreamSettings) -> None:
        self._model = model
        config, g = model.parts.config, model.geometry
        self._latent_s = model.info.chunk_duration_s
        self._lines = Utterances(float(g.block_duration_s), config.rollout.window_latents // g.block_video_latents)
        self._marks = MarkTrack()
        # Chunks whose sound waits for latents to come.
        self._num_held_back = -(-config.audio_stream.hold_back_latents // g.audio_latents_per_video_latent)
        self._told_chunks = 0
        self._dry_s: float | None = None
        self._begin_look(settings)

    @torch.inference_mode()
    def _begin_look(self, settings: StreamSettings) -> None:
        model = self._model
        self._settings = settings
        self._device = model.parts.dit.video_ends.head.weight.device
        self._generator = torch.Generator(self._device).manual_seed(settings.seed)
        self._buffers: StreamBuffers | None = (buffers := model.take_buffers())
        self.rollout, self.decoders = buffers.rollout, buffers.decoders(model.parts, model.geometry)
        self._in_flight, self._shares_device = InFlight(self._device), model.parts.video.latent_mean.device == self._device
        self._first_latent = None if settings.image is None else model.encode(settings.image)
        self._read: str | None = None
        self._pictures: list[np.ndarray] = []
        self._sound: list[np.ndarray] = []
        self._num_samples = 0
        self._num_latents = 0
        self._num_silenced = 0
        self._first_chunk = self._told_chunks
        self._blocks_to_say = 0
        self._in_work = False
        self._num_listening = 0

    # What the service asks for

    @property
    def stage(self) -> str:
        if self._in_flight.full or self._is_behind:
            return "vae"
        return "dit" if self._in_work or not self.rollout.is_cache_current else "text"

    @property
    def _is_behind(self) -> bool:
        """Whether the decoders have more than a whole block before them."""
        return self.decoders.num_waiting > self._model.geometry.block_video_latents

    def push(self, reply_id: str, text: str, *, last: bool = True) -> float:
        length_s = self._lines.push(reply_id, text, last=last)
        if self._blocks_to_say == 0:
            self._roll_back(self._num_listening)
        return length_s

    def update(self, settings: StreamSettings) -> None:
        if settings != self._settings:
            self.close()
            self._begin_look(settings)

    def cancel(self) -> None:
        self._lines.cancel()
        self._marks.cancel()
        self._blocks_to_say = 0
        self._roll_back(self._num_latents)
        # What is kept bridges the time with its pictures alone, and the sound behind it fades from what was cut off.
        self._num_silenced = self._num_latents + 1

    def close(self) -> None:
        self.decoders.close()
        if self._buffers is not None:
            self._model.free_buffers(self._buffers)
            self._buffers = None

    @torch.inference_mode()
    def step(self, deadline_s: float | None = None) -> AVChunk | None:
        self._dry_s = deadline_s
        if (chunk := self._chunk()) is None:
            self.work()
        return chunk

    @property
    def due_s(self) -> float:
        if self._dry_s is None:
            return math.inf
        if self._in_work or not self.rollout.is_cache_current:
            return 0.0
        return math.inf if self._is_behind else self._begin_s

    @torch.inference_mode()
    def work(self) -> None:
        if self._in_flight.full:
            self.decoders.wait(PATIENCE_S)
        elif not self.rollout.is_cache_current:
            # After a cut the decoders' device has pictures to make that bridge the time, after a block there is no hurry.
            self.rollout.update_cache(split=self._dry_s is None and self._second_rests)
            self._in_flight.record()
        elif self._in_work:
            self._denoise()
        elif self._model.clock() >= self._begin_s and not self._is_behind:
            self._begin_block()
        else:
            self.decoders.wait(PATIENCE_S)

    # The life of a block

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self._generator, device=self._device)

    @property
    def _second_rests(self) -> bool:
        """Whether the decoders leave their device to the next pass. What they have before them was asked for before passes go on,
        and behind a pass that runs the next one begins about when a single piece is decoded. Where chunks are wanted as fast as
        they can be made, whatever is not decoded yet is before them."""
        decoders = self.decoders
        return (decoders.num_waiting if self._dry_s is None else decoders.num_coming) <= min(1, self._in_flight.num_launched)

    @property
    def _num_left(self) -> int:
        """Chunks that can still be made of finished blocks."""
        return self._num_latents - self._num_held_back - (self._told_chunks - self._first_chunk)

    @property
    def _begin_s(self) -> float:
        """When the next block has to begin, unless the decoders are behind. Where the next chunk needs it, and where there is no
        deadline, at once. It may be abandoned while passes are launched, about half of its time; from then on it is cut."""
        if self._dry_s is None or self._num_left <= 0:
            return 0.0
        assert self._buffers is not None
        return self._dry_s + self._num_left * self._latent_s - self._buffers.lead_s / 2 - self._answer_s(2, 0.5) - SLACK_S

    def _answer_s(self, num_passes: int, clean_share: float) -> float:
        """How long until the first pictures of a block that begins after so many passes, the first of which is half done on
        average, and this share of a clean one."""
        assert self._buffers is not None
        pass_s = self._in_flight.piece_s or self._buffers.lead_s / len(self._model.parts.config.rollout.steps)
        return (max(0.0, num_passes - 0.5) + clean_share) * pass_s + self._buffers.lead_s + self.decoders.pictures_s

    def _begin_block(self) -> None:
        config, g = self._model.parts.config, self._model.geometry
        if self._blocks_to_say == 0:
            scene, voice = self._settings.scene, self._settings.voice
            utterance = self._lines.next_utterance()
            if utterance is None:
                self._say(f"{scene} {LISTENING} <AUDCAP>{SILENCE}<ENDAUDCAP>")
            else:
                said = " ".join(f"<S>{line}<E>" for line in utterance.lines)
                self._say(f"{scene} {said} <AUDCAP>{voice}<ENDAUDCAP>")
                if config.rollout.continuation == "restart":
                    self.rollout.restart()
                self._blocks_to_say = utterance.num_blocks
                start_s = (self._first_chunk + self._num_latents) * self._latent_s
                self._marks.add(utterance, start_s, start_s + utterance.num_blocks * float(g.block_duration_s))
        channels = config.dit.video.latent_channels, config.dit.audio.latent_channels
        video = self._draw((1, channels[0], g.block_video_latents, g.latent_height, g.latent_width))
        audio = self._draw((1, g.block_audio_latents + config.dit.future_audio_latents, channels[1]))
        self.rollout.begin(video, audio, self._first_latent if self.rollout.num_latents == 0 else None)
        self._in_work = True
        self._begun_s = self._model.clock()
        self._shows_lead = self._in_flight.num_launched == 0  # else it waits for a pass before it

    def _say(self, prompt: str) -> None:
        if prompt != self._read:
            self.rollout.text = self._model.read(prompt)
            self._read = prompt

    def _denoise(self) -> None:
        finished = self.rollout.denoise(self._draw, split=self._second_rests)
        self._in_flight.record()
        if finished is None:
            return
        sound = self.decoders.submit(finished)
        if self._shows_lead:
            buffers, begun_s = self._buffers, self._begun_s
            assert buffers is not None
            sound.add_done_callback(lambda _: buffers.saw_lead(self._model.clock() - begun_s))
        self._in_work = False
        num_latents = finished.video.shape[2]
        self._num_latents += num_latents
        self._num_listening = self._num_listening + num_latents if self._blocks_to_say == 0 else 0
        self._blocks_to_say = max(0, self._blocks_to_say - 1)

    @torch.inference_mode()
    def _roll_back(self, at_most: int) -> None:
        """Let what comes next begin sooner: abandon the block in work, and take back of those before it what is not needed to
        bridge the time until then; where cuts are at blocks, whole ones.

        Args:
            at_most: so many of the newest latents may be taken back.
        """
        self._in_work = False
        block, ratio = self._model.geometry.block_video_latents, self._model.geometry.audio_latents_per_video_latent
        at_most = min(at_most, self.rollout.max_rollback, self.decoders.max_rollback(ratio))
        grain = 1 if self._model.parts.config.rollout.rollback == "latent" else block
        num_latents = next((n for n in range(at_most // grain * grain, 0, -grain) if self._is_bridged_after(n)), 0)
        self.rollout.rollback(num_latents)
        if num_latents:
            self.decoders.rollback(num_latents, ratio)
            self._num_latents -= num_latents
            self._num_listening = max(0, self._num_listening - num_latents)
            self._num_silenced = min(self._num_silenced, self._num_latents + 1)
            at_most = self._num_latents * self._model.info.chunk_samples
            if self.decoders.sound:
                self.decoders.sound[-1].at_most = at_most
            else:
                self._keep_samples(at_most)

    def _is_bridged_after(self, num_cut: int) -> bool:
        """Whether, with so many latents taken back, the others are seen until a block that begins now can be."""
        if self._dry_s is None:
            return True
        pictures_s, block = self.decoders.pictures_s, self._model.geometry.block_video_latents
        num_unseen = self._num_latents - (self._told_chunks - self._first_chunk) - num_cut
        left_s = self._dry_s + num_unseen * self._latent_s - self._model.clock()
        if self._shares_device:  # what bridges the time also takes some
            left_s -= (self.decoders.num_held - num_cut) * pictures_s
        return left_s >= self._answer_s(self._in_flight.num_launched, -num_cut % block / block)

    # Chunks

    def _chunk(self) -> AVChunk | None:
        """The next chunk if it is decoded."""
        info, decoders = self._model.info, self.decoders
        self._collect()
        have_pictures, have_sound = (sum(map(len, held)) for held in (self._pictures, self._sound))
        # What is wanted now; where nobody says when, one more, so that the decoder does not rest.
        wanted = (1 if self._dry_s is not None else 2) - have_pictures // info.chunk_frames - len(decoders.pictures)
        if wanted > 0:
            decoders.ask(wanted)
        if have_pictures < info.chunk_frames or have_sound < info.chunk_samples:
            return None
        pictures, sound = _cut(self._pictures, info.chunk_frames), _cut(self._sound, info.chunk_samples)
        if self._told_chunks - self._first_chunk < self._num_silenced:
            sound = np.zeros_like(sound)
        start_s = self._told_chunks * self._latent_s
        speaking, marks = self._marks.marks_between(start_s, start_s + self._latent_s, info.sample_rate_hz)
        chunk = AVChunk(self._told_chunks, pictures, sound, info.fps, info.sample_rate_hz, speaking, marks)
        self._told_chunks += 1
        if self._dry_s is not None:
            self._dry_s += self._latent_s
        return chunk

    def _collect(self) -> None:
        """Take what is decoded."""
        decoders = self.decoders
        while decoders.pictures and decoders.pictures[0].done():
            self._pictures.append(decoders.pictures.popleft().result())
        while decoders.sound and decoders.sound[0].piece.done():
            sound = decoders.sound.popleft()
            samples = sound.piece.result()
            self._sound.append(samples)
            self._num_samples += len(samples)
            if sound.at_most is not None:
                self._keep_samples(sound.at_most)

    def _keep_samples(self, at_most: int) -> None:
        """Forget samples that were cut; none of them is in a chunk, because their pictures were not asked for."""
        if (excess := self._num_samples - at_most) > 0:
            self._sound = [np.concatenate(self._sound)[:-excess]]
            self._num_samples = at_most


def _cut(held: list[np.ndarray], length: int) -> np.ndarray:
    """Take the first ``length`` entries off a list of arrays."""
    together = np.concatenate(held)
    held[:] = [together[length:]] if len(together) > length else []
    return together[:length]


def load(
    model_dir: Path,
    config_path: Path,
    devices: Sequence[str],
    report: Report,
    *,
    dtype: torch.dtype | None = None,
    finishes: bool = False,
) -> HalloLive:
    """Load the published files.

    Args:
        model_dir: as ``avatar-rtc download inference --dir`` leaves it.
        config_path: see ``configs/model/hallo_live.yaml``.
        devices: the transformer's first; the decoders and the text encoder use the last, and so does the part of the transformer
            that shares its passes.
        report: hears what is being loaded.
        dtype: of all weights; bfloat16 on GPUs and float32 on CPUs if None.
        finishes: see :func:`serving`. At full size it costs that device 3 GB, and the features of half a block.

    Raises:
        model.errors.CheckpointError: a file is missing, damaged or not what it should be.
        model.errors.ConfigError: so is the config, or this machine has no such device, or passes are to be split over one device.
    """
    config = load_yaml(config_path, HalloLiveConfig)
    if config.rollout.split_passes and len(devices) < 2:
        raise ConfigError(
            f"{config_path}: rollout.split_passes needs two devices, got {devices[0]} alone: name another or set it off"
        )
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
    splits = first != last if config.rollout.split_passes is None else config.rollout.split_passes
    second = dit.video_replica(last) if splits else None
    return serving(
        Parts(
            config,
            dit.requires_grad_(False).eval(),
            TextEncoder(tokenizer, umt5, config.text),
            encoder,
            video.requires_grad_(False).eval(),
            AudioStreamDecoder(audio_vae, vocoder, config.audio_stream),
            second,
        ),
        dtype,
        report,
        finishes=finishes,
    )


def serving(parts: Parts, dtype: torch.dtype, report: Report, *, warm: bool = True, finishes: bool = False) -> HalloLive:
    """A model of loaded parts, their weights arranged for their devices and its shapes warm.

    Args:
        parts: the video decoder's weights in float32 still, or as they are.
        dtype: of the video decoder's.
        warm: compile and record now what else the first stream has to wait for.
        finishes: give the transformer's device a video decoder too, which helps with a clip's last block.
    """
    if parts.video.latent_mean.is_cuda:
        torch.backends.cudnn.benchmark = True  # shapes are few and fixed
        fold_upsampling(parts.video)
        channels_last(parts.video.to(dtype))
    parts.video.to(dtype)
    if finishes:
        parts = replace(parts, second_video=copy.deepcopy(parts.video).to(parts.dit.video_ends.head.weight.device))
    model = HalloLive(parts)
    if parts.dit.video_ends.head.weight.is_cuda:
        for dit in (parts.dit, *([] if parts.second is None else [parts.second])):
            dit.prepare_for_inference(float8=parts.config.float8)
        if warm:
            report("compiling and recording")
            parts.text.warm_up()
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
