from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from serve_app.core.errors import ContextLengthExceeded, EngineLost, QueueFull, StreamNotFound, StreamTakenOver
from serve_app.core.events import Accepted, TokenDelta
from serve_app.core.interfaces import KeptState
from serve_app.core.request import Priority, Prompt, Sampling
from tests.support.fake_router import FakeRouter, Step, fail, speak
from tests.unit.ingress.requests import error_of

WORDS = ("안녕", "하세요", "", "!", " 무엇을")
TEXT = "/stream"
CHAT = "/v1/chat/completions/stream"


@pytest.fixture
def router() -> FakeRouter:
    return FakeRouter([speak(*WORDS)])


def frames(text: str) -> list[Any]:
    """As the source documents' clients read them."""
    data = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [json.loads(item) if item != "[DONE]" else item for item in data]


def tokens(text: str) -> list[str]:
    *said, done = frames(text)
    assert done == "[DONE]"
    assert said.pop() == {"token": "", "done": True}
    assert all(frame["done"] is False for frame in said)
    return [frame["token"] for frame in said]


@pytest.mark.parametrize("path", [TEXT, CHAT])
async def test_a_prompt_in_the_address_is_answered_token_by_token(http: httpx.AsyncClient, path: str) -> None:
    response = await http.get(path, params={"prompt": "인사해 줘"})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-accel-buffering"] == "no"
    assert tokens(response.text) == list(WORDS)


async def test_what_is_asked_reaches_the_router_in_our_words(http: httpx.AsyncClient, router: FakeRouter) -> None:
    await http.get(TEXT, params={"prompt": "Once"})
    await http.get(
        CHAT,
        params={"prompt": "hello", "max_tokens": "7", "model": "test-model"},
        headers={"X-Priority": "batch", "X-Deadline-Ms": "1500", "Authorization": "Bearer key"},
    )
    text, chat = router.requests
    assert text.prompt == Prompt(text="Once")
    assert text.sampling == Sampling(max_tokens=512, temperature=0.0)
    assert (text.model, text.tenant) == ("test-model", "anonymous")
    assert chat.prompt == Prompt(messages=({"role": "user", "content": "hello"},))
    assert chat.sampling == Sampling(max_tokens=7, temperature=0.0)
    assert (chat.priority, chat.timeout_s) == (Priority.BATCH, 1.5)
    assert chat.tenant != "anonymous"


@pytest.mark.parametrize("retained", [True, False])
@pytest.mark.parametrize("offset", range(7))
async def test_any_offset_brings_the_rest_whether_the_stream_is_retained_or_not(
    http: httpx.AsyncClient, router: FakeRouter, retained: bool, offset: int
) -> None:
    await http.get(TEXT, params={"prompt": "Once"})
    if not retained:
        router.retained.clear()
    response = await http.get(TEXT, params={"prompt": "Once", "offset": str(offset)})
    assert tokens(response.text) == list(WORDS[offset:])
    assert response.headers["x-ratelimit-limit-requests"] == "256"


async def test_a_retained_stream_is_read_again_not_generated_again(http: httpx.AsyncClient, router: FakeRouter) -> None:
    router.scripts = [speak("first"), speak("second")]
    for _ in range(2):
        assert tokens((await http.get(TEXT, params={"prompt": "Once"})).text) == ["first"]


@pytest.mark.parametrize(
    "other",
    [
        (CHAT, {"prompt": "Once"}, {}),
        (TEXT, {"prompt": "Twice"}, {}),
        (TEXT, {"prompt": "Once", "max_tokens": "5"}, {}),
        (TEXT, {"prompt": "Once"}, {"Authorization": "Bearer other"}),
    ],
)
async def test_other_questions_and_other_tenants_have_streams_of_their_own(
    http: httpx.AsyncClient, router: FakeRouter, other: tuple[str, dict[str, str], dict[str, str]]
) -> None:
    router.scripts = [speak("first"), speak("second")]
    await http.get(TEXT, params={"prompt": "Once"})
    path, params, headers = other
    assert tokens((await http.get(path, params=params, headers=headers)).text) == ["second"]
    assert len(router.retained) == 2


