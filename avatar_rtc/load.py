"""Load: many headless callers at once, what their calls were like, and how far these figures are to be trusted."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from avatar_rtc import resources
from avatar_rtc.client import Call
from avatar_rtc.errors import CallError
from avatar_rtc.say import FREEZE_S

SCRIPT: tuple[str | float, ...] = (
    "Hello, nice to meet you.",
    1.0,
    "It is twenty past nine, and the coffee is ready.",
    1.0,
    "What a lovely day for a walk by the river!",
)
"""What is said without a file."""
PERIOD_S = 0.02
BUSY = 0.8
"""A share of this machine's cores above which the callers were short of them."""
LATE_S = 0.02
"""An event loop that is late by so much at the 95th percentile is late by as much in what it measures: a packet of sound."""

Status = Literal["to come", "calling", "completed", "refused", "broken"]


def read_script(path: Path) -> tuple[str | float, ...]:
    """Lines to say, and pauses in seconds: a line that is a number alone. Empty lines, and those after ``#``, are left out."""
    steps: list[str | float] = []
    for line in path.read_text().splitlines():
        text = line.strip()
        if text and not text.startswith("#"):
            steps.append(float(text) if text.replace(".", "", 1).isdecimal() else text)
    return tuple(steps)


@dataclass
class CallReport:
    """One call.

    Attributes:
        status: ``refused`` before it was up, ``broken`` while it was.
        why: of these two, for people; ``code`` is the server's.
        answered_ms: from the offer to its answer; a seat is waited for in it.
        join_ms: from the offer to the first decoded picture.
        first_voice_ms: of each line, from sending it to its first voiced sound.
        skew_ms: of each picture, by how much later, or earlier, it was here than the sound of the same moment.
        freezes: pauses between pictures of more than 190 ms.
        underruns: times that the server had nothing new to show, as it says itself.
    """

    number: int
    status: Status = "to come"
    why: str = ""
    code: str = ""
    answered_ms: int | None = None
    join_ms: int | None = None
    first_voice_ms: list[int] = field(default_factory=list)
    skew_ms: list[float] = field(default_factory=list)
    num_lines: int = 0
    freezes: int = 0
    underruns: int = 0
    packets_lost: int = 0


@dataclass(frozen=True)
class OwnLoad:
    """What the callers themselves cost this machine.

    Attributes:
        cpu_share: of all cores that this program may use.
        late_ms: of the event loop: p50, p95 and max.
    """

    cpu_share: float
    cores: int
    late_ms: dict[str, float]

    @property
    def warnings(self) -> list[str]:
        """Why the figures say more of this program than of the server; empty if they do not."""
        late_ms, told = self.late_ms.get("p95", 0.0), []
        if self.cpu_share > BUSY:
            told.append(f"the callers took {self.cpu_share:.0%} of the {self.cores} cores of this machine")
        if late_ms > 1000 * LATE_S:
            told.append(f"their event loop was late by {late_ms:.0f} ms (p95), and so is what it measured")
        return told


@dataclass
class LoadReport:
    """All calls, and who made them."""

    url: str
    calls: list[CallReport]
    own: OwnLoad
    seconds: float

    @property
    def is_good(self) -> bool:
        return all(call.status == "completed" for call in self.calls)

    def percentiles(self) -> dict[str, dict[str, float]]:
        """p50, p95 and max of what was measured; absolute values of skews; nothing of what there was none of."""
        up = [call for call in self.calls if call.join_ms is not None]
        measured: dict[str, Iterable[float]] = {
            "answered_ms": [call.answered_ms for call in self.calls if call.answered_ms is not None],
            "join_ms": [call.join_ms for call in up if call.join_ms is not None],
            "first_voice_ms": [ms for call in up for ms in call.first_voice_ms],
            "skew_ms": [abs(ms) for call in up for ms in call.skew_ms],
            "freezes": [call.freezes for call in up],
            "underruns": [call.underruns for call in up],
            "packets_lost": [call.packets_lost for call in up],
        }
        return {name: _percentiles(list(values)) for name, values in measured.items()}

    def as_dict(self) -> dict[str, Any]:
        calls = [{name: value for name, value in asdict(call).items() if name != "skew_ms"} for call in self.calls]
        return {
            "url": self.url,
            "seconds": round(self.seconds, 1),
            "statuses": dict(Counter(call.status for call in self.calls)),
            "lines": sum(call.num_lines for call in self.calls),
            "percentiles": self.percentiles(),
            "own": asdict(self.own),
            "warnings": self.own.warnings,
            "calls": calls,
        }

    def table(self) -> str:
        """For people."""
        statuses = Counter(call.status for call in self.calls)
        rows = [
            f"{len(self.calls)} calls in {self.seconds:.1f} s: {statuses['completed']} completed, {statuses['refused']} refused, "
            f"{statuses['broken']} broken; {sum(call.num_lines for call in self.calls)} lines were heard",
            f"{'':34}{'p50':>8}{'p95':>8}{'max':>8}",
        ]
        labels = {
            "answered_ms": "offer to answer, ms",
            "join_ms": "offer to first picture, ms",
            "first_voice_ms": "line to first voice, ms",
            "skew_ms": "pictures against sound, ms",
            "freezes": "freezes a call",
            "underruns": "underruns a call, by the server",
            "packets_lost": "packets lost a call",
        }
        for name, found in self.percentiles().items():
            cells = "".join(f"{found[key]:8.0f}" if found else f"{'-':>8}" for key in ("p50", "p95", "max"))
            rows.append(f"{labels[name]:34}{cells}")
        reasons = Counter((call.status, call.code, call.why) for call in self.calls if call.why)
        rows += [f"{status}, {count}: {why}" for (status, _, why), count in reasons.most_common()]
        late_ms = self.own.late_ms
        rows.append(
            f"the callers took {self.own.cpu_share:.0%} of {self.own.cores} cores; their event loop was late by "
            f"{late_ms.get('p95', 0):.1f} ms (p95), {late_ms.get('max', 0):.1f} ms (max)"
        )
        rows += [f"warning: {warning}; use fewer calls here, or another machine" for warning in self.own.warnings]
        return "\n".join(rows)


