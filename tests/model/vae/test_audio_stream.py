"""Sound from a stream: what must be exact is, what cannot be gets better with context, and nothing waits for the device."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from model.config import AudioStreamConfig
from model.vae.audio_stream import AudioStreamDecoder, AudioStreamState
from model.vae.bigvgan import BigVGAN
from model.vae.mmaudio import MMAudioVAE
from tests.model.audio import tiny_audio
from tests.model.rounding import nudged, reach_of_rounding
from tests.model.support import normal
from tests.model.vae.test_mmaudio import NoAttention

NUM_LATENTS = 70
SIZE = 8  # samples a latent of the tiny vocoder

cuts = st.lists(st.integers(1, NUM_LATENTS - 1), max_size=8, unique=True).map(lambda at: [0, *sorted(at), NUM_LATENTS])


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[MMAudioVAE, BigVGAN]:
    return tiny_audio(tmp_path_factory.mktemp("audio"))


def make(parts: tuple[MMAudioVAE, BigVGAN], left: int, hold_back: int) -> AudioStreamDecoder:
    return AudioStreamDecoder(*parts, AudioStreamConfig(left_latents=left, hold_back_latents=hold_back))


def reach_of(parts: tuple[MMAudioVAE, BigVGAN]) -> int:
    vae, vocoder = parts
    return vae.reach_latents + -(-vocoder.reach_frames // 2)


def stream(decoder: AudioStreamDecoder, latents: Tensor, at: list[int]) -> Tensor:
    state, waves, num_out = None, [], 0
    for start, stop in itertools.pairwise(at):
        wave, state = decoder.decode(latents[:, :, start:stop], state)
        waves.append(wave)
        num_out += wave.shape[1]
        assert num_out == SIZE * max(0, stop - decoder.config.hold_back_latents)
    assert state is not None
    return torch.cat((*waves, decoder.flush(state)), dim=1)


@settings(max_examples=15, derandomize=True)
@given(at=cuts)
def test_with_the_reach_of_the_convolutions_held_back_chunks_are_the_whole_but_for_attention(
    parts: tuple[MMAudioVAE, BigVGAN], at: list[int]
) -> None:
    vae, vocoder = parts
    reach, attention = reach_of(parts), vae.decoder.middle.attention
    vae.decoder.middle.attention = NoAttention()  # type: ignore[assignment]
    try:
        latents = normal(2, 4, NUM_LATENTS)
        whole = vocoder(vae.decode(latents))
        other_vae, other_vocoder = nudged(vae, 0), nudged(vocoder, 0)
        close: dict[str, Any] = {"atol": reach_of_rounding(other_vocoder(other_vae.decode(latents)), whole), "rtol": 0.0}
        torch.testing.assert_close(stream(make(parts, reach, reach), latents, at), whole, **close)
    finally:
        vae.decoder.middle.attention = attention


@settings(max_examples=15, derandomize=True)
@given(at=cuts)
def test_with_attention_chunks_are_the_whole_that_sees_the_same(parts: tuple[MMAudioVAE, BigVGAN], at: list[int]) -> None:
    """The reach once for the sound, and as much again for what the attention sees."""
    vae, vocoder = parts
    decoder = make(parts, 2 * reach_of(parts), 2 * reach_of(parts))
    latents = normal(1, 4, NUM_LATENTS)
    visible = decoder.visible(NUM_LATENTS, latents.device)
    whole = vocoder(vae.decode(latents, visible))
    other_vae, other_vocoder = nudged(vae, 0), nudged(vocoder, 0)
    close: dict[str, Any] = {"atol": reach_of_rounding(other_vocoder(other_vae.decode(latents, visible)), whole), "rtol": 0.0}
    torch.testing.assert_close(stream(decoder, latents, at), whole, **close)


@settings(max_examples=20, derandomize=True)
@given(at=cuts, left=st.integers(0, 20), hold_back=st.integers(0, 12))
def test_every_latent_sounds_once_however_it_is_cut(
    parts: tuple[MMAudioVAE, BigVGAN], at: list[int], left: int, hold_back: int
) -> None:
    wave = stream(make(parts, left, hold_back), normal(1, 4, NUM_LATENTS), at)
    assert wave.shape == (1, SIZE * NUM_LATENTS)
    assert wave.isfinite().all()


def test_one_call_and_a_flush_are_the_whole_but_for_attention(parts: tuple[MMAudioVAE, BigVGAN]) -> None:
    vae, vocoder = parts
    decoder, latents = make(parts, 300, 0), normal(1, 4, 40)
    whole = vocoder(vae.decode(latents, decoder.visible(40, latents.device)))
    assert torch.equal(stream_of(decoder, latents), whole)


def stream_of(decoder: AudioStreamDecoder, latents: Tensor) -> Tensor:
    wave, state = decoder.decode(latents)
    return torch.cat((wave, decoder.flush(state)), dim=1)


def test_more_held_back_is_closer_to_the_whole(parts: tuple[MMAudioVAE, BigVGAN]) -> None:
    vae, vocoder = parts
    latents = normal(1, 4, 60)
    errors = []
    for hold_back in (0, 4, 8, 16):
        decoder = make(parts, 50, hold_back)
        same = vocoder(vae.decode(latents, decoder.visible(60, latents.device)))
        errors.append(float((stream(decoder, latents, [0, 20, 40, 60]) - same).norm() / same.norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02 * errors[0]


def test_nothing_jumps_at_a_seam(parts: tuple[MMAudioVAE, BigVGAN]) -> None:
    """After a seam the sound goes on as the window before it would have, and only then as the new one says."""
    decoder, latents = make(parts, 20, 3), normal(1, 4, 40)
    _, state = decoder.decode(latents[:, :, :20])
    wave, _ = decoder.decode(latents[:, :, 20:], state)
    unfaded, _ = decoder.decode(latents[:, :, 20:], AudioStreamState(state.latents, state.num_held, state.tail[:, :0]))
    apart = (state.tail - unfaded[:, :SIZE]).abs()
    assert apart.max() > 1e-3
    moved = (wave[:, :SIZE] - state.tail).abs()
    torch.testing.assert_close(moved, apart * (torch.arange(SIZE) + 1) / (SIZE + 1), atol=1e-6, rtol=1e-4)
    assert torch.equal(wave[:, SIZE:], unfaded[:, SIZE:])


def test_a_state_is_a_value(parts: tuple[MMAudioVAE, BigVGAN]) -> None:
    decoder, latents = make(parts, 20, 3), normal(1, 4, 40)
    _, state = decoder.decode(latents[:, :, :20])
    before = state.latents.clone(), state.tail.clone()
    first = decoder.decode(latents[:, :, 20:], state)[0]
    decoder.decode(-latents[:, :, 20:], state)
    assert torch.equal(state.latents, before[0])
    assert torch.equal(state.tail, before[1])
    assert torch.equal(decoder.decode(latents[:, :, 20:], state)[0], first)


def test_shapes_stand_still_once_the_context_is_full(parts: tuple[MMAudioVAE, BigVGAN]) -> None:
    decoder, shapes, state = make(parts, 20, 3), [], None
    for seed in range(8):
        wave, state = decoder.decode(normal(1, 4, 5, seed=seed), state)
        shapes.append((wave.shape, state.latents.shape, state.num_held, state.tail.shape))
    assert len(set(shapes[:5])) == 5
    assert set(shapes[4:]) == {((1, 5 * SIZE), (1, 4, 23), 3, (1, SIZE))}


def test_no_value_is_read_by_the_host(tmp_path: Path) -> None:
    """Tensors without values have shapes only: reading one would fail."""
    vae, vocoder = tiny_audio(tmp_path)
    with FakeTensorMode(allow_non_fake_inputs=True):
        decoder = make((vae, vocoder), 20, 3)
        state: AudioStreamState | None = None
        for _ in range(6):
            wave, state = decoder.decode(torch.empty(1, 4, 5), state)
        assert wave.shape == (1, 5 * SIZE)
        assert state is not None
        assert decoder.flush(state).shape == (1, 3 * SIZE)


def test_bfloat16_stays_close(tmp_path: Path) -> None:
    vae, vocoder = tiny_audio(tmp_path)
    latents = normal(1, 4, NUM_LATENTS)
    exact = stream(make((vae, vocoder), 20, 5), latents, [0, 10, 25, NUM_LATENTS])
    decoder = make((vae.to(torch.bfloat16), vocoder.to(torch.bfloat16)), 20, 5)
    wave = stream(decoder, latents.bfloat16(), [0, 10, 25, NUM_LATENTS])
    assert wave.dtype == torch.float32
    assert (wave - exact).norm() < 0.1 * exact.norm()


@settings(max_examples=15, derandomize=True)
@given(at=cuts, gone=st.integers(0, 12), hold_back=st.integers(0, 6))
def test_after_a_cut_the_sound_is_that_of_what_was_kept(
    parts: tuple[MMAudioVAE, BigVGAN], at: list[int], gone: int, hold_back: int
) -> None:
    """As long as it, without what was cut; from the second latent on, the first being a fade, it depends on nothing else."""
    decoder, latents, more = make(parts, 20, hold_back), normal(1, 4, NUM_LATENTS), normal(1, 4, 15, seed=9)

    def run(latents: Tensor) -> tuple[Tensor, Tensor]:
        state, waves, wave = None, [], torch.zeros(1, 0)
        for start, stop in itertools.pairwise(at):
            wave, state = decoder.decode(latents[:, :, start:stop], state)
            waves.append(wave)
        assert state is not None
        num_gone = min(gone, state.num_held + wave.shape[1] // SIZE, state.latents.shape[2])
        state, kept = decoder.rollback(state, wave, num_gone)
        waves[-1] = kept
        after, state = decoder.decode(more, state)
        before = torch.cat(waves, dim=1)
        after = torch.cat((after, decoder.flush(state)), dim=1)
        assert before.shape[1] + after.shape[1] == SIZE * (NUM_LATENTS - num_gone + 15)
        return before, after[:, SIZE:]

    changed = latents.clone()
    changed[:, :, NUM_LATENTS - gone :] += 1.0
    last = at[-1] - at[-2]
    if gone <= last:  # what was cut may be anything
        torch.testing.assert_close(run(latents)[1], run(changed)[1], atol=1e-4, rtol=1e-4)
    else:
        run(latents)
