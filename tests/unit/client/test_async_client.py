"""The asynchronous client against a scripted server, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx
import pytest

from serve_app.client.async_client import AsyncClient
from serve_app.client.config import ClientConfig
from serve_app.client.errors import (
    ClientError,
    DeadlineExceeded,
    FirstTokenTimeout,
    Overloaded,
    RequestRejected,
    ServerFailed,
    StallTimeout,
    StreamLost,
    Unreachable,
)
from serve_app.client.events import Token, Usage
from serve_app.resilience.retry import RetryConfig
from serve_app.resilience.retry_budget import RetryBudgetConfig
from tests.support.resumable_server import (
    AsyncTransport,
    Break,
    NoAnswer,
    Pause,
    Piece,
    Refuse,
    ResumableServer,
    Whole,
    error_event,
)
from tests.support.virtual_loop import run_virtual

T = TypeVar("T")

CONFIG = ClientConfig(
    first_token_timeout_s=10.0, stall_timeout_s=4.0, retry=RetryConfig(max_retries=3, base_delay_s=0.1, max_delay_s=1.0)
)
LONG = tuple(f"{index} é\u2028" for index in range(100))
BROKEN = Whole(upto=0, then=[Break()])


def run(
    server: ResumableServer,
    use: Callable[[AsyncClient], Awaitable[T]],
    config: ClientConfig = CONFIG,
    api_key: str | None = None,
) -> T:
    """What `use` returns, in virtual time."""

    async def main() -> T:
        loop = asyncio.get_running_loop()
        http = httpx.AsyncClient(transport=AsyncTransport(server), trust_env=False)
        client = AsyncClient(
            "http://test/v1/", api_key, config=config, http=http, rng=random.Random(1), clock=loop.time
        )
        async with http, client:
            return await use(client)

    return run_virtual(main())


async def collect(client: AsyncClient, **options: Any) -> list[Token]:
    return [token async for token in client.stream("Hello", **options)]


def failure(server: ResumableServer, config: ClientConfig = CONFIG, **options: Any) -> ClientError:
    """The error in which asking ends."""
    with pytest.raises(ClientError) as raised:
        run(server, lambda client: client.ask("Hello", **options), config)
    return raised.value


def test_tokens_come_one_by_one_with_their_positions_and_the_end_says_why() -> None:
    tokens = run(ResumableServer(tokens=["a", "b"]), collect)
    assert tokens == [Token("a", 1), Token("b", 2), Token("", 2, "stop", Usage(7, 2))]
    assert "".join(map(str, tokens)) == "ab"


def test_a_whole_answer_tells_text_usage_model_and_times() -> None:
    server = ResumableServer(treatments=[Whole(before=[Pause(3.0)], upto=2, then=[Pause(1.0), Break()]), Whole()])
    answer = run(server, lambda client: client.ask("Hello", model="that-model"))
    assert str(answer) == server.text
    assert (answer.finish_reason, answer.usage, answer.model) == ("stop", Usage(7, 10), "that-model")
    assert answer.ttft_s == pytest.approx(3.0)
    assert 4.0 <= answer.duration_s <= 4.1
    assert answer.reconnects == 1


def test_without_a_model_the_servers_first_one_is_asked() -> None:
    server = ResumableServer()

    async def twice(client: AsyncClient) -> None:
        await client.ask("Hello")
        await client.ask([{"role": "user", "content": "Hello again"}], system="Be brief.")

    run(server, twice)
    assert [body["model"] for body in server.bodies] == ["first-model"] * 2
    assert server.bodies[1]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello again"},
    ]


def test_only_what_was_said_is_sent() -> None:
    server = ResumableServer()
    options: dict[str, Any] = {"model": "m", "max_tokens": 5, "temperature": 0.0, "stop": ["x"], "extra": {"top_k": 3}}
    run(server, lambda client: client.ask("Hello", priority="batch", **options), api_key="secret")
    assert server.bodies == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "Hello"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 5,
            "temperature": 0.0,
            "stop": ["x"],
            "top_k": 3,
        }
    ]
    (headers,) = server.requests
    assert headers["authorization"] == "Bearer secret"
    assert headers["x-priority"] == "batch"
    assert "x-deadline-ms" not in headers
    assert "last-event-id" not in headers


def test_an_option_that_does_not_exist_is_an_error() -> None:
    options: dict[str, Any] = {"max_token": 5}
    with pytest.raises(TypeError, match="max_token"):
        run(ResumableServer(), lambda client: client.ask("Hello", **options))


def test_a_stream_cut_after_any_token_goes_on_where_it_was() -> None:
    server = ResumableServer(tokens=LONG)

    async def cut_each(client: AsyncClient) -> None:
        for position in range(101):
            server.treatments = [Whole(upto=position, then=[Break()]), Whole()]
            server.requests.clear()
            tokens = await collect(client)
            assert [token.text for token in tokens[:-1]] == list(LONG)
            assert [token.position for token in tokens[:-1]] == list(range(1, 101))
            last_ids = [headers.get("last-event-id") for headers in server.requests]
            assert last_ids == [None, f"stream-{server.computed}.{position}"]

    run(server, cut_each)
    assert server.computed == 101


def test_a_stream_cut_after_every_token_goes_on_each_time() -> None:
    treatments = [Whole(upto=position, then=[Break()]) for position in range(1, 101)]
    server = ResumableServer(tokens=LONG, treatments=[*treatments, Whole()])
    answer = run(server, lambda client: client.ask("Hello"))
    assert answer.text == "".join(LONG)
    assert answer.reconnects == 100
    assert server.computed == 1


def test_a_cut_inside_an_event_loses_and_repeats_nothing() -> None:
    frame = b'id: stream-1.4\ndata: {"choices": [{"delta": {"content": "half a fr'
    server = ResumableServer(treatments=[Whole(upto=3, then=[frame, Break()]), Whole()])
    answer = run(server, lambda client: client.ask("Hello"))
    assert (answer.text, answer.reconnects) == (server.text, 1)


def test_a_stream_that_ends_too_early_without_an_error_is_a_cut() -> None:
    server = ResumableServer(treatments=[Whole(upto=3), Whole()])
    assert run(server, lambda client: client.ask("Hello")).text == server.text


def test_a_request_cut_before_its_first_id_is_repeated_under_the_same_key() -> None:
    server = ResumableServer(treatments=[NoAnswer(), NoAnswer(2.0), Whole()])
    assert run(server, lambda client: client.ask("Hello")).text == server.text
    assert server.computed == 1
    assert len({headers["idempotency-key"] for headers in server.requests}) == 1


def test_each_answer_has_a_key_of_its_own() -> None:
    server = ResumableServer()

    async def thrice(client: AsyncClient) -> None:
        await asyncio.gather(*(client.ask("Hello") for _ in range(3)))

    run(server, thrice)
    assert len({headers["idempotency-key"] for headers in server.requests}) == 3
    assert server.computed == 3


def test_a_refusal_is_waited_out_as_long_as_the_server_says() -> None:
    server = ResumableServer(treatments=[Refuse(429, {"retry-after-ms": "6500", "retry-after": "7"}), Whole()])
    answer = run(server, lambda client: client.ask("Hello"))
    assert answer.text == server.text
    assert 6.5 <= answer.duration_s <= 6.6


def test_what_the_application_refused_is_asked_for_under_a_new_key() -> None:
    server = ResumableServer(treatments=[Refuse(503, code="engine_lost"), Refuse(502, code=None), Whole()])
    run(server, lambda client: client.ask("Hello"))
    first, second, third = (headers["idempotency-key"] for headers in server.requests)
    assert first != second == third


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 422])
def test_what_the_client_did_wrong_is_not_tried_again(status: int) -> None:
    server = ResumableServer(treatments=[Refuse(status, code="invalid_value"), Whole()])
    error = failure(server)
    assert isinstance(error, RequestRejected)
    assert (error.status, error.code, len(server.requests)) == (status, "invalid_value", 1)


def test_a_failure_that_the_server_calls_final_is_not_tried_again() -> None:
    server = ResumableServer(treatments=[Refuse(500, {"x-should-retry": "false"}, "engine_failed"), Whole()])
    assert isinstance(failure(server), ServerFailed)
    assert len(server.requests) == 1


def test_a_server_that_stays_full_is_asked_as_often_as_configured() -> None:
    server = ResumableServer(treatments=[Refuse(429, {"retry-after": "2"})])
    error = failure(server)
    assert isinstance(error, Overloaded)
    assert error.retry_after_s == 2.0
    assert len(server.requests) == 1 + CONFIG.retry.max_retries


def test_a_server_that_cannot_be_reached_is_named() -> None:
    server = ResumableServer(treatments=[NoAnswer()])
    error = failure(server)
    assert isinstance(error, Unreachable)
    assert "http://test cannot be reached" in str(error)
    assert len(server.requests) == 1 + CONFIG.retry.max_retries


def test_connections_that_bring_nothing_new_are_given_up() -> None:
    server = ResumableServer(treatments=[Whole(upto=5, then=[Break()])])
    assert isinstance(failure(server), Unreachable)
    assert len(server.requests) == 1 + CONFIG.retry.max_retries


def test_a_stall_is_cut_and_resumed() -> None:
    server = ResumableServer(treatments=[Whole(upto=5, then=[Pause(1000.0)]), Whole()])
    answer = run(server, lambda client: client.ask("Hello"))
    assert answer.text == server.text
    assert 4.0 <= answer.duration_s <= 4.1


def test_comments_keep_a_connection_but_are_no_tokens() -> None:
    alive: list[Piece] = [Pause(1.5), b": keep-alive\n\n"] * 100
    server = ResumableServer(treatments=[Whole(upto=5, then=alive)])
    assert isinstance(failure(server), StallTimeout)
    server = ResumableServer(treatments=[Whole(before=alive)])
    assert isinstance(failure(server), FirstTokenTimeout)


@pytest.mark.parametrize("pieces", [[Pause(1000.0)], [b": queued 4\n\n", Pause(1000.0)]])
def test_a_first_token_that_does_not_come_is_asked_for_again_on_the_same_stream(pieces: list[Any]) -> None:
    server = ResumableServer(treatments=[Whole(before=pieces), Whole()])
    answer = run(server, lambda client: client.ask("Hello"))
    assert answer.ttft_s is not None
    assert 10.0 <= answer.ttft_s <= 10.1
    assert server.computed == 1


def test_tokens_that_complete_no_character_are_no_stall() -> None:
    silent: list[Piece] = []
    for position in range(6, 11):
        event = b'id: stream-1.%d\ndata: {"choices": [{"delta": {"content": ""}}]}\n\n' % position
        silent += [Pause(3.0), event]
    server = ResumableServer(treatments=[Whole(upto=5, then=[*silent, Break()]), Whole()])
    answer = run(server, lambda client: client.ask("Hello"))
    assert answer.reconnects == 1
    assert server.requests[1]["last-event-id"] == "stream-1.10"


def test_a_server_that_only_ever_begins_is_given_up() -> None:
    server = ResumableServer(treatments=[BROKEN])
    assert isinstance(failure(server), Unreachable)
    assert len(server.requests) == 1 + CONFIG.retry.max_retries


def test_time_that_the_reader_takes_is_no_stall() -> None:
    server = ResumableServer(treatments=[Whole()])

    async def slowly(client: AsyncClient) -> int:
        async with client.stream("Hello") as stream:
            async for _ in stream:
                await asyncio.sleep(60.0)
            return stream.answer.reconnects

    assert run(server, slowly) == 0


def test_the_deadline_is_told_to_the_server_and_kept_whatever_happens() -> None:
    server = ResumableServer(treatments=[Whole(upto=3, then=[Pause(2.0), Break()]), Whole(upto=5, then=[Pause(3.9)])])
    assert isinstance(failure(server, deadline_s=5.0), DeadlineExceeded)
    first, second = (int(headers["x-deadline-ms"]) for headers in server.requests)
    assert first == 5000
    assert 2900 <= second <= 3000


def test_a_deadline_that_the_server_noticed_first_is_the_same_error() -> None:
    server = ResumableServer(treatments=[Whole(upto=3, then=[error_event("deadline_exceeded")])])
    assert isinstance(failure(server, deadline_s=5.0), DeadlineExceeded)
    assert isinstance(failure(ResumableServer(treatments=server.treatments)), ServerFailed)


def test_no_wait_goes_beyond_the_deadline() -> None:
    server = ResumableServer(treatments=[Refuse(429, {"retry-after": "6"})])
    assert isinstance(failure(server, deadline_s=5.0), Overloaded)


def test_a_failure_before_the_first_token_is_tried_again_after_the_time_that_it_tells() -> None:
    server = ResumableServer(treatments=[Whole(upto=0, then=[error_event("queue_full", 3000)]), Whole()])
    answer = run(server, lambda client: client.ask("Hello"))
    assert answer.text == server.text
    assert 3.0 <= answer.duration_s <= 3.1
    assert len({headers["idempotency-key"] for headers in server.requests}) == 2
    assert all("last-event-id" not in headers for headers in server.requests)


def test_a_wrong_request_that_is_told_as_an_event_is_not_tried_again() -> None:
    server = ResumableServer(treatments=[Whole(upto=0, then=[error_event("context_length_exceeded")]), Whole()])
    error = failure(server)
    assert isinstance(error, RequestRejected)
    assert error.status == 400


def test_tokens_before_a_failure_in_the_same_piece_are_not_lost() -> None:
    seen: list[str] = []
    frame = b'id: stream-1.1\ndata: {"choices": [{"delta": {"content": "last words"}}]}\n\n'
    server = ResumableServer(treatments=[Whole(before=[frame + error_event("engine_failed")])])

    async def read(client: AsyncClient) -> None:
        async for token in client.stream("Hello"):
            seen.append(token.text)

    with pytest.raises(ServerFailed):
        run(server, read)
    assert seen == ["last words"]


def test_a_stream_that_failed_in_the_middle_is_resumed_once() -> None:
    lost = Whole(upto=4, then=[error_event("engine_lost")])
    assert (
        run(server := ResumableServer(treatments=[lost, Whole()]), lambda client: client.ask("x")).text == server.text
    )
    error = failure(server := ResumableServer(treatments=[lost]))
    assert isinstance(error, Overloaded)
    assert (error.code, len(server.requests)) == ("engine_lost", 2)


def test_a_stream_that_the_server_has_forgotten_is_lost() -> None:
    server = ResumableServer(treatments=[Whole(upto=4, then=[Break()]), Refuse(404, code="stream_not_found")])
    assert isinstance(failure(server), StreamLost)


def test_a_forgotten_stream_that_had_said_nothing_is_asked_for_anew() -> None:
    server = ResumableServer(treatments=[BROKEN, Refuse(404, code="stream_not_found"), Whole()])
    assert run(server, lambda client: client.ask("Hello")).text == server.text
    assert "last-event-id" not in server.requests[2]


def test_a_server_busy_while_resuming_is_asked_again_for_the_rest() -> None:
    busy = Refuse(503, {"retry-after": "1"}, "no_engine_available")
    server = ResumableServer(treatments=[Whole(upto=4, then=[Break()]), busy, Refuse(502, code=None), Whole()])
    assert run(server, lambda client: client.ask("Hello")).text == server.text
    assert server.computed == 1


def test_nothing_is_read_after_the_end() -> None:
    server = ResumableServer(treatments=[Whole(before=[b'data: [DONE]\n\ndata: {"choices": "what is this"}\n\n'])])
    assert run(server, lambda client: client.ask("Hello")).text == ""


def test_an_answer_whose_usage_alone_is_missing_is_whole() -> None:
    finish = b'id: stream-1.10\ndata: {"choices": [{"delta": {}, "finish_reason": "length"}]}\n\n'
    server = ResumableServer(treatments=[Whole(upto=10, then=[finish, Break()]), Refuse(404, code="stream_not_found")])
    tokens = run(server, collect)
    assert "".join(map(str, tokens)) == server.text
    assert tokens[-1] == Token("", 10, "length", None)


def test_another_server_without_resume_is_read_too() -> None:
    server = ResumableServer(resumable=False)
    answer = run(server, lambda client: client.ask("Hello"))
    assert answer.text == server.text


def test_a_server_without_resume_is_asked_again_only_while_nothing_was_read() -> None:
    server = ResumableServer(resumable=False, treatments=[BROKEN, Whole()])
    assert run(server, lambda client: client.ask("Hello")).text == server.text
    server = ResumableServer(resumable=False, treatments=[Whole(upto=1, then=[Break()]), Whole()])
    error = failure(server)
    assert isinstance(error, StreamLost)
    assert isinstance(error.__cause__, Unreachable)


def test_an_answer_that_is_no_chat_stream_is_an_error() -> None:
    server = ResumableServer(treatments=[Whole(before=[b"data: {]\n\n"])])
    error = failure(server, CONFIG.model_copy(update={"retry": RetryConfig(max_retries=0)}))
    assert isinstance(error, Unreachable)
    assert "no chat stream" in str(error)


@pytest.mark.parametrize("managed", [True, False])
def test_leaving_early_tells_the_server(managed: bool) -> None:
    server = ResumableServer()

    async def leave(client: AsyncClient) -> None:
        stream = client.stream("Hello")
        if managed:
            async with stream:
                async for _ in stream:
                    break
            return
        del stream
        async for _ in client.stream("Hello"):
            break
        await asyncio.sleep(0.1)

    run(server, leave)
    assert server.cancelled == ["stream-1"]


@pytest.mark.parametrize("treatment", [Whole(upto=2, then=[Pause(1000.0)]), NoAnswer(1000.0)], ids=str)
def test_cancelling_the_reader_tells_the_server_also_before_the_id_has_come(treatment: Whole | NoAnswer) -> None:
    server = ResumableServer(treatments=[treatment])

    async def cancel(client: AsyncClient) -> None:
        task = asyncio.create_task(client.ask("Hello"))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(server, cancel)
    assert server.cancelled == ["stream-1"]
    assert len(server.requests) == 1


def test_a_whole_answer_is_not_cancelled() -> None:
    server = ResumableServer()
    run(server, lambda client: client.ask("Hello"))
    assert server.cancelled == []


def test_the_place_in_the_queue_is_known_while_it_lasts() -> None:
    server = ResumableServer(treatments=[Whole(before=[b": queued 3\n\n", Pause(5.0)])])

    async def look(client: AsyncClient) -> list[int | None]:
        stream = client.stream("Hello")
        reader = asyncio.create_task(_drain(stream))
        await asyncio.sleep(1.0)
        places = [stream.queue_position]
        await reader
        return [*places, stream.queue_position]

    assert run(server, look) == [3, None]


def test_all_answers_of_a_client_share_the_budget_of_repeats() -> None:
    budget = RetryBudgetConfig(share=0.2, min_retries=1)
    config = CONFIG.model_copy(
        update={"retry": RetryConfig(max_retries=2, base_delay_s=0.1, max_delay_s=0.1, budget=budget)}
    )
    server = ResumableServer(treatments=[NoAnswer(5.0)])

    async def many(client: AsyncClient) -> list[Any]:
        asks = (client.ask("Hello", model="m") for _ in range(20))
        return await asyncio.gather(*asks, return_exceptions=True)

    assert all(isinstance(error, Unreachable) for error in run(server, many, config))
    assert 24 <= len(server.requests) <= 32


def test_the_list_of_models_is_tried_again_too() -> None:
    async def list_models(client: AsyncClient) -> list[str]:
        return await client.models()

    assert run(ResumableServer(), list_models) == ["first-model", "second-model"]
    with pytest.raises(ServerFailed, match="no model"):
        run(ResumableServer(models=()), lambda client: client.ask("Hello"))


async def _drain(stream: Any) -> None:
    async for _ in stream:
        pass
