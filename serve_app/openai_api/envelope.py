"""What every chunk and document of one answer repeats: its id, time, model and kind."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass

from serve_app.openai_api.parse import Endpoint

_ID_PREFIX = {Endpoint.CHAT: "chatcmpl-", Endpoint.COMPLETION: "cmpl-"}
_OBJECT = {Endpoint.CHAT: "chat.completion", Endpoint.COMPLETION: "text_completion"}
_CHUNK_OBJECT = {Endpoint.CHAT: "chat.completion.chunk", Endpoint.COMPLETION: "text_completion"}


@dataclass(frozen=True, slots=True)
class Envelope:
    """Identity of one answer. `created` is Unix time in seconds."""

    endpoint: Endpoint
    id: str
    created: int
    model: str

    @staticmethod
    def new(endpoint: Endpoint, model: str, created: int) -> Envelope:
        """An envelope with a fresh, unguessable id."""
        return Envelope(endpoint, _ID_PREFIX[endpoint] + uuid.uuid4().hex, created, model)

    def opening(self, chunk: bool) -> bytes:
        """The JSON object's beginning, up to and with `"choices":`."""
        kind = (_CHUNK_OBJECT if chunk else _OBJECT)[self.endpoint]
        fields = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return json.dumps(fields, separators=(",", ":")).encode()[:-1] + b',"choices":'
