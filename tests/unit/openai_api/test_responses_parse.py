from __future__ import annotations

import json
from typing import Any

import pytest

from serve_app.core.errors import InvalidRequest
from serve_app.core.request import Sampling
from serve_app.openai_api.responses_parse import ParsedResponseRequest, parse_response_request


def parse(**fields: Any) -> ParsedResponseRequest:
    return parse_response_request(json.dumps({"model": "m", "input": "hello", **fields}).encode())


def test_the_least_request_has_openais_defaults() -> None:
    parsed = parse()
    assert parsed.messages == ({"role": "user", "content": "hello"},)
    assert parsed.sampling == Sampling()
    assert (parsed.store, parsed.stream, parsed.background, parsed.parallel_tool_calls) == (True, False, False, True)
    assert (parsed.instructions, parsed.previous_response_id, parsed.metadata, parsed.user) == (None, None, {}, None)


def test_every_field_is_read() -> None:
    parsed = parse(
        instructions="Be brief.",
        max_output_tokens=7,
        temperature=0,
        top_p=0.5,
        stream=True,
        background=True,
        store=True,
        metadata={"a": "b"},
        previous_response_id="resp_1",
        user="u",
        truncation="disabled",
        text={"format": {"type": "text"}, "verbosity": "low"},
        parallel_tool_calls=False,
        stream_options={"include_obfuscation": False},
        seed=3,
        ignore_eos=True,
    )
    assert parsed.sampling == Sampling(max_tokens=7, temperature=0.0, top_p=0.5, seed=3, ignore_eos=True)
    assert (parsed.instructions, parsed.previous_response_id, parsed.user) == ("Be brief.", "resp_1", "u")
    assert (parsed.stream, parsed.background, parsed.store, parsed.parallel_tool_calls) == (True, True, True, False)
    assert parsed.metadata == {"a": "b"}


def test_messages_come_as_text_as_parts_and_as_the_output_of_an_earlier_response() -> None:
    output: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "phase": None,
        "content": [{"type": "output_text", "text": "Hi", "annotations": [], "logprobs": None}],
    }
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    parsed = parse(input=[{"role": "developer", "content": "x"}, {"role": "user", "content": parts}, output])
    assert parsed.messages == (
        {"role": "developer", "content": "x"},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "Hi"},
    )


@pytest.mark.parametrize(
    "nothing",
    [
        {"tools": []},
        {"tools": None},
        {"tool_choice": "auto"},
        {"include": []},
        {"reasoning": {}},
        {"reasoning": None},
        {"truncation": None},
        {"top_logprobs": 0},
        {"text": {}},
        {"conversation": None},
        {"service_tier": "auto"},
        {"prompt_cache_key": "k"},
        {"safety_identifier": "s"},
        {"max_tool_calls": 3},
    ],
)
def test_what_asks_for_nothing_is_accepted(nothing: dict[str, Any]) -> None:
    assert parse(**nothing) == parse()


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tools": [{"type": "function", "name": "f"}]}, "tools", "unsupported_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "unsupported_parameter"),
        ({"reasoning": {"effort": "high"}}, "reasoning", "unsupported_parameter"),
        ({"truncation": "auto"}, "truncation", "unsupported_parameter"),
        ({"include": ["message.output_text.logprobs"]}, "include", "unsupported_parameter"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
        ({"background_options": {"completion_window": "8h"}}, "background_options", "unsupported_parameter"),
        ({"text": {"format": {"type": "json_schema", "name": "s"}}}, "text.format.type", "unsupported_value"),
        ({"surprise": 1}, "surprise", "unknown_parameter"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": 3}, "input", "invalid_type"),
        ({"input": None}, "input", "invalid_type"),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "input.0.type", "unsupported_value"),
        ({"input": [{"type": "reasoning"}]}, "input.0.type", "unsupported_value"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "u"}]}]},
            "input.0.content.0.type",
            "unsupported_value",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "input.0.content.0.text",
            "missing_required_parameter",
        ),
        ({"input": [{"role": "tool", "content": "x"}]}, "input.0.role", "invalid_value"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata", "invalid_value"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a", "invalid_value"),
        ({"user": "x" * 513}, "user", "invalid_value"),
        ({"background": True, "store": False}, "background", "invalid_value"),
        ({"stream_options": {}}, "stream_options", "invalid_value"),
    ],
)
def test_what_is_wrong_or_not_supported_is_refused_by_name(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    assert (caught.value.param, caught.value.error_code) == (param, code)


def test_input_is_required() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_response_request(b'{"model":"m"}')
    assert (caught.value.param, caught.value.error_code) == ("input", "missing_required_parameter")
