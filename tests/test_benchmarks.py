"""What the benchmarks measure with is itself right."""

from __future__ import annotations

import asyncio
import copy
import functools

import av
import numpy as np
import pytest
import torch
import yaml

from avatar_rtc.config import load_config
from avatar_rtc.fake import FakeOptions, load_fake
from avatar_rtc.microphone import Microphone
from avatar_rtc.resources import checkpoint_dir, server_config
from benchmarks import audio_seams, endless, listen, networks, rtf, runtimes, speech
from benchmarks.dialogue import LINES, Dialogue
from benchmarks.onnx_runtime import ONNXRuntime
from model.checkpoint import Weights
from model.chunk import AVChunk, Mark
from model.config import ModelConfig
from model.data.captions import PRESETS
from model.data.sentences import is_held_out
from model.data.speech import VOICES
from model.evaluation import lips
from model.parts import PARTS, example_inputs
from model.torch_runtime import TorchRuntime
from tests.model.rounding import check_within_rounding
from tests.model.support import MAN, tiny_weights


def test_the_sentences_of_the_speech_benchmark_were_held_out_of_training() -> None:
    sentences = speech.SENTENCES.read_text().splitlines()
    assert len(set(sentences)) == 20
    assert [sentence for sentence in sentences if not is_held_out(sentence)] == []


def test_the_shipped_looks_and_voices_are_those_of_training() -> None:
    config = load_config(server_config("pocket"))
    voices = {voice.id: voice.voice for voice in config.voices}
    offered = [(avatar.name, avatar.scene, voices[avatar.voice]) for avatar in config.avatars]
    assert offered == [(preset.name, preset.caption, VOICES[preset.voice].descriptions[0]) for preset in PRESETS]


def test_lips_that_follow_60_ms_late_are_found_to_do_so() -> None:
    def recording(seed: int) -> lips.Recording:
        loudness_db = np.convolve(np.random.default_rng(seed).normal(-30, 20, 1000), np.ones(12) / 12, "same")
        times_s = np.arange(0.02, 9.5, 0.04)
        voice = lips.Recording(times_s, times_s, loudness_db)
        return lips.Recording(times_s, voice.loudness_at(times_s - 0.06), loudness_db)

    recordings = [recording(seed) for seed in range(4)]
    found = lips.compare(recordings, recordings)
    assert found["best_lag_ms"] == 60
    assert found["correlation"] > 0.99
    assert abs(found["shuffled"]) < 0.2


def test_an_echo_is_not_later_behind_sound_that_came_late() -> None:
    async def run() -> None:
        frame = av.AudioFrame.from_ndarray(np.full((1, 960), 0.5, np.float32), "flt", "mono")
        frame.sample_rate = 48_000
        microphone = Microphone()
        play = listen.echo_into(microphone)
        for _ in range(50):  # a second, all at once
            play(frame)
        assert microphone.pending_s < 2.1 * listen.ECHO_DELAY_S
        while microphone.pending_s:
            await microphone.recv()
        play(frame)
        assert listen.ECHO_DELAY_S < microphone.pending_s < 1.2 * listen.ECHO_DELAY_S

    asyncio.run(run())


def test_an_error_at_a_seam_is_told_from_one_elsewhere() -> None:
    reference = torch.tensor([[1.0, -1.0]]).repeat(1, 500)
    wave = reference.clone()
    wave[0, 600:610] += 0.1  # from the seam on, within reach
    wave[0, 100] += 0.01
    found = audio_seams.compare(wave, reference, [300, 600], reach=20)
    assert found.seam_db == pytest.approx(-20 + 10 * np.log10(10 / 40), abs=0.01)
    assert found.else_db == pytest.approx(-40 - 10 * np.log10(920), abs=0.01)
    assert found.step_db == pytest.approx(20 * np.log10(0.1 / 2), abs=0.01)


