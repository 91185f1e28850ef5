"""The router for other Ray actors: the same chat requests as over HTTP, by Serve handle and without HTTP."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import msgspec

from serve_app.core.errors import InvalidRequest, ServeAppError
from serve_app.core.interfaces import Router
from serve_app.core.request import ANONYMOUS_TENANT, GenerationRequest, Priority
from serve_app.openai_api.envelope import Envelope
from serve_app.openai_api.parse import Endpoint, ParsedRequest, parse_chat
from serve_app.openai_api.reply import Reply
from serve_app.openai_api.sse import SseWriter

_DATA = b"data: "


class HandleApi:
    """Chat completions over a router in this process. Safe to call concurrently on its event loop.

    `body` is that of `POST /v1/chat/completions`; `options` are `tenant`, `priority` and `timeout_s` (seconds until
    the deadline). Both methods raise the `ServeAppError` that would have become the HTTP status.
    """

    def __init__(self, router: Router) -> None:
        self._router = router

    async def chat(self, body: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """The whole answer, as the HTTP response's JSON object."""
        parsed, request = self._request(body, options)
        reply = Reply(_envelope(parsed), parsed.choices, parsed.sampling.n)
        stream = self._router.open(request)
        try:
            while (events := await stream.next()) is not None:
                reply.add(events)
        finally:
            await stream.aclose()
        answer: dict[str, Any] = msgspec.json.decode(reply.document())
        return answer

    async def stream_chat(
        self, body: Mapping[str, Any], options: Mapping[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The answer's chunks, as the JSON objects of the HTTP event stream."""
        parsed, request = self._request(body, options)
        writer = SseWriter(_envelope(parsed), parsed.choices, parsed.sampling.n, parsed.include_usage)
        stream = self._router.open(request)
        try:
            while (events := await stream.next()) is not None:
                for chunk in _chunks(writer.write(events)):
                    yield chunk
            for chunk in _chunks(writer.closing()):
                yield chunk
        finally:
            await stream.aclose()

    def _request(self, body: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[ParsedRequest, GenerationRequest]:
        request_id = f"req_{uuid.uuid4().hex}"
        try:
            return _parsed(request_id, body, options)
        except ServeAppError as error:
            self._router.turned_away(request_id, str(options.get("tenant", ANONYMOUS_TENANT)), error)
            raise


def _parsed(
    request_id: str, body: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[ParsedRequest, GenerationRequest]:
    parsed = parse_chat(msgspec.json.encode(body))
    unknown = options.keys() - {"tenant", "priority", "timeout_s"}
    if unknown:
        allowed = "allowed: priority, tenant, timeout_s"
        raise InvalidRequest(f"Unknown option {sorted(unknown)[0]!r}; {allowed}.", sorted(unknown)[0])
    request = GenerationRequest(
        request_id=request_id,
        model=parsed.model,
        prompt=parsed.prompts[0],
        sampling=parsed.sampling,
        tenant=options.get("tenant", ANONYMOUS_TENANT),
        priority=Priority(options.get("priority", Priority.DEFAULT)),
        timeout_s=options.get("timeout_s"),
    )
    return parsed, request


def _envelope(parsed: ParsedRequest) -> Envelope:
    return Envelope.new(Endpoint.CHAT, parsed.model, int(time.time()))


def _chunks(frames: bytes) -> list[dict[str, Any]]:
    lines = [frame.removeprefix(_DATA) for frame in frames.split(b"\n\n") if frame.startswith(_DATA + b"{")]
    return [msgspec.json.decode(line) for line in lines]
