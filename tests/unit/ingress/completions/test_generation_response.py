from __future__ import annotations

import httpx
import pytest

from serve_app.core.errors import ContextLengthExceeded, DeadlineExceeded, EngineLost, QueueFull
from serve_app.core.events import Accepted, Finished, FinishReason, TokenDelta
from serve_app.core.request import Priority
from tests.support.fake_router import FakeRouter, Late, Script, Silence, Step, fail, speak
from tests.unit.ingress.requests import CHAT, COMPLETIONS, chat_body, completion_body, error_of, events_of

STOP = Finished(0, FinishReason.STOP)


async def test_a_stream_has_headers_that_proxies_pass_through(http: httpx.AsyncClient) -> None:
    response = await http.post(CHAT, json=chat_body(stream=True))
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert "content-length" not in response.headers


async def test_a_stream_joins_to_the_whole_answer_and_ends_with_done(http: httpx.AsyncClient) -> None:
    whole = (await http.post(CHAT, json=chat_body())).json()["choices"][0]["message"]["content"]
    *chunks, done = events_of((await http.post(CHAT, json=chat_body(stream=True))).text)
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == whole == "Hello"


async def test_all_choices_and_prompts_of_a_streamed_completion_are_numbered_through(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    def script(name: str) -> list[list[Accepted | TokenDelta | Finished]]:
        deltas = [TokenDelta(choice, 0, 1, f"{name}{choice}", [1]) for choice in (0, 1)]
        return [[Accepted(1, [1])], [*deltas], [Finished(1, FinishReason.STOP)], [STOP]]

    router.scripts = [script("x"), script("y")]
    body = completion_body(prompt=["x", "y"], n=2, stream=True, stream_options={"include_usage": True})
    *chunks, usage, done = events_of((await http.post(COMPLETIONS, json=body)).text)
    texts = {c["choices"][0]["index"]: c["choices"][0]["text"] for c in chunks if c["choices"][0]["text"]}
    assert texts == {0: "x0", 1: "x1", 2: "y0", 3: "y1"}
    assert usage["usage"]["total_tokens"] == 6
    assert done == "[DONE]"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "should_retry"),
    [
        (QueueFull("full", 0.2), 429, "true"),
        (EngineLost("lost"), 503, "true"),
        (DeadlineExceeded("late"), 504, "false"),
        (ContextLengthExceeded("too long"), 400, None),
    ],
)
async def test_a_failure_before_the_first_token_has_a_truthful_status(
    http: httpx.AsyncClient,
    router: FakeRouter,
    stream: bool,
    error: QueueFull | EngineLost | DeadlineExceeded | ContextLengthExceeded,
    status: int,
    should_retry: str | None,
) -> None:
    router.scripts = [[[Accepted(1, [1])], error]]
    response = await http.post(CHAT, json=chat_body(stream=stream))
    assert response.status_code == status
    assert error_of(response)["code"] == error.code
    assert response.headers.get("x-should-retry") == should_retry
    assert router.streams[0].closed


@pytest.mark.parametrize(
    ("path", "body", "param"), [(CHAT, chat_body(), "messages"), (COMPLETIONS, completion_body(), "prompt")]
)
async def test_an_overlong_prompt_names_its_field(
    http: httpx.AsyncClient, router: FakeRouter, path: str, body: dict[str, object], param: str
) -> None:
    router.scripts = [fail(ContextLengthExceeded("too long"))]
    assert error_of(await http.post(path, json=body))["param"] == param


