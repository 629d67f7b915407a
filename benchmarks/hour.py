"""One long session on the fake engine through a bad network: interrupted, held, resumed, pushed to a receiver, and recorded.

Caller and receiver each have a network of their own in between, which loses datagrams and lets the others overtake one another.
The caller says line after line and interrupts some. Now and then its network is cut in the middle of a line for five seconds;
then it comes back to the same session, and the line has to go on. The receiver's network is cut as well. Every ten minutes a
Chromium watches for a minute through the caller's network, and flash and beep of its rendered page are compared.

    python -m benchmarks.hour --minutes 60
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import av
import numpy as np

from avatar_rtc import resources
from avatar_rtc.client import Call
from avatar_rtc.errors import CallError
from benchmarks import machine, measurements, skew
from benchmarks.endurance import memory_mb, num_descriptors
from benchmarks.figures import percentile
from benchmarks.media_skew import Eyes
from benchmarks.speech import SENTENCES
from signaling.vocabulary import AudioCleared, ResponseCancel, ResponseCreate, ResponseCreated, ResponseDone, TranscriptDelta
from testkit.browser import RunningServer, eventually, has_picture, open_browser, run_server, stats
from testkit.network import Network, open_network
from testkit.whip_receiver import WhipReceiver

LINE_TIMEOUT_S = 60.0
LATE_MS = 1000.0
"""Prompts that took longer are listed one by one: are they spread over the hour, or all in one connection?"""
CUT_S = 5.0
CUT_EVERY_S = 180.0
PUSH_CUT_EVERY_S = 420.0
RECORDING_S = 900.0
WATCH_EVERY_S = 600.0
SAMPLE_EVERY_S = 60.0
INTERRUPTED_SHARE = 0.25
TOKEN = "of-the-receiver"


class Session:
    """What is done to the one session, and what came of it."""

    def __init__(self, server: RunningServer, network: Network, push_network: Network, receiver: WhipReceiver) -> None:
        self._server = server
        self._network = network
        self._push_network = push_network
        self._receiver = receiver
        self._random = random.Random(1)
        self._lines = itertools.cycle(SENTENCES.read_text().splitlines())
        self._began_s = time.monotonic()
        self._created_s: dict[str, float] = {}
        self._news = asyncio.Event()
        self._watching = asyncio.Lock()
        self.call = Call(network.url)
        self.eyes = Eyes(self.call)
        self.counts: Counter[str] = Counter()
        self.delivery_ms: list[float] = []
        self.answer_ms: list[float] = []
        self.late: list[dict[str, float]] = []
        self.resume_s: list[float] = []
        self.problems: list[str] = []
        self.rendered: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.recordings: list[str] = []
        self.outputs: list[dict[str, Any]] = []

    async def live(self, seconds: float, http: aiohttp.ClientSession) -> None:
        """All of it; the session is ended."""
        await self.call.connect()
        sides = [
            asyncio.ensure_future(side)
            for side in (
                self._read_events(http),
                self._push(http),
                self._record(http),
                self._sample(http),
                self._watch_in_browser(seconds),
            )
        ]
        end_s = time.monotonic() + seconds
        cut_s = time.monotonic() + min(CUT_EVERY_S, seconds / 3)
        try:
            while time.monotonic() < end_s:
                is_cut = time.monotonic() >= cut_s and not self._watching.locked()
                try:
                    await self._say(is_cut=is_cut)
                except CallError as error:
                    self.counts["lost without a cut"] += 1
                    print(f"lost: {error}", file=sys.stderr, flush=True)
                    await self._resume()
                if is_cut:
                    cut_s = time.monotonic() + CUT_EVERY_S
                for side in sides:
                    if side.done() and side.exception() is not None:
                        self.problems.append(f"{side.exception()!r}")
                        sides.remove(side)
                        break
            async with http.get(f"/v1/sessions/{self.call.session_id}/stats") as response:
                self.outputs = (await response.json())["outputs"]
        except RuntimeError as error:
            self.problems.append(str(error))
        finally:
            for side in sides:
                side.cancel()
            await asyncio.gather(*sides, return_exceptions=True)
            await self.call.close()

    # The caller.

    async def _say(self, *, is_cut: bool) -> None:
        """A line to its end; some are interrupted, by the next one or by nothing, and in some the network is cut."""
        call, text = self.call, next(self._lines)
        reply_id = await self._prompt(text, "queue")
        is_interrupted = not is_cut and self._random.random() < INTERRUPTED_SHARE
        if is_cut or is_interrupted:
            await call.wait_for(lambda: len(call.received(TranscriptDelta, reply_id)) >= 2, LINE_TIMEOUT_S, "no words")
        if is_cut:
            await self._vanish()
        elif is_interrupted and self._random.random() < 0.5:
            call.send(ResponseCancel())
            self.counts["cancelled"] += 1
        elif is_interrupted:
            followed_id = await self._prompt("Something else, please.", "replace")
            await call.wait_for(lambda: call.received(ResponseDone, followed_id), LINE_TIMEOUT_S, "the line does not end")
            self.counts["replaced"] += 1
        (done, *more) = await call.wait_for(lambda: call.received(ResponseDone, reply_id), LINE_TIMEOUT_S, "it does not end")
        words = [event.text for event in call.received(TranscriptDelta, reply_id)]
        self.counts["lines"] += 1
        if more or (not is_interrupted and (done.status != "completed" or words != text.split())):
            self.problems.append(f"{done.status}, {len(more)} more ends: {words} of {text!r}")
        if is_interrupted and done.status == "cancelled" and not call.received(AudioCleared, reply_id):
            self.problems.append(f"cancelled without being cleared: {text!r}")
        call.events.clear()

    async def _prompt(self, text: str, mode: Any) -> str:
        """Send a line; how long it takes to the server is told over TCP by the server's own events."""
        call = self.call
        reply_id = f"line-{time.monotonic():.6f}"
        sent_s = time.monotonic()
        call.send(ResponseCreate(input=text, id=reply_id, mode=mode))
        await call.wait_for(lambda: call.received(ResponseCreated, reply_id), LINE_TIMEOUT_S, "not accepted")
        self.answer_ms.append((time.monotonic() - sent_s) * 1000)
        while reply_id not in self._created_s:
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), LINE_TIMEOUT_S)
        self.delivery_ms.append((self._created_s.pop(reply_id) - sent_s) * 1000)
        if self.delivery_ms[-1] > LATE_MS:
            late = {"at_s": sent_s - self._began_s, "delivery_ms": self.delivery_ms[-1], "answer_ms": self.answer_ms[-1]}
            self.late.append({name: round(value) for name, value in late.items()})
        return reply_id

    async def _vanish(self) -> None:
        """The network is cut; when it is back, the caller comes back."""
        self.counts["cuts"] += 1
        self._network.is_cut = True
        await asyncio.sleep(CUT_S)
        self._network.is_cut = False
        await self._resume()

    async def _resume(self) -> None:
        since_s = time.monotonic()
        for _ in range(3):
            try:
                await self.call.resume()
                self.resume_s.append(time.monotonic() - since_s)
                return
            except CallError as error:
                self.counts["resumed again"] += 1
                print(f"not resumed: {error}", file=sys.stderr, flush=True)
        raise RuntimeError("the session is lost")

    # Beside it.

    async def _read_events(self, http: aiohttp.ClientSession) -> None:
        async with http.get(f"/v1/sessions/{self.call.session_id}/events", timeout=aiohttp.ClientTimeout(total=None)) as events:
            async for line in events.content:
                if (found := re.search(rb'"response.created".*"response_id": ?"([^"]+)"', line)) is not None:
                    self._created_s[found[1].decode()] = time.monotonic()
                    self._news.set()

    async def _push(self, http: aiohttp.ClientSession) -> None:
        body = {"type": "whip", "url": f"{self._push_network.url}/live", "token": TOKEN}
        async with http.post(f"/v1/sessions/{self.call.session_id}/outputs", json=body) as response:
            url = (await response.json())["url"]
        while True:
            await asyncio.sleep(PUSH_CUT_EVERY_S)
            self._push_network.is_cut = True
            await asyncio.sleep(CUT_S)
            self._push_network.is_cut = False
            self.counts["pushes cut"] += 1
            for _ in range(60):
                await asyncio.sleep(1)
                async with http.get(url) as response:
                    if (await response.json())["state"] == "live":
                        self.counts["pushes live again"] += 1
                        break

    async def _record(self, http: aiohttp.ClientSession) -> None:
        while True:
            async with http.post(f"/v1/sessions/{self.call.session_id}/outputs", json={"type": "recording"}) as response:
                made = await response.json()
            try:
                await asyncio.sleep(RECORDING_S)
            finally:
                async with http.delete(made["url"]) as response:
                    self.recordings.append((await response.json())["file"])

    async def _sample(self, http: aiohttp.ClientSession) -> None:
        pid, began_s = self._server.process.pid, time.monotonic()
        while True:
            async with http.get(f"/v1/sessions/{self.call.session_id}/stats") as response:
                told = await response.json()
            sample = {
                "at_s": round(time.monotonic() - began_s),
                "memory_mb": memory_mb(pid),
                "descriptors": num_descriptors(pid),
                "underruns": told["underruns"],
                "frames": told["frames"],
                "pushed": self._receiver.num_pictures,
            }
            self.samples.append(sample)
            print(sample, dict(self.counts), f"{len(self.eyes.skews_ms)} pairs", file=sys.stderr, flush=True)
            await asyncio.sleep(SAMPLE_EVERY_S)

    async def _watch_in_browser(self, seconds: float) -> None:
        await asyncio.sleep(min(30.0, seconds / 6))
        while True:
            try:
                async with self._watching:  # a page that comes back plays another stream, which would have to be listened to anew
                    url = f"{self._network.url}/?session={self.call.session_id}&watch"
                    self.rendered.append(await asyncio.to_thread(watch, url))
            except Exception as error:
                self.counts["watched in vain"] += 1
                print(f"watched in vain: {error}", file=sys.stderr, flush=True)
            await asyncio.sleep(WATCH_EVERY_S)


