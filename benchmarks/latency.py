"""What a caller waits for, in Chromium on the same machine: click to first picture, line to first speaking picture and sound.

The page measures itself (``static/latency.js``): from the click, or from Enter, to when the picture is shown.

    python -m benchmarks.latency --engine pocket
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from avatar_rtc import resources
from benchmarks import machine, measurements
from benchmarks.figures import percentile
from testkit.browser import call, eventually, open_browser, run_server, say, stats

BAR_MS = 1000
LINES = (
    "Hello, nice to meet you.",
    "It is twenty past nine, and the coffee is ready.",
    "What would you like to know?",
    "The train to the coast leaves in a quarter of an hour.",
    "Yes.",
)
ROWS = (
    ("call_to_frame_ms", "call click to first picture"),
    ("text_to_frame_ms", "text to first speaking picture"),
    ("text_to_sound_ms", "text to first sound"),
    ("interrupt_ms", "interrupt to silence"),
)


def hang_up(page: Page) -> None:
    page.get_by_role("button", name="Hang up").click()
    eventually(page, lambda: stats(page)["state"], lambda now: now == "ended", "the end of the call")


def measure_calls(page: Page, count: int) -> list[float]:
    """Click to first picture, of ``count`` calls; the page stays connected after the last."""
    waits = []
    for index in range(count):
        waits.append(call(page, 30)["call"]["firstFrameMs"])
        page.wait_for_timeout(300)
        if index < count - 1:
            hang_up(page)
    return waits


def measure_lines(page: Page, count: int) -> list[dict[str, Any]]:
    """The page's account of ``count`` lines, each sent into silence and heard to its end."""
    first = len(stats(page)["replies"])
    for index in range(count):
        say(page, LINES[index % len(LINES)])

        def is_said(replies: list[dict[str, Any]], last: int = first + index) -> bool:
            return len(replies) > last and replies[last]["status"] in ("completed", "failed", "cancelled")

        eventually(page, lambda: stats(page)["replies"], is_said, "the end of a line", 30)
        page.wait_for_timeout(400)
    replies: list[dict[str, Any]] = stats(page)["replies"][first:]
    return replies


def measure_interrupts(page: Page, count: int) -> list[float]:
    """Interrupt to the last loud moment, of ``count`` lines that are cut off."""
    waits = []
    for _ in range(count):
        say(page, " ".join(LINES))
        eventually(page, lambda: stats(page)["replies"][-1]["textToSoundMs"], lambda ms: ms is not None, "sound", 30)
        page.wait_for_timeout(700)
        page.get_by_role("button", name="Interrupt").click()
        waits.append(eventually(page, lambda: stats(page)["replies"][-1]["interruptMs"], lambda ms: ms is not None, "silence"))
    return waits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("fake", "pocket"), default="fake", help="what is served (default: fake)")
    parser.add_argument("--count", type=int, default=20, help="calls, and lines (default: 20)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="put the figures into this file of measurements")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    with run_server(options.engine) as server, open_browser() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(server.url)
        calls = measure_calls(page, options.count)
        replies = measure_lines(page, options.count)
        # The fake engine beeps once a second, which no interrupt silences.
        interrupts = measure_interrupts(page, options.count) if options.engine != "fake" else []
        health = stats(page)
    waits = {
        "call_to_frame_ms": calls,
        "text_to_frame_ms": [reply["textToFrameMs"] for reply in replies if reply["textToFrameMs"] is not None],
        "text_to_sound_ms": [reply["textToSoundMs"] for reply in replies if reply["textToSoundMs"] is not None],
        "interrupt_ms": interrupts,
    }
    result = {
        name: {"count": len(values), "p50": percentile(values, 0.5), "p95": percentile(values, 0.95), "max": max(values)}
        for name, values in waits.items()
        if values
    }
    described = machine.describe(resources.num_cores())
    if options.out:
        measurements.keep(options.out, "latency", {"machine": described, **{"engine": options.engine, **result}})
    if options.json:
        print(json.dumps({"engine": options.engine, **result, "video": health["video"], "audio": health["audio"]}))
        return
    print(machine.headline(described))
    print(f"{f'ms, engine {options.engine}':32} {'n':>4} {'p50':>7} {'p95':>7} {'max':>7}   bar (p95)")
    for name, label in ROWS:
        if name in result:
            row = result[name]
            bar = str(BAR_MS) if name in ("call_to_frame_ms", "text_to_frame_ms") else ""
            print(f"{label:32} {row['count']:4d} {row['p50']:7.0f} {row['p95']:7.0f} {row['max']:7.0f}   {bar}")


if __name__ == "__main__":
    main()
