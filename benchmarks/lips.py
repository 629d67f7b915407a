"""Whether the mouth follows the voice: recordings of calls, looked at without knowing the model.

The measure is a plain one. Faces stand nearly still, so a fixed upright strip holds the middle of the mouth. What has there
neither the colour above the lips nor that of the chin is lip, teeth or the dark between: its height is the *opening*, less that
of the closed mouth before anything is said. It is compared with the loudness of the voice in dB, over whole recordings: at the
best lag, and with the loudness of other recordings instead (*shuffled*). Loudness says little about which shape a mouth has, so
that correlations are far from 1; what counts is where they peak, and that they vanish when shuffled.

    python -m benchmarks.lips
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from avatar_rtc import resources
from avatar_rtc.client import say
from avatar_rtc.config import load_config
from avatar_rtc.resources import server_config
from benchmarks import machine, measurements
from benchmarks.speech import SENTENCES
from tests.support.browser import run_server

LAG_BAR_MS = 80
STRIP_TOP, STRIP_BOTTOM, STRIP_LEFT, STRIP_RIGHT = 0.575, 0.75, 0.45, 0.55
"""The middle of the mouth with a little skin above and below, as shares of the picture's height and width."""
SAME_COLOUR = 30.0
"""Colours nearer to each other, in RGB of 0 to 255, are the same."""
HOP_S = 0.01
WINDOW_S = 0.16
QUIET_DB = -45.0
"""Below this the voice is silent; full scale is 0."""
REST_S = 0.1
"""Before the first sound, by so much, the mouth is still closed."""
CLOSED_AFTER_S = 0.4
"""Silence counts from so long after the last sound."""
OPEN_FROM = 0.02
"""An opening of this share of the picture's height is an open mouth."""
LAGS_MS = tuple(range(-300, 301, 20))


Array = np.ndarray[Any, np.dtype[np.float64]]
Choice = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Recording:
    """What was seen and heard.

    Attributes:
        times_s: middle of each picture.
        opening: of the mouth in each, as a share of the picture's height.
        loudness_db: every ``HOP_S`` from 0.
    """

    times_s: Array
    opening: Array
    loudness_db: Array

    def loudness_at(self, times_s: Array) -> Array:
        found: Array = np.interp(times_s, np.arange(len(self.loudness_db)) * HOP_S, self.loudness_db)
        return found

    def silent(self) -> Choice:
        """Which pictures come ``CLOSED_AFTER_S`` or longer after the last sound, and before the next."""
        voiced_s = np.flatnonzero(self.loudness_db > QUIET_DB) * HOP_S
        last = np.searchsorted(voiced_s, self.times_s) - 1
        return (last >= 0) & (self.times_s - voiced_s[np.maximum(last, 0)] > CLOSED_AFTER_S)

    def spoken(self) -> Choice:
        return self.loudness_at(self.times_s) > QUIET_DB


