"""How many calls one engine holds: calls in real time without their network, more and more of them, until one runs dry.

Engine, scheduler, buffer, tracks and encoders (VP8 or H.264, and Opus) are those of a session, in the same two processes; what a
call costs besides, encryption and sockets, is left out, and so is the receiver, which would take more of the cores than they do.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

from aiortc.codecs.base import Encoder
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from av.frame import Frame
from avatar_rtc.media.demand import Demand
from avatar_rtc.media.tracks import VIDEO_CLOCK_HZ, AudioTrack, Playout, VideoTrack

from avatar_rtc.config import MediaConfig, load_config
from avatar_rtc.engine import Engine, EngineStream
from avatar_rtc.media.buffer import PlayBuffer
from avatar_rtc.media.clock import MediaClock
from avatar_rtc.media.encode import OPUS_CLOCK_HZ, make_encoder
from avatar_rtc.pace import Pace
from avatar_rtc.resources import server_config
from benchmarks.figures import percentile
from benchmarks.script import Script
from model.chunk import StreamInfo, StreamSettings


def video_encoder(codec: str, media: MediaConfig, info: StreamInfo) -> Encoder:
    """As a call that negotiated ``codec`` has it."""
    parameters = RTCRtpCodecParameters(mimeType=f"video/{codec}", clockRate=VIDEO_CLOCK_HZ, payloadType=96)
    return make_encoder(parameters, media.rates(info.fps), info.sample_rate_hz, media.audio_bps)


class Call:
    """One call. It asks for chunks as a session does, and encodes pictures and sound when they are due.

    Attributes:
        blocks: chunks that came, the first one not counted: nothing can run dry before it.
        late_blocks: of these, after the buffer had run dry.
        buffer: counts underruns.
        num_dropped: pictures left out, because the encoder had no time for them.
        encoding_s: of each picture, seconds of encoding it.
    """

    def __init__(self, engine: Engine, media: MediaConfig, codec: str, script: Script) -> None:
        info = engine.info
        self._info = info
        self._script = script
        pace, low_water_s = Pace(info.chunks_per_block), media.low_water_ms / 1000
        self._demand = Demand(low_water_s, info.block_duration_s, pace)
        self.buffer = PlayBuffer(info, lambda _: None, kept_after_cancel_s=0.0)
        self._playout = Playout(self.buffer, MediaClock())
        self._video_encoder = video_encoder(codec, media, info)
        opus = RTCRtpCodecParameters(mimeType="audio/opus", clockRate=OPUS_CLOCK_HZ, payloadType=111)
        self._audio_encoder = make_encoder(opus, media.rates(info.fps), info.sample_rate_hz, media.audio_bps)
        self.encoding_s: list[float] = []
        self.blocks = self.late_blocks = self.num_speaking = self.num_dropped = 0

    async def run(self, engine: Engine, settings: StreamSettings, seconds: float) -> None:
        """Talk until so much media was played."""
        stream = await engine.open(settings)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._pull(stream)), group.create_task(self._send_sound())]
            await self._send_pictures(math.ceil(seconds * self._info.fps))
            for task in tasks:
                task.cancel()
        await stream.close()

    async def _pull(self, stream: EngineStream) -> None:
        num_chunks, chunk = 0, None
        while True:
            line = self._script.next_line(chunk)
            if line is not None:
                await stream.push(f"reply-{num_chunks}", line)
                self._demand.on_line()
            while (spare_s := self._demand.spare_s(self.buffer.buffered_s)) > 0:  # noqa: ASYNC110  time is what passes
                await asyncio.sleep(max(spare_s, 0.01))
            asked_s, buffered_s = time.monotonic(), self.buffer.buffered_s
            chunk = await stream.next(asked_s + buffered_s)
            took_s = time.monotonic() - asked_s
            self._demand.on_chunk(took_s, chunk.duration_s, self.buffer.num_underruns)
            if num_chunks:
                self.blocks += 1
                self.late_blocks += took_s > buffered_s
                self.num_speaking += chunk.speaking
            num_chunks += 1
            self.buffer.put(chunk)
            self._playout.notify()

    async def _send_pictures(self, num_frames: int) -> None:
        track = VideoTrack(self._playout)
        while self.buffer.num_decided < num_frames:
            frame = await track.recv()
            self.encoding_s.append(await asyncio.to_thread(_encode, self._video_encoder, frame))
            self.num_dropped = track.num_dropped

    async def _send_sound(self) -> None:
        track = AudioTrack(self._playout)
        while True:
            await asyncio.to_thread(_encode, self._audio_encoder, await track.recv())


def _encode(encoder: Encoder, frame: Frame) -> float:
    """Returns how many seconds it took."""
    start_s = time.perf_counter()
    encoder.encode(frame)
    return time.perf_counter() - start_s


async def talk(engine: Engine, num_calls: int, seconds: float, codec: str) -> dict[str, Any]:
    """Hold so many calls of so many seconds at once with an engine that was just started; they begin within one block."""
    config = load_config(server_config("pocket"))
    voices = {voice.id: voice.voice for voice in config.voices}
    avatars = [StreamSettings(avatar.scene, voices[avatar.voice]) for avatar in config.avatars]
    calls = [Call(engine, config.media, codec, Script(number)) for number in range(num_calls)]
    block_s = engine.info.block_duration_s

    async def begin(number: int) -> None:
        await asyncio.sleep(number * block_s / num_calls)
        await calls[number].run(engine, avatars[number % len(avatars)], seconds)

    own_cpu_s = time.process_time()
    async with asyncio.TaskGroup() as group:
        for number in range(num_calls):
            group.create_task(begin(number))
    own_cpu_s = time.process_time() - own_cpu_s
    stats = engine.stats()
    blocks, late = sum(call.blocks for call in calls), sum(call.late_blocks for call in calls)
    size = engine.info.block_frames
    shares = [
        sum(call.encoding_s[i : i + size]) / block_s for call in calls for i in range(0, len(call.encoding_s) - size + 1, size)
    ]
    encoder = percentile(shares, 0.5), percentile(shares, 0.95)
    return {
        "calls": num_calls,
        "blocks": blocks,
        "late_blocks": late,
        "late_share": round(late / blocks, 4),
        "speaking_share": round(sum(call.num_speaking for call in calls) / blocks, 2),
        "underruns": sum(call.buffer.num_underruns for call in calls),
        "dropped_frames": sum(call.num_dropped for call in calls),
        "rtf_engine": {"p50": round(stats.rtf_p50, 3), "p95": round(stats.rtf_p95, 3)},
        "rtf_encoder": {"p50": round(encoder[0], 3), "p95": round(encoder[1], 3)},
        # The two seldom have their worst block together, and may run at once: this is what they need at most.
        "rtf_together": {"p50": round(stats.rtf_p50 + encoder[0], 3), "p95": round(stats.rtf_p95 + encoder[1], 3)},
        # Encoders, buffers and clocks; the engine is a process of its own.
        "service_cores": round(own_cpu_s / seconds, 3),
    }
