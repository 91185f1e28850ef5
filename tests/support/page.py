"""The chat page in a real, headless Chromium, as a person uses it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Locator, Page, async_playwright

from tools.system_packages import find

ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server"]
"""Chromium runs as root in containers only without its sandbox."""
WAIT_MS = 20_000


class ChatPage:
    """Use `open_page`."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.problems: list[str] = []
        """What the console and uncaught errors told, what the content security policy refused among it."""
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda message: self._heard(message.type, message.text))
        self.prompt = page.get_by_label("Message", exact=True)
        self.send = page.get_by_role("button", name="Send")
        self.stop = page.get_by_role("button", name="Stop")
        self.status = page.locator("#status")

    async def load(self, url: str, model: str, **settings: str) -> None:
        """Open the page and choose; `settings` are by label, with `_` for spaces."""
        await self.page.goto(url)
        await self.page.get_by_label("Model").select_option(model)
        if settings:
            await self.page.get_by_text("Settings").click()
            for label, value in settings.items():
                await self.page.get_by_label(label.replace("_", " ")).fill(value)
            await self.page.get_by_text("Settings").click()

    async def ask(self, question: str) -> None:
        """Type a question, and Enter."""
        await self.prompt.fill(question)
        await self.prompt.press("Enter")

    @property
    def answer(self) -> Locator:
        """The last answer."""
        return self.page.locator(".answer").last

    async def text(self) -> str:
        """The last answer's text."""
        return await self.answer.locator(".text").text_content() or ""

    async def facts(self) -> str:
        """What is told of the last answer's speed."""
        return await self.answer.locator(".facts").text_content() or ""

    async def until_tokens(self, count: int) -> None:
        """Wait until the page shows that so many tokens came."""
        await self.page.wait_for_function(
            "count => Number(/(\\d+) tokens?( |$)/.exec([...document.querySelectorAll('.facts')].pop()?.textContent)"
            "?.[1] ?? 0) >= count",
            arg=count,
            timeout=WAIT_MS,
        )

    async def until_done(self) -> None:
        """Wait until the last answer has ended."""
        await self.page.wait_for_selector(".answer:last-of-type:not([aria-busy])", timeout=WAIT_MS)
        await self.send.wait_for(timeout=WAIT_MS)

    async def until_status(self, pattern: str) -> str:
        """Wait until the status line matches `pattern`; returns it."""
        await self.page.wait_for_function(
            "pattern => new RegExp(pattern).test(document.getElementById('status').textContent)",
            arg=pattern,
            timeout=WAIT_MS,
        )
        return await self.status.text_content() or ""

    def _heard(self, kind: str, text: str) -> None:
        # Chromium reports each status from 400 on, and each broken connection: those are part of the tests.
        if kind == "error" and not re.match(r"Failed to load resource", text):
            self.problems.append(text)


@asynccontextmanager
async def open_page(**context: Any) -> AsyncIterator[ChatPage]:
    """A new Chromium with one page; `context` has Playwright's options, as `color_scheme` and `viewport`."""
    program = find("chromium")
    assert program is not None, "Chromium is missing: make system-packages"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        try:
            page = await (await browser.new_context(**context)).new_page()
            page.set_default_timeout(WAIT_MS)
            yield ChatPage(page)
        finally:
            await browser.close()
