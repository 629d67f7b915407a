"""A recording begins and ends with both tracks, whatever came first or last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from avatar_rtc.recording import AUDIO_HZ, VIDEO_HZ, Recorder


def picture(time_s: float) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.full((96, 64), 90, np.uint8), format="yuv420p")
    frame.pts = round(time_s * VIDEO_HZ)
    return frame


def sound(time_s: float) -> av.AudioFrame:
    samples = np.full((1, 2 * AUDIO_HZ // 50), 1000, np.int16)
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
    frame.sample_rate, frame.pts = AUDIO_HZ, round(time_s * AUDIO_HZ)
    return frame


@pytest.mark.parametrize(
    ("video_s", "audio_s"),
    [((0.0, 2.0), (0.0, 2.0)), ((0.3, 2.0), (0.0, 2.5)), ((0.0, 2.6), (0.31, 2.0)), ((0.017, 2.0), (0.0, 1.99))],
)
async def test_tracks_last_equally_long(tmp_path: Path, video_s: tuple[float, float], audio_s: tuple[float, float]) -> None:
    recorder = Recorder(tmp_path / "film.mp4")
    frames: list[tuple[str, float, Any]] = [("video", at_s, picture(at_s)) for at_s in np.arange(*video_s, 0.04)]
    frames += [("audio", at_s, sound(at_s)) for at_s in np.arange(*audio_s, 0.02)]
    for kind, _, frame in sorted(frames, key=lambda item: item[1]):
        recorder.add(kind, frame)  # type: ignore[arg-type]
        recorder.align("video", 100.0)
        recorder.align("audio", 100.0)
    await recorder.close()
    with av.open(str(tmp_path / "film.mp4")) as film:
        streams = [film.streams.video[0], film.streams.audio[0]]
        lasts_s = [float(stream.duration * stream.time_base) for stream in streams]  # type: ignore[operator]
        starts_s = [float((stream.start_time or 0) * stream.time_base) for stream in streams]  # type: ignore[operator]
    both_s = min(video_s[1], audio_s[1]) - max(video_s[0], audio_s[0])
    assert abs(lasts_s[0] - lasts_s[1]) < 0.039
    assert lasts_s[1] == pytest.approx(both_s, abs=0.08)
    assert max(starts_s) < 0.03