async def test_a_failure_after_the_first_token_is_the_last_event_and_nothing_is_done(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    router.scripts = [[[Accepted(1, [1])], [TokenDelta(0, 0, 1, "a", [1])], EngineLost("the replica died")]]
    response = await http.post(CHAT, json=chat_body(stream=True))
    *_, last = events_of(response.text)
    assert response.status_code == 200
    assert last == {
        "error": {"message": "the replica died", "type": "server_error", "param": None, "code": "engine_lost"}
    }
    assert response.text.count("event: ") == 1
    assert "[DONE]" not in response.text
    assert router.streams[0].closed


async def test_a_stream_that_ends_without_its_finish_is_an_error(http: httpx.AsyncClient, router: FakeRouter) -> None:
    router.scripts = [[[Accepted(1, [1])], [TokenDelta(0, 0, 1, "a", [1])]]]
    whole = await http.post(CHAT, json=chat_body())
    assert whole.status_code == 500
    streamed = events_of((await http.post(CHAT, json=chat_body(stream=True))).text)
    assert streamed[-1]["error"]["code"] == "internal_error"


async def test_headers_are_held_for_the_configured_time_then_comments_keep_the_connection(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    silent: list[Step] = [
        Silence(place=3),
        Silence(place=1),
        Silence(),
        [Accepted(1, [1])],
        Silence(),
        [TokenDelta(0, 0, 1, "a", [1])],
    ]
    router.scripts = [[*silent, [STOP]]]
    response = await http.post(COMPLETIONS, json=completion_body(stream=True))
    events = events_of(response.text)
    assert events[:4] == [": queued 3", ": queued 1", ": keep-alive", ": keep-alive"]
    assert events[4]["choices"][0]["text"] == "a"
    assert router.streams[0].timeouts_s[:5] == [10.0, 1.0, 1.0, 15.0, 15.0]


async def test_a_waiting_client_hears_of_each_new_place_and_otherwise_of_silence(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    """A look at the queue each second, after ten."""
    places = [3, 3, 3, 2, *[2] * 14, 2, 2]
    router.scripts = [[*(Silence(place) for place in places), [TokenDelta(0, 0, 1, "a", [1])], [STOP]]]
    response = await http.post(COMPLETIONS, json=completion_body(stream=True))
    events = events_of(response.text)
    assert events[:4] == [": queued 3", ": queued 2", ": queued 2", events[3]]
    assert events[3]["choices"][0]["text"] == "a"


@pytest.mark.parametrize(
    ("prefer", "held_s"),
    [
        ("wait=2", 2.0),
        ("respond-async, wait=3", 3.0),
        ('Wait="4"', 4.0),
        ("wait=0", 0.1),
        ("wait=60", 10.0),
        ("await=2", 10.0),
        ("wait=soon", 10.0),
    ],
)
async def test_a_client_may_prefer_to_know_sooner_that_it_waits(
    http: httpx.AsyncClient, router: FakeRouter, prefer: str, held_s: float
) -> None:
    router.scripts = [[Silence(place=3), [TokenDelta(0, 0, 1, "a", [1])], [STOP]]]
    await http.post(CHAT, json=chat_body(stream=True), headers={"Prefer": prefer})
    assert router.streams[0].timeouts_s[0] == held_s


async def test_an_accepted_prompt_does_not_prolong_the_hold(http: httpx.AsyncClient, router: FakeRouter) -> None:
    router.scripts = [[Late(4, [Accepted(1, [1])]), [TokenDelta(0, 0, 1, "a", [1])], [STOP]]]
    await http.post(CHAT, json=chat_body(stream=True))
    assert router.streams[0].timeouts_s[:3] == [10.0, 6.0, 15.0]


async def test_a_failure_after_the_hold_is_an_event(http: httpx.AsyncClient, router: FakeRouter) -> None:
    router.scripts = [[Silence(place=2), QueueFull("full")]]
    response = await http.post(CHAT, json=chat_body(stream=True))
    assert response.status_code == 200
    assert events_of(response.text)[-1]["error"]["code"] == "queue_full"


async def test_a_refusal_after_the_hold_says_in_the_event_when_to_come_back(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    router.scripts = [[Silence(place=2), QueueFull("full", 2.25)]]
    response = await http.post(CHAT, json=chat_body(stream=True))
    assert "event: error\nretry: 2250\ndata: " in response.text
    assert "[DONE]" not in response.text


LIMITS = {
    "x-ratelimit-limit-requests": "256",
    "x-ratelimit-remaining-requests": "250",
    "x-ratelimit-reset-requests": "1.5s",
    "x-ratelimit-limit-tokens": "400000",
    "x-ratelimit-remaining-tokens": "399000",
    "x-ratelimit-reset-tokens": "250ms",
}


def limits_of(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("x-ratelimit-")}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "script",
    [speak("a"), fail(QueueFull("full")), fail(ContextLengthExceeded("long")), fail(EngineLost("lost"))],
    ids=["admitted", "refused", "invalid", "failed"],
)
async def test_whatever_was_offered_to_the_router_is_answered_with_the_rate_limits(
    http: httpx.AsyncClient, router: FakeRouter, stream: bool, script: Script
) -> None:
    router.scripts = [script]
    response = await http.post(CHAT, json=chat_body(stream=stream), headers={"x-priority": "batch"})
    assert limits_of(response) == LIMITS
    assert router.limits_asked == [("test-model", Priority.BATCH)]


async def test_a_request_that_the_router_did_not_take_is_answered_without_rate_limits(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    for body in (chat_body(model="nope"), chat_body(n=0)):
        assert limits_of(await http.post(CHAT, json=body)) == {}
    assert router.limits_asked == []


async def test_a_whole_answer_is_never_started_before_it_is_known(http: httpx.AsyncClient, router: FakeRouter) -> None:
    await http.post(CHAT, json=chat_body())
    assert set(router.streams[0].timeouts_s) == {None}


async def test_every_stream_is_closed_when_one_of_several_prompts_fails(
    http: httpx.AsyncClient, router: FakeRouter
) -> None:
    router.scripts = [speak("a", "b", "c"), fail(EngineLost("lost"))]
    response = await http.post(COMPLETIONS, json=completion_body(prompt=["x", "y"]))
    assert response.status_code == 503
    assert [stream.closed for stream in router.streams] == [True, True]
