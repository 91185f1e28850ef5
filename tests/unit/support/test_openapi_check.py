"""The check of answers against `/openapi.json` sees what is wrong: each planted fault is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support.openapi_check import CheckedTransport, OpenApiCheck

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "prompt_tokens_details": {"cached_tokens": 0}}
HEAD: dict[str, Any] = {"id": "a", "created": 1, "model": "m"}
WHOLE: dict[str, Any] = {
    **HEAD,
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "x", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
        }
    ],
    "usage": USAGE,
}
CHUNK: dict[str, Any] = {
    **HEAD,
    "object": "chat.completion.chunk",
    "choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": None, "finish_reason": None}],
}
ERROR: dict[str, Any] = {"error": {"message": "no", "type": "server_error", "param": None, "code": "engine_lost"}}


def problems(status: int, headers: dict[str, str], body: bytes, method: str = "POST", path: str = CHAT) -> list[str]:
    check = OpenApiCheck()
    check.answer(method, path, status, headers, body)
    return check.violations


def events(*data: Any, last: str = "data: [DONE]\n\n") -> bytes:
    return "".join(f"data: {json.dumps(each)}\n\n" for each in data).encode() + last.encode()


def test_right_answers_pass() -> None:
    assert problems(200, JSON, json.dumps(WHOLE).encode()) == []
    assert problems(200, EVENTS, b": queued 3\n\n" + events(CHUNK)) == []
    failed = f"event: error\nretry: 1000\ndata: {json.dumps(ERROR)}\n\n"
    assert problems(200, EVENTS, events(CHUNK, last=failed)) == []
    assert problems(503, {**JSON, "retry-after": "1", "x-should-retry": "true"}, json.dumps(ERROR).encode()) == []
    assert problems(404, JSON, json.dumps(ERROR).encode(), "GET", "/nothing") == []
    assert problems(405, JSON, json.dumps(ERROR).encode(), "PUT") == []


@pytest.mark.parametrize(
    ("status", "headers", "body", "told"),
    [
        (200, JSON, json.dumps({**WHOLE, "planted": 1}).encode(), "planted"),
        (200, JSON, json.dumps({**WHOLE, "created": "1"}).encode(), "$.created"),
        (200, JSON, b"{", "no JSON"),
        (200, EVENTS, events({**CHUNK, "planted": 1}), "planted"),
        (200, EVENTS, events({**CHUNK, "choices": [{"index": 0}]}), "not valid under any"),
        (200, EVENTS, b"data: [DONE]\n\n" + events(CHUNK), "[DONE]"),
        (200, EVENTS, b"planted: 1\n" + events(CHUNK), "planted"),
        (200, {"content-type": "text/html"}, b"", "content type"),
        (418, JSON, b"{}", "status is not documented"),
        (503, {**JSON, "x-ratelimit-planted": "1"}, json.dumps(ERROR).encode(), "x-ratelimit-planted"),
        (400, JSON, b'{"error": "no"}', "$.error"),
    ],
)
def test_a_planted_fault_is_told(status: int, headers: dict[str, str], body: bytes, told: str) -> None:
    found = problems(status, headers, body)
    assert told in str(found)


def test_the_beginning_of_a_stream_is_checked_too() -> None:
    check = OpenApiCheck()
    cut = events({**CHUNK, "planted": 1}, last='data: {"id": "a')
    check.answer("POST", CHAT, 200, EVENTS, cut, whole=False)
    assert len(check.violations) == 1
    with pytest.raises(AssertionError, match="planted"):
        check.verify()


def planted(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, headers=EVENTS, stream=Parts([events({**CHUNK, "planted": 1}), b"data: [DONE]\n\n"]))


class Parts(httpx.AsyncByteStream):
    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        (f"http://app:1/pair{CHAT}", 1),
        (f"http://proxy:1/pair{CHAT}", 0),
        (f"http://app:2/pair{CHAT}", 0),
        (f"http://app:1/other{CHAT}", 0),
    ],
)
async def test_a_client_checks_the_answers_of_its_own_application(url: str, checked: int) -> None:
    check = OpenApiCheck()
    transport = CheckedTransport(httpx.MockTransport(planted), "http://app:1/pair", check)
    async with httpx.AsyncClient(transport=transport) as http:
        async with http.stream("POST", url) as left_early:
            async for _ in left_early.aiter_bytes():
                break
        await http.post(url)
    assert check.checked == 2 * checked
    assert sum("planted" in violation for violation in check.violations) >= 2 * checked
