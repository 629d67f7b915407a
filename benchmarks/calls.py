"""How many calls one engine holds: calls in real time without their network, more and more of them, until one runs dry.

Engine, scheduler, buffer, tracks and encoders (VP8 or H.264, and Opus) are those of a session, in the same two processes; what a
call costs besides, encryption and sockets, is left out, and so is the receiver, which would take more of the cores than they do.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

from avatar_rtc.config import MediaConfig, load_config
from avatar_rtc.engine.api import Engine, EngineStream
from avatar_rtc.media.encode import Opus, make_video_encoder
from avatar_rtc.media.playout import Playout
from avatar_rtc.resources import server_config
from benchmarks.dialogue import Dialogue
from benchmarks.figures import percentile
from model.chunk import StreamSettings


class Call:
    """One call: a session's playout, and the encoders of a broadcast with one reader of each kind.

    Attributes:
        chunks: that came, the first one not counted: nothing can run dry before it.
        late_chunks: of these, after the buffer had run dry.
        playout: counts underruns, and pictures left out because the encoder had no time for them.
        encoding_s: of each picture, seconds of encoding it.
    """

    def __init__(self, engine: Engine, media: MediaConfig, codec: str, dialogue: Dialogue) -> None:
        info = engine.info
        self._info = info
        self._dialogue = dialogue
        self.playout = Playout(info, low_water_s=media.low_water_ms / 1000)
        self._video_encoder = make_video_encoder("H264" if codec == "H264" else "VP8", media.rates(info.fps))
        self._audio_encoder = Opus(info.sample_rate_hz, media.audio_bps)
        self.encoding_s: list[float] = []
        self.chunks = self.late_chunks = self.num_speaking = 0

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
        num_chunks = 0
        await self._push(stream, self._dialogue.next_line(None), num_chunks)
        async for pulled in self.playout.pull(stream):
            if num_chunks:
                self.chunks += 1
                self.late_chunks += pulled.took_s > pulled.buffered_s
                self.num_speaking += pulled.chunk.speaking
            num_chunks += 1
            await self._push(stream, self._dialogue.next_line(pulled.chunk), num_chunks)

    async def _push(self, stream: EngineStream, line: str | None, number: int) -> None:
        if line is not None:
            await stream.push(f"reply-{number}", line)
            self.playout.policy.on_line()

    async def _send_pictures(self, num_frames: int) -> None:
        async for frame in self.playout.pictures():
            start_s = time.perf_counter()
            await asyncio.to_thread(self._video_encoder.encode, frame)
            self.encoding_s.append(time.perf_counter() - start_s)
            if self.playout.buffer.num_decided >= num_frames:
                return

    async def _send_sound(self) -> None:
        async for piece in self.playout.sound():
            await asyncio.to_thread(self._audio_encoder.encode, piece)


async def talk(engine: Engine, num_calls: int, seconds: float, codec: str) -> dict[str, Any]:
    """Hold so many calls of so many seconds at once with an engine that was just started; they begin within one chunk."""
    config = load_config(server_config("pocket"))
    voices = {voice.id: voice.voice for voice in config.voices}
    avatars = [StreamSettings(avatar.scene, voices[avatar.voice]) for avatar in config.avatars]
    calls = [Call(engine, config.media, codec, Dialogue(number)) for number in range(num_calls)]
    chunk_s = engine.info.chunk_duration_s

    async def begin(number: int) -> None:
        await asyncio.sleep(number * chunk_s / num_calls)
        await calls[number].run(engine, avatars[number % len(avatars)], seconds)

    own_cpu_s = time.process_time()
    async with asyncio.TaskGroup() as group:
        for number in range(num_calls):
            group.create_task(begin(number))
    own_cpu_s = time.process_time() - own_cpu_s
    stats = engine.stats()
    chunks, late = sum(call.chunks for call in calls), sum(call.late_chunks for call in calls)
    size = engine.info.chunk_frames
    shares = [
        sum(call.encoding_s[i : i + size]) / chunk_s for call in calls for i in range(0, len(call.encoding_s) - size + 1, size)
    ]
    encoder = percentile(shares, 0.5), percentile(shares, 0.95)
    return {
        "calls": num_calls,
        "chunks": chunks,
        "late_chunks": late,
        "late_share": round(late / chunks, 4),
        "speaking_share": round(sum(call.num_speaking for call in calls) / chunks, 2),
        "underruns": sum(call.playout.buffer.num_underruns for call in calls),
        "dropped_frames": sum(call.playout.num_dropped for call in calls),
        "rtf_engine": {"p50": round(stats.rtf_p50, 3), "p95": round(stats.rtf_p95, 3)},
        "rtf_encoder": {"p50": round(encoder[0], 3), "p95": round(encoder[1], 3)},
        # The two seldom have their worst chunk together, and may run at once: this is what they need at most.
        "rtf_together": {"p50": round(stats.rtf_p50 + encoder[0], 3), "p95": round(stats.rtf_p95 + encoder[1], 3)},
        # Encoders, buffers and clocks; the engine is a process of its own.
        "service_cores": round(own_cpu_s / seconds, 3),
    }
