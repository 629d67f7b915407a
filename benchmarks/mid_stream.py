"""Text into a stream that runs: how long until the first picture that it affects is seen.

    python -m benchmarks.mid_stream --stand-in                                          # a minute on a CPU
    python -m benchmarks.mid_stream --weights /dev/shm/hallo --devices cuda:0 cuda:1    # as calls have it; some minutes

Half of the messages are lines that come while the face listens, the others interrupt a reply; all at random phase. A player shows
chunks in real time and asks for the next one when less than ``--low-water-ms`` is left, or earlier where chunks took longer of
late, as a session does. The time goes from a message to when the first chunk is *shown* that was made with it. An underrun is a
chunk that came late; the last picture was held for it.

``latent`` takes back what is not needed to bridge the time until the message can be seen, ``block`` only whole blocks. With
``--stand-in`` a model of test size computes, and a simulated clock counts the time that it takes on H200 devices, see
:class:`testkit.timed_devices.StageTimes`.

Predicted so, 100 messages, the next chunk asked for at 350 ms; milliseconds, and late chunks, a stream's first one included:

    two devices that share passes, latent    mean  513, p50  504, p95  615, 1 late
    two devices that share passes, block     mean  851, p50  849, p95 1243, 1 late
    two devices, latent                      mean  653, p50  647, p95  810, 1 late
    two devices, block                       mean  919, p50  903, p95 1330, 3 late
    one device, latent                       mean 1003, p50 1010, p95 1188, 64 late
    one device, block                        mean 1210, p50 1178, p95 1778, 38 late

Measured on two H200 that share passes: latent 515, 494, 692, 1 late; block 850, 842, 1243, 1 late.

The clock does not know that decoding and a pass on one device slow each other by more than they take turns.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from avatar_rtc import resources
from avatar_rtc.media.pull_policy import PullPolicy
from avatar_rtc.rtf import RtfMeter
from benchmarks.clip import split_network
from benchmarks.figures import percentile
from model import hallo_live
from model.chunk import AVChunk, StreamInfo, StreamSettings
from model.config import AudioStreamConfig, HalloLiveConfig, RolloutConfig
from model.hallo_live import HalloLive, HalloLiveStream
from testkit.published_files import TINY, write_config, write_published_files
from testkit.timed_devices import Clock, Devices, StageTimes, open_timed

SETTINGS = StreamSettings("A woman in a bright office.", "a clear voice", seed=1)
LINE = "This is line number {} of many, and it is long enough to be interrupted."
LISTENS_S, SPEAKS_S = (0.5, 1.5), (0.2, 1.2)
"""Between the least and the most, which are more than a block apart: how long the face has listened when a line comes, and spoken
when it is interrupted."""


class Time(Protocol):
    def __call__(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class RealTime:
    def __call__(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds))


class Player:
    """Plays a stream in real time, as a session does.

    Args:
        low_water_s: the next chunk is asked for when less is left, or earlier where chunks took longer of late.
    """

    def __init__(self, stream: HalloLiveStream, info: StreamInfo, clock: Time, low_water_s: float) -> None:
        self._stream, self._clock = stream, clock
        self._chunk_s = info.chunk_duration_s
        self._policy = PullPolicy(low_water_s, self._chunk_s, RtfMeter(info.chunks_per_block))
        self._dry_s = clock()
        self._asked_s: float | None = None
        self.late_s: list[float] = []
        """By how much chunks came late; the last picture was held for them."""

    def turn(self, wake_s: float = math.inf) -> tuple[AVChunk, float] | None:
        """Do what is to be done next, or rest, but not beyond this time. A chunk, if one has come, and when it is shown."""
        stream, clock, now_s = self._stream, self._clock, self._clock()
        spare_s = self._policy.spare_s(self._dry_s - now_s)
        if self._asked_s is None and spare_s > 0:
            if stream.due_s <= now_s:
                stream.work()
            else:
                clock.sleep(max(0.001, min(spare_s, stream.due_s - now_s, wake_s - now_s)))
            return None
        self._asked_s = now_s if self._asked_s is None else self._asked_s
        chunk = stream.step(self._dry_s)
        if chunk is None:
            return None
        now_s = clock()
        if now_s > self._dry_s + 0.001:
            self.late_s.append(now_s - self._dry_s)
        self._policy.on_chunk(now_s - self._asked_s, self._chunk_s, len(self.late_s))
        shown_s, self._asked_s = max(now_s, self._dry_s), None
        self._dry_s = shown_s + self._chunk_s
        return chunk, shown_s


def messages(
    model: HalloLive, stream: HalloLiveStream, clock: Time, num_messages: int, low_water_s: float, seed: int = 0
) -> dict[str, Any]:
    """Play a stream and send it messages; see the module's text."""
    player, dice = Player(stream, model.info, clock, low_water_s), random.Random(seed)
    took_ms: dict[str, list[float]] = {"line": [], "interruption": []}
    window_s = model.info.chunk_duration_s * model.parts.config.rollout.window_latents
    due_s, sent_s, kind, speaks = clock() + 2 * window_s, None, "line", False
    sent = 0
    while sent < num_messages or sent_s is not None:
        now_s = clock()
        if sent_s is None and now_s >= due_s:
            if speaks:
                stream.cancel()
            stream.push(f"m{sent}", LINE.format(sent))
            sent_s, kind, sent = now_s, "interruption" if speaks else "line", sent + 1
        came = player.turn(due_s if sent_s is None else math.inf)
        if came is None or sent_s is None:
            continue
        chunk, shown_s = came
        if chunk.speaking:
            took_ms[kind].append(1000 * (shown_s - sent_s))
            sent_s, speaks = None, kind == "line"
            if not speaks:
                stream.cancel()
            due_s = shown_s + dice.uniform(*(SPEAKS_S if speaks else LISTENS_S))
    rows: dict[str, Any] = {}
    for name, values in (*took_ms.items(), ("all", [*took_ms["line"], *took_ms["interruption"]])):
        rows[name] = {
            "messages": len(values),
            "mean_ms": round(statistics.mean(values)),
            "p50_ms": round(percentile(values, 0.50)),
            "p95_ms": round(percentile(values, 0.95)),
            "max_ms": round(max(values)),
        }
    rows["underruns"] = len(player.late_s)
    rows["held_ms"] = round(1000 * sum(player.late_s))
    return rows


