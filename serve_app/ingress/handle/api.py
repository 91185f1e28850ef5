"""The router for other Ray actors: the same chat requests as over HTTP, by Serve handle and without HTTP."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from serve_app.core.errors import InternalError, InvalidRequest, PayloadTooLarge, ServeAppError
from serve_app.core.interfaces import Router, TokenStream
from serve_app.core.request import ANONYMOUS_TENANT, GenerationRequest, Retention
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.delivery.closing import close_completely
from serve_app.ingress.error_mapping import with_param
from serve_app.ingress.generation_request import check_bounds, generation_request
from serve_app.ingress.handle.options import CallOptions, read_options, tenant_of
from serve_app.ingress.long_work import by_size
from serve_app.ingress.resume.opening import AnswerEnvelope, fingerprint, opened_once
from serve_app.ingress.resume.stream_id import named_key
from serve_app.openai_api.continuous_usage import ContinuousUsage
from serve_app.openai_api.envelope import Envelope
from serve_app.openai_api.parse import Endpoint, ParsedRequest, parse_chat
from serve_app.openai_api.reply import Reply
from serve_app.openai_api.sse import SseWriter

_DATA = b"data: "
_PATH = "handle"
"""Where a path stands over HTTP: the same idempotency key there is another request."""


def build_handle_api(router: Router, config: IngressConfig) -> HandleApi:
    """The API over `router`, within the bounds of `config` that hold for HTTP."""
    return HandleApi(router, config)


@dataclass(slots=True)
class _Asked:
    """A request that may be offered, and how its answer is written."""

    parsed: ParsedRequest
    request: GenerationRequest
    envelope: Envelope
    once: bool
    """The same request may have been offered before: its answer is then read again."""


class HandleApi:
    """Chat completions over a router in this process. Safe to call concurrently on its event loop.

    `body` is that of `POST /v1/chat/completions`; `options` are `tenant`, `priority`, `timeout_s` (seconds until the
    deadline) and `idempotency_key`, with which a repeated call gets the answer of the first one. Both methods raise
    the `ServeAppError` that would have become the HTTP status.
    """

    def __init__(self, router: Router, config: IngressConfig) -> None:
        self._router = router
        self._config = config

    async def chat(self, body: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """The whole answer, as the HTTP response's JSON object."""
        asked = await self._asked(body, options)
        stream = await self._open(asked)
        reply = Reply(asked.envelope, asked.parsed.choices, asked.parsed.sampling.n)
        try:
            while (events := await stream.next()) is not None:
                reply.read(events)
        except ServeAppError as error:
            raise with_param(error, Endpoint.CHAT) from None
        finally:
            await close_completely(stream)
        if not reply.complete:
            raise InternalError("The stream ended before the answer did.")
        answer: dict[str, Any] = msgspec.json.decode(reply.document())
        return answer

    async def stream_chat(
        self, body: Mapping[str, Any], options: Mapping[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The answer's chunks, as the JSON objects of the HTTP event stream."""
        asked = await self._asked(body, options)
        stream = await self._open(asked)
        parsed = asked.parsed
        plain = SseWriter(asked.envelope, parsed.choices, parsed.sampling.n, parsed.include_usage)
        writer = ContinuousUsage(plain) if parsed.continuous_usage else plain
        try:
            while (events := await stream.next()) is not None:
                for chunk in _chunks(writer.write(events)):
                    yield chunk
            for chunk in _chunks(writer.closing()):
                yield chunk
        except ServeAppError as error:
            raise with_param(error, Endpoint.CHAT) from None
        finally:
            await close_completely(stream)

    async def _open(self, asked: _Asked) -> TokenStream:
        if not asked.once:
            return self._router.open(asked.request)
        opened = await opened_once(self._router, asked.request)
        asked.envelope = opened.envelope.envelope
        return opened.stream

    async def _asked(self, body: Mapping[str, Any], options: Mapping[str, Any]) -> _Asked:
        """Raises `InvalidRequest`, which the router counts."""
        request_id = f"req_{uuid.uuid4().hex}"
        tenant = ANONYMOUS_TENANT
        try:
            tenant = tenant_of(options)
            return await self._checked(request_id, _encoded(body, self._config.max_body_bytes), read_options(options))
        except ServeAppError as error:
            self._router.turned_away(request_id, tenant, error)
            raise

    async def _checked(self, request_id: str, body: bytes, options: CallOptions) -> _Asked:
        parsed = await by_size(len(body), lambda: parse_chat(body))
        check_bounds(parsed, self._config)
        envelope = Envelope.new(Endpoint.CHAT, parsed.model, int(time.time()))
        retention = None
        if options.idempotency_key is not None:
            if parsed.sampling.n != 1:
                raise InvalidRequest("With 'idempotency_key', 'n' must be 1.", "n", "unsupported_value")
            retention = self._retention(envelope, options.identity.tenant, options.idempotency_key, body)
        request = generation_request(
            options.identity, options.urgency, request_id, parsed.model, parsed.prompts[0], parsed.sampling, retention
        )
        return _Asked(parsed, request, envelope, once=retention is not None)

    def _retention(self, envelope: Envelope, tenant: str, name: str, body: bytes) -> Retention:
        kept = AnswerEnvelope(
            envelope.endpoint, envelope.id, envelope.created, envelope.model, fingerprint=fingerprint(_PATH, body)
        )
        key = named_key(self._router.signing_key, tenant, name)
        return Retention(key, kept.encode(), self._config.resume_grace_s)


def _encoded(body: Mapping[str, Any], max_bytes: int) -> bytes:
    try:
        encoded = msgspec.json.encode(body)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise InvalidRequest("The body must be a JSON object.", None, "invalid_type") from None
    if len(encoded) > max_bytes:
        raise PayloadTooLarge(f"The request body is larger than {max_bytes} bytes.")
    return encoded


def _chunks(frames: bytes) -> list[dict[str, Any]]:
    lines = [frame.removeprefix(_DATA) for frame in frames.split(b"\n\n") if frame.startswith(_DATA + b"{")]
    return [msgspec.json.decode(line) for line in lines]
