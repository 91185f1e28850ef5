"""The plainest way to ask: `GET /stream?prompt=…` and `GET /v1/chat/completions/stream?prompt=…`, a frame a token.

There are no ids: who was cut asks the same again, with `offset` saying how many tokens it has. Answers are drawn at
temperature 0, so that the rest is the same whether the stream is still retained or has to be generated once more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from serve_app.core.errors import InvalidRequest, ServeAppError, StreamConflict, StreamNotFound
from serve_app.core.interfaces import KeptState, Router, TokenStream
from serve_app.core.request import GenerationRequest, Prompt, Retention, Sampling
from serve_app.ingress.completions.operations import prompt_operation
from serve_app.ingress.delivery.repeatable_reader import RepeatableReader
from serve_app.ingress.delivery.skipping_reader import SkippingReader
from serve_app.ingress.error_mapping import retry_after_ms, with_param
from serve_app.ingress.generation_request import generation_request
from serve_app.ingress.http.application import Api
from serve_app.ingress.http.client_watch import ClientWatch
from serve_app.ingress.http.context import ApiContext
from serve_app.ingress.http.cors import origin_error
from serve_app.ingress.http.stream_response import StreamResponse, hold_s
from serve_app.ingress.origin import foreign_page
from serve_app.ingress.request_context import urgency_of
from serve_app.ingress.resume.opening import LAST_EVENT_ID, AnswerEnvelope, unfailed
from serve_app.ingress.resume.stream_id import derived_key
from serve_app.openai_api.errors import document_of
from serve_app.openai_api.parse import Endpoint
from serve_app.openai_api.sse import error_event
from serve_app.openai_api.token_frames import TokenFrameWriter

DEFAULT_MAX_TOKENS = 512
"""What the source document's sampling has."""
_LAST_FRAME = 1
"""A client that counts frames may have counted the one that says `"done": true`."""
_NUMBER = re.compile(r"[0-9]{1,9}")


def add_prompt_routes(api: Api, context: ApiContext) -> None:
    """Add `/stream`, which continues the prompt's text, and `/v1/chat/completions/stream`, which answers it."""
    routes = _Routes(context)
    text = prompt_operation("streamText", "Completions", "Continue a text in the address", DEFAULT_MAX_TOKENS)
    chat = prompt_operation("streamChat", "Chat", "Answer a message in the address", DEFAULT_MAX_TOKENS)
    api.route_to("/stream", routes.text, "GET", text)
    api.route_to("/v1/chat/completions/stream", routes.chat, "GET", chat)


@dataclass(frozen=True, slots=True)
class _Routes:
    context: ApiContext

    async def text(self, request: Request) -> Response:
        """The continuation of a text."""
        return self._response(request, Endpoint.COMPLETION)

    async def chat(self, request: Request) -> Response:
        """The answer to one message."""
        return self._response(request, Endpoint.CHAT)

    def _response(self, request: Request, endpoint: Endpoint) -> Response:
        context = self.context
        router = context.get_router()
        with context.reading(request):
            page = foreign_page(request.headers, context.config.allowed_origins)
            if page is not None:  # an image, a link or a script there: the person asked for nothing
                raise origin_error(page)
            offset = _number(request.headers.get(LAST_EVENT_ID) or request.query_params.get("offset", "0"), "offset")
            generation = _generation_request(request, context, router, endpoint)
        return _PromptResponse(context, router, generation, offset, request)


class _PromptResponse(StreamResponse):
    def __init__(
        self, context: ApiContext, router: Router, request: GenerationRequest, offset: int, http_request: Request
    ) -> None:
        headers = context.reply_headers(http_request)
        super().__init__(
            context.config,
            context.clock,
            context.request_id(http_request),
            headers,
            lambda: router.rate_limits(request.model, request.priority),
        )
        self._router = router
        self._request = request
        self._offset = offset

    async def _open(self) -> TokenStream:
        router, request, offset = self._router, self._request, self._offset
        retention = request.retention
        assert retention is not None
        found = await unfailed(router, retention.key, request.tenant, "")
        if found is None:
            try:
                return self._repeatable(SkippingReader(router.open(request), offset, _LAST_FRAME))
            except StreamConflict:
                pass  # the same was asked at this router meanwhile
        elif found.ended:
            offset = _within(found, offset)
        try:
            return self._repeatable(await router.resume(retention.key, request.tenant, offset))
        except StreamNotFound:
            return self._own()

    def _repeatable(self, stream: TokenStream) -> TokenStream:
        return RepeatableReader(stream, self._offset, self._open_unretained)

    def _own(self) -> TokenStream:
        return SkippingReader(self._open_unretained(), self._offset, _LAST_FRAME)

    def _open_unretained(self) -> TokenStream:
        return self._router.open(replace(self._request, retention=None))

    async def _answer(self, stream: TokenStream, client: ClientWatch, scope: Scope, receive: Receive) -> None:
        await self._send_events(stream, client, TokenFrameWriter(), hold_s(scope, self._config))

    def _for_client(self, error: ServeAppError) -> ServeAppError:
        return with_param(error, Endpoint.COMPLETION)

    async def _last_words(self, error: ServeAppError) -> bytes:
        return error_event(document_of(error), retry_after_ms(error))


def _generation_request(request: Request, context: ApiContext, router: Router, endpoint: Endpoint) -> GenerationRequest:
    query = request.query_params
    prompt = query.get("prompt", "")
    if not prompt:
        raise InvalidRequest("Say what to answer: '?prompt=…'.", "prompt", "missing_required_parameter")
    max_tokens = _number(query.get("max_tokens", str(DEFAULT_MAX_TOKENS)), "max_tokens")
    if max_tokens < 1:
        raise InvalidRequest("'max_tokens' must be at least 1.", "max_tokens", "invalid_value")
    identity = context.identity(request)
    model = query.get("model") or identity.default_model(router.models())
    named = (identity.tenant, endpoint.value, model, prompt, str(max_tokens))
    key = derived_key(router.signing_key, "prompt", *named)
    messages = ({"role": "user", "content": prompt},)
    return generation_request(
        identity,
        urgency_of(request.headers),
        context.request_id(request),
        model,
        Prompt(messages=messages) if endpoint is Endpoint.CHAT else Prompt(text=prompt),
        Sampling(max_tokens=max_tokens, temperature=0.0),
        Retention(key, AnswerEnvelope(endpoint, key, 0, model).encode(), context.config.resume_grace_s),
    )


def _within(answer: KeptState, offset: int) -> int:
    """The place in an answer that has ended. Raises `InvalidRequest` beyond it."""
    if offset > answer.position + _LAST_FRAME:
        message = f"The answer has {answer.position} tokens, fewer than the offset."
        raise InvalidRequest(message, "offset", "invalid_value")
    return min(offset, answer.position)


def _number(value: str, name: str) -> int:
    if _NUMBER.fullmatch(value) is None:
        raise InvalidRequest(f"'{name}' must be a whole number.", name, "invalid_value")
    return int(value)
