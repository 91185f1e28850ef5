"""Builds answers to write, and reads what was written as a client would."""

from __future__ import annotations

import json
from typing import Any

from serve_app.openai_api.envelope import Envelope
from serve_app.openai_api.parse import Endpoint

CHAT = Envelope(Endpoint.CHAT, "chatcmpl-1", 1_700_000_000, "a/model")
COMPLETION = Envelope(Endpoint.COMPLETION, "cmpl-1", 1_700_000_000, "a/model")


def chunks(stream: bytes) -> list[Any]:
    """The JSON documents of an event stream, read line by line with `str.splitlines` as naive clients do."""
    documents: list[Any] = []
    for line in stream.decode().splitlines():
        if line.startswith("data: ") and line != "data: [DONE]":
            documents.append(json.loads(line.removeprefix("data: ")))
        else:
            assert line in ("", "data: [DONE]", "event: error") or line.startswith((":", "retry: ", "id: ")), line
    return documents
