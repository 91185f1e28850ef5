"""Reads one streamed answer event by event, and tells how it ended; the openai package hides what is on the wire."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass(slots=True)
class StreamedAnswer:
    """What one streaming request brought, in the order of arrival. Filled while it arrives."""

    status: int = 0
    headers: httpx.Headers = field(default_factory=httpx.Headers)
    comments: list[str] = field(default_factory=list)
    chunks: list[dict[str, Any]] = field(default_factory=list)
    done: bool = False
    """`[DONE]` came."""
    error: dict[str, Any] | None = None
    """The error event, or the body of an error status."""
    broken: Exception | None = None
    """The connection ended in the middle."""
    ended_at: float = 0.0
    """`time.monotonic()` at the end."""
    longest_silence_s: float = 0.0
    """Longest time between two chunks."""
    _heard_at: float | None = None

    @property
    def text(self) -> str:
        """The text of the first choice."""
        deltas = (choice["delta"] for chunk in self.chunks for choice in chunk["choices"] if choice["index"] == 0)
        return "".join(delta.get("content") or "" for delta in deltas)

    @property
    def logprobs(self) -> list[dict[str, Any]]:
        """What was told of each token of the first choice, where log-probabilities were asked for."""
        choices = (choice for chunk in self.chunks for choice in chunk["choices"] if choice["index"] == 0)
        return [item for choice in choices for item in (choice.get("logprobs") or {}).get("content") or ()]

    @property
    def tokens(self) -> list[str]:
        """The text of each of those tokens."""
        return [item["token"] for item in self.logprobs]

    @property
    def complete(self) -> bool:
        """Whether the whole answer came: a status 200, `[DONE]`, and no error."""
        return self.status == 200 and self.done and self.error is None and self.broken is None

    @property
    def failed_visibly(self) -> bool:
        """Whether the client can tell that something went wrong."""
        return self.error is not None or self.broken is not None

    def heard(self, chunk: dict[str, Any], now: float) -> None:
        """Take one chunk."""
        self.chunks.append(chunk)
        if self._heard_at is not None:
            self.longest_silence_s = max(self.longest_silence_s, now - self._heard_at)
        self._heard_at = now


async def read_stream(
    client: httpx.AsyncClient, url: str, body: dict[str, Any], answer: StreamedAnswer | None = None
) -> StreamedAnswer:
    """Send a chat request with `stream` on and read the answer to its end, into `answer` when given."""
    answer = answer or StreamedAnswer()
    try:
        async with client.stream("POST", url, json={**body, "stream": True}) as response:
            answer.status, answer.headers = response.status_code, response.headers
            if response.status_code != 200:
                answer.error = json.loads(await response.aread())["error"]
            else:
                async for line in response.aiter_lines():
                    _take(answer, line)
    except httpx.HTTPError as error:
        answer.broken = error
    answer.ended_at = time.monotonic()
    return answer


def _take(answer: StreamedAnswer, line: str) -> None:
    if line.startswith(":"):
        answer.comments.append(line)
    elif line == "data: [DONE]":
        answer.done = True
    elif line.startswith("data: "):
        document = json.loads(line.removeprefix("data: "))
        if "error" in document:
            answer.error = document["error"]
        else:
            answer.heard(document, time.monotonic())
