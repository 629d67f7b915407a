"""The whole product at once: a line typed into the page in real Chromium is said by pocket, heard, and seen on its lips."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from avatar_rtc import resources
from model.evaluation import lips
from model.evaluation.lips import Array
from testkit.browser import NO_CHROMIUM, call, chromium_path, eventually, open_browser, run_server, say, stats

WEIGHTS = resources.checkpoint_dir("pocket") / "dit.safetensors"
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(420),
    pytest.mark.skipif(chromium_path() is None, reason=NO_CHROMIUM),
    pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"{WEIGHTS} is missing: git checkout -- model/weights"),
]

LINE = "Hello, Mr. Brown, meet me at 9:45."


@pytest.fixture
def page() -> Iterator[Page]:
    with run_server("pocket") as server, open_browser() as browser:
        opened = browser.new_page()
        opened.goto(server.url)
        yield opened


WATCH = """([left, top, right, bottom]) => {
    const video = document.querySelector("video");
    const [x, y] = [Math.round(left * video.videoWidth), Math.round(top * video.videoHeight)];
    const width = Math.round(right * video.videoWidth) - x, height = Math.round(bottom * video.videoHeight) - y;
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    window.mouths = { width, height, pixels: [] };
    const look = () => {
        context.drawImage(video, x, y, width, height, 0, 0, width, height);
        window.mouths.pixels.push(btoa(String.fromCharCode(...context.getImageData(0, 0, width, height).data)));
        video.requestVideoFrameCallback(look);
    };
    video.requestVideoFrameCallback(look);
}"""
"""Keeps the upright strip through the middle of the mouth of each picture that is shown."""


def num_mouths(page: Page) -> int:
    number: int = page.evaluate("window.mouths.pixels.length")
    return number


def mouths(page: Page) -> Array:
    """The strips so far, in order: float [T, H, W, 3]."""
    seen = page.evaluate("window.mouths")
    pixels = np.frombuffer(b"".join(base64.b64decode(strip) for strip in seen["pixels"]), np.uint8).astype(np.float64)
    return pixels.reshape(-1, seen["height"], seen["width"], 4)[..., :3]


def test_a_typed_line_is_spoken_by_pocket(page: Page) -> None:
    call(page)
    expect(page.get_by_role("status")).to_have_text("Listening", timeout=60_000)
    page.evaluate(WATCH, [lips.STRIP_LEFT, lips.STRIP_TOP, lips.STRIP_RIGHT, lips.STRIP_BOTTOM])
    page.wait_for_timeout(800)
    num_silent = num_mouths(page)
    say(page, LINE)
    expect(page.get_by_label("Captions")).to_have_text(LINE, timeout=60_000)
    expect(page.locator(".line")).to_have_attribute("data-status", "completed", timeout=60_000)
    expect(page.locator(".line-spoken")).to_have_text("Spoken: Hello, Mister Brown, meet me at nine forty five")
    reply = stats(page)["replies"][0]
    assert reply["textToSoundMs"] > 0, "nothing was heard through the stream's sound"
    num_spoken = num_mouths(page)
    eventually(page, lambda: num_mouths(page), lambda now: now > num_spoken + 25, "pictures after the line", 60)
    seen = mouths(page)
    heights_px = lips.mouth_heights(seen, lips.skin_colours(seen[:1]))
    closed_px = float(np.median(heights_px[:num_silent]))
    assert heights_px[num_silent:].max() > closed_px + 5, "a mouth that opens"
    assert np.median(heights_px[-5:]) < closed_px + 3, "a mouth that closes"
