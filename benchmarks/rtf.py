"""Real-time factor of this machine: seconds of computing a second of media, of the engine and of the video encoder beside it.

The text encoder is counted. Chromium and the headless client negotiate VP8 with the shipped config. Pictures are encoded one by
one when they are due, as in a call, while the engine makes the next block.

    python -m benchmarks.rtf --calls 1 --seconds 30
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from fractions import Fraction
from typing import Any

import av
from aiortc.rtcrtpparameters import RTCRtpCodecParameters

from avatar_rtc.app import make_engine
from avatar_rtc.config import load_config
from avatar_rtc.engine import Engine
from avatar_rtc.media.encode import make_encoder
from avatar_rtc.media.tracks import VIDEO_CLOCK_HZ
from avatar_rtc.resources import server_config
from benchmarks.skew import percentile
from model.chunk import AVChunk, StreamSettings

BAR = 0.6
LINES = (
    "Hello, nice to meet you.",
    "It is twenty past nine, and the coffee is ready.",
    "The train to the coast leaves in a quarter of an hour.",
    "What would you like to know?",
)


class Packer:
    """Encodes the pictures of one call when they are due, in a thread, as a sender does.

    Attributes:
        shares: of each block, seconds of encoding a second of media.
    """

    def __init__(self, codec: str, fps: int) -> None:
        media = load_config(server_config("pocket")).media
        parameters = RTCRtpCodecParameters(mimeType=f"video/{codec}", clockRate=VIDEO_CLOCK_HZ, payloadType=96)
        self._encoder = make_encoder(parameters, media.rates(fps), 24_000, media.audio_bps)
        self._num_frames = 0
        self.shares: list[float] = []

    async def pack(self, chunk: AVChunk) -> None:
        start_s, encoding_s = time.monotonic(), 0.0
        for offset, picture in enumerate(chunk.frames):
            await asyncio.sleep(start_s + offset / chunk.fps - time.monotonic())
            encoding_s += await asyncio.to_thread(self._encode, picture, chunk.fps)
        self.shares.append(encoding_s / chunk.duration_s)

    def _encode(self, picture: Any, fps: int) -> float:
        start_s = time.perf_counter()
        frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
        frame.pts, frame.time_base = self._num_frames * VIDEO_CLOCK_HZ // fps, Fraction(1, VIDEO_CLOCK_HZ)
        self._encoder.encode(frame)
        self._num_frames += 1
        return time.perf_counter() - start_s


async def talk(engine: Engine, settings: StreamSettings, seconds: float, packer: Packer) -> int:
    """Pull chunks as a call does, never ahead of their time by more than a block. Returns how many came too late."""
    stream = await engine.open(settings)
    block_s = engine.info.block_duration_s
    due_s = time.monotonic() + block_s
    num_late = num_lines = 0
    is_silent = True
    packing = asyncio.create_task(asyncio.sleep(0))
    for _ in range(round(seconds / block_s)):
        if is_silent:
            await stream.push(f"reply-{num_lines}", LINES[num_lines % len(LINES)])
            num_lines += 1
        chunk = await stream.next(due_s)
        is_silent = not chunk.speaking or any(mark.kind == "end" for mark in chunk.marks)
        now_s = time.monotonic()
        num_late += now_s > due_s
        await packing
        packing = asyncio.create_task(packer.pack(chunk))
        await asyncio.sleep(max(0.0, due_s - now_s - block_s / 2))
        due_s = max(due_s, now_s) + block_s
    await packing
    await stream.close()
    return num_late


async def measure(model: str, num_calls: int, seconds: float, codec: str) -> dict[str, Any]:
    config = load_config(server_config("pocket"))
    engine = make_engine(config.model_copy(update={"engine": config.engine.model_copy(update={"model": model})}))
    voices = {voice.id: voice.voice for voice in config.voices}
    avatars = [StreamSettings(avatar.scene, voices[avatar.voice]) for avatar in config.avatars]
    await engine.start()
    try:
        packers = [Packer(codec, engine.info.fps) for _ in range(num_calls)]
        talks = (talk(engine, avatars[call % len(avatars)], seconds, packer) for call, packer in enumerate(packers))
        late = await asyncio.gather(*talks)
        stats = engine.stats()
    finally:
        await engine.close()
    block_ms = {stage: round(1000 * stage_s / stats.blocks, 1) for stage, stage_s in stats.stage_s.items()}
    shares = [share for packer in packers for share in packer.shares]
    encoder_p50, encoder_p95 = percentile(shares, 0.5), percentile(shares, 0.95)
    return {
        "model": model,
        "calls": num_calls,
        "blocks": stats.blocks,
        "late_blocks": sum(late),
        "ms_a_block": block_ms,
        "rtf": {
            "engine": {"p50": round(stats.rtf_p50, 3), "p95": round(stats.rtf_p95, 3)},
            f"{codec} encoder": {"p50": round(encoder_p50, 3), "p95": round(encoder_p95, 3)},
            # The two seldom have their worst block together, and may run at once: this is what they need at most.
            "together": {"p50": round(stats.rtf_p50 + encoder_p50, 3), "p95": round(stats.rtf_p95 + encoder_p95, 3)},
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("pocket", "fake"), default="pocket")
    parser.add_argument("--calls", type=int, default=1, help="calls at once")
    parser.add_argument("--seconds", type=float, default=30.0, help="of media for each call")
    parser.add_argument("--codec", choices=("VP8", "H264"), default="VP8", help="what pictures are encoded to (default: VP8)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    result = asyncio.run(measure(options.engine, options.calls, options.seconds, options.codec))
    if options.json:
        print(json.dumps(result))
        return
    print(f"{'real-time factor':28} {'p50':>6} {'p95':>6}")
    for name, row in result["rtf"].items():
        print(f"{name:28} {row['p50']:6.2f} {row['p95']:6.2f}{f'   (bar: {BAR})' if name == 'together' else ''}")
    print(f"{'late blocks':28} {result['late_blocks']:6} of {result['blocks']}")
    print(f"{'ms a block':28} {', '.join(f'{stage} {ms}' for stage, ms in result['ms_a_block'].items())}")


if __name__ == "__main__":
    main()
