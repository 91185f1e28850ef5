"""The HTTP routes: OpenAI's API, health, readiness and metrics.

`build_api` only declares routes: the app pickles, holds nothing open, and asks for its router on each request, so that
a Serve deployment can host it before the router exists.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from serve_app.core.errors import InternalError, ServeAppError
from serve_app.core.interfaces import Clock, ModelCard, Router, TokenStream
from serve_app.core.request import GenerationRequest
from serve_app.ingress.completions.generation_response import GenerationResponse
from serve_app.ingress.completions.prompt_streams import add_prompt_routes
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.delivery.merged_stream import MergedStream
from serve_app.ingress.error_mapping import error_response, http_exception_response
from serve_app.ingress.generation_request import check_bounds, generation_requests
from serve_app.ingress.http.application import Api
from serve_app.ingress.http.context import ApiContext
from serve_app.ingress.http.request_body import read_json_body
from serve_app.ingress.identity import AnyToken, Authenticator
from serve_app.ingress.request_context import urgency_of
from serve_app.ingress.responses.routes import add_responses_routes
from serve_app.ingress.resume.envelope import fingerprint
from serve_app.ingress.resume.headers import resume_wish
from serve_app.ingress.resume.routes import add_resume_routes, check_resumable, resumable_response
from serve_app.ingress.web.page import add_web_page_routes
from serve_app.ingress.websocket.routes import add_websocket_routes
from serve_app.openai_api.envelope import Envelope
from serve_app.openai_api.model_list import model_document, model_list_document
from serve_app.openai_api.parse import ParsedRequest, parse_chat, parse_completion

logger = logging.getLogger(__name__)

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_CLIENT_CLOSED_REQUEST = 499
_ANY_TOKEN = AnyToken()


def build_api(
    get_router: Callable[[], Router],
    config: IngressConfig,
    authenticator: Authenticator = _ANY_TOKEN,
    *,
    echo_request_id: bool = True,
    clock: Clock = time.monotonic,
) -> Api:
    """The HTTP API over the router that `get_router` returns; it is called once for each request.

    Set `echo_request_id` to False where the host adds `x-request-id` to responses itself, as Ray Serve does: the
    header would come twice. `clock` times how long response headers are held. `authenticator` decides who may use
    each route but those that are declared open.
    """
    context = ApiContext(get_router, config, echo_request_id, clock, authenticator)
    routes = _Routes(context)
    api = Api(routes.on_error, context.identity)
    api.route_to("/v1/chat/completions", routes.chat, "POST")
    api.route_to("/v1/completions", routes.complete, "POST")
    api.route_to("/v1/models", routes.list_models, "GET")
    api.route_to("/v1/models/{model_id:path}", routes.get_model, "GET")
    api.route_to("/health", routes.health, "GET", open_to_all=True)
    api.route_to("/ready", routes.ready, "GET", open_to_all=True)
    api.route_to("/metrics", routes.metrics, "GET", open_to_all=True)
    add_resume_routes(api, context)
    add_prompt_routes(api, context)
    add_responses_routes(api, context)
    add_websocket_routes(api, context)
    add_web_page_routes(api, context)
    return api


@dataclass(frozen=True, slots=True)
class _Routes:
    context: ApiContext

    async def chat(self, request: Request) -> Response:
        """OpenAI's chat completions."""
        return await self._generate(request, parse_chat)

    async def complete(self, request: Request) -> Response:
        """OpenAI's text completions."""
        return await self._generate(request, parse_completion)

    async def list_models(self, request: Request) -> Response:
        """The served models."""
        return self._json(request, model_list_document(self._models(request)))

    async def get_model(self, request: Request) -> Response:
        """One served model."""
        return self._json(request, model_document(self._models(request), request.path_params["model_id"]))

    async def health(self, request: Request) -> Response:
        """Whether the process is alive; it says nothing about engines."""
        return self._json(request, b'{"status":"ok"}')

    async def ready(self, request: Request) -> Response:
        """Whether a request would be admitted now."""
        if self.context.get_router().can_admit():
            return self._json(request, b'{"status":"ready"}')
        return self._json(request, b'{"status":"not ready"}', 503)

    async def metrics(self, request: Request) -> Response:
        """Prometheus metrics of all replicas."""
        text = await self.context.get_router().metrics_text()
        return Response(text, 200, self.context.reply_headers(request), _METRICS_TYPE)

    def on_error(self, request: Request, error: Exception) -> Response:
        """Any error outside a generation in OpenAI's shape."""
        headers = self.context.reply_headers(request)
        if isinstance(error, ClientDisconnect):
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
        if isinstance(error, HTTPException):
            return http_exception_response(error, request.method, request.url.path, headers)
        if not isinstance(error, ServeAppError):
            logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
            error = InternalError("The server had an internal error.")
        return error_response(error, headers)

    async def _generate(self, request: Request, parse: Callable[[bytes], ParsedRequest]) -> Response:
        context = self.context
        config, router, request_id = context.config, context.get_router(), context.request_id(request)
        with context.reading(request):
            body = await read_json_body(request, config.max_body_bytes, config.body_timeout_s)
            parsed = parse(body)
            check_bounds(parsed, config)
            requests = generation_requests(context.identity(request), urgency_of(request.headers), request_id, parsed)
            envelope = Envelope.new(parsed.endpoint, parsed.model, int(time.time()))
            wish = resume_wish(request.headers)
            if wish is not None and (parsed.stream or wish.idempotency_key is not None):
                check_resumable(parsed)
                seal = fingerprint(request.url.path, body)
                return resumable_response(context, request, parsed, requests[0], envelope, wish, seal)
        return GenerationResponse(
            open_stream=lambda: _open(router, requests, parsed.sampling.n),
            rate_limits=lambda: router.rate_limits(parsed.model, requests[0].priority),
            parsed=parsed,
            envelope=envelope,
            config=config,
            clock=context.clock,
            request_id=request_id,
            reply_headers=context.reply_headers(request),
        )

    def _models(self, request: Request) -> list[ModelCard]:
        return self.context.identity(request).visible(self.context.get_router().models())

    def _json(self, request: Request, document: bytes, status: int = 200) -> Response:
        return Response(document, status, self.context.reply_headers(request), "application/json")


def _open(router: Router, requests: list[GenerationRequest], n: int) -> TokenStream:
    """Offer all prompts to the router; only an unknown model, the same for all, is refused at this point."""
    streams = [router.open(request) for request in requests]
    return streams[0] if len(streams) == 1 else MergedStream(streams, n)
