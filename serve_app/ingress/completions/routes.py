"""The routes of OpenAI's chat and text completions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from serve_app.core.interfaces import Router, TokenStream
from serve_app.core.request import GenerationRequest
from serve_app.ingress.completions.generation_response import GenerationResponse
from serve_app.ingress.completions.operations import CHAT, COMPLETION
from serve_app.ingress.delivery.merged_prompts import MergedPrompts
from serve_app.ingress.generation_request import check_bounds, generation_requests
from serve_app.ingress.http.application import Api
from serve_app.ingress.http.context import ApiContext
from serve_app.ingress.http.request_body import json_body
from serve_app.ingress.long_work import by_size
from serve_app.ingress.request_context import urgency_of
from serve_app.ingress.resume.opening import fingerprint, resume_headers
from serve_app.ingress.resume.routes import check_resumable, resumable_response
from serve_app.openai_api.envelope import Envelope
from serve_app.openai_api.parse import ParsedRequest, parse_chat, parse_completion


def add_completion_routes(api: Api, context: ApiContext) -> None:
    """Add `/v1/chat/completions` and `/v1/completions`."""
    routes = _Routes(context)
    api.route_to("/v1/chat/completions", routes.chat, "POST", CHAT)
    api.route_to("/v1/completions", routes.complete, "POST", COMPLETION)


@dataclass(frozen=True, slots=True)
class _Routes:
    context: ApiContext

    async def chat(self, request: Request) -> Response:
        """OpenAI's chat completions."""
        return await self._generate(request, parse_chat)

    async def complete(self, request: Request) -> Response:
        """OpenAI's text completions."""
        return await self._generate(request, parse_completion)

    async def _generate(self, request: Request, parse: Callable[[bytes], ParsedRequest]) -> Response:
        context = self.context
        config, router, request_id = context.config, context.get_router(), context.request_id(request)
        with context.reading(request):
            async with json_body(context, request) as body:
                parsed = await by_size(len(body), lambda: parse(body))
                check_bounds(parsed, config)
                requests = generation_requests(
                    context.identity(request), urgency_of(request.headers), request_id, parsed
                )
                envelope = Envelope.new(parsed.endpoint, parsed.model, int(time.time()))
                resume = resume_headers(request.headers)
                if resume is not None and (parsed.stream or resume.idempotency_key is not None):
                    check_resumable(parsed)
                    seal = await by_size(len(body), lambda: fingerprint(request.url.path, body))
                    return resumable_response(context, request, parsed, requests[0], envelope, resume, seal)
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


def _open(router: Router, requests: list[GenerationRequest], n: int) -> TokenStream:
    """Offer all prompts to the router; only an unknown model, the same for all, is refused at this point."""
    streams = [router.open(request) for request in requests]
    return streams[0] if len(streams) == 1 else MergedPrompts(streams, n)
