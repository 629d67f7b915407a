"""The two tracks of a film end together, wherever sound ended."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from avatar_rtc.media.film import AAC_SAMPLES, FilmFile

RATE_HZ, FPS = 48_000, 25


def film(path: Path, num_pictures: int, sound_ms: int) -> list[float]:
    """Lengths of its tracks in seconds."""
    written = FilmFile(path)
    pictures = written.add_video_encoder("libx264", 64, 64, FPS, options={"tune": "zerolatency"})
    sounds = written.add_sound("aac", RATE_HZ, "stereo", AAC_SAMPLES / RATE_HZ)
    for i in range(num_pictures):
        picture = av.VideoFrame.from_ndarray(np.zeros((96, 64), np.uint8), format="yuv420p")
        picture.pts, picture.time_base = i, Fraction(1, FPS)
        written.write(pictures.encode(picture))
    for at in range(0, sound_ms * RATE_HZ // 1000, RATE_HZ // 50):
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 2 * RATE_HZ // 50), np.int16), format="s16", layout="stereo")
        sound.sample_rate, sound.pts, sound.time_base = RATE_HZ, at, Fraction(1, RATE_HZ)
        written.write(sounds.encode(sound))
    for stream in (pictures, sounds):
        written.write(stream.encode(None))
    written.finish()
    with av.open(str(path)) as found:
        return [float(stream.duration * stream.time_base) for stream in found.streams]  # type: ignore[operator]


@pytest.mark.parametrize("sound_ms", range(2200, 2600, 20))
def test_tracks_end_within_half_a_picture_of_each_other(tmp_path: Path, sound_ms: int) -> None:
    video_s, audio_s = film(tmp_path / "film.mp4", 60, sound_ms)
    assert abs(video_s - audio_s) <= 0.5 / FPS + 1 / RATE_HZ
    assert min(video_s, audio_s) >= min(60 / FPS, sound_ms / 1000) - 0.5 / FPS - 1 / RATE_HZ
