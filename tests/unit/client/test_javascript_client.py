"""The JavaScript client in Node, against a scripted server on loopback whose cuts are TCP resets."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.node import run_with_client
from tests.support.resumable_server import (
    Break,
    NoAnswer,
    Pause,
    Piece,
    Refuse,
    ResumableServer,
    Treatment,
    Whole,
    error_event,
    listening,
)

ASK = 'report(await client.ask("Hello"));'
TOO_LONG = error_event("context_length_exceeded", kind="invalid_request_error")
FULL = error_event("queue_full", 2, kind="rate_limit_error")
FAIL = 'report(await failure(client.ask("Hello")));'
SHORT = "{ firstTokenTimeoutMs: 500, stallTimeoutMs: 150, maxRetries: 1 }"


async def run(server: ResumableServer, source: str, settings: str = "{}") -> Any:
    async with listening(server) as url:
        return await run_with_client(url, source, settings)


async def test_tokens_come_one_by_one_with_their_positions_and_the_end_says_why() -> None:
    source = 'const tokens = []; for await (const t of client.stream("Hello")) tokens.push(t); report(tokens);'
    assert await run(ResumableServer(tokens=["a", "é\u2028"]), source) == [
        {"text": "a", "position": 1},
        {"text": "é\u2028", "position": 2},
        {
            "text": "",
            "position": 2,
            "finishReason": "stop",
            "usage": {"promptTokens": 7, "completionTokens": 2, "cachedTokens": 0},
        },
    ]


async def test_a_stream_cut_after_any_token_goes_on_where_it_was() -> None:
    tokens = tuple(f"{index} é\u2028" for index in range(100))
    cuts: list[Treatment] = []
    for position in range(101):
        cuts += [Whole(upto=position, then=[Break()]), Whole()]
    server = ResumableServer(tokens=tokens, treatments=cuts)
    source = """
        const answers = [];
        for (let position = 0; position <= 100; position++) answers.push(await client.ask("Hello", { model: "m" }));
        report(answers.map(({ text, reconnects }) => [text, reconnects]));
    """
    assert await run(server, source) == [["".join(tokens), 1]] * 101
    assert server.computed == 101


async def test_a_stream_cut_after_every_token_and_inside_events_goes_on_each_time() -> None:
    half = b'id: x.9\ndata: {"choices": [{"delta": {"content": "half'
    cuts: list[Treatment] = [Whole(upto=position, then=[half, Break()]) for position in range(1, 11)]
    server = ResumableServer(treatments=[*cuts, Whole()])
    answer = await run(server, ASK)
    assert (answer["text"], answer["reconnects"], server.computed) == (server.text, 10, 1)


async def test_a_request_cut_before_its_first_id_is_repeated_under_the_same_key() -> None:
    server = ResumableServer(treatments=[NoAnswer(), NoAnswer(), Whole()])
    assert (await run(server, ASK))["text"] == server.text
    assert server.computed == 1


async def test_only_what_was_said_is_sent() -> None:
    server = ResumableServer()
    source = """
        const messages = [{ role: "user", content: "Hello" }];
        await client.ask(messages, { max_tokens: 5, priority: "batch", deadlineMs: 60000 });
        report(await client.models());
    """
    assert await run(server, source, '{ apiKey: "secret" }') == ["first-model", "second-model"]
    assert server.bodies == [
        {
            "model": "first-model",
            "messages": [{"role": "user", "content": "Hello"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 5,
        }
    ]
    (headers,) = server.requests
    assert (headers["authorization"], headers["x-priority"]) == ("Bearer secret", "batch")
    assert 50_000 < int(headers["x-deadline-ms"]) <= 60_000


async def test_pauses_are_drawn_up_to_a_bound_that_doubles_on_top_of_what_the_server_asks() -> None:
    server = ResumableServer(
        treatments=[
            Refuse(503, code=None),
            Refuse(429, {"retry-after-ms": "1500", "retry-after": "9"}),
            Refuse(429, {"retry-after": "2"}),
        ]
    )
    source = 'const error = await failure(client.ask("Hello", { model: "m" })); report([error, globalThis.pauses]);'
    settings = """{
        baseDelayMs: 100, maxDelayMs: 300, random: () => 1,
        sleep: async (ms) => { (globalThis.pauses ??= []).push(ms); },
    }"""
    error, pauses = await run(server, source, settings)
    assert pauses == [100, 1700, 2300]
    assert (error["kind"], error["status"], error["code"]) == ("overloaded", 429, "queue_full")
    assert error["retryAfterMs"] == 2000


@pytest.mark.parametrize(
    ("treatments", "expected", "requests"),
    [
        ([Refuse(400, code="invalid_value")], ("refused", "invalid_value"), 1),
        ([Refuse(500, {"x-should-retry": "false"}, "engine_failed")], ("server_failed", "engine_failed"), 1),
        ([Refuse(429, {"retry-after": "61"})], ("overloaded", "queue_full"), 1),
        ([NoAnswer()], ("unreachable", None), 4),
        ([Whole(upto=5, then=[Break()])], ("unreachable", None), 4),
        ([Whole(upto=4, then=[Break()]), Refuse(404, code="stream_not_found")], ("stream_lost", "stream_not_found"), 2),
        ([Whole(upto=0, then=[TOO_LONG])], ("refused", "context_length_exceeded"), 1),
        ([Whole(upto=0, then=[FULL])], ("overloaded", "queue_full"), 4),
        ([Whole(upto=4, then=[error_event("engine_failed")])], ("server_failed", "engine_failed"), 1),
        ([Whole(upto=4, then=[error_event("engine_lost")])], ("overloaded", "engine_lost"), 2),
    ],
)
async def test_what_cannot_be_helped_is_an_error(
    treatments: list[Treatment], expected: tuple[str, str | None], requests: int
) -> None:
    server = ResumableServer(treatments=list(treatments))
    error = await run(server, FAIL)
    assert (error["kind"], error.get("code")) == expected
    assert len(server.requests) == requests


async def test_a_failure_before_the_first_token_and_a_forgotten_stream_that_said_nothing_are_asked_for_anew() -> None:
    server = ResumableServer(
        treatments=[
            Whole(upto=0, then=[error_event("queue_full", 1)]),
            Whole(upto=0, then=[Break()]),
            Refuse(404, code="stream_not_found"),
            Whole(),
        ]
    )
    assert (await run(server, ASK))["text"] == server.text


async def test_stalls_and_late_first_tokens_are_cut_and_resumed() -> None:
    server = ResumableServer(
        treatments=[Whole(before=[b": queued 2\n\n", Pause(30.0)]), Whole(upto=5, then=[Pause(30.0)]), Whole()]
    )
    answer = await run(server, ASK, SHORT)
    assert (answer["text"], server.computed) == (server.text, 1)
    assert answer["reconnects"] >= 2


async def test_a_connection_that_is_only_kept_alive_is_given_up() -> None:
    alive: list[Piece] = [Pause(0.03), b": keep-alive\n\n"] * 1000
    assert (await run(ResumableServer(treatments=[Whole(before=alive)]), FAIL, SHORT))["kind"] == "first_token_timeout"
    server = ResumableServer(treatments=[Whole(upto=3, then=alive)])
    assert (await run(server, FAIL, SHORT))["kind"] == "stall_timeout"


async def test_a_slow_but_steady_stream_is_no_stall() -> None:
    steady: list[Piece] = []
    for position in range(6, 11):
        event = b'id: stream-1.%d\ndata: {"choices": [{"delta": {"content": ""}}]}\n\n' % position
        steady += [Pause(0.3), event]
    server = ResumableServer(treatments=[Whole(upto=5, then=[*steady, Break()]), Whole()])
    assert (await run(server, ASK, "{ stallTimeoutMs: 1000 }"))["reconnects"] == 1
    assert server.requests[1]["last-event-id"] == "stream-1.10"


async def test_time_that_the_reader_takes_is_no_stall() -> None:
    source = """
        const stream = client.stream("Hello");
        for await (const token of stream) if (token.position === 2) await sleep(1200);
        report(stream.reconnects);
    """
    assert await run(ResumableServer(), source, "{ stallTimeoutMs: 1000 }") == 0


async def test_the_deadline_is_kept() -> None:
    server = ResumableServer(treatments=[Whole(upto=3, then=[Pause(30.0)])])
    source = 'report(await failure(client.ask("Hello", { deadlineMs: 200 })));'
    assert (await run(server, source))["kind"] == "deadline_exceeded"


async def test_an_aborted_signal_ends_the_answer_here_and_on_the_server() -> None:
    server = ResumableServer(treatments=[Whole(upto=3, then=[Pause(30.0)])])
    source = """
        const controller = new AbortController();
        const stream = client.stream("Hello", { signal: controller.signal });
        const end = (token) => token.position === 3 && setTimeout(() => controller.abort(), 10);
        try { for await (const token of stream) end(token); } catch (error) { report([error.name, stream.text]); }
    """
    assert await run(server, source) == ["AbortError", "word0 word1 word2 "]
    assert server.cancelled == ["stream-1"]


async def test_leaving_the_loop_tells_the_server() -> None:
    server = ResumableServer()
    source = 'for await (const token of client.stream("Hello")) break; report(await client.models());'
    await run(server, source)
    assert server.cancelled == ["stream-1"]


async def test_the_place_in_the_queue_is_known_while_it_lasts() -> None:
    server = ResumableServer(treatments=[Whole(before=[b": queued 3\n", Pause(30.0)])])
    source = """
        const controller = new AbortController();
        const stream = client.stream("Hello", { signal: controller.signal });
        const look = setInterval(() => {
          if (stream.queuePosition === undefined) return;
          report(stream.queuePosition);
          clearInterval(look);
          controller.abort();
        }, 10);
        try { for await (const token of stream) void token; } catch {}
    """
    assert await run(server, source) == 3


async def test_an_answer_whose_usage_alone_is_missing_is_whole() -> None:
    finish = b'id: stream-1.10\ndata: {"choices": [{"delta": {}, "finish_reason": "length"}]}\n\n'
    server = ResumableServer(treatments=[Whole(upto=10, then=[finish, Break()]), Refuse(404, code="stream_not_found")])
    answer = await run(server, ASK)
    assert (answer["text"], answer["finishReason"]) == (server.text, "length")


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
async def test_events_are_read_however_their_bytes_are_cut(line_end: str) -> None:
    body = (
        ': hi\n\nid: s.1\ndata: {"choices":\ndata: [{"delta": {"content": "é\u2028"}}]}\n\n'
        'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    )
    server = ResumableServer(treatments=[Whole(upto=0, then=[body.replace("\n", line_end).encode()])])
    byte_by_byte = """{ fetch: async (url, options) => {
        const response = await fetch(url, options);
        const bytes = new Uint8Array(await response.arrayBuffer());
        let at = 0;
        const pull = (to) => (at < bytes.length ? to.enqueue(bytes.slice(at, ++at)) : to.close());
        return new Response(new ReadableStream({ pull }), response);
    } }"""
    answer = await run(server, ASK, byte_by_byte)
    assert (answer["text"], answer["reconnects"]) == ("é\u2028", 0)


async def test_a_setting_that_does_not_exist_is_an_error() -> None:
    source = """
        try { new ServeAppClient("", { maxRetry: 1 }); } catch (error) { report(error.message); }
    """
    assert await run(ResumableServer(), source) == "unknown setting: maxRetry"