def test_a_corner_at_a_seam_is_told_from_the_noise_around_it() -> None:
    random = np.random.default_rng(1)
    samples = random.normal(0, 300, 400_000).astype(np.int16)
    seams, others = np.arange(16_000, 390_000, 16_000), np.arange(9_000, 390_000, 16_000)
    found = endless.sound_seams(samples, 16_000, seams, others)
    assert found["median"] == pytest.approx(1, abs=0.1)
    for seam in seams:
        samples[seam:] += np.int16(4_000) * (-1 if seam // 16_000 % 2 else 1)
    heard = endless.sound_seams(samples, 16_000, seams, others)
    assert heard["median"] > 2
    assert heard["worst"] > 1.3
    assert endless.sound_seams(samples, 16_000, others, seams)["median"] == pytest.approx(1, abs=0.1)


def test_half_of_what_is_typed_is_speech() -> None:
    def chunk(speaking: bool, *marks: Mark) -> AVChunk:
        return AVChunk(0, np.zeros((8, 24, 16), np.uint8), np.zeros(7680, np.int16), 25, 24_000, speaking, marks)

    dialogue, lines, num_speaking, left = Dialogue(first_line=1), [], 0, 0
    line = dialogue.next_line(None)
    for _ in range(400):
        if line is not None:
            lines.append(line)
            left = 9
        num_speaking += left > 0
        end = (Mark("a", "end", 0, 0),) if left == 1 else ()
        line = dialogue.next_line(chunk(left > 0, *end))
        left -= left > 0
    assert lines[:4] == [LINES[1], LINES[2], LINES[3], LINES[0]]
    assert num_speaking / 400 == pytest.approx(0.5, abs=0.02)


def test_as_many_calls_are_found_as_an_engine_holds() -> None:
    rows = rtf.find_most_calls({"slow": functools.partial(load_fake, FakeOptions(rtf=0.75))}, 2.5, "VP8")["slow"]
    assert [row["calls"] for row in rows] == [1, 2]
    assert (rows[0]["underruns"], rows[0]["late_chunks"]) == (0, 0)
    assert rows[1]["underruns"] > 0
    assert rows[1]["late_share"] > 0
    assert rows[0]["rtf_engine"]["p50"] == pytest.approx(0.75, abs=0.15)
    assert "slow: holds 1" in rtf.calls_table({"slow": rows})


def test_smaller_networks_are_networks_and_leave_the_shipped_one_alone() -> None:
    shipped = yaml.safe_load((checkpoint_dir("pocket") / "config.yaml").read_text())
    before = copy.deepcopy(shipped)
    tokens = {}
    for name, changes in networks.NETWORKS.items():
        config = ModelConfig.model_validate(networks.changed(shipped, changes))
        tokens[name] = config.geometry.build().tokens_per_video_latent * config.geometry.block_video_latents
    assert shipped == before
    assert all(name.removeprefix("as shipped: ").startswith(f"{count} tokens") for name, count in tokens.items())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return tiny_weights(tmp_path_factory.mktemp("checkpoint"))


def test_runtimes_make_the_same_blocks_in_turns(tiny: Weights) -> None:
    lanes = {name: runtimes.Lane(tiny, TorchRuntime(tiny, torch.device("cpu")), MAN, "VP8") for name in ("torch", "torch again")}
    runtimes.race(lanes, 5, lambda _: None)
    rows = {name: lane.row() for name, lane in lanes.items()}
    for name, row in rows.items():
        num_passes = len(lanes[name].runtime.taken_s["denoise"])
        assert row["blocks"] == 2 * runtimes.TURN_BLOCKS
        assert num_passes == row["blocks"] * len(tiny.config.sampling.timesteps)
        parts_ms = sum(row["ms"][part]["p50"] for part in rtf.COLUMNS if part not in ("block", "encode"))
        assert 0 < parts_ms <= 1.5 * row["ms"]["block"]["p95"]
        row |= {"speed": 1.0, "relative_l2": {"denoise": 0.0}}
    table = rtf.runtimes_table({**rows, "absent": {"missing": "No module named 'absent'"}}, "torch again")
    assert "torch again *" in table
    assert "left out: No module named 'absent'" in table


def test_onnx_runtime_computes_the_same(tiny: Weights) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    runtime, examples = ONNXRuntime(tiny, 1), example_inputs(tiny)
    for name, part in PARTS.items():
        check_within_rounding(runtime(name, *(x.numpy() for x in examples[name])), part(tiny).eval(), examples[name])
