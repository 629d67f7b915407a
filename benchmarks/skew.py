"""How far sound and picture are apart where they come out: flash and beep, on the rendered page, in Chromium.

The fake engine flashes a white patch on one picture a second and beeps in the same 40 ms. In the page, an AudioWorklet finds the
first loud sample of each beep and Web Audio's output clock says when it leaves the speakers; each picture is read back as it is
presented, and ``requestVideoFrameCallback`` says when it is shown. Both are times of one clock, ``performance.now()``.
Skew is beep minus flash: positive when the sound is late.

    python -m benchmarks.skew --video-delay-ms 0
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from avatar_rtc import fake, resources
from benchmarks import machine, measurements
from benchmarks.figures import percentile
from testkit.browser import call, open_browser, run_server

BAR_MS = 80
PAIR_WITHIN_MS = 480
ROWS = (("median", "skew, median"), ("abs_p50", "|skew| p50"), ("abs_p95", "|skew| p95"), ("abs_max", "|skew| max"))

WATCH = """async ({ flash, threshold }) => {
    const video = document.querySelector("video");
    const seen = (window.seen = { flashes: [], beeps: [], frames: 0 });

    const canvas = new OffscreenCanvas(4, 4);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    let lit = false;
    const onFrame = (now, { expectedDisplayTime }) => {
        context.drawImage(video, flash.x, flash.y, flash.width, flash.height, 0, 0, 4, 4);
        const bright = context.getImageData(1, 1, 1, 1).data[0] > 128;
        if (bright && !lit) seen.flashes.push(expectedDisplayTime);
        lit = bright;
        seen.frames += 1;
        video.requestVideoFrameCallback(onFrame);
    };
    video.requestVideoFrameCallback(onFrame);

    const worklet = `registerProcessor("onset", class extends AudioWorkletProcessor {
        quiet = 0;
        process([[samples]]) {
            for (let i = 0; samples && i < samples.length; i++) {
                if (Math.abs(samples[i]) > ${threshold}) {
                    if (this.quiet > sampleRate / 5) this.port.postMessage(currentTime + i / sampleRate);
                    this.quiet = 0;
                } else this.quiet += 1;
            }
            return true;
        }
    });`;
    const audio = new AudioContext({ latencyHint: "interactive" });
    await audio.resume();
    await audio.audioWorklet.addModule(URL.createObjectURL(new Blob([worklet], { type: "text/javascript" })));
    const onset = new AudioWorkletNode(audio, "onset");
    onset.port.onmessage = ({ data: time }) => {
        const { contextTime, performanceTime } = audio.getOutputTimestamp();
        seen.beeps.push(performanceTime + (time - contextTime) * 1000);
    };
    // Words are loud, too, and lower than the beep.
    const filters = [1, 2].map(() => new BiquadFilterNode(audio, { type: "highpass", frequency: 1500 }));
    [...filters, onset, audio.destination].reduce((from, to) => from.connect(to), audio.createMediaStreamSource(video.srcObject));
    return { startedAt: performance.now(), outputLatencyMs: audio.outputLatency * 1000, baseLatencyMs: audio.baseLatency * 1000 };
}"""


def pair(flashes: list[float], beeps: list[float]) -> list[tuple[float, float]]:
    """Time of each flash that was seen, and its skew: to the nearest beep, if there is one in reach."""
    pairs = []
    for flash in flashes:
        nearest = min(beeps, key=lambda beep: abs(beep - flash), default=None)
        if nearest is not None and abs(nearest - flash) < PAIR_WITHIN_MS:
            pairs.append((flash, nearest - flash))
    return pairs


def measure(page: Page, settle_s: float, duration_s: float) -> dict[str, Any]:
    """Watch a page with an open call for ``settle_s + duration_s``."""
    flash = {"x": fake.FLASH_LEFT_PX, "y": fake.FLASH_TOP_PX, "width": fake.FLASH_WIDTH_PX, "height": fake.FLASH_HEIGHT_PX}
    begin = page.evaluate(WATCH, {"flash": flash, "threshold": fake.BEEP_AMPLITUDE / 32768 / 4})
    page.wait_for_timeout((settle_s + duration_s) * 1000)
    seen = page.evaluate("window.seen")
    pairs = [((at - begin["startedAt"]) / 1000, skew) for at, skew in pair(seen["flashes"], seen["beeps"])]
    settled = [skew for at_s, skew in pairs if at_s >= settle_s]
    if len(settled) < duration_s / 2:
        raise RuntimeError(
            f"only {len(settled)} of {duration_s:.0f} flashes were seen with their beep: {seen['frames']} pictures"
        )
    late = [at_s for at_s, skew in pairs if abs(skew) > BAR_MS]
    return {
        "pairs": len(settled),
        "skew_ms": {
            "median": statistics.median(settled),
            "abs_p50": percentile([abs(skew) for skew in settled], 0.5),
            "abs_p95": percentile([abs(skew) for skew in settled], 0.95),
            "abs_max": max(abs(skew) for skew in settled),
        },
        "first_s_abs_max_ms": max((abs(skew) for at_s, skew in pairs if at_s < settle_s), default=None),
        "last_beyond_bar_s": max(late, default=None),
        "output_latency_ms": begin["outputLatencyMs"],
        "pairs_ms": [[round(at_s, 2), round(skew, 1)] for at_s, skew in pairs],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video-delay-ms", type=int, default=200, help="the server sends pictures so late (default: 200)")
    parser.add_argument("--settle-s", type=float, default=20.0, help="time for the browser's own lip sync to act (default: 20)")
    parser.add_argument("--duration-s", type=float, default=40.0, help="measured after that (default: 40)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="put the figures into this file of measurements")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    with run_server("fake", media={"video_delay_ms": options.video_delay_ms}) as server, open_browser() as browser:
        page = browser.new_page(bypass_csp=True)
        page.goto(server.url)
        call(page)
        result = {"video_delay_ms": options.video_delay_ms} | measure(page, options.settle_s, options.duration_s)
    described = machine.describe(resources.num_cores())
    if options.out:
        measurements.keep(options.out, "skew", {"machine": described, **result})
    if options.json:
        print(json.dumps(result))
        return
    print(machine.headline(described))
    skew = result["skew_ms"]
    print(f"{'video sent late by':28} {options.video_delay_ms:6d} ms")
    print(f"{'flash-beep pairs':28} {result['pairs']:6d}")
    for name, label in (
        ("median", "skew, median"),
        ("abs_p50", "|skew| p50"),
        ("abs_p95", "|skew| p95"),
        ("abs_max", "|skew| max"),
    ):
        print(f"{label:28} {skew[name]:6.0f} ms{f'   (bar: {BAR_MS})' if name == 'abs_p95' else ''}")
    last_s = result["last_beyond_bar_s"]
    print(f"{'last beyond the bar at':28} {'   never' if last_s is None else f'{last_s:6.1f} s'}")


if __name__ == "__main__":
    main()
