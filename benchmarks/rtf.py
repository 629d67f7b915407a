"""How fast the engine makes blocks on this machine: seconds of computing a second of media, text encoder included.

python -m benchmarks.rtf --calls 1 --seconds 30
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time

from avatar_rtc.app import make_engine
from avatar_rtc.config import load_config
from avatar_rtc.engine import Engine
from avatar_rtc.resources import server_config
from model.chunk import StreamSettings

BAR = 0.6
LINES = (
    "Hello, nice to meet you.",
    "It is twenty past nine, and the coffee is ready.",
    "The train to the coast leaves in a quarter of an hour.",
    "What would you like to know?",
)


async def talk(engine: Engine, settings: StreamSettings, seconds: float) -> int:
    """Pull chunks as a call does, never ahead of their time by more than a block. Returns how many came too late."""
    stream = await engine.open(settings)
    block_s = engine.info.block_duration_s
    due_s = time.monotonic() + block_s
    num_late = num_lines = 0
    is_silent = True
    for _ in range(round(seconds / block_s)):
        if is_silent:
            await stream.push(f"reply-{num_lines}", LINES[num_lines % len(LINES)])
            num_lines += 1
        chunk = await stream.next(due_s)
        is_silent = not chunk.speaking or any(mark.kind == "end" for mark in chunk.marks)
        now_s = time.monotonic()
        num_late += now_s > due_s
        await asyncio.sleep(max(0.0, due_s - now_s - block_s / 2))
        due_s = max(due_s, now_s) + block_s
    await stream.close()
    return num_late


async def measure(model: str, num_calls: int, seconds: float) -> dict[str, object]:
    config = load_config(server_config("pocket"))
    engine = make_engine(config.model_copy(update={"engine": config.engine.model_copy(update={"model": model})}))
    voices = {voice.id: voice.voice for voice in config.voices}
    avatars = [StreamSettings(avatar.scene, voices[avatar.voice]) for avatar in config.avatars]
    await engine.start()
    try:
        late = await asyncio.gather(*(talk(engine, avatars[call % len(avatars)], seconds) for call in range(num_calls)))
        stats = engine.stats()
    finally:
        await engine.close()
    block_ms = {stage: round(1000 * stage_s / stats.blocks, 1) for stage, stage_s in stats.stage_s.items()}
    return {
        "model": model,
        "calls": num_calls,
        "blocks": stats.blocks,
        "rtf_p50": round(stats.rtf_p50, 3),
        "rtf_p95": round(stats.rtf_p95, 3),
        "late_blocks": sum(late),
        "ms_a_block": block_ms,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("pocket", "fake"), default="pocket")
    parser.add_argument("--calls", type=int, default=1, help="calls at once")
    parser.add_argument("--seconds", type=float, default=30.0, help="of media for each call")
    options = parser.parse_args()
    result = asyncio.run(measure(options.engine, options.calls, options.seconds))
    print(json.dumps(result, indent=2))
    rtf_p95 = result["rtf_p95"]
    assert isinstance(rtf_p95, float)
    print(f"real-time factor p95 {rtf_p95:.2f}, the bar is {BAR}: {'met' if rtf_p95 <= BAR else 'missed'}")


if __name__ == "__main__":
    main()
