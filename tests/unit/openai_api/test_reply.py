from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.events import Accepted, Finished, FinishReason, StreamEvent, TokenDelta, TokenLogprob
from serve_app.openai_api.envelope import Envelope
from serve_app.openai_api.reply import Reply
from tests.unit.openai_api.answers import CHAT, COMPLETION


def reply(envelope: Envelope, events: list[StreamEvent], choices: int = 1) -> Any:
    collected = Reply(envelope, choices, choices)
    collected.read(events)
    assert collected.complete
    return json.loads(collected.document())


def test_a_chat_reply_is_one_document_of_openais_shape() -> None:
    events: list[StreamEvent] = [Accepted(2, [1, 2]), TokenDelta(0, 0, 1, "He", [7]), TokenDelta(0, 1, 1, "llo", [8])]
    assert reply(CHAT, [*events, Finished(0, FinishReason.STOP, "END", 1)]) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "a/model",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": "END",
            }
        ],
        "usage": {
            "prompt_tokens": 2,
            "completion_tokens": 2,
            "total_tokens": 4,
            "prompt_tokens_details": {"cached_tokens": 1},
        },
    }


def test_a_completion_reply_carries_text() -> None:
    document = reply(COMPLETION, [TokenDelta(0, 0, 1, "Hi", [7]), Finished(0, FinishReason.LENGTH)])
    assert document["object"] == "text_completion"
    assert document["choices"] == [
        {"index": 0, "text": "Hi", "logprobs": None, "finish_reason": "length", "stop_reason": None}
    ]


def test_interleaved_choices_are_told_apart() -> None:
    events: list[StreamEvent] = [TokenDelta(choice, 0, 1, text, [7]) for choice, text in [(1, "b"), (0, "a"), (1, "B")]]
    ends: list[StreamEvent] = [Finished(1, FinishReason.STOP), Finished(0, FinishReason.LENGTH)]
    choices = reply(CHAT, events + ends, choices=2)["choices"]
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in choices] == [
        (0, "a", "length"),
        (1, "bB", "stop"),
    ]


def test_logprobs_of_all_tokens_are_joined() -> None:
    events: list[StreamEvent] = [
        TokenDelta(0, 0, 1, "ab", [7], [TokenLogprob("ab", -1.0)]),
        TokenDelta(0, 1, 1, "c", [8], [TokenLogprob("c", -2.0)]),
        Finished(0, FinishReason.STOP),
    ]
    chat = reply(CHAT, events)["choices"][0]["logprobs"]
    assert [item["token"] for item in chat["content"]] == ["ab", "c"]
    completion = reply(COMPLETION, events)["choices"][0]["logprobs"]
    assert completion["tokens"] == ["ab", "c"]
    assert completion["text_offset"] == [0, 2]


def test_a_reply_is_complete_only_after_the_last_choice() -> None:
    collected = Reply(CHAT, 2, 2)
    collected.read([Finished(0, FinishReason.STOP)])
    assert not collected.complete


@given(st.lists(st.text()))
def test_the_content_is_the_joined_text_whatever_the_characters(texts: list[str]) -> None:
    events: list[StreamEvent] = [TokenDelta(0, index, 1, text, [index]) for index, text in enumerate(texts)]
    document = reply(CHAT, [*events, Finished(0, FinishReason.STOP)])
    assert document["choices"][0]["message"]["content"] == "".join(texts)
