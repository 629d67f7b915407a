"""Streams of a tiny random network: what they hand out, and what they forget."""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model import pocket as pocket_model
from model import runtime as runtimes
from model.checkpoint import POCKET_DIR, Weights, read_weights
from model.chunk import AVChunk, Mark
from model.conversion import convert_graphs
from model.description import read_description
from model.dit.history import HIDDEN
from model.errors import CheckpointError, UnspeakableTextError
from model.graph_cache import cached_graphs
from model.parts import PARTS, example_inputs
from model.pocket import Pocket, PocketStream
from model.runtime import CALLS, OpenVINORuntime, Runtime, round_to_half
from model.torch_runtime import TorchRuntime
from tests.model.rounding import SLACK, check_within_rounding, nudged_weights
from tests.model.support import MAN, WOMAN, next_chunk, normal, open_pocket, other_config, tiny_weights, write_checkpoint
from tests.support.contacts import counted

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
    assert (pocket.info.width_px, pocket.info.height_px, pocket.info.chunk_frames, pocket.info.chunk_samples) == (96, 64, 8, 2560)
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


def test_what_a_cancel_cuts_off_does_not_ring_on(pocket: Pocket) -> None:
    """However loud it was: the sound behind it is that of a stream in which nothing had sounded."""
    loud, quiet = pocket.open(MAN), pocket.open(MAN)
    for stream in (loud, quiet):
        stream.push("a", "Hello there, my dear old friend from the office.")
        chunks(stream, 2)
    quiet._audio_memory = pocket.first_audio_memory
    for stream in (loud, quiet):
        stream.cancel()
    assert same(next_chunk(loud), next_chunk(quiet))


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
    calm = stream._liveliness.smile
    stream.update(replace(WOMAN, scene=f"{WOMAN.scene} She is smiling warmly."))
    assert stream._liveliness.smile > calm


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
        memories = [*stream._video_memory, *stream._audio_memory, *stream._history.arrays]
        return sum(m.untyped_storage().nbytes() for m in memories)

    stream = pocket.open(MAN)
    stream.push("a", "Hello there.")
    next_chunk(stream)
    before = num_bytes(stream)
    places = [array.data_ptr() for array in stream._history.arrays]
    chunks(stream, 50)
    assert num_bytes(stream) == before
    assert [array.data_ptr() for array in stream._history.arrays] == places
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
    """All parts in float32, so that only a wrong graph can differ; loaded for the second time, as on all days but the first."""
    OpenVINORuntime(graphs, 1, half_precision=())
    assert len(list((graphs / "compiled").iterdir())) == len(PARTS)
    return OpenVINORuntime(graphs, 1, half_precision=())


Arrays = list[np.ndarray]


def inputs_of(weights: Weights, part: str) -> Arrays:
    """Numbers in place of zeros; ids, masks and durations as a stream has them. A part of the history is hidden."""
    examples = [x.numpy() for x in example_inputs(weights)[part]]
    inputs = [normal(*x.shape, seed=3 + i).numpy() if x.dtype == np.float32 else x for i, x in enumerate(examples)]
    if part == "durations":
        inputs[0] = np.arange(1, 21)[np.newaxis]
    if part == "text":
        inputs[1] = np.abs(inputs[1])
    if part == "modulate":
        inputs[0] = np.array([250.0], np.float32)
    if part == "pass":
        for i in range(10, 15):
            inputs[i] = np.where(np.arange(inputs[i].size) % 3 == 1, HIDDEN, 0).astype(np.float32).reshape(inputs[i].shape)
    return inputs


def distance(ours: np.ndarray, oracle: torch.Tensor) -> float:
    """Relative L2."""
    return float(np.linalg.norm(ours.astype(np.float64) - oracle.numpy())) / (float(oracle.double().norm()) + 1e-9)


@pytest.mark.parametrize("part", sorted(PARTS))
def test_each_part_is_the_same_in_both_runtimes(weights: Weights, exact: OpenVINORuntime, part: str) -> None:
    inputs = inputs_of(weights, part)
    ours = exact(part, *inputs)
    assert float(ours[0].std()) > 1e-4
    check_within_rounding(ours, PARTS[part](weights).eval(), [torch.from_numpy(x) for x in inputs])


def test_what_is_asked_for_by_name_are_outputs_of_a_pass(weights: Weights, exact: OpenVINORuntime) -> None:
    inputs = inputs_of(weights, "pass")
    runtime: Runtime
    for runtime in (exact, TorchRuntime(weights, torch.device("cpu"))):
        whole = runtime("pass", *inputs)
        for call, (_, outputs) in CALLS.items():
            assert all(
                np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(runtime(call, *inputs), whole[outputs], strict=True)
            )


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


