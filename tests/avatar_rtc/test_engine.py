"""The engine process: order, cancelling, crashes, hangs, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import functools
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from avatar_rtc.engine.api import EngineFailure, EngineStream, OnProgress
from avatar_rtc.engine.process import EngineLimits
from avatar_rtc.engine.process_engine import ProcessEngine
from avatar_rtc.fake import FakeModel, FakeOptions, FakeStream, load_fake, read_counter, read_tone_hz, word_tone_hz
from model.chunk import AVChunk, StreamSettings
from model.errors import CheckpointError, UnspeakableTextError
from model.stream import Model

WOMAN = StreamSettings(scene="A woman in a garden.", voice="a warm female voice")
MAN = StreamSettings(scene="A man in a library.", voice="a deep male voice")
QUICK = EngineLimits(first_restart_s=0.01)
TIMEOUT_S = 5
"""Whatever takes a busy machine so long was not noticed at once: the limits of ``EngineLimits`` that would end it are longer."""

StartEngine = Callable[..., Awaitable[ProcessEngine]]


@pytest.fixture
async def start_engine() -> AsyncIterator[StartEngine]:
    engines = []

    async def start(options: FakeOptions | None = None, limits: EngineLimits = QUICK) -> ProcessEngine:
        engine = ProcessEngine(functools.partial(load_fake, options or FakeOptions()), limits=limits)
        engines.append(engine)
        await engine.start()
        return engine

    yield start
    for engine in engines:
        await engine.close()


async def take(stream: EngineStream, num_chunks: int) -> list[AVChunk]:
    return [await stream.next(time.monotonic() + 1) for _ in range(num_chunks)]


def marks_of(chunks: list[AVChunk]) -> list[tuple[str, str]]:
    return [(mark.kind, mark.text) for chunk in chunks for mark in chunk.marks]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - an engine tells nobody how it is
            await asyncio.sleep(0.02)


async def test_chunks_say_the_line_and_are_the_same_every_time(start_engine: StartEngine) -> None:
    engine = await start_engine()
    runs = []
    for _ in range(2):
        stream = await engine.open(WOMAN)
        await stream.push("r1", "Nice to meet you.")
        runs.append(await take(stream, 6))
        await stream.close()
    first, second = runs
    assert [chunk.index for chunk in first] == [0, 1, 2, 3, 4, 5]
    frames = [frame for chunk in first for frame in chunk.frames]
    assert [read_counter(frame[: engine.info.height_px]) for frame in frames] == list(range(48))
    assert marks_of(first) == [("start", ""), ("word", "Nice"), ("word", "to"), ("word", "meet"), ("word", "you."), ("end", "")]
    assert [chunk.speaking for chunk in first] == [True, True, True, False, False, False]
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.frames, other.frames)
        assert np.array_equal(one.samples, other.samples)
    stats = engine.stats()
    assert (stats.state, stats.chunks, stats.streams) == ("ready", 12, 0)
    assert set(stats.stage_s) == {"text", "dit", "vae", "audio", "copy"}
    assert 0 < stats.rtf_p50 <= stats.rtf_p95


async def test_the_earliest_deadline_is_served_first(start_engine: StartEngine) -> None:
    engine = await start_engine(FakeOptions(rtf=1.0))
    streams = [await engine.open(WOMAN) for _ in range(3)]
    finished: list[int] = []

    async def pull(number: int, deadline_s: float) -> None:
        await streams[number].next(deadline_s)
        finished.append(number)

    now_s = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(pull(0, now_s + 30))
        tasks.create_task(pull(1, now_s + 20))
        tasks.create_task(pull(2, now_s + 10))
    assert finished == [2, 1, 0]


class Diligent(FakeStream):
    """Works ahead three times, then waits; its chunks speak if it has."""

    num_worked = 0

    @property
    def due_s(self) -> float:
        return 0.0 if self.num_worked < 3 else math.inf

    def work(self) -> None:
        self.num_worked += 1

    def step(self, deadline_s: float | None = None) -> AVChunk | None:
        chunk = super().step(deadline_s)
        return None if chunk is None else replace(chunk, speaking=self.num_worked == 3)


class DiligentModel(FakeModel):
    def open(self, settings: StreamSettings) -> FakeStream:
        return Diligent(settings, FakeOptions())


def load_diligent(on_progress: OnProgress) -> Model:
    return DiligentModel(FakeOptions())


async def test_a_stream_works_ahead_while_nobody_asks_for_a_chunk() -> None:
    engine = ProcessEngine(load_diligent, limits=QUICK)
    await engine.start()
    stream = await engine.open(WOMAN)
    await asyncio.sleep(0.3)
    (chunk,) = await take(stream, 1)
    await engine.close()
    assert chunk.speaking


async def test_two_streams_do_not_mix(start_engine: StartEngine) -> None:
    engine = await start_engine()
    woman, man = await engine.open(WOMAN), await engine.open(MAN)
    await woman.push("w", "banana")
    await man.push("m", "telephone")
    heard = {}
    async with asyncio.TaskGroup() as tasks:
        pulls = {name: tasks.create_task(take(stream, 3)) for name, stream in (("w", woman), ("m", man))}
    for name, pull in pulls.items():
        chunks = pull.result()
        assert {mark.reply_id for chunk in chunks for mark in chunk.marks} == {name}
        assert [chunk.index for chunk in chunks] == [0, 1, 2]
        heard[name] = read_tone_hz(chunks[0].samples[2000:], 24_000)
        assert len({bytes(frame[-1, :4]) for chunk in chunks for frame in chunk.frames}) == 1
    assert heard == {"w": word_tone_hz("banana"), "m": word_tone_hz("telephone")}


async def test_cancel_abandons_the_block_in_work(start_engine: StartEngine) -> None:
    engine = await start_engine(FakeOptions(rtf=1.0, flash_and_beep=False))
    stream = await engine.open(WOMAN)
    await stream.push("r1", "one two three four five six seven")
    assert (await stream.next(math.inf)).speaking
    pull = asyncio.create_task(stream.next(math.inf))
    # The child takes a step between two answers, so that after two of them the block is in work.
    for _ in range(2):
        await asyncio.sleep(0)
        await stream.update(WOMAN)
    assert not pull.done()
    await stream.cancel()
    chunk = await pull
    assert chunk.index == 1
    assert not chunk.speaking
    assert not chunk.samples.any()
    await stream.push("r2", "hello")
    assert marks_of([await stream.next(math.inf)])[0] == ("start", "")


async def test_a_caller_that_gives_up_loses_no_chunk(start_engine: StartEngine) -> None:
    engine = await start_engine(FakeOptions(rtf=0.2))
    stream = await engine.open(WOMAN)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await stream.next(math.inf)
    assert [chunk.index for chunk in await take(stream, 2)] == [0, 1]


@pytest.mark.parametrize("text", ["", " ... ", "привет", "こんにちは"])
async def test_bad_text_is_refused_with_its_type_and_the_stream_goes_on(start_engine: StartEngine, text: str) -> None:
    engine = await start_engine()
    stream = await engine.open(WOMAN)
    with pytest.raises(UnspeakableTextError, match="write"):
        await stream.push("r1", text)
    await stream.push("r2", "Hello.")
    assert marks_of(await take(stream, 2)) == [("start", ""), ("word", "Hello."), ("end", "")]


async def test_after_a_crash_streams_fail_and_new_ones_work(start_engine: StartEngine) -> None:
    engine = await start_engine(FakeOptions(crash_on_text="boom"))
    victim, bystander = await engine.open(WOMAN), await engine.open(MAN)
    await victim.push("r1", "boom")
    with pytest.raises(EngineFailure, match="ended"):
        await victim.next(math.inf)
    with pytest.raises(EngineFailure):
        await bystander.next(math.inf)
    with pytest.raises(EngineFailure):
        await bystander.push("r2", "hello")
    await victim.close()
    await bystander.close()
    stream = await engine.open(WOMAN)
    assert (await stream.next(math.inf)).index == 0
    assert engine.stats().restarts == 1


async def test_a_hung_engine_is_killed_and_started_again(start_engine: StartEngine) -> None:
    engine = await start_engine(FakeOptions(hang_on_text="freeze"), EngineLimits(progress_s=0.5, first_restart_s=0.01))
    hung_pid = engine.pid
    assert hung_pid is not None
    hung = os.pidfd_open(hung_pid)
    stream = await engine.open(WOMAN)
    await stream.push("r1", "freeze")
    with pytest.raises(EngineFailure, match="no progress"):
        async with asyncio.timeout(TIMEOUT_S):
            await stream.next(math.inf)
    again = await engine.open(WOMAN)
    assert (await again.next(math.inf)).index == 0
    assert is_gone(hung)
    os.close(hung)


async def test_a_killed_engine_is_noticed_at_once(start_engine: StartEngine) -> None:
    engine = await start_engine(FakeOptions(rtf=1.0))
    stream = await engine.open(WOMAN)
    pull = asyncio.create_task(stream.next(math.inf))
    await stream.update(WOMAN)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineFailure, match="process ended"):
        async with asyncio.timeout(TIMEOUT_S):
            await pull


async def test_an_idle_engine_is_not_taken_for_a_hung_one(start_engine: StartEngine) -> None:
    engine = await start_engine(limits=EngineLimits(progress_s=0.2))
    pid = engine.pid
    await asyncio.sleep(1.0)
    assert (engine.pid, engine.stats().state, engine.stats().restarts) == (pid, "ready", 0)


def load_unless(broken: Path, on_progress: OnProgress) -> Model:
    """A loader that fails while a file exists."""
    if broken.exists():
        raise CheckpointError(f"{broken} is in the way: remove it")
    return FakeModel()


async def test_what_is_wrong_with_the_weights_reaches_the_caller(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    engine = ProcessEngine(functools.partial(load_unless, broken))
    with pytest.raises(CheckpointError, match="remove it"):
        await engine.start()
    assert engine.stats().state == "closed"


def load_and_die(on_progress: OnProgress) -> Model:
    raise AssertionError("a bug in the model")


async def test_a_bug_while_loading_is_an_engine_failure() -> None:
    engine = ProcessEngine(load_and_die)
    with pytest.raises(EngineFailure, match="ended"):
        await engine.start()


async def test_while_it_cannot_restart_open_says_why_and_later_works(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    limits = EngineLimits(open_s=0.5, first_restart_s=0.01, last_restart_s=0.2)
    while_loading = list[str]()
    load = functools.partial(load_unless, broken)
    engine = ProcessEngine(load, limits=limits, on_progress=lambda message: while_loading.append(engine.stats().message))
    await engine.start()
    broken.touch()
    while_loading.clear()
    stream = await engine.open(WOMAN)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineFailure, match="ended"):
        await stream.next(math.inf)
    await until(lambda: "remove it" in engine.stats().message)
    with pytest.raises(EngineFailure, match="remove it"):
        await engine.open(WOMAN)
    assert engine.stats().state == "restarting"
    assert while_loading, "the next try has begun"
    assert all("ended" in message or "remove it" in message for message in while_loading)
    broken.unlink()
    await until(lambda: engine.stats().state == "ready")
    stream = await engine.open(WOMAN)
    assert (await stream.next(math.inf)).index == 0
    await engine.close()


def load_for_ever(on_progress: OnProgress) -> Model:
    signal.pause()
    raise AssertionError("unreachable")


async def test_a_start_that_is_given_up_ends_the_process_at_once() -> None:
    loading = asyncio.Event()
    limits = EngineLimits(close_s=60)
    engine = ProcessEngine(load_for_ever, limits=limits, on_progress=lambda message: loading.set())
    start = asyncio.create_task(engine.start())
    await loading.wait()
    assert engine.pid is not None
    assert engine.stats().message == "loading the model"
    child = os.pidfd_open(engine.pid)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(TIMEOUT_S):
            await start
    assert is_gone(child)
    os.close(child)


async def test_a_start_that_takes_too_long_fails() -> None:
    engine = ProcessEngine(functools.partial(load_fake, FakeOptions()), limits=EngineLimits(start_s=0.01))
    with pytest.raises(EngineFailure, match="not ready within"):
        await engine.start()


async def test_close_leaves_nothing_and_fails_what_waits(start_engine: StartEngine) -> None:
    # The first start of a process brings up multiprocessing's own helper, which stays.
    await (await start_engine()).close()
    before = open_descriptors()
    engine = ProcessEngine(functools.partial(load_fake, FakeOptions(crash_on_text="boom", rtf=1.0)), limits=QUICK)
    await engine.start()
    stream = await engine.open(WOMAN)
    await stream.push("r1", "boom")
    with pytest.raises(EngineFailure):
        await stream.next(math.inf)
    stream = await engine.open(WOMAN)
    pull = asyncio.create_task(stream.next(math.inf))
    await stream.update(WOMAN)
    assert engine.pid is not None
    child = os.pidfd_open(engine.pid)
    await engine.close()
    assert is_gone(child)
    os.close(child)
    with pytest.raises(EngineFailure):
        await pull
    await engine.close()
    with pytest.raises(EngineFailure, match="closed"):
        await engine.open(WOMAN)
    assert {task for task in asyncio.all_tasks() if task is not asyncio.current_task()} == set()
    assert open_descriptors() - before == Counter()


PARENT = """
import asyncio, functools, math
from avatar_rtc.engine.process_engine import ProcessEngine
from avatar_rtc.fake import FakeOptions, load_fake
from model.chunk import StreamSettings

async def main():
    engine = ProcessEngine(functools.partial(load_fake, FakeOptions(hang_on_text="freeze")))
    await engine.start()
    stream = await engine.open(StreamSettings("a woman", "a voice"))
    await stream.push("r1", "freeze")
    print(engine.pid, flush=True)
    await stream.next(math.inf)

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs pidfd")
def test_even_a_hung_child_dies_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    shared_before = set(os.listdir("/dev/shm"))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    assert is_gone(child, timeout_s=20)
    os.close(child)
    assert set(os.listdir("/dev/shm")) <= shared_before


def is_gone(pidfd: int, timeout_s: float = 0) -> bool:
    """A pidfd becomes readable when its process ends."""
    return bool(select.select([pidfd], [], [], timeout_s)[0])


def open_descriptors() -> Counter[str]:
    descriptors: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptors[os.readlink(f"/proc/self/fd/{name}")] += 1
        except FileNotFoundError:
            continue
    return descriptors
