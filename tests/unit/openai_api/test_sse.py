from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.events import Accepted, Finished, FinishReason, StreamEvent, TokenDelta, TokenLogprob
from serve_app.openai_api.envelope import Envelope
from serve_app.openai_api.parse import Endpoint
from serve_app.openai_api.sse import SseWriter, error_event, queued_comment
from tests.unit.openai_api.answers import CHAT, COMPLETION, chunks

STOP = Finished(0, FinishReason.STOP)


def writer(envelope: Envelope = CHAT, choices: int = 1, n: int = 1, include_usage: bool = False) -> SseWriter:
    return SseWriter(envelope, choices, n, include_usage)


def test_a_chat_stream_is_role_then_text_then_finish_then_done() -> None:
    stream = writer()
    body = stream.write([Accepted(2, [1, 2]), TokenDelta(0, 0, 1, "Hi", [7])])
    body += stream.write([STOP]) + stream.closing()
    assert body.endswith(b"\n\ndata: [DONE]\n\n")
    envelope = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "a/model"}
    empty = {"index": 0, "logprobs": None, "finish_reason": None}
    assert chunks(body) == [
        {**envelope, "choices": [{**empty, "delta": {"role": "assistant", "content": ""}}]},
        {**envelope, "choices": [{**empty, "delta": {"content": "Hi"}}]},
        {**envelope, "choices": [{**empty, "delta": {}, "finish_reason": "stop", "stop_reason": None}]},
    ]


def test_a_completion_stream_has_text_and_no_role() -> None:
    stream = writer(COMPLETION)
    body = stream.write([Accepted(1, [1]), TokenDelta(0, 0, 1, "Hi", [7])])
    body += stream.write([Finished(0, FinishReason.LENGTH)]) + stream.closing()
    envelope = {"id": "cmpl-1", "object": "text_completion", "created": 1_700_000_000, "model": "a/model"}
    empty = {"index": 0, "logprobs": None, "finish_reason": None}
    assert chunks(body) == [
        {**envelope, "choices": [{**empty, "text": "Hi"}]},
        {**envelope, "choices": [{**empty, "text": "", "finish_reason": "length", "stop_reason": None}]},
    ]


def test_the_stop_string_or_token_is_told_with_the_end() -> None:
    for stop_reason in ('a "stop"\u2028', 5):
        body = writer().write([Finished(0, FinishReason.STOP, stop_reason)])
        assert chunks(body)[-1]["choices"][0]["stop_reason"] == stop_reason


def test_usage_comes_last_without_choices_and_is_null_before() -> None:
    stream = writer(include_usage=True)
    body = stream.write([Accepted(3, [1, 2, 3]), TokenDelta(0, 0, 2, "Hi", [7, 8]), TokenDelta(0, 2, 1, "", [9])])
    body += stream.write([Finished(0, FinishReason.STOP, None, 2)]) + stream.closing()
    *others, last = chunks(body)
    assert [chunk["usage"] for chunk in others] == [None] * len(others)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 3,
        "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


def test_usage_is_absent_when_not_asked_for() -> None:
    stream = writer()
    body = stream.write([TokenDelta(0, 0, 1, "Hi", [7]), STOP]) + stream.closing()
    assert all("usage" not in chunk for chunk in chunks(body))


def test_an_accepted_prompt_shows_nothing_and_does_not_begin_the_answer() -> None:
    stream = writer()
    assert stream.write([Accepted(1, [1])]) == b""
    assert not stream.begun


def test_a_token_that_completes_no_character_begins_the_answer_without_text() -> None:
    stream = writer()
    assert len(chunks(stream.write([TokenDelta(0, 0, 1, "", [7])]))) == 1
    assert stream.begun
    assert stream.write([TokenDelta(0, 1, 1, "", [8])]) == b""


def test_each_choice_has_its_role_its_text_and_its_end() -> None:
    stream = writer(choices=2, n=2)
    body = stream.write(
        [TokenDelta(1, 0, 1, "one", [7]), TokenDelta(0, 0, 1, "zero", [8]), Finished(1, FinishReason.STOP)]
    )
    assert not stream.complete
    body += stream.write([Finished(0, FinishReason.LENGTH)])
    assert stream.complete
    seen = [(choice["index"], choice["delta"].get("content")) for chunk in chunks(body) for choice in chunk["choices"]]
    assert seen == [(0, ""), (1, ""), (1, "one"), (0, "zero"), (1, None), (0, None)]


