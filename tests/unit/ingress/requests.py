"""Bodies to send, and answers read as a client reads them."""

from __future__ import annotations

import json
from typing import Any

import httpx

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


def chat_body(**fields: Any) -> dict[str, Any]:
    return {"model": "test-model", "messages": [{"role": "user", "content": "hello"}], **fields}


def completion_body(**fields: Any) -> dict[str, Any]:
    return {"model": "test-model", "prompt": "once", **fields}


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of `response`, which must have OpenAI's shape and nothing else."""
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert set(document) == {"error"}
    error: dict[str, Any] = document["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    return error


def events_of(text: str) -> list[Any]:
    """Each event of a stream: its JSON, `[DONE]`, or the comment line. What is no data of an event is left out."""
    events: list[Any] = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        payload = block.splitlines()[-1].removeprefix("data: ")
        events.append(json.loads(payload) if payload.startswith("{") else payload)
    return events