async def test_an_event_source_that_reconnects_goes_on_after_the_frame_it_saw_last(http: httpx.AsyncClient) -> None:
    whole = (await http.get(TEXT, params={"prompt": "Once"})).text
    ids = [line.removeprefix("id: ") for line in whole.split("\n") if line.startswith("id: ")]
    assert ids == ["1", "2", "3", "4", "5"]
    for last in ids:
        response = await http.get(TEXT, params={"prompt": "Once", "offset": "0"}, headers={"Last-Event-ID": last})
        assert tokens(response.text) == list(WORDS[int(last) :])


@pytest.mark.parametrize("retained", [True, False])
async def test_an_offset_beyond_the_end_is_400(http: httpx.AsyncClient, router: FakeRouter, retained: bool) -> None:
    await http.get(TEXT, params={"prompt": "Once"})
    if not retained:
        router.retained.clear()
    response = await http.get(TEXT, params={"prompt": "Once", "offset": "7"})
    assert response.status_code == 400
    assert error_of(response)["param"] == "offset"


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "a", "offset": "-1"}, "offset"),
        ({"prompt": "a", "offset": "x"}, "offset"),
        ({"prompt": "a", "max_tokens": "0"}, "max_tokens"),
        ({"prompt": "a", "max_tokens": "many"}, "max_tokens"),
    ],
)
@pytest.mark.parametrize("path", [TEXT, CHAT])
async def test_what_is_wrong_with_the_address_is_named(
    http: httpx.AsyncClient, router: FakeRouter, path: str, params: dict[str, str], param: str
) -> None:
    response = await http.get(path, params=params)
    assert response.status_code == 400
    assert error_of(response)["param"] == param
    assert len(router.turned_away_requests) == 1


async def test_failures_before_the_first_token_have_a_truthful_status(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    unknown = await http.get(TEXT, params={"prompt": "a", "model": "nope"})
    assert (unknown.status_code, error_of(unknown)["code"]) == (404, "model_not_found")
    router.scripts = [fail(QueueFull("full")), fail(ContextLengthExceeded("long")), speak("a")]
    full = await http.get(TEXT, params={"prompt": "a"})
    assert (full.status_code, full.headers["x-should-retry"]) == (429, "true")
    overlong = await http.get(CHAT, params={"prompt": "a"})
    assert error_of(overlong)["param"] == "prompt"
    assert tokens((await http.get(TEXT, params={"prompt": "a"})).text) == ["a"]


async def test_a_failure_after_the_first_token_is_the_last_event(http: httpx.AsyncClient, router: FakeRouter) -> None:
    router.scripts = [[[Accepted(1, [1]), TokenDelta(0, 0, 1, "a", [1])], EngineLost("gone")]]
    said = frames((await http.get(TEXT, params={"prompt": "a"})).text)
    assert said[0] == {"token": "a", "done": False}
    assert said[-1]["error"]["code"] == "engine_lost"


async def test_a_reader_whose_stream_is_taken_to_another_router_goes_on_by_itself(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    taken: list[Step] = [[TokenDelta(0, index, 1, WORDS[index], [1])] for index in range(2)]
    router.scripts = [[[Accepted(1, [1])], *taken, StreamTakenOver("elsewhere")], speak(*WORDS)]
    assert tokens((await http.get(TEXT, params={"prompt": "a"})).text) == list(WORDS)
    first, own = router.requests
    assert first.retention is not None
    assert own.retention is None
    assert [stream.closed for stream in router.streams] == [True, True]


async def test_a_stream_that_is_forgotten_while_it_is_looked_for_is_generated(
    http: httpx.AsyncClient, router: FakeRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await http.get(TEXT, params={"prompt": "a"})
    (known,) = router.retained.values()

    async def look_up(key: str, tenant: str) -> KeptState:
        del key, tenant
        return known.answer()

    async def resume(key: str, tenant: str, from_token: int = 0) -> None:
        raise StreamNotFound(f"{key} {tenant} {from_token}")

    monkeypatch.setattr(router, "look_up", look_up)
    monkeypatch.setattr(router, "resume", resume)
    assert tokens((await http.get(TEXT, params={"prompt": "a", "offset": "2"})).text) == list(WORDS[2:])
