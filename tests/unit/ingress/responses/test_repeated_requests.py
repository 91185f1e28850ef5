"""A request with an `Idempotency-Key`, sent again."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from serve_app.core.errors import (
    EngineLost,
    StreamNotFound,
)
from serve_app.core.interfaces import KeptState
from tests.support.fake_router import FakeRouter, fail, speak
from tests.unit.ingress.requests import error_of
from tests.unit.ingress.responses.exchanges import (
    HALF,
    OTHER_TENANT,
    URL,
    body,
    created,
)
from tests.unit.openai_api.responses import checked_events

NAMED = {"Idempotency-Key": "order 66"}


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"background": True}, {"background": True, "stream": True}])
async def test_a_repeated_request_gets_the_response_that_the_first_one_began(
    http: httpx.AsyncClient, router: FakeRouter, fields: dict[str, Any]
) -> None:
    first = await http.post(URL, json=body(**fields), headers=NAMED)
    again = await http.post(URL, json=dict(reversed(body(**fields).items())), headers=NAMED)
    assert again.status_code == 200
    if "stream" in fields:
        assert checked_events(again.text) == checked_events(first.text)
    else:
        assert again.json()["id"] == first.json()["id"]
    assert len(router.retained) == 1
    assert all(stream.closed for stream in router.streams)


async def test_a_repeated_request_needs_its_previous_response_no_more(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    previous = (await created(http))["id"]
    fields = body(previous_response_id=previous)
    first = await http.post(URL, json=fields, headers=NAMED)
    monkeypatch.setattr("serve_app.ingress.responses.request.time.time", lambda: 5.0)
    await http.delete(f"{URL}/{previous}")
    again = await http.post(URL, json=fields, headers=NAMED)
    assert again.json() == first.json()


async def test_another_request_with_the_same_key_is_a_conflict(http: httpx.AsyncClient, router: FakeRouter) -> None:
    await http.post(URL, json=body(), headers=NAMED)
    answer = await http.post(URL, json=body(temperature=0), headers=NAMED)
    assert answer.status_code == 409
    assert error_of(answer)["param"] == "Idempotency-Key"
    own = await http.post(URL, json=body(temperature=0), headers={**NAMED, **OTHER_TENANT})
    assert own.status_code == 200


async def test_a_response_that_failed_is_begun_anew(http: httpx.AsyncClient, router: FakeRouter) -> None:
    router.scripts = [fail(EngineLost("lost")), speak("Hello")]
    assert (await http.post(URL, json=body(), headers=NAMED)).status_code == 503
    assert (await http.post(URL, json=body(temperature=0), headers=NAMED)).status_code == 409
    assert (await http.post(URL, json=body(), headers=NAMED)).json()["status"] == "completed"


async def test_the_same_request_twice_at_the_same_moment_is_computed_once(
    http: httpx.AsyncClient, router: FakeRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    router.scripts = [HALF]
    first = asyncio.create_task(http.post(URL, json=body(), headers=NAMED))
    await router.opened.wait()
    (key,) = router.retained

    async def not_seen_yet(*_: object) -> KeptState:
        raise StreamNotFound("not seen yet")

    router.opened.clear()
    monkeypatch.setattr(router, "look_up", not_seen_yet)
    second = asyncio.create_task(http.post(URL, json=body(), headers=NAMED))
    third = asyncio.create_task(http.post(URL, json=body(temperature=0), headers=NAMED))
    await router.opened.wait()
    assert (await third).status_code == 409
    router.go_on(key)
    assert (await first).json() == (await second).json()
    assert list(router.retained) == [key]


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}])
async def test_an_ignored_field_that_nests_deeply_is_ignored(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    nested = json.dumps(body(prompt_cache_options=None)).replace("null", "[" * 254 + "]" * 254)
    response = await http.post(URL, content=nested, headers={"content-type": "application/json", **headers})
    assert response.status_code == 200, response.text


async def test_a_key_that_is_no_key_is_refused_and_one_for_a_response_that_is_not_stored_means_nothing(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    answer = await http.post(URL, json=body(), headers={"Idempotency-Key": "x" * 256})
    assert error_of(answer)["param"] == "Idempotency-Key"
    ids = [(await http.post(URL, json=body(store=False), headers=NAMED)).json()["id"] for _ in range(2)]
    assert ids[0] != ids[1]
    assert router.retained == {}
