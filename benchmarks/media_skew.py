"""Flash and beep of the fake engine as a call receives them, without a page: how far the media clock has them apart."""

from __future__ import annotations

from collections import deque

import av
import numpy as np

from avatar_rtc.client import Call
from avatar_rtc.fake import read_beeps, read_flash
from benchmarks.skew import PAIR_WITHIN_MS

SOUND_HZ = 48_000


class Eyes:
    """When a call sees flashes and hears beeps, by the media clock that sender reports tell, as a browser lines them up.

    Attributes:
        skews_ms: of each flash with a beep near it, beep less flash.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._is_lit = False
        self._flashes_s: deque[float] = deque(maxlen=8)
        self._beeps_s: deque[float] = deque(maxlen=8)
        self._packets: list[tuple[int, np.ndarray]] = []
        self.skews_ms: list[float] = []
        call.on_frame, call.on_sound = self._on_frame, self._on_sound

    def _on_frame(self, frame: av.VideoFrame) -> None:
        plane = frame.planes[0]
        luma = np.frombuffer(bytes(plane), np.uint8).reshape(frame.height, plane.line_size)[:, : frame.width]
        was_lit, self._is_lit = self._is_lit, read_flash(luma)
        at_zero_s = self._call.video.ntp_at_zero_s
        if self._is_lit and not was_lit and at_zero_s is not None and frame.pts is not None:
            self._flashes_s.append(at_zero_s + frame.pts / 90_000)
            self._pair()

    def _on_sound(self, frame: av.AudioFrame) -> None:
        assert frame.pts is not None
        self._packets.append((frame.pts, frame.to_ndarray().reshape(-1, 2)[:, 0]))
        start = self._packets[0][0]
        if not 0 <= frame.pts - start < SOUND_HZ:
            at_zero_s = self._call.audio.ntp_at_zero_s
            samples = np.zeros(SOUND_HZ + SOUND_HZ // 10)
            for pts, sound in self._packets[:-1]:
                samples[pts - start : pts - start + len(sound)] = sound[: len(samples) - (pts - start)]
            self._packets = self._packets[-1:]
            if at_zero_s is not None:
                self._beeps_s += [at_zero_s + start / SOUND_HZ + beep_s for beep_s in read_beeps(samples, SOUND_HZ)]
                self._pair()

    def _pair(self) -> None:
        for flash_s in list(self._flashes_s):
            beep_s = min(self._beeps_s, key=lambda beep_s: abs(beep_s - flash_s), default=None)
            if beep_s is not None and abs(beep_s - flash_s) * 1000 < PAIR_WITHIN_MS:
                self.skews_ms.append((beep_s - flash_s) * 1000)
                self._flashes_s.remove(flash_s)
                self._beeps_s.remove(beep_s)