def watch(url: str) -> dict[str, Any]:
    """Skew on the rendered page of a viewer, in Chromium."""
    with open_browser() as browser:
        page = browser.new_page(bypass_csp=True)
        page.goto(url)
        page.get_by_role("button", name=re.compile("^(Call|Watch)")).click()
        eventually(page, lambda: stats(page), has_picture, "a first picture", 30.0)
        return skew.measure(page, settle_s=20.0, duration_s=40.0)


def film_lengths(path: Path) -> dict[str, Any]:
    """Both tracks of a recording, seconds, and how many pictures and sounds it has."""
    with av.open(str(path)) as film:
        ends: dict[str, float] = {}
        numbers: Counter[str] = Counter()
        for packet in film.demux():
            if packet.pts is not None and packet.duration is not None:
                kind = packet.stream.type
                numbers[kind] += 1
                ends[kind] = max(ends.get(kind, 0.0), float((packet.pts + packet.duration) * packet.time_base))
    return {
        "video_s": round(ends["video"], 3),
        "audio_s": round(ends["audio"], 3),
        "pictures": numbers["video"],
        "sounds": numbers["audio"],
    }


async def measure(seconds: float, loss: float, jitter_s: float) -> dict[str, Any]:
    receiver = WhipReceiver(TOKEN)
    await receiver.start()
    with tempfile.TemporaryDirectory() as kept:
        sections: dict[str, Any] = {
            "recording": {"directory": kept},
            "whip": {"allow": ["127.0.0.0/8"]},
            "limits": {"grace_s": 30.0, "requests_per_minute": None},
        }
        with run_server("fake", **sections) as server:
            async with (
                open_network(server.url, loss=loss, jitter_s=jitter_s, seed=1) as network,
                open_network(f"http://127.0.0.1:{receiver.port}", loss=loss, jitter_s=jitter_s, seed=2) as push_network,
                aiohttp.ClientSession(server.url) as http,
            ):
                session = Session(server, network, push_network, receiver)
                await session.live(seconds, http)
                lost = network.num_lost / (network.num_lost + network.num_carried)
            await receiver.kill()
            films = [film_lengths(Path(kept) / name) for name in session.recordings]
            log = server.log()
    if "Traceback" in log:
        print(log, file=sys.stderr, flush=True)
    rendered = [abs(ms) for seen in session.rendered for at_s, ms in seen["pairs_ms"] if at_s >= 20.0]
    own = [abs(ms) for ms in session.eyes.skews_ms]
    settled = [sample["memory_mb"] for sample in session.samples if sample["at_s"] >= min(300, seconds / 2)]
    descriptors = [sample["descriptors"] for sample in session.samples]
    return {
        "minutes": seconds / 60,
        "datagrams_lost": round(lost, 3),
        "jitter_ms": round(jitter_s * 1000),
        "counts": dict(session.counts),
        "problems": session.problems,
        "tracebacks": log.count("Traceback"),
        "errors_logged": len(re.findall(r"\bERROR\b", log)),
        "delivery_ms": _of(session.delivery_ms),
        "sent_to_acknowledged_ms": _of(session.answer_ms),
        "late": session.late,
        "skew_by_media_clock_ms": _of(own),
        "skew_rendered_ms": _of(rendered),
        "resume_s": _of(session.resume_s),
        "memory_mb": {"after_5_min": settled[0], "last": settled[-1], "most": np.max(settled, axis=0).tolist()},
        "descriptors": {"most": max(descriptors), "last": descriptors[-1]},
        "underruns": session.samples[-1]["underruns"],
        "pushed_pictures": receiver.num_pictures,
        "recordings": films,
        "outputs": session.outputs,
        "samples": session.samples,
    }


def _of(values: list[float]) -> dict[str, float]:
    if not values:
        return {"number": 0}
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {"number": len(values), **{name: round(percentile(values, share), 1) for name, share in shares.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--loss", type=float, default=0.05, help="share of the datagrams (default: 0.05)")
    parser.add_argument("--jitter-ms", type=float, default=100.0, help="each is late by 0 to so much (default: 100)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="put the figures into this file of measurements")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    described = machine.describe(resources.num_cores())
    result = asyncio.run(measure(options.minutes * 60, options.loss, options.jitter_ms / 1000))
    if options.out:
        measurements.keep(options.out, "hour", {"machine": described, **result})
    if options.json:
        print(json.dumps(result))
        return
    print(machine.headline(described))
    for name, value in result.items():
        if name != "samples":
            print(f"{name:24} {value}")
    print("the bar: skew p95 at most 80 ms, memory flat, delivery p99 below 500 ms, no problem, no traceback")


if __name__ == "__main__":
    main()
