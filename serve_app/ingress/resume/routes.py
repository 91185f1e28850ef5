"""Answers that survive their connection, over HTTP: how a request asks for one, and the routes that go on with it.

The whole story, from the client that is cut to the exact rest of its answer:

    ingress/resume/routes.py            a POST that is to be kept; GET and DELETE of what is kept
    ingress/resume/opening.py           what headers ask for; a new answer, or the one that exists already
    ingress/resume/response.py          how a kept answer is written, with ids that say where a client stands
    router/kept_answers.py              opens, finds, takes over, looks up, cancels and forgets kept answers
    router/streams/kept_answer.py       one kept answer, and its readers
    token_channel/event_log.py          its events: packed, and read from any position

Beside the story: `stream_id.py` (ids that nobody can guess), `router/streams/kept_search.py` (whom to ask when this
router does not hold the answer), `engine/kept_generations.py` (what survives the router), and how long it is kept:
`resilience/retention.py`. What users see is in docs/resume.md and docs/streaming.md.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from serve_app.core.errors import InvalidRequest, StreamNotFound
from serve_app.core.interfaces import KeptState
from serve_app.core.request import GenerationRequest, Retention
from serve_app.ingress.http.application import Api
from serve_app.ingress.http.context import ApiContext
from serve_app.ingress.resume.opening import (
    LAST_EVENT_ID,
    AnswerEnvelope,
    OpenedAnswer,
    ResumeHeaders,
    opened,
    opened_once,
    resume_headers,
    resumed,
)
from serve_app.ingress.resume.operations import CANCEL_STREAM, CANCEL_STREAM_BY_KEY, READ_STREAM
from serve_app.ingress.resume.response import KeptAnswerResponse
from serve_app.ingress.resume.stream_id import named_key, new_key, read_event_id, sign, verify
from serve_app.openai_api.envelope import Envelope
from serve_app.openai_api.parse import ParsedRequest

_OFFSET = re.compile(r"[0-9]{1,9}")


def add_resume_routes(api: Api, context: ApiContext) -> None:
    """Add `/v1/streams/{id}`: GET goes on with a stream, DELETE cancels it; and DELETE `/v1/streams`, which cancels the
    stream of an `Idempotency-Key`, for whoever left before its id came."""
    routes = _Routes(context)
    api.route_to("/v1/streams", routes.cancel_by_name, "DELETE", CANCEL_STREAM_BY_KEY)
    api.route_to("/v1/streams/{stream_id}", routes.read, "GET", READ_STREAM)
    api.route_to("/v1/streams/{stream_id}", routes.cancel, "DELETE", CANCEL_STREAM)


def check_resumable(parsed: ParsedRequest) -> None:
    """Raise `InvalidRequest` for a request of several generations: a position would not say where each of them is."""
    if parsed.sampling.n != 1:
        raise InvalidRequest("A stream that can be resumed has one choice: 'n' must be 1.", "n", "unsupported_value")
    if len(parsed.prompts) != 1:
        message = "A stream that can be resumed has one prompt: send a request for each."
        raise InvalidRequest(message, "prompt", "unsupported_value")


def resumable_response(
    context: ApiContext,
    http_request: Request,
    parsed: ParsedRequest,
    request: GenerationRequest,
    envelope: Envelope,
    resume: ResumeHeaders,
    request_fingerprint: str,
) -> KeptAnswerResponse:
    """The response to a generation request that `check_resumable` accepted. Raises `StreamNotFound`."""
    router = context.get_router()
    tenant, secret = request.tenant, router.signing_key
    open_answer: Callable[[], Awaitable[OpenedAnswer]]
    if parsed.stream and resume.last_event_id is not None:
        key, position = read_event_id(secret, resume.last_event_id, tenant)

        async def open_answer() -> OpenedAnswer:
            return await resumed(router, key, tenant, position, request_fingerprint)

    else:
        name = resume.idempotency_key
        retention = Retention(
            key=new_key() if name is None else named_key(secret, tenant, name),
            envelope=AnswerEnvelope(
                envelope.endpoint,
                envelope.id,
                envelope.created,
                envelope.model,
                parsed.include_usage,
                request_fingerprint,
                parsed.continuous_usage,
            ).encode(),
            grace_s=context.config.resume_grace_s,
        )
        offered = replace(request, retention=retention)

        async def open_answer() -> OpenedAnswer:
            return opened(router, offered) if name is None else await opened_once(router, offered, resume.first_try)

    return _response(context, http_request, open_answer, parsed.stream)


@dataclass(frozen=True, slots=True)
class _Routes:
    context: ApiContext

    async def read(self, request: Request) -> Response:
        """The rest of a stream: from `offset`, or from the event that the client has seen last."""
        context = self.context
        router, tenant = context.get_router(), context.identity(request).tenant
        with context.reading(request):
            key = verify(router.signing_key, request.path_params["stream_id"], tenant)
            seen: int | None = _offset(request) or None
            if last_event_id := request.headers.get(LAST_EVENT_ID):
                named, seen = read_event_id(router.signing_key, last_event_id, tenant)
                if named != key:
                    raise StreamNotFound("The header 'Last-Event-ID' names another stream.")

        async def open_answer() -> OpenedAnswer:
            return await resumed(router, key, tenant, seen)

        return _response(context, request, open_answer, streamed=True)

    async def cancel(self, request: Request) -> Response:
        """End a stream. It stays readable for a while, with an error that says so. Cancelling again changes nothing."""
        router, tenant = self.context.get_router(), self.context.identity(request).tenant
        stream_id = request.path_params["stream_id"]
        return await self._cancel(request, verify(router.signing_key, stream_id, tenant))

    async def cancel_by_name(self, request: Request) -> Response:
        """End the stream that a request with this `Idempotency-Key` began."""
        resume = resume_headers(request.headers)
        if resume is None or resume.idempotency_key is None:
            raise InvalidRequest("Name the stream: by its id in the path, or by 'Idempotency-Key'.", "Idempotency-Key")
        router, tenant = self.context.get_router(), self.context.identity(request).tenant
        return await self._cancel(request, named_key(router.signing_key, tenant, resume.idempotency_key))

    async def _cancel(self, request: Request, key: str) -> Response:
        router, tenant = self.context.get_router(), self.context.identity(request).tenant
        answer = await router.cancel(key, tenant)
        stream_id = sign(router.signing_key, key, tenant)
        document = {"id": stream_id, "object": "stream", "status": _status(answer)}
        return Response(msgspec.json.encode(document), 200, self.context.reply_headers(request), "application/json")


def _response(
    context: ApiContext, request: Request, open_answer: Callable[[], Awaitable[OpenedAnswer]], streamed: bool
) -> KeptAnswerResponse:
    return KeptAnswerResponse(
        context.get_router(),
        open_answer,
        streamed,
        context.config,
        context.clock,
        context.request_id(request),
        context.reply_headers(request),
    )


def _offset(request: Request) -> int:
    value = request.query_params.get("offset", "0")
    if _OFFSET.fullmatch(value) is None:
        raise InvalidRequest("'offset' must be a number of tokens.", "offset", "invalid_value")
    return int(value)


def _status(answer: KeptState) -> str:
    if answer.error is None:
        return "completed" if answer.ended else "running"
    return "cancelled" if answer.error.code == "stream_cancelled" else "failed"
