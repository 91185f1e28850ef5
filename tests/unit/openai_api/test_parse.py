from __future__ import annotations

import json
from typing import Any

import pytest

from serve_app.core.errors import InvalidRequest
from serve_app.core.request import Prompt, Sampling
from serve_app.openai_api.errors import document_of
from serve_app.openai_api.parse import Endpoint, ParsedRequest, parse_chat, parse_completion

HELLO = [{"role": "user", "content": "hello"}]


def chat(**fields: Any) -> ParsedRequest:
    return parse_chat(json.dumps({"model": "m", "messages": HELLO, **fields}).encode())


def completion(**fields: Any) -> ParsedRequest:
    return parse_completion(json.dumps({"model": "m", "prompt": "once", **fields}).encode())


def chat_error(**fields: Any) -> tuple[str | None, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert caught.value.status == 400
    return caught.value.param, caught.value.error_code


def completion_error(**fields: Any) -> tuple[str | None, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        completion(**fields)
    return caught.value.param, caught.value.error_code


def test_a_chat_request_with_nothing_but_messages_has_openais_defaults() -> None:
    parsed = chat()
    assert parsed == ParsedRequest(Endpoint.CHAT, "m", (Prompt(messages=tuple(HELLO)),), Sampling(), False, False)


def test_a_completion_request_draws_sixteen_tokens_by_default() -> None:
    assert completion().sampling == Sampling(max_tokens=16)
    assert completion(max_tokens=None).sampling.max_tokens == 16


def test_every_sampling_parameter_reaches_the_sampling() -> None:
    given = {
        "min_tokens": 2,
        "max_tokens": 9,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 7,
        "min_p": 0.1,
        "seed": -3,
        "n": 2,
        "presence_penalty": -2,
        "frequency_penalty": 2,
        "repetition_penalty": 1.5,
        "ignore_eos": True,
    }
    expected = Sampling(**given, stop=("a", "b"), stop_token_ids=(5,), logprobs=3)  # type: ignore[arg-type]
    fields = {**given, "stop": ["a", "b"], "stop_token_ids": [5]}
    assert chat(**fields, logprobs=True, top_logprobs=3).sampling == expected
    assert completion(**fields, logprobs=3).sampling == expected


def test_null_means_not_given_for_every_optional_parameter() -> None:
    names = (
        "stream stream_options n max_tokens max_completion_tokens min_tokens temperature top_p top_k min_p seed stop "
        "stop_token_ids presence_penalty frequency_penalty repetition_penalty ignore_eos logprobs top_logprobs "
        "add_generation_prompt continue_final_message chat_template_kwargs tools tool_choice response_format "
        "logit_bias user metadata audio functions"
    )
    assert chat(**dict.fromkeys(names.split())) == chat()


def test_usage_in_each_chunk_needs_usage() -> None:
    def options(**given: bool) -> tuple[bool, bool]:
        parsed = chat(stream=True, stream_options=given)
        return parsed.include_usage, parsed.continuous_usage

    assert options(include_usage=True, continuous_usage_stats=True) == (True, True)
    assert options(include_usage=True, continuous_usage_stats=False) == (True, False)
    assert options(continuous_usage_stats=True) == (False, False)


def test_max_completion_tokens_bounds_the_output_as_max_tokens_does() -> None:
    assert chat(max_completion_tokens=5).sampling.max_tokens == 5
    assert chat(max_completion_tokens=5, max_tokens=5).sampling.max_tokens == 5
    assert chat(max_completion_tokens=5, max_tokens=6).sampling.max_tokens == 5


def test_top_k_minus_one_means_all_tokens() -> None:
    assert chat(top_k=-1).sampling.top_k == 0


def test_chat_logprobs_without_alternatives_ask_for_the_drawn_token_only() -> None:
    assert chat(logprobs=True).sampling.logprobs == 0
    assert chat(logprobs=False).sampling.logprobs is None


def test_a_single_stop_string_may_stand_alone() -> None:
    assert chat(stop="\n").sampling.stop == ("\n",)


def test_usage_is_streamed_only_when_asked_for() -> None:
    assert chat(stream=True, stream_options={"include_usage": True}).include_usage
    assert not chat(stream=True, stream_options={}).include_usage
    assert not chat(stream=True).include_usage


def test_text_parts_of_a_message_are_joined_by_line_breaks() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    (prompt,) = chat(messages=[{"role": "user", "content": parts, "name": "kim"}]).prompts
    assert prompt.messages == ({"role": "user", "content": "a\nb", "name": "kim"},)


def test_an_answer_can_be_sent_back_as_it_came() -> None:
    answer: dict[str, Any] = {"role": "assistant", "content": "hi", "refusal": None, "tool_calls": None, "audio": None}
    answer |= {"annotations": [], "function_call": None, "reasoning_content": None}
    (prompt,) = chat(messages=[*HELLO, answer, *HELLO]).prompts
    assert prompt.messages is not None
    assert prompt.messages[1] == {"role": "assistant", "content": "hi"}


def test_continuing_the_final_message_drops_the_generation_prompt() -> None:
    (prompt,) = chat(continue_final_message=True).prompts
    assert prompt.continue_final_message
    assert not prompt.add_generation_prompt
    refused = chat_error(continue_final_message=True, add_generation_prompt=True)
    assert refused == ("add_generation_prompt", "invalid_value")


def test_chat_template_arguments_are_passed_on_but_cannot_replace_the_template() -> None:
    (prompt,) = chat(chat_template_kwargs={"enable_thinking": False}).prompts
    assert prompt.chat_template_kwargs == {"enable_thinking": False}
    for name in ("chat_template", "tokenize", "messages"):
        refused = chat_error(chat_template_kwargs={name: "x"})
        assert refused == (f"chat_template_kwargs.{name}", "invalid_value")
    assert chat_error(chat_template_kwargs={"a": [1]}) == ("chat_template_kwargs.a", "invalid_type")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", (Prompt(text="a"),)),
        ("", (Prompt(text=""),)),
        (["a", ""], (Prompt(text="a"), Prompt(text=""))),
        ([1, 2], (Prompt(token_ids=(1, 2)),)),
        ([[1], [2, 3]], (Prompt(token_ids=(1,)), Prompt(token_ids=(2, 3)))),
    ],
)
def test_a_completion_prompt_is_text_or_token_ids_one_or_many(prompt: Any, expected: tuple[Prompt, ...]) -> None:
    parsed = completion(prompt=prompt, n=2)
    assert parsed.prompts == expected
    assert parsed.choices == 2 * len(expected)


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (None, "prompt"),
        (5, "prompt"),
        ({}, "prompt"),
        ([], "prompt"),
        ([[]], "prompt.0"),
        ([1, "a"], "prompt.1"),
        (["a", 1], "prompt.1"),
        ([[1], 2], "prompt.1"),
        ([[1, True]], "prompt.0.1"),
        ([-1], "prompt.0"),
        ([2**31], "prompt.0"),
        ([1.5], "prompt.0"),
    ],
)
def test_a_wrong_completion_prompt_is_named_to_the_element(prompt: Any, param: str) -> None:
    assert completion_error(prompt=prompt)[0] == param


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": "0.5"}, "temperature", "invalid_type"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"temperature": -0.1}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"top_p": 1.1}, "top_p", "invalid_value"),
        ({"top_k": -2}, "top_k", "invalid_value"),
        ({"top_k": 1.5}, "top_k", "invalid_type"),
        ({"min_p": 1.5}, "min_p", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": True}, "n", "invalid_type"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"seed": 2**70}, "seed", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 5.0}, "max_tokens", "invalid_type"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens", "invalid_value"),
        ({"presence_penalty": 2.5}, "presence_penalty", "invalid_value"),
        ({"frequency_penalty": -2.5}, "frequency_penalty", "invalid_value"),
        ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
        ({"stop": 5}, "stop", "invalid_type"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"stop": ["a", 1]}, "stop.1", "invalid_type"),
        ({"stop": ["a"] * 65}, "stop", "invalid_value"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids.0", "invalid_type"),
        ({"stream": "true"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
        ({"logprobs": 1}, "logprobs", "invalid_type"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"model": 5}, "model", "invalid_type"),
        ({"model": ""}, "model", "invalid_value"),
        ({"messages": None}, "messages", "invalid_type"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": ["hi"]}, "messages.0", "invalid_type"),
        ({"messages": [{"content": "a"}]}, "messages.0.role", "missing_required_parameter"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "missing_required_parameter"),
        ({"messages": [{"role": "king", "content": "a"}]}, "messages.0.role", "invalid_value"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "invalid_type"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "messages.0.content.0", "invalid_type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages.0.content.0.text",
            "missing_required_parameter",
        ),
        ({"messages": [*HELLO, {"role": "user", "content": "a", "mood": 1}]}, "messages.1.mood", "unknown_parameter"),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(fields: dict[str, Any], param: str, code: str) -> None:
    assert chat_error(**fields) == (param, code)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
        ({"audio": {"voice": "a"}}, "audio", "unsupported_parameter"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "unsupported_parameter"),
        ({"chat_template": "{{ x }}"}, "chat_template", "unsupported_parameter"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
            "messages.0.content.0.type",
            "unsupported_value",
        ),
        (
            {"messages": [{"role": "tool", "content": "a", "tool_call_id": "b"}]},
            "messages.0.role",
            "unsupported_value",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]},
            "messages.0.tool_calls",
            "unsupported_parameter",
        ),
    ],
)
def test_what_we_cannot_obey_is_refused_as_not_supported(fields: dict[str, Any], param: str, code: str) -> None:
    assert chat_error(**fields) == (param, code)


