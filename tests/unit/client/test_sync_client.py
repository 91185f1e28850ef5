"""The blocking client against a scripted server, with a clock that only moves when somebody waits."""

from __future__ import annotations

import random
from typing import Any

import httpx
import pytest

from serve_app.client.config import ClientConfig
from serve_app.client.errors import (
    ClientError,
    DeadlineExceeded,
    FirstTokenTimeout,
    Overloaded,
    RequestRejected,
    StallTimeout,
    StreamLost,
    Unreachable,
)
from serve_app.client.events import Token, Usage
from serve_app.client.sync_client import Client
from serve_app.resilience.retry import RetryConfig
from tests.support.resumable_server import (
    BlockingTransport,
    Break,
    FakeTime,
    NoAnswer,
    Pause,
    Piece,
    Refuse,
    ResumableServer,
    Whole,
)

CONFIG = ClientConfig(
    first_token_timeout_s=10.0, stall_timeout_s=4.0, retry=RetryConfig(max_retries=3, base_delay_s=0.1, max_delay_s=1.0)
)
LONG = tuple(f"{index} é\u2028" for index in range(100))


def client_of(server: ResumableServer, time: FakeTime | None = None, config: ClientConfig = CONFIG) -> Client:
    time = time or FakeTime()
    http = httpx.Client(transport=BlockingTransport(server, time), trust_env=False)
    return Client("http://test", config=config, http=http, rng=random.Random(1), clock=time, sleep=time.sleep)


def failure(server: ResumableServer, time: FakeTime | None = None, **options: Any) -> ClientError:
    with pytest.raises(ClientError) as raised:
        client_of(server, time).ask("Hello", **options)
    return raised.value


def test_tokens_come_one_by_one_with_their_positions_and_the_end_says_why() -> None:
    tokens = list(client_of(ResumableServer(tokens=["a", "b"])).stream("Hello"))
    assert tokens == [Token("a", 1), Token("b", 2), Token("", 2, "stop", Usage(7, 2))]


def test_a_stream_cut_after_any_token_goes_on_where_it_was() -> None:
    server = ResumableServer(tokens=LONG)
    client = client_of(server)
    for position in range(101):
        server.treatments = [Whole(upto=position, then=[Break()]), Whole()]
        tokens = list(client.stream("Hello"))
        assert [token.text for token in tokens[:-1]] == list(LONG)
        assert [token.position for token in tokens[:-1]] == list(range(1, 101))
    assert server.computed == 101


def test_a_request_cut_before_its_first_id_is_repeated_under_the_same_key() -> None:
    server = ResumableServer(treatments=[NoAnswer(), NoAnswer(), Whole()])
    assert client_of(server).ask("Hello").text == server.text
    assert server.computed == 1


def test_a_refusal_is_waited_out_as_long_as_the_server_says() -> None:
    time = FakeTime()
    server = ResumableServer(treatments=[Refuse(503, {"retry-after": "7"}), Whole()])
    assert client_of(server, time).ask("Hello").text == server.text
    (slept,) = time.slept
    assert 7.0 <= slept <= 7.1


def test_pauses_grow_and_end() -> None:
    time = FakeTime()
    assert isinstance(failure(ResumableServer(treatments=[NoAnswer()]), time), Unreachable)
    assert len(time.slept) == 3
    for pause, longest in zip(time.slept, (0.1, 0.2, 0.4), strict=True):
        assert 0.0 < pause <= longest


def test_what_the_client_did_wrong_is_not_tried_again() -> None:
    server = ResumableServer(treatments=[Refuse(400, code="invalid_value"), Whole()])
    assert isinstance(failure(server), RequestRejected)
    assert len(server.requests) == 1


def test_a_server_that_stays_full_is_an_error_that_says_when_to_come_back() -> None:
    error = failure(ResumableServer(treatments=[Refuse(429, {"retry-after-ms": "1500"})]))
    assert isinstance(error, Overloaded)
    assert error.retry_after_s == 1.5


def test_a_silent_connection_is_cut_and_resumed() -> None:
    time = FakeTime()
    server = ResumableServer(treatments=[Whole(upto=5, then=[Pause(1000.0)]), Whole()])
    client = client_of(server, time, CONFIG.model_copy(update={"stall_timeout_s": 25.0, "first_token_timeout_s": 60.0}))
    answer = client.ask("Hello")
    assert answer.text == server.text
    assert answer.reconnects == 1
    assert 25.0 <= answer.duration_s <= 25.1
    assert isinstance(failure(ResumableServer(treatments=[Whole(upto=5, then=[Pause(1000.0)])])), StallTimeout)


def test_a_connection_without_even_comments_is_dead_before_the_first_token_too() -> None:
    time = FakeTime()
    server = ResumableServer(treatments=[Whole(before=[Pause(1000.0)]), Whole()])
    patient = CONFIG.model_copy(update={"first_token_timeout_s": 600.0})
    answer = client_of(server, time, patient).ask("Hello")
    assert 20.0 <= answer.duration_s <= 20.1


def test_comments_are_no_tokens() -> None:
    alive: list[Piece] = [Pause(1.5), b": keep-alive\n\n"] * 100
    assert isinstance(failure(ResumableServer(treatments=[Whole(upto=5, then=alive)])), StallTimeout)
    assert isinstance(failure(ResumableServer(treatments=[Whole(before=alive)])), FirstTokenTimeout)


def test_a_silence_before_the_headers_counts_as_waiting_for_the_first_token() -> None:
    assert isinstance(failure(ResumableServer(treatments=[NoAnswer(after_s=1000.0)])), FirstTokenTimeout)


def test_the_deadline_is_kept_whatever_happens() -> None:
    server = ResumableServer(treatments=[Whole(upto=3, then=[Pause(2.0), Break()]), Whole(upto=5, then=[Pause(3.9)])])
    time = FakeTime()
    assert isinstance(failure(server, time, deadline_s=5.0), DeadlineExceeded)
    assert time.now_s == pytest.approx(1005.0)


def test_a_stream_that_the_server_has_forgotten_is_lost() -> None:
    server = ResumableServer(treatments=[Whole(upto=4, then=[Break()]), Refuse(404, code="stream_not_found")])
    assert isinstance(failure(server), StreamLost)


def test_time_that_the_reader_takes_is_no_stall() -> None:
    time = FakeTime()
    stream = client_of(ResumableServer(), time).stream("Hello")
    for _ in stream:
        time.now_s += 60.0
    assert stream.answer.reconnects == 0


def test_leaving_early_tells_the_server() -> None:
    server = ResumableServer()
    client = client_of(server)
    with client.stream("Hello") as stream:
        next(iter(stream))
    assert server.cancelled == ["stream-1"]
    for _ in client.stream("Hello"):
        break
    assert server.cancelled == ["stream-1", "stream-2"]
    client.ask("Hello")
    assert len(server.cancelled) == 2


def test_the_models_are_listed_in_the_servers_order() -> None:
    assert client_of(ResumableServer()).models() == ["first-model", "second-model"]
