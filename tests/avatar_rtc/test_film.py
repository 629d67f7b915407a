"""The shipped model makes a film, by the command that a person types. On a machine's first run this converts the network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest


@pytest.mark.timeout(600)
def test_a_line_becomes_a_film_of_pocket(tmp_path: Path) -> None:
    path = tmp_path / "hello.mp4"
    command = [str(Path(sys.executable).parent / "avatar-rtc"), "generate", "Hello, nice to meet you.", "-o", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with av.open(str(path)) as film:
        video, audio = film.streams.video[0], film.streams.audio[0]
        seconds = [float(stream.duration * stream.time_base) for stream in (video, audio)]  # type: ignore[operator]
        assert (video.width, video.height, float(video.average_rate or 0)) == (256, 256, 25)
        samples = np.concatenate([frame.to_ndarray().ravel() for frame in film.decode(audio)])
    assert 1.2 < seconds[0] < 6
    assert abs(seconds[0] - seconds[1]) < 0.04
    assert np.abs(samples).max() > 0.05