def with_rollback(config: HalloLiveConfig, by: str) -> HalloLiveConfig:
    return config.model_copy(update={"rollout": config.rollout.model_copy(update={"rollback": by})})


def stand_in(directory: Path, clock: Clock, rollback: str) -> HalloLive:
    """At a size for tests, with the blocks, window and hold-back of the published model."""
    config = TINY.model_copy(
        update={
            "geometry": TINY.geometry.model_copy(update={"block_video_latents": 6}),
            "rollout": RolloutConfig(rollback=rollback),
            "audio_stream": AudioStreamConfig(left_latents=10),
        }
    )
    write_published_files(directory, config)
    write_config(directory / "config.yaml", config)
    model = hallo_live.load(directory, directory / "config.yaml", ("cpu",), lambda line: None)
    model.clock = clock
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stand-in", action="store_true", help="a small model on a simulated clock")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="as 'avatar-rtc download inference' leaves it")
    parser.add_argument("--network", type=Path, default=resources.network("hallo_live"), metavar="FILE", help="sizes")
    parser.add_argument("--devices", nargs="+", default=["cuda:0"], help="the transformer's, then the decoders'")
    parser.add_argument("--split", action=argparse.BooleanOptionalAction, help="two devices share passes (if not said: yes)")
    parser.add_argument("--rollbacks", nargs="+", choices=("block", "latent"), default=["block", "latent"])
    parser.add_argument("--low-water-ms", nargs="+", type=float, default=[350.0])
    parser.add_argument("--messages", type=int, default=100)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON object there too")
    options = parser.parse_args()
    if not options.stand_in and options.weights is None:
        parser.error("give --weights, or --stand-in")
    result: dict[str, Any] = {"messages": options.messages}

    def note(name: str, model: HalloLive, stream: HalloLiveStream, clock: Time, low_water_ms: float) -> None:
        result[name] = messages(model, stream, clock, options.messages, low_water_ms / 1000)
        stream.close()
        print(f"{name}: {json.dumps(result[name])}", flush=True)
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n")

    if options.stand_in:
        for rollback in options.rollbacks:  # the small model computes on one device, whatever it stands for
            with tempfile.TemporaryDirectory() as directory:
                clock = Clock()
                model = stand_in(Path(directory), clock, rollback)
                for num_devices, split in ((1, False), (2, False), (2, True)):
                    for low_water_ms in options.low_water_ms:
                        devices = Devices(clock, StageTimes(), num_devices, split=split)
                        way = f"{num_devices} devices{', split passes' if split else ''}"
                        stream = open_timed(model, SETTINGS, devices)
                        note(f"{rollback}, {way}, {low_water_ms:.0f} ms", model, stream, clock, low_water_ms)
                        if split:
                            print(f"split: {devices.num_split} of {devices.num_passes} passes", flush=True)
        return
    if options.split is not None:
        options.network = split_network(options.network, splits=options.split)
    model = hallo_live.load(options.weights, options.network, options.devices, lambda line: print(line, flush=True))
    for rollback in options.rollbacks:
        # The same weights and what is recorded of them, with another rule.
        model.parts = replace(model.parts, config=with_rollback(model.parts.config, rollback))
        for low_water_ms in options.low_water_ms:
            note(f"{rollback}, {low_water_ms:.0f} ms", model, model.open(SETTINGS), RealTime(), low_water_ms)


if __name__ == "__main__":
    main()
