"""The whole product at once: a line typed into the page in real Chromium is said by pocket, heard, and seen on its lips."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from avatar_rtc import resources
from benchmarks import lips
from benchmarks.lips import Array
from tests.support.browser import NO_CHROMIUM, call, chromium_path, eventually, open_browser, run_server, say, stats

WEIGHTS = resources.checkpoint_dir("pocket") / "dit.safetensors"
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(420),
    pytest.mark.skipif(chromium_path() is None, reason=NO_CHROMIUM),
    pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"{WEIGHTS} is missing: git checkout -- model/weights"),
]

LINE = "Hello, nice to meet you."


@pytest.fixture
def page() -> Iterator[Page]:
    with run_server("pocket") as server, open_browser() as browser:
        opened = browser.new_page()
        opened.goto(server.url)
        yield opened


def mouth(page: Page) -> Array:
    """The upright strip through the middle of the mouth, in the picture that is shown: float [1, H, W, 3]."""
    width_px, height_px, rgba = page.evaluate(
        """([left, top, right, bottom]) => {
            const video = document.querySelector("video");
            const [x, y] = [Math.round(left * video.videoWidth), Math.round(top * video.videoHeight)];
            const width = Math.round(right * video.videoWidth) - x, height = Math.round(bottom * video.videoHeight) - y;
            const context = new OffscreenCanvas(width, height).getContext("2d");
            context.drawImage(video, x, y, width, height, 0, 0, width, height);
            return [width, height, [...context.getImageData(0, 0, width, height).data]];
        }""",
        [lips.STRIP_LEFT, lips.STRIP_TOP, lips.STRIP_RIGHT, lips.STRIP_BOTTOM],
    )
    return np.array(rgba, np.float64).reshape(1, height_px, width_px, 4)[..., :3]


def test_a_typed_line_is_spoken_by_pocket(page: Page) -> None:
    call(page)
    expect(page.get_by_role("status")).to_have_text("Listening", timeout=20_000)
    page.wait_for_timeout(500)
    skin = lips.skin_colours(mouth(page))
    closed_px = float(lips.mouth_heights(mouth(page), skin)[0])

    def opening_px() -> float:
        return float(lips.mouth_heights(mouth(page), skin)[0]) - closed_px

    say(page, LINE)
    expect(page.get_by_role("status")).to_have_text("Speaking", timeout=20_000)
    eventually(page, opening_px, lambda now_px: now_px > 5, "an open mouth", 20)
    expect(page.get_by_label("Captions")).to_have_text(LINE, timeout=20_000)
    expect(page.locator(".line")).to_have_attribute("data-status", "completed", timeout=20_000)
    reply = stats(page)["replies"][0]
    assert reply["textToSoundMs"] > 0, "nothing was heard through the stream's sound"
    eventually(page, opening_px, lambda now_px: now_px < 3, "a mouth that closes")