async def load(
    url: str,
    num_calls: int,
    *,
    ramp_s: float,
    script: Sequence[str | float] = SCRIPT,
    key: str | None = None,
    wait_s: int | None = None,
    on_progress: Callable[[str], None] = lambda text: None,
) -> LoadReport:
    """Call a server many times at once; each caller says the script, beginning with another line than the one before.

    Args:
        ramp_s: the last call begins so long after the first.
        script: lines, and pauses in seconds.
        key: an API key, or a token, for a server that asks who calls.
        wait_s: so long a caller waits for a seat.
        on_progress: hears each second how it goes.
    """
    reports = [CallReport(number) for number in range(num_calls)]
    began_s, cpu_s = time.monotonic(), time.process_time()
    lates_s: list[float] = []

    async def watch() -> None:
        while True:
            slept_s = time.monotonic()
            await asyncio.sleep(PERIOD_S)
            lates_s.append(time.monotonic() - slept_s - PERIOD_S)

    async def tell() -> None:
        while True:
            await asyncio.sleep(1.0)
            statuses = Counter(report.status for report in reports)
            words = ", ".join(f"{count} {status}" for status, count in statuses.items())
            on_progress(
                f"{time.monotonic() - began_s:4.0f} s: {words}; {sum(report.num_lines for report in reports)} lines heard"
            )

    async with asyncio.TaskGroup() as group:
        beside = [group.create_task(task) for task in (watch(), tell())]
        pause_s = ramp_s / max(1, num_calls - 1)
        calls = []
        for report in reports:
            first = report.number % len(script)
            steps = (*script[first:], *script[:first])
            calls.append(group.create_task(_call(report, Call(url, key, wait_s=wait_s), steps, report.number * pause_s)))
        await asyncio.wait(calls)
        for task in beside:
            task.cancel()
    seconds, cores = time.monotonic() - began_s, resources.num_cores()
    own = OwnLoad((time.process_time() - cpu_s) / (seconds * cores), cores, _percentiles([1000 * late_s for late_s in lates_s]))
    return LoadReport(url, reports, own, seconds)


async def _call(report: CallReport, call: Call, script: Sequence[str | float], pause_s: float) -> None:
    """One caller, from its beginning to its end; what becomes of it is in the report."""
    try:
        await asyncio.sleep(pause_s)
        report.status = "calling"
        await call.connect()
        report.answered_ms, report.join_ms = call.answered_ms, call.join_ms
        for step in script:
            if isinstance(step, float):
                await asyncio.sleep(step)
                continue
            line = await call.speak(step)
            if line.status != "completed":
                raise CallError(f"a line was cut off: {call.lost or line.status}")
            report.num_lines += 1
            if line.text_to_first_voiced_audio_ms is not None:
                report.first_voice_ms.append(line.text_to_first_voiced_audio_ms)
        report.underruns = int((await call.stats()).get("underruns", 0))
        report.packets_lost = await call.packets_lost()
        report.status = "completed"
    except CallError as error:
        report.status = "broken" if report.join_ms is not None else "refused"
        report.why, report.code = str(error), error.code
    finally:
        report.freezes = int((np.diff(call.video.arrived_s) > FREEZE_S).sum())
        report.skew_ms = _skews_ms(call)
        await call.close()


def _skews_ms(call: Call) -> list[float]:
    """By how much later each picture was here than the sound of the same moment, by the sender's clocks."""
    audio, video = call.audio, call.video
    if audio.ntp_at_zero_s is None or video.ntp_at_zero_s is None or not audio.pts:
        return []
    sound_s = np.array([audio.media_s(index) for index in range(len(audio.pts))])
    pictures_s = np.array([video.media_s(index) for index in range(len(video.pts))])
    both = (pictures_s >= sound_s[0]) & (pictures_s <= sound_s[-1])
    heard_s = np.interp(pictures_s[both], sound_s, audio.arrived_s)
    skews: list[float] = (1000 * (np.array(video.arrived_s)[both] - heard_s)).tolist()
    return skews


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    p50, p95 = np.percentile(values, (50, 95))
    return {"p50": round(float(p50), 1), "p95": round(float(p95), 1), "max": round(float(max(values)), 1)}