def read(path: Path) -> Recording:
    """Measure an MP4 file that begins before anything is said.

    Raises:
        ValueError: it does not, so that the closed mouth cannot be seen.
    """
    with av.open(str(path)) as container:
        frames = [(float(frame.time or 0), frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    resampler = av.AudioResampler("flt", "mono", 48_000)
    with av.open(str(path)) as container:
        sounds = [r.to_ndarray()[0] for frame in container.decode(audio=0) for r in resampler.resample(frame)]
    loudness_db = loudness(np.concatenate(sounds).astype(np.float64), 48_000)
    times_s = np.array([at_s for at_s, _ in frames]) + 0.02
    height, width, _ = frames[0][1].shape
    rows = slice(round(STRIP_TOP * height), round(STRIP_BOTTOM * height))
    columns = slice(round(STRIP_LEFT * width), round(STRIP_RIGHT * width))
    strips = np.stack([picture[rows, columns] for _, picture in frames]).astype(np.float64)
    voiced = np.flatnonzero(loudness_db > QUIET_DB)
    rest = times_s < voiced[0] * HOP_S - REST_S
    if not rest.any():
        raise ValueError(f"{path} begins with speech: record it with 'avatar-rtc say --record'")
    mouth = mouth_heights(strips, skin_colours(strips[rest])) / height
    return Recording(times_s, mouth - np.median(mouth[rest]), loudness_db)


def skin_colours(strips: Array) -> tuple[Array, Array]:
    """Colour above the lips and that of the chin, RGB, of strips [N, H, W, 3] with a closed mouth."""
    above, chin = (np.median(strips[:, part], axis=(0, 1, 2)) for part in (slice(None, 2), slice(-5, None)))
    return above, chin


def mouth_heights(strips: Array, skin: tuple[Array, Array]) -> Array:
    """Rows of each strip [N, H, W, 3] that have no colour of the skin."""
    distance = np.min([np.linalg.norm(strips - colour, axis=-1) for colour in skin], axis=0)
    heights: Array = (distance > SAME_COLOUR).sum(1).mean(1)
    return heights


def loudness(samples: Array, rate_hz: int) -> Array:
    """dB of ``WINDOW_S`` around every ``HOP_S``, not below ``QUIET_DB`` less 5."""
    window = round(rate_hz * WINDOW_S)
    power = np.convolve(samples**2, np.ones(window) / window, "same")[:: round(rate_hz * HOP_S)]
    found: Array = np.maximum(10 * np.log10(np.maximum(power, 1e-12)), QUIET_DB - 5)
    return found


def _standard(values: Array) -> Array:
    standard: Array = (values - values.mean()) / max(float(values.std()), 1e-9)
    return standard


def correlation(seen: list[Recording], heard: list[Recording], lag_ms: int) -> float:
    """Of openings with the loudness ``lag_ms`` earlier, each pair over the length of the shorter one, weighted by length."""
    edge_s = max(LAGS_MS) / 1000
    products = []
    for face, voice in zip(seen, heard, strict=True):
        end_s = min(face.times_s[-1], len(voice.loudness_db) * HOP_S) - edge_s
        inside = (face.times_s > edge_s) & (face.times_s < end_s)
        loudness_db = voice.loudness_at(face.times_s[inside] - lag_ms / 1000)
        products.append(_standard(face.opening[inside]) * _standard(loudness_db))
    return float(np.concatenate(products).mean())


def compare(recordings: list[Recording], others: list[Recording]) -> dict[str, Any]:
    """The table's row of some recordings; ``others`` lend their voices for the shuffled pairing."""
    at_lag = {lag_ms: correlation(recordings, recordings, lag_ms) for lag_ms in LAGS_MS}
    best_ms = max(LAGS_MS, key=lambda lag_ms: at_lag[lag_ms])
    foreign = [correlation([face], [voice], best_ms) for face in recordings for voice in others if voice is not face]
    silent = np.concatenate([recording.opening[recording.silent()] for recording in recordings])
    spoken = np.concatenate([recording.opening[recording.spoken()] for recording in recordings])
    return {
        "best_lag_ms": best_ms,
        "correlation": round(at_lag[best_ms], 3),
        "shuffled": round(float(np.mean(foreign)), 3),
        "open_speaking": round(float((spoken > OPEN_FROM).mean()), 3),
        "open_silent": round(float((silent > OPEN_FROM).mean()), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=3, help="said by each look (default: 3)")
    parser.add_argument("--recordings", type=Path, metavar="DIR", help="measure ID.mp4 files that lie there instead of calling")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the recordings there")
    parser.add_argument("--out", type=Path, metavar="FILE", help="put the figures into this file of measurements")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = options.recordings or options.keep or Path(scratch)
        if options.recordings is None:
            directory.mkdir(parents=True, exist_ok=True)
            sentences = SENTENCES.read_text().splitlines()
            with run_server("pocket") as server:
                for index, avatar in enumerate(load_config(server_config("pocket")).avatars):
                    chosen = [sentences[(index * options.lines + line) % len(sentences)] for line in range(options.lines)]
                    asyncio.run(say(server.url, chosen, directory / f"{avatar.id}.mp4", avatar=avatar.id))
                    print(f"recorded {avatar.name}", file=sys.stderr)
        recordings = {path.stem: read(path) for path in sorted(directory.glob("*.mp4"))}
    everything = list(recordings.values())
    looks = {name: compare([recording], everything) for name, recording in recordings.items()}
    result = {"all": compare(everything, everything), "looks": looks}
    described = machine.describe(resources.num_cores())
    if options.out:
        measurements.keep(options.out, "lips", {"machine": described, **result})
    if options.json:
        print(json.dumps(result))
        return
    print(machine.headline(described))
    print(f"{'':10} {'best lag':>9} {'correlation':>12} {'shuffled':>9} {'open, speaking':>15} {'open, silent':>13}")
    for name, row in [*looks.items(), ("all", result["all"])]:
        print(
            f"{name:10} {row['best_lag_ms']:6} ms {row['correlation']:12.2f} {row['shuffled']:9.2f} "
            f"{row['open_speaking']:15.0%} {row['open_silent']:13.0%}"
        )
    print(f"the bar: a best lag within {LAG_BAR_MS} ms, a clearly lower correlation when shuffled, closed in silence")


if __name__ == "__main__":
    main()