def test_streams_of_one_runtime_do_not_mix(weights: Weights, exact: OpenVINORuntime) -> None:
    """What a request was lent by one is not what the next one computes with."""
    model = Pocket(weights, exact)
    alone = [chunks(model.open(settings), 4) for settings in (MAN, WOMAN)]
    streams, mixed = [model.open(settings) for settings in (MAN, WOMAN)], [[], []]  # type: list[PocketStream], list[list[AVChunk]]
    while len(mixed[0]) < 4:
        for stream, some in zip(streams, mixed, strict=True):
            if (chunk := stream.step()) is not None:
                some.append(chunk)
    assert all(same(a, b) for some, lone in zip(mixed, alone, strict=True) for a, b in zip(some, lone, strict=True))


def test_other_networks_stream_in_both_runtimes(tmp_path: Path) -> None:
    """Oblong patches, clean outputs, places, told movement, a head at a quarter of the size, and no clean pass."""
    other = tiny_weights(tmp_path / "checkpoint", other_config())
    convert_graphs(other, tmp_path / "graphs")
    models = open_pocket(other), Pocket(other, OpenVINORuntime(tmp_path / "graphs", 1, half_precision=()))
    streams = [model.open(MAN) for model in models]
    for stream in streams:
        stream.push("a", "Hello there, my friend.")
    for number in range(4):
        stages: list[str] = []
        while True:
            stages.append(streams[0].stage)
            if (oracle := streams[0].step()) is not None:
                break
        assert stages == ["text", "dit", "dit", "vae"]
        ours = next_chunk(streams[1])
        assert np.abs(ours.frames.astype(int) - oracle.frames.astype(int)).max() <= 2
        assert streams[1]._history._num_committed == number + 1
        assert oracle.frames.std() > 1
        assert ours.marks == oracle.marks


def test_a_block_that_is_begun_again_moves_as_if_it_had_not_been(tmp_path: Path) -> None:
    model = open_pocket(tiny_weights(tmp_path / "checkpoint", other_config()))
    stream, undisturbed = model.open(MAN), model.open(MAN)
    assert stream.step() is None
    stream.cancel()
    for _ in range(2):
        moved, other = (one._liveliness for one in (stream, undisturbed))
        assert vars(moved)["_frame"] == vars(other)["_frame"]
        next_chunk(stream)
        next_chunk(undisturbed)
    assert stream._liveliness._next_blink_s == undisturbed._liveliness._next_blink_s


