"""A whole answer in one JSON document, collected from typed stream events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from serve_app.core.events import Accepted, Finished, StreamEvent, TokenDelta, TokenLogprob
from serve_app.openai_api.envelope import Envelope
from serve_app.openai_api.json_text import json_string
from serve_app.openai_api.logprobs import chat_logprobs, completion_logprobs
from serve_app.openai_api.parse import Endpoint
from serve_app.openai_api.usage import Usage

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Choice:
    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] | None = None
    finished: Finished | None = None


class Reply:
    """Collects the events of one answer of `choices` choices, `n` for each prompt. Used by one task."""

    def __init__(self, envelope: Envelope, choices: int, n: int) -> None:
        self._envelope = envelope
        self._choices = [_Choice() for _ in range(choices)]
        self._usage = Usage(n)
        self._unfinished = choices

    @property
    def complete(self) -> bool:
        """Whether every choice has ended."""
        return self._unfinished == 0

    def add(self, events: Sequence[StreamEvent]) -> None:
        """Take events in the order in which the stream gives them."""
        for event in events:
            if isinstance(event, TokenDelta):
                choice = self._choices[event.choice]
                self._usage.completion_tokens += event.count
                choice.text.append(event.text)
                if event.logprobs is not None:
                    choice.logprobs = (choice.logprobs or []) + event.logprobs
            elif isinstance(event, Finished):
                self._usage.finished(event)
                self._choices[event.choice].finished = event
                self._unfinished -= 1
            elif isinstance(event, Accepted):
                self._usage.accepted(event)

    def document(self) -> bytes:
        """The response body; call it once `complete`."""
        choices = b",".join(self._choice(index, choice) for index, choice in enumerate(self._choices))
        usage = _encode(self._usage.document())
        return self._envelope.opening(chunk=False) + b"[" + choices + b'],"usage":' + usage + b"}"

    def _choice(self, index: int, choice: _Choice) -> bytes:
        text = json_string("".join(choice.text))
        if self._envelope.endpoint is Endpoint.CHAT:
            shown = b'"message":{"role":"assistant","content":' + text + b',"refusal":null}'
        else:
            shown = b'"text":' + text
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
