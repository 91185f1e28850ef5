"""Takes the pictures of the chat page in docs/images: `make screenshots`, while a server runs.

    python -m tools.page_screenshots [--url http://127.0.0.1:8000/] [--folder docs/images]

A real Chromium asks the server's first model.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from playwright.sync_api import Error, Page, sync_playwright

from tools.system_packages import find

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = ("What is a token?", "Tell me a story about a router and its engines.")
TOKENS = 60
STREAMED_TOKENS = 25


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture and the browser that it is taken in."""

    name: str
    color_scheme: Literal["light", "dark"]
    width: int
    height: int
    streaming: bool
    """Whether it is taken while the last answer streams, or after its end."""


PICTURES = (
    Picture("page-light", "light", 900, 640, streaming=False),
    Picture("page-dark", "dark", 900, 640, streaming=False),
    Picture("page-streaming", "light", 900, 640, streaming=True),
    Picture("page-phone", "dark", 390, 740, streaming=True),
)


def take(url: str, folder: Path) -> None:
    """Take all pictures. Raises Playwright's `Error`."""
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server"]
        browser = playwright.chromium.launch(executable_path=find("chromium"), args=arguments)
        for picture in PICTURES:
            context = browser.new_context(
                color_scheme=picture.color_scheme,
                viewport={"width": picture.width, "height": picture.height},
                reduced_motion="reduce",
            )
            page = context.new_page()
            page.goto(url)
            page.locator("#model option").first.wait_for(state="attached")
            page.get_by_text("Settings").click()
            page.get_by_label("Most tokens").fill(str(TOKENS))
            page.get_by_text("Settings").click()
            for question in QUESTIONS:
                _ask(page, question)
                last = question == QUESTIONS[-1]
                tokens = STREAMED_TOKENS if last and picture.streaming else TOKENS
                _until_tokens(page, tokens)
            path = folder / f"{picture.name}.png"
            page.screenshot(path=path)
            print(path)
            context.close()
        browser.close()


def _ask(page: Page, question: str) -> None:
    page.get_by_role("button", name="Send").wait_for()
    page.get_by_label("Message", exact=True).fill(question)
    page.keyboard.press("Enter")


def _until_tokens(page: Page, count: int) -> None:
    """Wait until the last answer has so many tokens, or has ended."""
    page.wait_for_function(
        """count => {
            const answer = [...document.querySelectorAll(".answer")].pop();
            const tokens = /(\\d+) tokens?$/.exec(answer.querySelector(".facts").textContent)?.[1] ?? 0;
            return tokens > 0 && (tokens >= count || !answer.hasAttribute("aria-busy"));
        }""",
        arg=count,
    )


def main() -> int:
    """Take them, or say why not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000/", help="where the page is")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "images", help="where the pictures go")
    options = parser.parse_args()
    try:
        take(options.url, options.folder)
    except Error as error:
        print(f"screenshots: {error.message}\nIs a server running (make run), and Chromium installed?", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
