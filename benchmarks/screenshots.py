"""The pictures of pocket that documents and page show: a call in the README, and the looks to choose from.

python -m benchmarks.screenshots
"""

from __future__ import annotations

import argparse
import base64
import json
from pathlib import Path

from playwright.sync_api import Browser, expect

from testkit.browser import call, open_browser, run_server, say

ROOT = Path(__file__).parent.parent
CALL = ROOT / "docs" / "images" / "call.png"
LOOKS = ROOT / "static" / "looks"
LINE = "Hello, nice to meet you. I can say anything that you type, word for word."

WIDEST_EYES = """async () => {
    const video = document.querySelector("video");
    const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    let best = { contrast: -1 };
    for (let i = 0; i < 40; i++) {
        await new Promise((resolve) => video.requestVideoFrameCallback(resolve));
        context.drawImage(video, 0, 0);
        const { data } = context.getImageData(canvas.width * 0.3, canvas.height * 0.35, canvas.width * 0.4, canvas.height * 0.15);
        const greens = [...data].filter((_, i) => i % 4 === 1);
        const mean = greens.reduce((sum, value) => sum + value) / greens.length;
        const contrast = greens.reduce((sum, value) => sum + (value - mean) ** 2, 0);
        if (contrast > best.contrast) best = { contrast, url: canvas.toDataURL("image/webp", 0.8) };
    }
    return best.url;
}"""
"""Of 40 pictures of a listening face the one in which the eyes have most contrast: in others they blink."""


def photograph_call(browser: Browser, url: str) -> None:
    """One call, and one picture of it in the middle of its second line."""
    page = browser.new_page(viewport={"width": 1200, "height": 740}, color_scheme="light")
    page.goto(url)
    call(page)
    say(page, "Good morning.")
    expect(page.locator(".line").nth(0)).to_have_attribute("data-status", "completed", timeout=20_000)
    page.wait_for_timeout(1500)
    say(page, LINE)
    expect(page.get_by_label("Captions")).to_contain_text("can say", timeout=20_000)
    CALL.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=CALL)
    page.close()


def photograph_looks(browser: Browser, url: str) -> None:
    """A picture of each look, and which scene it shows: a page shows it only for the same words."""
    page = browser.new_page()
    page.goto(url)
    avatars = page.request.get(f"{url}/v1/avatars").json()["avatars"]
    LOOKS.mkdir(exist_ok=True)
    for avatar in avatars:
        page.reload()
        page.get_by_role("radio", name=avatar["name"], exact=True).check(force=True)
        call(page)
        page.wait_for_timeout(2000)  # whatever the network forgets of a look, it has forgotten by then
        picture: str = page.evaluate(WIDEST_EYES)
        (LOOKS / f"{avatar['id']}.webp").write_bytes(base64.b64decode(picture.partition(",")[2]))
        page.get_by_role("button", name="Hang up").click()
    scenes = {avatar["scene"]: f"{avatar['id']}.webp" for avatar in avatars}
    (LOOKS / "looks.json").write_text(json.dumps(scenes, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("call", "looks"), help="one of both")
    options = parser.parse_args()
    with run_server("pocket") as server, open_browser() as browser:
        if options.only != "call":
            photograph_looks(browser, server.url)
        if options.only != "looks":
            photograph_call(browser, server.url)


if __name__ == "__main__":
    main()
