"""The published model as a stream, at a size for tests: from files in the published layout to chunks."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import hallo_live
from model.chunk import AVChunk, Image, StreamSettings
from model.config import RolloutConfig
from model.decoding import Arrives, Decoders, Piece
from model.dit.cache import VideoContext
from model.errors import CheckpointError, ConfigError, UnspeakableTextError
from model.graphs import CudaGraphCache
from model.hallo_live import HalloLive, HalloLiveStream
from model.rollout import Latents
from model.text.utterances import MarkTrack, Utterance
from model.vae.pictures import i420_from_frames
from testkit.published_files import TINY, write_config, write_published_files

SETTINGS = StreamSettings(scene="A woman in an office.", voice="a clear voice", seed=3)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("published")
    write_published_files(directory, TINY, dtype=torch.float32)
    write_config(directory / "config.yaml", TINY)
    return directory


@pytest.fixture(scope="module")
def model(model_dir: Path) -> HalloLive:
    return hallo_live.load(model_dir, model_dir / "config.yaml", ("cpu",), lambda message: None)


@pytest.fixture
def stream(model: HalloLive) -> Iterator[HalloLiveStream]:
    stream = model.open(SETTINGS)
    yield stream
    stream.close()


def take(stream: HalloLiveStream, num_chunks: int) -> list[AVChunk]:
    chunks: list[AVChunk] = []
    while len(chunks) < num_chunks:
        chunk = stream.step()
        if chunk is not None:
            chunks.append(chunk)
    return chunks


def test_a_stream_is_what_its_parts_make_in_one_go(model: HalloLive, stream: HalloLiveStream) -> None:
    """Chunk after chunk, against one decode of all pictures; sound in the same windows."""
    latents = []
    submit = stream.decoders.submit

    def watch(finished: Latents) -> Piece:
        latents.append(finished)
        return submit(finished)

    stream.decoders.submit = watch  # type: ignore[method-assign, assignment]
    chunks = take(stream, 8)
    with torch.inference_mode():
        video = torch.cat([piece.video for piece in latents], dim=2)
        frames, _ = model.parts.video.decode(video)
        planes = i420_from_frames(frames)[0].numpy()
        waves, state = [], None
        for piece in latents:
            wave, state = model.parts.audio.decode(piece.audio.transpose(1, 2), state)
            waves.append((wave[0].clamp(-1, 1) * 32767).to(torch.int16).numpy())
    got = np.concatenate([chunk.frames for chunk in chunks])
    assert np.array_equal(got[:3], planes[:1].repeat(3, 0))  # the lead-in
    assert np.abs(got[3:].astype(int) - planes[: len(got) - 3]).max() <= 1
    assert np.array_equal(np.concatenate([chunk.samples for chunk in chunks]), np.concatenate(waves)[: 8 * 2560])
    assert [len(chunk.samples) for chunk in chunks] == [2560] * 8
    assert [chunk.index for chunk in chunks] == list(range(8))


def test_the_first_chunk_leaves_as_soon_as_it_is_decoded(stream: HalloLiveStream) -> None:
    """It needs no pass over the second block."""
    while not stream.decoders.num_waiting:
        assert stream.step() is None
    stream.decoders.sound[0].piece.result()
    stream.decoders.ask(1)[0].result()
    assert stream.step() is not None


def test_a_last_block_by_two_decoders_is_that_by_one(model: HalloLive) -> None:
    helped = HalloLive(replace(model.parts, second_video=copy.deepcopy(model.parts.video)))
    block, ratio = model.geometry.block_video_latents, model.geometry.audio_latents_per_video_latent
    video = torch.randn(1, TINY.dit.video.latent_channels, 2 * block, model.geometry.latent_height, model.geometry.latent_width)
    sound = torch.randn(1, 2 * block * ratio, TINY.dit.audio.latent_channels)
    blocks = [Latents(*one) for one in zip(video.split(block, dim=2), sound.split(block * ratio, dim=1), strict=True)]

    def decode(one: HalloLive, blocks: list[Latents]) -> tuple[np.ndarray, np.ndarray]:
        decoders = one.take_buffers().decoders(one.parts, one.geometry)
        for latents in blocks[:-1]:
            decoders.submit(latents)
            decoders.ask()
        decoders.finish(blocks[-1])
        pictures = np.concatenate([piece.result() for piece in decoders.pictures])
        samples = np.concatenate([sound.piece.result() for sound in decoders.sound])
        decoders.close()
        return pictures, samples

    for number in (1, 2):
        (pictures, samples), (wanted, wanted_samples) = (decode(each, blocks[:number]) for each in (helped, model))
        assert len(pictures) == number * model.info.chunk_frames * block
        assert np.abs(pictures.astype(int) - wanted).max() <= 1
        assert np.array_equal(samples, wanted_samples)


def test_latents_that_are_asked_for_together_are_decoded_together(model: HalloLive) -> None:
    """But for a stream's first; the pictures are those of one after the other."""
    g = model.geometry
    video = torch.randn(1, TINY.dit.video.latent_channels, 9, g.latent_height, g.latent_width)
    latents = Latents(video, torch.zeros(1, 9 * g.audio_latents_per_video_latent, TINY.dit.audio.latent_channels))

    def pieces(*asked: int | None) -> list[np.ndarray]:
        decoders = model.take_buffers().decoders(model.parts, g)
        decoders.submit(latents)
        found = [piece.result() for num in asked for piece in decoders.ask(num)]
        decoders.close()
        return found

    together, alone = pieces(None), pieces(*[1] * 9)
    assert [len(one) // model.info.chunk_frames for one in together] == [1, 3, 3, 1, 1]
    assert [len(one) // model.info.chunk_frames for one in alone] == [1] * 9
    assert np.abs(np.concatenate(together).astype(int) - np.concatenate(alone)).max() <= 1


def test_the_next_piece_is_launched_while_one_is_awaited(model: HalloLive) -> None:
    """And what fails to be launched fails alone."""
    decoders: Any = model.take_buffers().decoders(model.parts, model.geometry)
    launched: list[int] = []
    second = threading.Event()

    def pictures(held: object) -> Arrives:
        launched.append(number := len(launched))
        if number == 2:
            raise RuntimeError("no memory")
        if number == 1:
            second.set()
        return lambda: np.full(int(second.wait(5)), number)

    decoders._decode_pictures = pictures
    g = model.geometry
    decoders.submit(Latents(torch.zeros(1, 1, 4, 1, 1), torch.zeros(1, g.block_audio_latents, TINY.dit.audio.latent_channels)))
    pieces = [decoders.ask(1)[0] for _ in range(4)]
    assert [piece.result(5).tolist() for piece in (*pieces[:2], pieces[3])] == [[0], [1], [3]]
    with pytest.raises(RuntimeError, match="no memory"):
        pieces[2].result(5)
    decoders.close()


def test_a_reply_has_its_marks_in_order_and_one_end(stream: HalloLiveStream) -> None:
    take(stream, 1)
    stream.push("a", "One two three. Four!")
    stream.push("b", "Five.", last=True)
    chunks: list[AVChunk] = []
    while not any(mark.kind == "end" and mark.reply_id == "b" for chunk in chunks for mark in chunk.marks):
        chunks += take(stream, 1)
    marks = [(mark.reply_id, mark.kind, mark.text) for chunk in chunks for mark in chunk.marks]
    words = [("a", "word", word) for word in ("One", "two", "three.", "Four!")]
    said_b = [("b", "start", ""), ("b", "word", "Five."), ("b", "end", "")]
    assert marks == [("a", "start", ""), *words, ("a", "end", ""), *said_b]
    for chunk in chunks:
        assert all(0 <= mark.start_sample <= len(chunk.samples) for mark in chunk.marks)
    assert chunks[-1].speaking


def test_cancel_ends_the_reply_and_the_face_listens_on(stream: HalloLiveStream) -> None:
    stream.push("a", "One two three four five six seven eight nine ten eleven twelve.")
    take(stream, 2)
    stream.cancel()
    # What was already handed to the decoders still comes, a block at most.
    later = take(stream, 8)
    assert not any(chunk.marks for chunk in later)
    assert not later[-1].speaking


def test_nothing_to_say_is_refused(stream: HalloLiveStream) -> None:
    with pytest.raises(UnspeakableTextError):
        stream.push("a", "...")


def test_the_same_seed_gives_the_same_stream(model: HalloLive) -> None:
    def run() -> list[AVChunk]:
        stream = model.open(SETTINGS)
        stream.push("a", "Hello there.")
        chunks = take(stream, 6)
        stream.close()
        return chunks

    for one, other in zip(run(), run(), strict=True):
        assert np.array_equal(one.frames, other.frames)
        assert np.array_equal(one.samples, other.samples)


def test_an_endless_stream_stays_bounded(model: HalloLive) -> None:
    stream = model.open(SETTINGS)
    take(stream, 40)
    context = stream.rollout.context
    assert isinstance(context, VideoContext)
    size = context.num_bytes
    assert stream.rollout.num_latents <= TINY.rollout.window_latents
    chunks = take(stream, 40)
    assert context.num_bytes == size
    assert stream.decoders.num_waiting <= 2 * TINY.geometry.block_video_latents
    assert np.isfinite(np.concatenate([chunk.samples for chunk in chunks])).all()
    stream.close()


def test_what_a_cut_needs_is_rehearsed_before_streams_come(model_dir: Path) -> None:
    """A GPU does so as it records; here nothing is recorded, but the same is run."""
    fresh = hallo_live.load(model_dir, model_dir / "config.yaml", ("cpu",), lambda line: None)
    buffers = fresh.take_buffers()
    buffers.graphs = CudaGraphCache()
    fresh.free_buffers(buffers)
    cuts: list[int] = []
    whole = Decoders.rollback

    def cut(self: Decoders, num_latents: int, audio_per_video: int) -> None:
        cuts.append(num_latents)
        whole(self, num_latents, audio_per_video)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Decoders, "rollback", cut)
        fresh.warm_up()
    assert cuts == list(range(1, fresh.geometry.block_video_latents + 1))


def test_a_missing_file_and_a_missing_device_are_named(tmp_path: Path, model_dir: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Wan2\.2_VAE\.pth is missing"):
        hallo_live.load(tmp_path, model_dir / "config.yaml", ("cpu",), lambda message: None)
    with pytest.raises(ConfigError, match="device 'abacus:0' cannot be used"):
        hallo_live.load(model_dir, model_dir / "config.yaml", ("abacus:0",), lambda message: None)


def test_a_stream_begins_with_a_picture(model: HalloLive) -> None:
    """The first picture is what the VAE makes of it, and what comes later hangs on it."""
    height, width = TINY.geometry.height_px, TINY.geometry.width_px
    rows = np.linspace(0, 255, height, dtype=np.uint8)[:, None, None].repeat(width, 1).repeat(3, 2)
    with_picture = replace(SETTINGS, image=Image(height, width, rows.tobytes()))
    begun, plain = (model.open(settings) for settings in (with_picture, SETTINGS))
    firsts = [take(stream, 3) for stream in (begun, plain)]
    with torch.inference_mode():
        frames, _ = model.parts.video.decode(model.encode(with_picture.image))  # type: ignore[arg-type]
        expected = i420_from_frames(frames)[0, 0].numpy()
    assert np.abs(firsts[0][0].frames[0].astype(int) - expected).max() <= 1
    assert not np.array_equal(firsts[0][2].frames, firsts[1][2].frames)
    for stream in (begun, plain):
        stream.close()


# Text that comes while the stream runs


class _Labelled:
    """Pictures and sounds that show from which latent they were made. 0 is silence."""

    def __init__(self, stream: HalloLiveStream) -> None:
        self._number, self._submit, info = 0, stream.decoders.submit, stream._model.info
        self._info, self._held = info, torch.zeros(0)
        hold_back = TINY.audio_stream.hold_back_latents

        def pictures(held: Any) -> Arrives:
            ((latent, _),) = held
            shape = info.chunk_frames, info.height_px * 3 // 2, info.width_px
            return lambda: np.full(shape, int(latent.flatten()[0]), np.uint8)

        def sound(audio: Tensor, made: object) -> Arrives:
            self._held = torch.cat((self._held, audio[0, :, 0]))
            said, self._held = self._held[:-hold_back], self._held[-hold_back:]
            return lambda: said.repeat_interleave(512).to(torch.int16).numpy()

        def forget(num_latents: int) -> None:
            self._held = self._held[: max(0, len(self._held) - num_latents)]

        decoders: Any = stream.decoders
        decoders._decode_pictures, decoders._decode_sound, decoders._forget_sound = pictures, sound, forget
        decoders.submit = self.submit

    def submit(self, latents: Latents) -> Piece:
        labels = 1 + (self._number + torch.arange(latents.video.shape[2])) % 200
        self._number += len(labels)
        video = torch.zeros_like(latents.video) + labels.view(1, 1, -1, 1, 1)
        return self._submit(Latents(video, torch.zeros_like(latents.audio) + labels.repeat_interleave(5).view(1, -1, 1)))


@settings(max_examples=12, derandomize=True)
@given(
    script=st.lists(st.sampled_from(["chunk", "chunk", "step", "step", "line", "cancel"]), min_size=20, max_size=60),
    due=st.booleans(),
    rollback=st.sampled_from(["latent", "block"]),
)
def test_a_cut_moves_pictures_and_sound_alike(model: HalloLive, script: list[str], due: bool, rollback: str) -> None:
    """Whatever comes when: each chunk's sound belongs to its pictures, and each reply that nobody stops ends once."""
    config = model.parts.config
    config = config.model_copy(update={"rollout": config.rollout.model_copy(update={"rollback": rollback})})
    stream = HalloLive(replace(model.parts, config=config)).open(SETTINGS)
    _Labelled(stream)
    chunks: list[AVChunk] = []
    open_replies: list[str] = []

    def step() -> bool:
        chunk = stream.step(time.monotonic() + 0.3 if due else None)
        chunks.extend([chunk] if chunk else [])
        return chunk is not None

    for number, what in enumerate([*["chunk"] * 6, *script]):
        match what:
            case "step":
                step()
            case "chunk":
                while not step():
                    pass
            case "line":
                stream.push(f"r{number}", "One two.")
                open_replies.append(f"r{number}")
            case "cancel":
                ended = {mark.reply_id for chunk in chunks for mark in chunk.marks if mark.kind == "end"}
                open_replies = [reply for reply in open_replies if reply in ended]
                stream.cancel()
    for _ in range(200):
        if all(any(m.kind == "end" and m.reply_id == reply for c in chunks for m in c.marks) for reply in open_replies):
            break
        step()
    stream.close()
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        (shown,) = np.unique(chunk.frames)
        (heard,) = np.unique(chunk.samples)
        assert heard in (shown, 0)  # what was cut off is not heard
        assert heard or "cancel" in script
    ends = [mark.reply_id for chunk in chunks for mark in chunk.marks if mark.kind == "end"]
    assert sorted(ends) == sorted(open_replies)


@pytest.mark.parametrize("num_chunks", range(1, 7))
def test_what_was_cut_off_is_not_heard(model: HalloLive, num_chunks: int) -> None:
    """Of what is made already, pictures may be shown that bridge the time. The sound behind them fades from theirs."""
    stream = model.open(SETTINGS)
    labelled = _Labelled(stream)
    stream.push("a", "One two three four five six seven eight nine ten eleven twelve.")
    take(stream, num_chunks)
    while not stream.decoders.pictures:  # asked for: these cannot be taken back
        stream.step()
    stream.cancel()
    num_made = labelled._number
    later = take(stream, 8)
    assert later[0].frames.max() <= num_made
    heard = {int(label) for chunk in later for label in np.unique(chunk.samples)}
    assert heard == {0, *range(num_made + 2, later[-1].frames.max() + 1)}
    stream.close()


def test_a_line_is_seen_sooner_where_latents_can_be_taken_back(model_dir: Path) -> None:
    """The face listens, and of the latest block some pictures have been asked for and some have not."""

    def chunks_more_than_were_made(rollback: str) -> int:
        """Until it speaks."""
        write_config(
            model_dir / f"{rollback}.yaml",
            TINY.model_copy(update={"rollout": RolloutConfig(window_latents=6, rollback=rollback)}),
        )
        stream = hallo_live.load(model_dir, model_dir / f"{rollback}.yaml", ("cpu",), lambda message: None).open(SETTINGS)
        take(stream, 4)
        while not 0 < stream.decoders.num_held < TINY.geometry.block_video_latents:
            stream.step()
        number = stream._told_chunks - stream._num_latents
        stream.push("a", "Hello.")
        while not take(stream, 1)[0].speaking:
            number += 1
        stream.close()
        return number

    assert chunks_more_than_were_made("latent") == -1
    assert chunks_more_than_were_made("block") == 0


def test_a_chunk_speaks_from_the_block_on_that_does() -> None:
    """However a block's beginning, a multiple of a length that binary fractions do not hold, comes out."""
    for first in range(200):
        marks = MarkTrack()
        marks.add(Utterance(("Hello.",), 1, ()), first * 0.16, (first + 6) * 0.16)
        told = [marks.marks_between(number * 0.16, number * 0.16 + 0.16, 16000)[0] for number in range(first + 8)]
        assert told == [False] * first + [True] * 6 + [False] * 2


def test_two_devices_that_share_passes_make_the_same_stream(model_dir: Path) -> None:
    rollout = TINY.rollout.model_copy(update={"split_passes": True})
    write_config(model_dir / "split.yaml", TINY.model_copy(update={"rollout": rollout}))
    made = []
    for config, devices in (("config.yaml", ("cpu",)), ("split.yaml", ("cpu", "cpu"))):
        loaded = hallo_live.load(model_dir, model_dir / config, devices, lambda message: None)
        loaded.warm_up()
        stream = loaded.open(SETTINGS)
        stream.push("a", "Hello there.")
        made.append(take(stream, 8))
        assert stream.rollout.can_split == (len(devices) == 2)
        stream.close()
    for one, other in zip(*made, strict=True):
        assert np.abs(one.frames.astype(int) - other.frames).max() <= 1
        assert np.abs(one.samples.astype(int) - other.samples).max() <= 8


def test_passes_cannot_be_shared_by_one_device(model_dir: Path) -> None:
    rollout = TINY.rollout.model_copy(update={"split_passes": True})
    write_config(model_dir / "split.yaml", TINY.model_copy(update={"rollout": rollout}))
    with pytest.raises(ConfigError, match="needs two devices"):
        hallo_live.load(model_dir, model_dir / "split.yaml", ("cpu",), lambda line: None)
