"""Streams of a tiny random network: what they hand out, and what they forget."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from model import runtime as runtimes
from model.checkpoint import Weights
from model.chunk import AVChunk, Mark
from model.errors import UnspeakableTextError
from model.pipeline import Pocket, PocketStream
from model.runtime import OpenVINORuntime, TorchRuntime, convert_graphs, example_inputs
from tests.model.rounding import SLACK, check_within_rounding, nudged_weights
from tests.model.support import MAN, WOMAN, next_chunk, normal, open_pocket, tiny_weights

NUM_PASSES = 2


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return tiny_weights(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def pocket(weights: Weights) -> Pocket:
    return open_pocket(weights)


def chunks(stream: PocketStream, count: int) -> list[AVChunk]:
    return [next_chunk(stream) for _ in range(count)]


def same(a: AVChunk, b: AVChunk) -> bool:
    return np.array_equal(a.frames, b.frames) and np.array_equal(a.samples, b.samples)


def said(some: list[AVChunk]) -> list[Mark]:
    return [mark for chunk in some for mark in chunk.marks]


def until_silent(stream: PocketStream) -> list[AVChunk]:
    """Chunks up to the first in which nothing is said."""
    some = [next_chunk(stream)]
    while some[-1].speaking:
        some.append(next_chunk(stream))
        assert len(some) < 100
    return some


def test_chunks_are_what_the_model_says_they_are(pocket: Pocket) -> None:
    assert (pocket.info.width_px, pocket.info.height_px, pocket.info.block_frames, pocket.info.block_samples) == (96, 64, 8, 2560)
    stream = pocket.open(MAN)
    some = chunks(stream, 6)
    assert [chunk.index for chunk in some] == list(range(6))
    for chunk in some:
        assert chunk.frames.shape == (8, 96, 96)
        assert chunk.samples.shape == (2560,)
        assert (chunk.fps, chunk.sample_rate_hz, chunk.duration_s) == (25, 8000, 0.32)
        assert not chunk.speaking
        assert chunk.marks == ()
        assert chunk.frames.std() > 1
        assert chunk.samples.std() > 1
    assert not same(some[0], some[1])


def test_the_seed_decides(pocket: Pocket) -> None:
    def run(seed: int) -> list[AVChunk]:
        stream = pocket.open(type(MAN)(MAN.scene, MAN.voice, seed))
        stream.push("a", "Hello there.")
        return chunks(stream, 3)

    first, again, other = run(1), run(1), run(2)
    assert all(same(a, b) and a.marks == b.marks for a, b in zip(first, again, strict=True))
    assert not any(same(a, b) for a, b in zip(first, other, strict=True))


def test_look_voice_and_text_show(pocket: Pocket) -> None:
    man, woman, speaker = (pocket.open(settings) for settings in (MAN, type(WOMAN)(WOMAN.scene, WOMAN.voice, MAN.seed), MAN))
    speaker.push("a", "Hello there.")
    silent = next_chunk(man)
    assert not same(silent, next_chunk(woman))
    assert not same(silent, next_chunk(speaker))


def test_a_line_is_told_from_start_to_end(pocket: Pocket) -> None:
    stream = pocket.open(MAN)
    assert not next_chunk(stream).speaking
    stream.push("a", "Hello there, friend.")
    some = until_silent(stream)
    assert some[0].speaking
    assert [(mark.kind, mark.text) for mark in said(some)] == [
        ("start", ""),
        ("word", "Hello"),
        ("word", "there,"),
        ("word", "friend."),
        ("end", ""),
    ]
    assert all(mark.reply_id == "a" for mark in said(some))
    assert all(0 <= mark.start_sample <= len(chunk.samples) for chunk in some for mark in chunk.marks)


def test_a_block_that_only_listens_is_begun_again_for_a_line(pocket: Pocket) -> None:
    stream = pocket.open(MAN)
    for _ in range(1 + NUM_PASSES):
        assert stream.step() is None
    stream.push("a", "Hello.")
    assert next_chunk(stream).speaking


def test_pushes_do_not_starve_a_block_that_speaks(pocket: Pocket) -> None:
    """A reply that comes in pieces, one a step, goes on being spoken."""
    stream = pocket.open(MAN)
    stream.push("a", "Hello there my dear friend.", last=False)
    handed_out = 0
    for _ in range(20):
        stream.push("a", "and more", last=False)
        handed_out += stream.step() is not None
    assert handed_out > 0


@pytest.mark.parametrize("steps", range(7))
def test_a_cancel_abandons_the_block_in_work(pocket: Pocket, steps: int) -> None:
    stream = pocket.open(MAN)
    stream.push("a", "Hello there, my dear old friend from the office.")
    stream.push("b", "Never said.")
    for _ in range(steps):
        stream.step()
    stream.cancel()
    after = chunks(stream, 4)
    assert not any(chunk.speaking for chunk in after)
    assert said(after) == []
    stream.push("c", "Sorry.")
    some = until_silent(stream)
    assert some[0].speaking
    assert {mark.reply_id for mark in said(some)} == {"c"}


def test_a_cancel_does_not_break_the_stream(pocket: Pocket) -> None:
    """Indices go on, and the chunk before it, which was handed out, is remembered all the same."""
    stream = pocket.open(MAN)
    stream.push("a", "Hello there, friend.")
    before = chunks(stream, 2)
    stream.cancel()
    after = chunks(stream, 2)
    assert [chunk.index for chunk in before + after] == [0, 1, 2, 3]
    assert stream._history._num_committed == 3


@pytest.mark.parametrize("text", ["", "   ", "...", "你好"])
def test_what_cannot_be_spoken_loses_nothing(pocket: Pocket, text: str) -> None:
    stream, undisturbed = pocket.open(MAN), pocket.open(MAN)
    for one in (stream, undisturbed):
        one.push("a", "Hello there.")
    for _ in range(3):
        assert stream.step() is None
        assert undisturbed.step() is None
    with pytest.raises(UnspeakableTextError):
        stream.push("b", text)
    for ours, theirs in zip(chunks(stream, 3), chunks(undisturbed, 3), strict=True):
        assert same(ours, theirs)
        assert ours.marks == theirs.marks


def test_an_update_changes_the_look_from_the_next_block_on(pocket: Pocket) -> None:
    stream, undisturbed = pocket.open(MAN), pocket.open(MAN)
    assert same(next_chunk(stream), next_chunk(undisturbed))
    stream.update(MAN)
    assert same(next_chunk(stream), next_chunk(undisturbed)), "the same settings change nothing"
    stream.update(WOMAN)
    changed = next_chunk(stream)
    assert not same(changed, next_chunk(undisturbed))
    assert changed.index == 2
    assert stream._history._num_committed == 0, "nothing of the old look is left"


def test_an_update_does_not_lose_what_is_to_be_said(pocket: Pocket) -> None:
    stream = pocket.open(MAN)
    stream.push("a", "Hello there, friend.")
    first = next_chunk(stream)
    stream.update(WOMAN)
    some = [first, *until_silent(stream)]
    assert [mark.text for mark in said(some) if mark.kind == "word"] == ["Hello", "there,", "friend."]
    assert [mark.kind for mark in said(some)].count("end") == 1


def test_two_streams_do_not_mix(pocket: Pocket) -> None:
    def opened() -> tuple[PocketStream, PocketStream]:
        man, woman = pocket.open(MAN), pocket.open(WOMAN)
        man.push("a", "Hello there.")
        woman.push("b", "Good morning, my friend.")
        return man, woman

    man, woman = opened()
    alone = [chunks(man, 4), chunks(woman, 4)]
    mixed: list[list[AVChunk]] = [[], []]
    streams = opened()
    while min(len(some) for some in mixed) < 4:
        for stream, some in zip(streams, mixed, strict=True):
            chunk = stream.step()
            if chunk is not None:
                some.append(chunk)
    for ours, theirs in zip(mixed, alone, strict=True):
        assert all(same(a, b) and a.marks == b.marks for a, b in zip(ours, theirs, strict=False))


def test_a_stream_keeps_its_size(pocket: Pocket) -> None:
    def num_bytes(stream: PocketStream) -> int:
        memories = [*stream._video_memory, *stream._audio_memory, *stream._history._buffers]
        return sum(m.untyped_storage().nbytes() for m in memories)

    stream = pocket.open(MAN)
    stream.push("a", "Hello there.")
    next_chunk(stream)
    before = num_bytes(stream)
    places = [buffer.data_ptr() for buffer in stream._history._buffers]
    chunks(stream, 50)
    assert num_bytes(stream) == before
    assert [buffer.data_ptr() for buffer in stream._history._buffers] == places
    assert stream._planner._lines == []
    assert stream._planner._past == []


def test_every_step_names_its_stage_before(pocket: Pocket) -> None:
    stream = pocket.open(MAN)
    stages = []
    for _ in range(2):
        while True:
            stages.append(stream.stage)
            if stream.step() is not None:
                break
    one = ["text", "dit", "dit", "vae"]
    assert stages == [*one, "dit", *one], "the pass that remembers a block is the first of the next"


# -- OpenVINO ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graphs(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cache") / "graphs"
    convert_graphs(weights, directory)
    return directory


@pytest.fixture(scope="module")
def exact(graphs: Path) -> OpenVINORuntime:
    """All parts in float32, so that only a wrong graph can differ."""
    return OpenVINORuntime(graphs, 1, half_precision=())


def noisy(inputs: tuple[torch.Tensor, ...], seed: int) -> tuple[torch.Tensor, ...]:
    """Numbers in place of zeros; ids and masks stay as they are."""
    return tuple(normal(*x.shape, seed=seed + i) if x.is_floating_point() else x for i, x in enumerate(inputs))


@pytest.mark.parametrize("part", sorted(runtimes.PARTS))
def test_each_part_is_the_same_in_both_runtimes(weights: Weights, exact: OpenVINORuntime, part: str) -> None:
    inputs = noisy(example_inputs(weights)[part], seed=3)
    if part == "durations":
        inputs = (torch.arange(1, 21).unsqueeze(0), inputs[1])
    if part == "text":
        inputs = (inputs[0], inputs[1].abs(), *inputs[2:])
    module, ours = runtimes.PARTS[part](weights).eval(), exact(part, *inputs)
    assert float(ours[0].std()) > 1e-4
    check_within_rounding(ours, module, inputs)


def magnitudes(samples: np.ndarray) -> np.ndarray:
    """Of a spectrogram [frames, bins]."""
    wave = torch.from_numpy(samples.astype(np.float32))
    return torch.stft(wave, 256, 64, window=torch.hann_window(256), return_complex=True).abs().T.numpy()


def test_a_stream_is_the_same_in_both_runtimes(weights: Weights, exact: OpenVINORuntime, pocket: Pocket) -> None:
    """From an empty history until the window has slid, with lines of different lengths.

    The pitch is summed up to a phase, and harmonics come and go in whole numbers, so that rounding moves samples ever on: as far
    as streams go apart whose weights are off by roundings. What is heard are magnitudes; a wrong memory would change them beyond
    recognition.
    """
    nudged = [open_pocket(nudged_weights(weights, seed)) for seed in range(4)]
    streams = [p.open(MAN) for p in (pocket, Pocket(weights, exact), *nudged)]
    for stream in streams:
        stream.push("a", "Hello there, my friend.")
    allowed_levels, allowed_magnitude = 1.0, 0.0
    for _ in range(6):
        oracle, ours, *others = (next_chunk(stream) for stream in streams)
        assert ours.marks == oracle.marks
        assert ours.speaking == oracle.speaking
        pictures, sounds = zip(*(apart(chunk, oracle) for chunk in (ours, *others)), strict=True)
        allowed_levels, allowed_magnitude = max(allowed_levels, *pictures[1:]), max(allowed_magnitude, *sounds[1:])
        assert pictures[0] <= SLACK * allowed_levels
        assert sounds[0] <= SLACK * allowed_magnitude


def apart(chunk: AVChunk, other: AVChunk) -> tuple[float, float]:
    """The largest difference of a pixel, and that of magnitudes of sound, relative."""
    heard, expected = magnitudes(chunk.samples), magnitudes(other.samples)
    pixel = float(np.abs(chunk.frames.astype(int) - other.frames.astype(int)).max())
    return pixel, float(np.linalg.norm(heard - expected) / np.linalg.norm(expected))


def test_half_precision_stays_close(weights: Weights, graphs: Path) -> None:
    inputs = example_inputs(weights)["denoise"]
    inputs = (*noisy(inputs[:2], seed=3), *inputs[2:])
    oracle = TorchRuntime(weights, torch.device("cpu"))("denoise", *inputs)
    runtime = OpenVINORuntime(graphs, 1)
    for a, b in zip(runtime("denoise", *with_memory(inputs, runtime.memory_dtype)), oracle, strict=True):
        assert float((a - b).norm()) <= 0.03 * float(b.norm())


def with_memory(inputs: tuple[torch.Tensor, ...], dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Inputs of a pass, keys and values of another type."""
    first = runtimes.FIRST_MEMORY_INPUT["denoise"]
    return *inputs[:first], *(x.to(dtype) for x in inputs[first:])


def test_memory_in_half_precision_is_read_as_the_same_numbers(
    weights: Weights, graphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = OpenVINORuntime(graphs, 1)
    monkeypatch.setattr(runtimes, "_with_half_inputs", lambda graph, first: graph)
    reading_float = OpenVINORuntime(graphs, 1)
    inputs = with_memory(noisy(example_inputs(weights)["denoise"], seed=3), runtime.memory_dtype)
    for part in ("denoise", "remember"):
        ours, oracle = runtime(part, *inputs), reading_float(part, *with_memory(inputs, torch.float32))
        assert all(torch.equal(a, b) for a, b in zip(ours, oracle, strict=True))


def test_without_openvino_pytorch_does_its_work(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    heard: list[str] = []
    assert isinstance(runtimes.choose_runtime(weights, 1, heard.append), TorchRuntime)
    assert "OpenVINO" in heard[0]


def test_graphs_are_converted_whole_or_not_at_all(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("openvino.save_model", full)
    with pytest.raises(OSError, match="no space left"):
        convert_graphs(weights, tmp_path / "graphs")
    assert list(tmp_path.iterdir()) == []
