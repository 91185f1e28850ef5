"""A client that reads one streamed answer to its end however often the connection breaks, by `Last-Event-ID` alone."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.sse_client import StreamedAnswer

_PAUSE_S = 0.1
_TRIES = 100
_READ_TIMEOUT_S = 20.0


@dataclass(slots=True)
class ResumedAnswer:
    """One answer as it was put together. Filled while it arrives."""

    answer: StreamedAnswer = field(default_factory=StreamedAnswer)
    stream_id: str | None = None
    last_event_id: str | None = None
    connections: int = 0
    breaks: int = 0
    """Connections that ended before `[DONE]`, and statuses that say to come back."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Those statuses, by error code."""
    failures: Counter[str] = field(default_factory=Counter)
    """How connections broke, by the client's error."""
    ends: int = 0
    """Chunks that say why it ended."""

    @property
    def position(self) -> int:
        """Tokens received, by the last event's id."""
        return -1 if self.last_event_id is None else int(self.last_event_id.rpartition(".")[2])


async def read_resuming(
    url: str, body: dict[str, Any], headers: dict[str, str] | None = None, result: ResumedAnswer | None = None
) -> ResumedAnswer:
    """POST `body` to `url` until the answer is whole; each try goes on after the event that was seen last.

    Each try has a connection of its own, so that a proxy in between sees each. Fails after `_TRIES` of them, and at a
    status that says that trying again is of no use.
    """
    result = result or ResumedAnswer()
    headers = {"X-Stream-Resume": "true", **(headers or {})}
    while not result.answer.done and result.answer.error is None:
        assert result.connections < _TRIES, f"no end after {result.connections} connections: {result.answer}"
        if result.connections:
            await asyncio.sleep(_PAUSE_S)
        if result.last_event_id is not None:
            headers["Last-Event-ID"] = result.last_event_id
        result.connections += 1
        try:
            async with (
                httpx.AsyncClient(timeout=_READ_TIMEOUT_S, trust_env=False) as client,
                client.stream("POST", url, json={**body, "stream": True}, headers=headers) as response,
            ):
                if response.status_code in (429, 500, 502, 503) and response.headers.get("x-should-retry") != "false":
                    result.breaks += 1
                    result.refusals[_code(await response.aread())] += 1
                    continue
                await _read(response, result)
        except httpx.HTTPError as error:
            result.breaks += 1
            result.failures[type(error).__name__] += 1
        else:
            result.breaks += not result.answer.done
    return result


def _code(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return "unknown"


async def _read(response: httpx.Response, result: ResumedAnswer) -> None:
    answer = result.answer
    answer.status, answer.headers = response.status_code, response.headers
    if response.status_code != 200:
        answer.error = json.loads(await response.aread())["error"]
        return
    result.stream_id = response.headers.get("x-stream-id")
    event_id = data = None
    async for line in response.aiter_lines():
        if line.startswith(":"):
            answer.comments.append(line)
        elif line.startswith("id: "):
            event_id = line.removeprefix("id: ")
        elif line.startswith("data: "):
            data = line.removeprefix("data: ")
        elif not line and data is not None:  # an event counts when the empty line has come
            _take(result, data)
            result.last_event_id = event_id or result.last_event_id
            event_id = data = None


def _take(result: ResumedAnswer, data: str) -> None:
    answer = result.answer
    if data == "[DONE]":
        answer.done = True
        return
    document = json.loads(data)
    if "error" in document:
        answer.error = document["error"]
        return
    result.ends += any(choice.get("finish_reason") for choice in document["choices"])
    answer.heard(document, time.monotonic())
