"""Pictures of the page in a call, for the documentation: desktop and phone, light and dark, into ``docs/images``.

python -m benchmarks.screenshots --engine pocket
"""

from __future__ import annotations

import argparse
from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.support.browser import call, open_browser, run_server, say

DIRECTORY = Path(__file__).parent.parent / "docs" / "images"
VIEWPORTS = {"desktop": (1280, 800), "phone": (390, 844)}
LINE = "Hello, nice to meet you. I can say anything that you type, word for word."


def photograph(browser: Browser, url: str, device: str, colours: str) -> None:
    """One call, and one picture of it while a line is being said."""
    width_px, height_px = VIEWPORTS[device]
    context = browser.new_context(
        viewport={"width": width_px, "height": height_px},
        color_scheme="dark" if colours == "dark" else "light",
    )
    page = context.new_page()
    page.goto(url)
    call(page)
    page.get_by_role("button", name="Latency and health").click()
    say(page, "Good morning.")
    expect(page.locator(".line").nth(0)).to_have_attribute("data-status", "completed", timeout=20_000)
    page.wait_for_timeout(1500)
    say(page, LINE)
    expect(page.get_by_label("Captions")).to_contain_text("can say", timeout=20_000)
    page.screenshot(path=DIRECTORY / f"{device}-{colours}.png")
    context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("fake", "pocket"), default="pocket", help="what is served (default: pocket)")
    options = parser.parse_args()
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    with run_server(options.engine) as server, open_browser() as browser:
        for device in VIEWPORTS:
            for colours in ("light", "dark"):
                photograph(browser, server.url, device, colours)


if __name__ == "__main__":
    main()
