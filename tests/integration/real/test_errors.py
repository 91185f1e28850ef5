"""Every documented error, raised by the unmodified `openai` package in its class."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.integration.real.questions import CAPITAL, MODEL
from tests.support.served_app import ServedApp


async def test_unknown_model_is_a_not_found_error(app: ServedApp) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await app.openai.chat.completions.create(**{**CAPITAL, "model": "gpt-9"})
    assert (caught.value.status_code, caught.value.code, caught.value.param) == (404, "model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        await app.openai.models.retrieve("gpt-9")


@pytest.mark.parametrize("stream", [False, True])
async def test_prompt_beyond_the_context_is_a_bad_request(app: ServedApp, stream: bool) -> None:
    asked = {**CAPITAL, "messages": [{"role": "user", "content": "word " * 3000}]}
    with pytest.raises(openai.BadRequestError, match="2048") as caught:
        await app.openai.chat.completions.create(**asked, stream=stream)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"
    assert caught.value.type == "invalid_request_error"


async def test_output_beyond_the_context_is_a_bad_request(app: ServedApp) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await app.openai.chat.completions.create(**{**CAPITAL, "max_tokens": 5000})
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2.5}, "max_tokens"),
        ({"top_p": -1}, "top_p"),
        ({"n": "two"}, "n"),
        ({"stop": 7}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages.0.role"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"frequency": 1}, "frequency"),
    ],
)
async def test_wrong_field_is_a_bad_request_that_names_it(app: ServedApp, wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await app.openai.chat.completions.create(**CAPITAL, extra_body=wrong)
    assert caught.value.param == param
    assert param.rsplit(".", 1)[-1] in caught.value.message


async def test_malformed_json_is_a_400_in_openais_shape(app: ServedApp) -> None:
    answer = await app.http.post(
        f"{app.url}/v1/chat/completions",
        content=b'{"model": "' + MODEL.encode() + b'", "messages": [',
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 400
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_unknown_path_and_method_are_told_in_openais_shape(app: ServedApp) -> None:
    unknown = await app.http.get(f"{app.url}/v1/nothing")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_url")
    method = await app.http.get(f"{app.url}/v1/chat/completions")
    assert (method.status_code, method.json()["error"]["code"]) == (405, "method_not_allowed")