def test_prompts_are_counted_once_and_cached_tokens_once_for_each_prompt() -> None:
    stream = writer(COMPLETION, choices=4, n=2, include_usage=True)
    stream.write([Accepted(2, [1, 2]), Accepted(1, [3])])
    stream.write([Finished(choice, FinishReason.STOP, None, cached) for choice, cached in enumerate((2, 2, 0, 1))])
    usage = chunks(stream.closing())[-1]["usage"]
    assert usage["prompt_tokens"] == 3
    assert usage["prompt_tokens_details"] == {"cached_tokens": 3}


def test_chat_logprobs_are_listed_per_token_with_bytes_and_alternatives() -> None:
    tokens = [TokenLogprob("é", -0.5, (("é", -0.5), ("e", float("-inf"))))]
    body = writer().write([TokenDelta(0, 0, 1, "é", [7], tokens)])
    assert chunks(body)[-1]["choices"][0]["logprobs"] == {
        "content": [
            {
                "token": "é",
                "logprob": -0.5,
                "bytes": [0xC3, 0xA9],
                "top_logprobs": [
                    {"token": "é", "logprob": -0.5, "bytes": [0xC3, 0xA9]},
                    {"token": "e", "logprob": -9999.0, "bytes": [0x65]},
                ],
            }
        ],
        "refusal": None,
    }


def test_a_token_without_text_is_written_when_it_has_logprobs() -> None:
    body = writer().write([TokenDelta(0, 0, 1, "", [7], [TokenLogprob("x", -1.0)])])
    assert len(chunks(body)) == 2


def test_completion_logprobs_are_columns_whose_offsets_run_on_within_each_choice() -> None:
    stream = writer(COMPLETION, choices=2, n=2)
    body = stream.write(
        [
            TokenDelta(
                0, 0, 2, "ab cd", [1, 2], [TokenLogprob("ab", -1.0, (("xy", -0.5),)), TokenLogprob(" cd", -2.0)]
            ),
            TokenDelta(1, 0, 1, "zz", [1], [TokenLogprob("zz", -3.0)]),
            TokenDelta(0, 2, 1, "!", [3], [TokenLogprob("!", -4.0)]),
        ]
    )
    first, other, second = (chunk["choices"][0]["logprobs"] for chunk in chunks(body))
    assert first == {
        "text_offset": [0, 2],
        "token_logprobs": [-1.0, -2.0],
        "tokens": ["ab", " cd"],
        "top_logprobs": [{"xy": -0.5, "ab": -1.0}, {" cd": -2.0}],
    }
    assert other["text_offset"] == [0]
    assert second["text_offset"] == [5]


def test_a_queue_comment_and_an_error_are_single_events() -> None:
    assert queued_comment(3) == b": queued 3\n\n"
    document = json.dumps({"error": {"message": "a\u2028b"}}, ensure_ascii=False).encode()
    assert chunks(error_event(document)) == [{"error": {"message": "a\u2028b"}}]


def test_an_error_is_an_event_of_that_name_that_may_say_when_to_come_back() -> None:
    assert error_event(b'{"error":1}') == b'event: error\ndata: {"error":1}\n\n'
    assert error_event(b'{"error":1}', 2250) == b'event: error\nretry: 2250\ndata: {"error":1}\n\n'


@given(st.lists(st.text(), min_size=1), st.sampled_from(Endpoint), st.booleans())
def test_the_joined_deltas_are_the_text_whatever_the_characters(
    texts: list[str], endpoint: Endpoint, with_logprobs: bool
) -> None:
    stream = writer(Envelope.new(endpoint, 'odd"model\n', 0))
    events: list[StreamEvent] = [
        TokenDelta(0, index, 1, text, [index], [TokenLogprob(text, -1.0)] if with_logprobs else None)
        for index, text in enumerate(texts)
    ]
    body = b"".join(stream.write([event]) for event in [*events, STOP]) + stream.closing()
    choices = [chunk["choices"][0] for chunk in chunks(body)]
    if endpoint is Endpoint.CHAT:
        assert "".join(choice["delta"].get("content", "") for choice in choices) == "".join(texts)
    else:
        assert "".join(choice["text"] for choice in choices) == "".join(texts)
