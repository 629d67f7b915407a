"""Blocks last exactly as long in pictures as in samples, for ever; chunks that do not are refused."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from model.chunk import AVChunk, StreamInfo
from model.errors import ConfigError
from model.geometry import Geometry
from tests.model.support import tiny_model

TINY = tiny_model().geometry.build()


@given(
    fps=st.integers(1, 120),
    sample_rate_hz=st.sampled_from([8000, 16000, 22050, 24000, 44100, 48000]),
    stride=st.integers(1, 8),
    latent_samples=st.integers(1, 4000),
    block=st.integers(1, 6),
)
def test_a_block_is_exact_or_refused(fps: int, sample_rate_hz: int, stride: int, latent_samples: int, block: int) -> None:
    rates = {
        "fps": fps,
        "sample_rate_hz": sample_rate_hz,
        "temporal_stride_frames": stride,
        "first_latent_frames": 1,
        "audio_latent_samples": latent_samples,
        "block_video_latents": block,
    }
    if stride * sample_rate_hz % (fps * latent_samples):
        with pytest.raises(ConfigError, match="drift"):
            replace(TINY, **rates)
        return
    geometry = replace(TINY, **rates)
    check_exact(geometry)


@given(
    fps=st.integers(1, 60),
    per_latent=st.integers(1, 16),
    samples=st.integers(1, 500),
    stride=st.integers(1, 8),
    block=st.integers(1, 6),
)
def test_whatever_is_accepted_is_exact(fps: int, per_latent: int, samples: int, stride: int, block: int) -> None:
    assume(fps * per_latent * samples % stride == 0)
    geometry = replace(
        TINY,
        fps=fps,
        sample_rate_hz=fps * per_latent * samples // stride,
        temporal_stride_frames=stride,
        first_latent_frames=stride,
        audio_latent_samples=samples,
        block_video_latents=block,
    )
    assert geometry.audio_latents_per_video_latent == per_latent
    check_exact(geometry)


def check_exact(geometry: Geometry) -> None:
    assert Fraction(geometry.block_frames, geometry.fps) == geometry.block_duration_s
    assert Fraction(geometry.block_samples, geometry.sample_rate_hz) == geometry.block_duration_s


def test_derived_sizes() -> None:
    assert (TINY.block_frames, TINY.block_samples, TINY.block_audio_latents) == (8, 2560, 8)
    assert TINY.block_duration_s == Fraction(8, 25)
    assert (TINY.latent_height, TINY.latent_width, TINY.grid_height, TINY.grid_width) == (4, 6, 2, 3)
    assert TINY.tokens_per_video_latent == 6
    assert TINY.lead_in_frames == 0
    assert replace(TINY, first_latent_frames=1).lead_in_frames == 3


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"fps": 0}, "geometry.fps"),
        ({"block_video_latents": -1}, "geometry.block_video_latents"),
        ({"first_latent_frames": 5}, "first_latent_frames"),
        ({"width_px": 100}, "100x64"),
        ({"fps": 24}, "drift"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        replace(TINY, **change)


def chunk(frames: np.ndarray | None = None, samples: np.ndarray | None = None, fps: int = 25) -> AVChunk:
    frames = np.zeros((8, 96, 96), np.uint8) if frames is None else frames
    return AVChunk(0, frames, np.zeros(2560, np.int16) if samples is None else samples, fps, 8000)


def test_a_chunk_knows_how_long_it_lasts() -> None:
    assert chunk().duration_s == 0.32
    assert StreamInfo("tiny", 96, 64, 25, 8000, 8, 2560).block_duration_s == chunk().duration_s


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": np.zeros(2559, np.int16)}, "do not last equally long"),
        ({"frames": np.zeros((7, 96, 96), np.uint8)}, "do not last equally long"),
        ({"fps": 24}, "do not last equally long"),
        ({"samples": np.zeros(2560, np.float32)}, "int16"),
        ({"samples": np.zeros((1, 2560), np.int16)}, "int16"),
        ({"frames": np.zeros((8, 96, 96), np.float32)}, "uint8"),
        ({"frames": np.zeros((8, 64, 96, 3), np.uint8)}, "uint8"),
        ({"frames": np.zeros((8, 64, 96), np.uint8)}, "uint8"),
    ],
)
def test_a_chunk_out_of_step_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chunk(**change)
