"""A recording begins and ends with both tracks, whatever came first or last."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import shutil
import threading
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from avatar_rtc import recording
from avatar_rtc.recording import AUDIO_HZ, VIDEO_HZ, Kind, Recorder


def picture(time_s: float) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.full((96, 64), 90, np.uint8), format="yuv420p")
    frame.pts = round(time_s * VIDEO_HZ)
    return frame


def sound(time_s: float) -> av.AudioFrame:
    samples = np.full((1, 2 * AUDIO_HZ // 50), 1000, np.int16)
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
    frame.sample_rate, frame.pts = AUDIO_HZ, round(time_s * AUDIO_HZ)
    return frame


def playable_s(path: Path) -> dict[str, float]:
    """How much of each track can be played, of a file that may end in the middle."""
    ends_s = {"video": 0.0, "audio": 0.0}
    for kind in ends_s:
        with av.open(str(path)) as film, contextlib.suppress(av.InvalidDataError):
            for frame in film.decode(**{kind: 0}):
                ends_s[kind] = float(frame.time or 0.0)
    return ends_s


async def record(recorder: Recorder, start_s: float, end_s: float) -> None:
    """Both tracks, and wait until they are written."""
    for at_s in np.arange(start_s, end_s, 0.04):
        recorder.add("video", picture(at_s))
        for packet_s in (at_s, at_s + 0.02):
            recorder.add("audio", sound(packet_s))
        recorder.align("video", 100.0)
        recorder.align("audio", 100.0)
    while not recorder._queue.empty():  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.01)


async def test_what_is_recorded_can_be_played_at_any_moment(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "film.mp4")
    for second in range(2, 12, 3):
        await record(recorder, second - 2 if second == 2 else second - 3, second)
        # As the file would stay if the process were killed now.
        killed = Path(shutil.copy(tmp_path / "film.mp4", tmp_path / f"killed-{second}.mp4"))
        assert min(playable_s(killed).values()) > second - 2
    await recorder.close()
    assert playable_s(tmp_path / "film.mp4") == pytest.approx({"video": 10.96, "audio": 10.98}, abs=0.03)
    with av.open(str(tmp_path / "film.mp4")) as film:
        film.seek(9_900_000)
        packet = next(film.demux(video=0))
        assert packet.is_keyframe
        assert packet.pts is not None
        assert 7.9 < float(packet.pts * packet.time_base) <= 9.9, "a keyframe is near where a player seeks"


async def test_a_full_disk_is_told_and_what_was_recorded_stays(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    recorder = Recorder(path)
    await record(recorder, 0, 3)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow any more, as on a disk that is full.
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 2000, limits[1]))
    try:
        await record(recorder, 3, 6)
        with pytest.raises(OSError, match=r"film.mp4 could not be written to its end: File too large"):
            await recorder.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert min(playable_s(path).values()) > 2


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


async def test_what_cannot_be_written_in_time_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    write = Recorder._write

    def write_later(self: Recorder, kind: Kind, frame: Any) -> None:
        goes_on.wait(20)
        write(self, kind, frame)

    monkeypatch.setattr(Recorder, "_write", write_later)
    monkeypatch.setattr(recording, "MAX_UNWRITTEN", 60)
    recorder = Recorder(tmp_path / "film.mp4")
    for at_s in np.arange(0, 4, 0.04):
        if at_s > 3:  # the disk is fast again
            goes_on.set()
            while not recorder._queue.empty():  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        recorder.add("video", picture(at_s))
        for packet_s in (at_s, at_s + 0.02):
            recorder.add("audio", sound(packet_s))
        recorder.align("video", 100.0)
        recorder.align("audio", 100.0)
        assert recorder._queue.qsize() <= 60
    await recorder.close()
    assert playable_s(tmp_path / "film.mp4") == pytest.approx({"video": 3.96, "audio": 3.98}, abs=0.03), "times stay true"
