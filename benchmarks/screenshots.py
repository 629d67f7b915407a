"""The picture of the page in the README: a call on pocket, while a line is being said.

python -m benchmarks.screenshots
"""

from __future__ import annotations

import argparse
from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.support.browser import call, open_browser, run_server, say

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "call.png"
LINE = "Hello, nice to meet you. I can say anything that you type, word for word."


def photograph(browser: Browser, url: str, path: Path) -> None:
    """One call, and one picture of it in the middle of its second line."""
    page = browser.new_page(viewport={"width": 1000, "height": 600}, color_scheme="light")
    page.goto(url)
    call(page)
    say(page, "Good morning.")
    expect(page.locator(".line").nth(0)).to_have_attribute("data-status", "completed", timeout=20_000)
    page.wait_for_timeout(1500)
    say(page, LINE)
    expect(page.get_by_label("Captions")).to_contain_text("can say", timeout=20_000)
    page.screenshot(path=path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "-o", "--output", type=Path, default=PICTURE, help=f"the PNG file (default: {PICTURE.name} in docs/images)"
    )
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with run_server("pocket") as server, open_browser() as browser:
        photograph(browser, server.url, options.output)


if __name__ == "__main__":
    main()
