"""A whole answer in one JSON document, collected from typed stream events."""

from __future__ import annotations

from typing import Any

import msgspec

from serve_app.core.events import TokenDelta, TokenLogprob
from serve_app.openai_api.collected_answer import CollectedAnswer, CollectedChoice
from serve_app.openai_api.envelope import Envelope
from serve_app.openai_api.json_text import json_string
from serve_app.openai_api.logprobs import chat_logprobs, completion_logprobs
from serve_app.openai_api.parse import Endpoint

_encode = msgspec.json.Encoder().encode


class Reply(CollectedAnswer):
    """Collects the events of one answer of `choices` choices, `n` for each prompt. Used by one task."""

    __slots__ = ("_envelope",)

    def __init__(self, envelope: Envelope, choices: int, n: int) -> None:
        super().__init__(choices, n)
        self._envelope = envelope

    def on_delta(self, event: TokenDelta) -> None:
        """See `EventReader`. A completion shows the text as it is."""
        if self._envelope.endpoint is Endpoint.COMPLETION:
            self.on_content(event.choice, event.text, event.logprobs)
        else:
            super().on_delta(event)

    def document(self) -> bytes:
        """The response body; call it once `complete`."""
        choices = b",".join(self._choice(index, choice) for index, choice in enumerate(self.choices))
        usage = _encode(self.usage.document())
        return self._envelope.opening(chunk=False) + b"[" + choices + b'],"usage":' + usage + b"}"

    def _choice(self, index: int, choice: CollectedChoice) -> bytes:
        if self._envelope.endpoint is Endpoint.CHAT:
            shown = b'"message":' + _message(choice)
        else:
            shown = b'"text":' + json_string(choice.text)
        rest: dict[str, Any] = {"logprobs": self._logprobs(choice.logprobs)}
        if choice.finished is not None:
            rest |= {"finish_reason": choice.finished.reason.value, "stop_reason": choice.finished.stop_reason}
        return b'{"index":%d,' % index + shown + b"," + _encode(rest)[1:]

    def _logprobs(self, tokens: list[TokenLogprob] | None) -> dict[str, Any] | None:
        if tokens is None:
            return None
        if self._envelope.endpoint is Endpoint.CHAT:
            return chat_logprobs(tokens)
        return completion_logprobs(tokens, 0)[0]


def _message(choice: CollectedChoice) -> bytes:
    text = choice.text
    content = b"null" if choice.tool_calls and not text else json_string(text)
    message = b'{"role":"assistant","content":' + content + b',"refusal":null'
    if choice.reasonings:
        shown = json_string(choice.reasoning)
        message += b',"reasoning":%b,"reasoning_content":%b' % (shown, shown)
    if choice.tool_calls:
        calls = [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.tool_calls
        ]
        message += b',"tool_calls":' + _encode(calls)
    return message + b"}"
