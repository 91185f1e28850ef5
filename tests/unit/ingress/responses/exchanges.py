"""Requests to `/v1/responses`, and what their answers must be."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from serve_app.core.events import Accepted, Finished, FinishReason, TokenDelta
from tests.support.fake_router import FakeRouter, Hang, Script
from tests.unit.openai_api.responses import check_response, checked_events

URL = "/v1/responses"
OTHER_TENANT = {"Authorization": "Bearer other"}
HALF: Script = [[Accepted(3, [1, 2, 3])], [TokenDelta(0, 0, 1, "Hel", [1])], Hang(), [TokenDelta(0, 1, 1, "lo", [2])],
                [Finished(0, FinishReason.STOP)]]  # fmt: skip
"""A script that hangs after its first token."""


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "test-model", "input": "hello", **fields}


async def created(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await http.post(URL, json=body(**fields))
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    check_response(document)
    return document


async def retrieved(http: httpx.AsyncClient, response_id: str) -> dict[str, Any]:
    response = await http.get(f"{URL}/{response_id}")
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    check_response(document)
    return document


async def events_after(http: httpx.AsyncClient, response_id: str, number: int | None = None) -> list[dict[str, Any]]:
    params = {"stream": "true"} | ({} if number is None else {"starting_after": str(number)})
    response = await http.get(f"{URL}/{response_id}", params=params)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    return checked_events(response.text)


async def reading(
    http: httpx.AsyncClient, router: FakeRouter, response_id: str, number: int | None = None
) -> asyncio.Task[list[dict[str, Any]]]:
    """`events_after`, begun: it has what there is, and waits for more."""
    router.opened.clear()
    reader = asyncio.create_task(events_after(http, response_id, number))
    await router.opened.wait()
    await router.streams[-1].waiting.wait()
    return reader
