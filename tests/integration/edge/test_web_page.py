"""The chat page in a real Chromium, in front of a served application."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from tests.integration.edge.places import all_places_taken, until_queued
from tests.support.fault_proxy import FaultProxy
from tests.support.page import open_page
from tests.support.served_app import API_KEY, ServedApp, chat

ABORTED_WITHIN_S = 1.0 + 4.0
"""The promise is one second; four for what `/metrics` itself takes on a busy machine to show it."""
QUESTION = "Tell me a story."
PHONE = {"width": 360, "height": 740}
MIN_CONTRAST = 4.5
"""WCAG 2.2, success criterion 1.4.3, level AA."""

CONTRASTS = """() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const part = (v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const background = (node) => {
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
  };
  const found = {};
  for (const node of document.querySelectorAll("h1, h2, p, label, button, select, input, textarea, summary")) {
    if (!node.checkVisibility()) continue;
    const [a, b] = [luminance(parse(getComputedStyle(node).color)), luminance(background(node))];
    found[`${node.tagName} ${node.id || node.className}`] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }
  return found;
}"""


async def whole_text(app: ServedApp, max_tokens: int, *questions: str) -> str:
    """What the page is to show as the answer to the last of `questions`."""
    messages: list[dict[str, str]] = []
    text = ""
    for question in questions:
        messages.append({"role": "user", "content": question})
        body: dict[str, Any] = {"model": "steady", "messages": messages, "max_tokens": max_tokens, "temperature": 0.0}
        text = (await app.stream(body)).text
        messages.append({"role": "assistant", "content": text})
    return text


async def test_questions_are_answered_in_one_conversation(edge: ServedApp) -> None:
    expected = [await whole_text(edge, 20, QUESTION), await whole_text(edge, 20, QUESTION, "And then?")]
    async with open_page() as chat_page:
        await chat_page.load(edge.url, "steady", Most_tokens="20", Temperature="0")
        for question, text in zip((QUESTION, "And then?"), expected, strict=True):
            await chat_page.ask(question)
            await chat_page.until_done()
            assert await chat_page.text() == text
            assert re.fullmatch(r"TTFT \d+\.\d\d s · \d+\.\d tokens/s · 20 tokens", await chat_page.facts())
        assert await chat_page.page.locator("article").count() == 4
        await chat_page.page.get_by_role("button", name="New chat").click()
        assert await chat_page.page.locator("article").count() == 0
        await chat_page.ask(QUESTION)
        await chat_page.until_done()
        assert await chat_page.text() == expected[0], "nothing of the old conversation is sent"
        assert chat_page.problems == []


async def test_the_answer_grows_while_it_is_made(edge: ServedApp) -> None:
    expected = await whole_text(edge, 100, QUESTION)
    async with open_page() as chat_page:
        await chat_page.load(edge.url, "steady", Most_tokens="100", Temperature="0")
        await chat_page.ask(QUESTION)
        lengths = []
        for count in (5, 20, 40):
            await chat_page.until_tokens(count)
            text = await chat_page.text()
            assert expected.startswith(text)
            lengths.append(len(text))
        assert 0 < lengths[0] < lengths[1] < lengths[2] < len(expected)
        assert await chat_page.answer.get_attribute("aria-busy") == "true"


@pytest.mark.parametrize("way", ["button", "escape", "leaving"])
async def test_stopping_ends_the_generation(edge: ServedApp, way: str) -> None:
    async with open_page() as chat_page:
        await chat_page.load(edge.url, "steady")
        await chat_page.ask(QUESTION)
        await chat_page.until_tokens(5)
        if way == "button":
            await chat_page.stop.click()
        elif way == "escape":
            await chat_page.page.keyboard.press("Escape")
        else:
            await chat_page.page.goto("about:blank")
        await edge.until_idle(ABORTED_WITHIN_S)
        if way != "leaving":
            assert await chat_page.answer.locator(".notice").text_content() == "Stopped."
            assert await chat_page.prompt.evaluate("node => node === document.activeElement")


async def test_a_stream_that_is_cut_goes_on_and_the_page_says_so(edge: ServedApp) -> None:
    expected = await whole_text(edge, 100, QUESTION)
    async with open_page() as chat_page, FaultProxy("127.0.0.1", _port(edge.url)) as cutting:
        await chat_page.load(f"http://127.0.0.1:{cutting.port}", "steady", Most_tokens="100", Temperature="0")
        await chat_page.ask(QUESTION)
        for count in (10, 40, 70):
            await chat_page.until_tokens(count)
            assert cutting.cut_now() > 0
        await chat_page.until_done()
        assert await chat_page.text() == expected
        notices = await chat_page.answer.locator(".notice").all_text_contents()
        resumed = [int(found[1]) for each in notices if (found := re.search(r"resumed after token (\d+)", each))]
        assert len(resumed) == 3 and resumed[0] >= 10 and resumed[1] >= 40 and resumed[2] >= 70
        assert "3 reconnects" in await chat_page.facts()


async def test_the_place_in_the_queue_is_shown(edge: ServedApp) -> None:
    async with open_page() as chat_page:
        await chat_page.load(edge.url, "narrow", Most_tokens="5")
        async with all_places_taken(edge) as queued:
            await chat_page.ask(QUESTION)
            shown = await chat_page.until_status("^Waiting: ")
            assert re.fullmatch(r"Waiting: (next in line|\d+ requests? ahead in the queue)\.", shown)
            await until_queued(edge, queued + 1)
            assert await chat_page.text() == ""
        await chat_page.until_done()
        assert await chat_page.text()
        assert await chat_page.status.text_content() == "Done."


async def test_stopping_in_the_queue_leaves_it(edge: ServedApp) -> None:
    async with open_page() as chat_page:
        await chat_page.load(edge.url, "narrow")
        async with all_places_taken(edge) as queued:
            await chat_page.ask(QUESTION)
            await chat_page.until_status("^Waiting: ")
            await chat_page.page.keyboard.press("Escape")
            await until_queued(edge, queued)


async def test_a_full_server_is_told_with_the_time_until_the_next_try(edge: ServedApp) -> None:
    async with open_page() as chat_page:
        # As the same tenant: another one would be given a place in the queue before those who have many.
        await chat_page.load(edge.url, "narrow", API_key=API_KEY)
        filling = [asyncio.create_task(edge.stream(chat("narrow", 8000))) for _ in range(24)]
        try:
            await edge.until_generating(2)
            while sum(each.done() for each in filling) < 2:  # noqa: ASYNC110  refused: both queues are full
                await asyncio.sleep(0.1)
            await chat_page.ask(QUESTION)
            shown = await chat_page.until_status(r"^The server is busy\. .* Trying again in \d+ s\.$")
            await chat_page.page.wait_for_function(
                "shown => document.getElementById('status').textContent !== shown", arg=shown
            )
            await chat_page.page.keyboard.press("Escape")
            assert await chat_page.until_status("^Stopped") == "Stopped."
        finally:
            for each in filling:
                each.cancel()
            await asyncio.wait(filling)


async def test_an_error_is_shown_and_can_be_tried_again(edge: ServedApp) -> None:
    async with open_page() as chat_page:
        await chat_page.load(edge.url, "narrow", Most_tokens="9000")
        await chat_page.ask(QUESTION)
        alert = chat_page.page.get_by_role("alert")
        await alert.wait_for()
        assert "context" in (await alert.text_content() or "")
        await chat_page.page.get_by_text("Settings").click()
        await chat_page.page.get_by_label("Most tokens").fill("5")
        await alert.get_by_role("button", name="Try again").click()
        await chat_page.until_done()
        assert await chat_page.text() and await alert.count() == 0


async def test_what_is_typed_is_text_and_shift_enter_begins_a_line(edge: ServedApp) -> None:
    async with open_page() as chat_page:
        await chat_page.load(edge.url, "steady", Most_tokens="3")
        await chat_page.prompt.fill("<img src=x onerror=alert(1)>")
        await chat_page.prompt.press("Shift+Enter")
        await chat_page.prompt.type("second")
        assert await chat_page.page.locator("article").count() == 0
        await chat_page.prompt.press("Enter")
        await chat_page.until_done()
        assert await chat_page.page.locator(".mine .text").text_content() == "<img src=x onerror=alert(1)>\nsecond"
        assert await chat_page.page.locator("main img").count() == 0


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
async def test_the_page_is_readable_and_fits_a_phone(edge: ServedApp, color_scheme: str) -> None:
    options = {"color_scheme": color_scheme, "reduced_motion": "reduce", "viewport": PHONE}
    async with open_page(**options) as chat_page:
        await chat_page.load(edge.url, "narrow", Most_tokens="9000")
        await chat_page.ask("One long-word" + "x" * 200)
        await chat_page.page.get_by_role("alert").wait_for()
        await chat_page.page.get_by_text("Settings").click()
        contrasts: dict[str, float] = await chat_page.page.evaluate(CONTRASTS)
        assert len(contrasts) > 10
        assert {name: value for name, value in contrasts.items() if value < MIN_CONTRAST} == {}
        for box in ("document.documentElement", "document.querySelector('main')"):
            assert await chat_page.page.evaluate(f"{box}.scrollWidth - {box}.clientWidth") == 0
        await chat_page.page.get_by_text("Settings").click()
        await chat_page.ask("Go on")
        motion = "getComputedStyle(document.querySelector('.text'), '::after').animationName"
        assert await chat_page.page.evaluate(motion) == "none"


async def test_everything_is_named_and_reached_by_the_keyboard(edge: ServedApp) -> None:
    async with open_page() as chat_page:
        await chat_page.load(edge.url, "steady", Most_tokens="3")
        page = chat_page.page
        unnamed = await page.evaluate(
            "[...document.querySelectorAll('input, select, textarea, button')]"
            ".filter((each) => !(each.labels?.length || each.textContent.trim())).map((each) => each.id)"
        )
        assert unnamed == []
        await page.locator("#model").focus()
        reached = []
        for _ in range(5):
            await page.keyboard.press("Tab")
            reached.append(await page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        assert reached == ["SUMMARY", "new", "conversation", "prompt", "send"]
        assert await page.locator("[role=log][aria-live=polite]").count() == 1
        assert await page.locator("[role=status]").count() == 1


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])