@pytest.mark.parametrize("fields", [{"echo": True}, {"suffix": "b"}, {"best_of": 3}, {"prompt_logprobs": 1}])
def test_what_completions_cannot_obey_is_refused_as_not_supported(fields: dict[str, Any]) -> None:
    assert completion_error(**fields) == (next(iter(fields)), "unsupported_parameter")


def test_values_that_ask_for_nothing_are_accepted_for_unsupported_parameters() -> None:
    nothing = {"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "modalities": ["text"]}
    assert chat(**nothing, logit_bias={}, skip_special_tokens=True) == chat()
    assert completion(echo=False, suffix="", best_of=1, use_beam_search=False) == completion()


def test_hints_and_bookkeeping_are_accepted_and_ignored() -> None:
    hints = {"user": "u", "store": True, "metadata": {"a": "b"}, "service_tier": "flex", "parallel_tool_calls": False}
    hints |= {"prompt_cache_key": "k", "safety_identifier": "s", "reasoning_effort": "low", "verbosity": "low"}
    assert chat(**hints) == chat()


def test_an_unknown_parameter_is_named() -> None:
    assert chat_error(temprature=1) == ("temprature", "unknown_parameter")


def test_chat_parameters_are_unknown_to_completions() -> None:
    assert completion_error(max_completion_tokens=5) == ("max_completion_tokens", "unknown_parameter")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"model": NaN}', b"\xff", b"[" * 2_000, b'{"model":"m","messages":[],"user":"\\ud800"}'],
    ids=["empty", "cut", "nan", "not utf-8", "too deep", "lone surrogate"],
)
def test_malformed_json_is_refused_as_such(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(body)
    assert caught.value.error_code == "invalid_json"


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"null"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="JSON object"):
        parse_completion(body)


@pytest.mark.parametrize(
    "fields",
    [
        {"p" * 100_000: 1},
        {"messages": [*HELLO, {"role": "user", "content": "a", "f" * 100_000: 1}]},
        {"messages": [{"role": "user", "content": [{"type": "t" * 100_000, "text": "a"}]}]},
        {"chat_template_kwargs": {"k" * 100_000: []}},
        {"stream": True, "stream_options": {"o" * 100_000: 1}},
    ],
)
def test_errors_show_only_the_beginning_of_what_a_client_named(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert len(document_of(caught.value)) < 1000
    assert "…" in caught.value.message


def test_error_messages_do_not_repeat_the_prompt() -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(messages=[{"role": "user", "content": ["my secret"]}])
    assert "secret" not in caught.value.message
