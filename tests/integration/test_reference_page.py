"""`/docs` in a real browser: it shows the API and tries it out, and asks nobody but this server."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from playwright.async_api import async_playwright

from serve_app.ingress.api import build_api
from serve_app.ingress.config import IngressConfig
from tests.support.fake_router import FakeRouter, speak
from tests.support.page import ARGUMENTS, WAIT_MS
from tools.system_packages import find


async def test_the_page_shows_and_tries_the_api_without_any_other_host() -> None:
    router = FakeRouter([speak("Hel", "lo")])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        api = build_api(lambda: router, IngressConfig())
        server = uvicorn.Server(uvicorn.Config(api, log_config=None, lifespan="off"))
        serving = asyncio.create_task(server.serve([listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            problems, asked = await _try_out(url)
        finally:
            server.should_exit = True
            await serving
    assert problems == []
    assert f"{url}/openapi.json" in asked
    assert all(address.startswith((url, "data:")) for address in asked)


async def _try_out(url: str) -> tuple[list[str], list[str]]:
    """Send the first example of `GET /v1/models`; what the console told, and each address that was asked for."""
    problems: list[str] = []
    asked: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find("chromium"), args=ARGUMENTS)
        page = await browser.new_page(viewport={"width": 1100, "height": 900})
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
        page.on("request", lambda request: asked.append(request.url))
        await page.goto(f"{url}/docs")
        await page.locator("#operations-Models-listModels .opblock-summary-control").click()
        await page.get_by_role("button", name="Execute").click()
        await page.locator(".live-responses-table").get_by_text("test-model").first.wait_for()
        await browser.close()
    return problems, asked