@pytest.fixture(scope="module")
def half(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> OpenVINORuntime:
    """As on a processor that computes in bfloat16, which this one may have to imitate."""
    directory = tmp_path_factory.mktemp("half") / "graphs"
    convert_graphs(weights, directory, "bfloat16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtimes, "arithmetic", lambda: "bfloat16")
        return OpenVINORuntime(directory, 1)


@pytest.mark.slow
@pytest.mark.skipif(runtimes.arithmetic() != "bfloat16", reason="this processor does not compute in bfloat16")
def test_the_shipped_pass_is_the_same_in_bfloat16_but_for_rounding() -> None:
    shipped = read_weights(POCKET_DIR)
    graphs = cached_graphs(POCKET_DIR, shipped)
    generator = torch.Generator().manual_seed(0)
    inputs = [x + 0.5 * torch.randn(x.shape, generator=generator) for x in example_inputs(shipped)["pass"]]
    with torch.inference_mode():
        expected = PARTS["pass"](shipped)(*inputs)
    runtime = OpenVINORuntime(graphs, 2)
    types = [tensor.element_type.get_type_name() for tensor in runtime._requests["pass"].input_tensors]
    assert "bf16" in types
    given = [round_to_half(x.numpy()) if kind == "bf16" else x.numpy() for kind, x in zip(types, inputs, strict=True)]
    found = runtime("pass", *given)
    for x, y in zip(found[:2], expected[:2], strict=True):
        assert np.linalg.norm(x - y.numpy()) < 0.05 * np.linalg.norm(y)


def in_half(x: np.ndarray) -> np.ndarray:
    """Rounded, as numbers."""
    return (round_to_half(x).astype(np.uint32) << 16).view(np.float32)


@pytest.mark.skipif(sys.platform != "linux", reason="what of a file is in memory stands in /proc, which is Linux's")
def test_files_of_graphs_do_not_stay_in_memory_and_come_back(tmp_path: Path) -> None:
    """Where they lie: beside memory that is not theirs."""

    def resident_kb(path: Path) -> int:
        _, _, found = Path("/proc/self/smaps").read_text().partition(str(path))
        return int(found.partition("Rss:")[2].split()[0])

    written = np.random.default_rng(0).bytes(4 << 20)
    maps = {}
    for name in ("ours/pass.blob", "theirs/pass.blob"):
        path = tmp_path / name
        path.parent.mkdir()
        path.write_bytes(written)
        with path.open("rb") as file:
            maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        assert maps[path][:] == written
    ours, theirs = maps
    runtimes._let_go(tmp_path / "ours")
    assert resident_kb(ours) < 64
    assert resident_kb(theirs) == 4096
    assert maps[ours][:] == written


def test_rounding_to_half_is_pytorch_s() -> None:
    x = normal(1000).numpy()
    x[:2] = np.array([0x3F808000, 0x3F818000], np.uint32).view(np.float32)  # as near to one as to the other
    assert np.array_equal(in_half(x), torch.from_numpy(x).bfloat16().float().numpy())


def test_half_precision_stays_close(weights: Weights, half: OpenVINORuntime) -> None:
    inputs = inputs_of(weights, "pass")
    first = len(inputs) - 12 * weights.config.dit.num_layers
    lent = [*inputs[:first], *(round_to_half(x) for x in inputs[first:])]
    oracle = TorchRuntime(weights, torch.device("cpu"))("denoise", *inputs)
    assert half.keeps_half
    for a, b in zip(half("denoise", *lent), oracle, strict=True):
        assert distance(a, b) <= 0.03
    assert {x.dtype for x in half("remember", *lent)} == {np.dtype(np.uint16)}


def test_a_stream_in_half_precision_is_close(weights: Weights, half: OpenVINORuntime, pocket: Pocket) -> None:
    """Text and history are kept in two bytes a number, and read as what they are."""
    streams = [p.open(MAN) for p in (pocket, Pocket(weights, half))]
    for _ in range(4):
        oracle, ours = (next_chunk(stream) for stream in streams)
        assert np.abs(ours.frames.astype(int) - oracle.frames.astype(int)).mean() < 3
    history = streams[1]._history.arrays
    assert {array.dtype for array in history} == {np.dtype(np.uint16)}


def test_without_openvino_pytorch_does_its_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(pocket_model, "has_gpu", lambda: False)
    heard: list[str] = []
    assert isinstance(pocket_model.load(write_checkpoint(tmp_path / "checkpoint"), 1, heard.append).run, TorchRuntime)
    assert "OpenVINO" in heard[0]


# -- conversion ------------------------------------------------------------------------------------------------------------------


def test_graphs_are_converted_whole_or_not_at_all(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("openvino.save_model", full)
    with pytest.raises(OSError, match="no space left"):
        convert_graphs(weights, tmp_path / "graphs")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "avatar-rtc"


def test_conversion_contacts_nobody_and_a_second_start_needs_no_pytorch(tmp_path: Path, cache: Path) -> None:
    contacts = counted(tmp_path)
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    script = f"""
import sys
from pathlib import Path
from model import pocket
model = pocket.load(Path({str(checkpoint)!r}), 1, print)
stream = model.open(pocket.StreamSettings("A man in an office.", "a deep voice"))
while stream.step() is None: pass
print("torch" in sys.modules)
"""
    # OpenVINO's makers would be told where there is a home, and a number of this machine kept in it.
    (tmp_path / "home").mkdir()
    environment = {**os.environ, **contacts.environment, "HOME": str(tmp_path / "home")}
    environment["XDG_CACHE_HOME"] = str(cache.parent)
    heard = [
        subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert contacts.outside() == []
    assert list((tmp_path / "home").iterdir()) == []
    assert f"{len(PARTS)} of {len(PARTS)}" in heard[0]
    assert heard[1].splitlines()[1:] == ["False"], "the graphs are there, and PyTorch is not needed"


@pytest.mark.parametrize("end", ["terminated", "abandoned", "killed"])
def test_a_conversion_that_is_ended_leaves_nothing(
    tmp_path: Path, cache: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, or, if it was killed, when the next one begins."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    command = [sys.executable, "-m", "model.conversion", str(checkpoint), str(cache / "graphs"), "--child"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert "part" in json.loads(process.stdout.readline())
        assert len(list(cache.iterdir())) == 1
        if end == "abandoned":
            process.stdin.close()
        else:
            process.send_signal(signal.SIGTERM if end == "terminated" else signal.SIGKILL)
        process.stdout.read()
    if end == "killed":
        assert len(list(cache.iterdir())) == 1
        cached_graphs(checkpoint, read_description(checkpoint))
    assert [path.name.partition("-")[0] for path in cache.iterdir()] == (["tiny"] if end == "killed" else [])


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match="XDG_CACHE_HOME") as caught:
        cached_graphs(checkpoint, read_description(checkpoint))
    assert str(tmp_path / "file") in str(caught.value)


def test_damaged_weights_are_named_by_the_process_that_reads_them(tmp_path: Path, cache: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    (checkpoint / "dit.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"dit\.safetensors is damaged"):
        cached_graphs(checkpoint, read_description(checkpoint))
    assert not cache.exists() or list(cache.iterdir()) == []
