"""Composes the HTTP API: each wing adds its own routes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from serve_app.core.interfaces import Clock, Router
from serve_app.ingress.bytes_under_way import BytesUnderWay
from serve_app.ingress.completions.prompt_streams import add_prompt_routes
from serve_app.ingress.completions.routes import add_completion_routes
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.http.application import Api
from serve_app.ingress.http.context import ApiContext
from serve_app.ingress.http.cors import preflight_response
from serve_app.ingress.http.errors import ErrorAnswers
from serve_app.ingress.identity import AnyToken, Authenticator
from serve_app.ingress.reference.routes import add_reference_routes
from serve_app.ingress.responses.routes import add_responses_routes
from serve_app.ingress.resume.routes import add_resume_routes
from serve_app.ingress.server_info.routes import add_server_info_routes
from serve_app.ingress.web.page import add_web_page_routes
from serve_app.ingress.websocket.routes import add_websocket_routes

_ANY_TOKEN = AnyToken()


def build_api(
    get_router: Callable[[], Router],
    config: IngressConfig,
    authenticator: Authenticator = _ANY_TOKEN,
    under_way: BytesUnderWay | None = None,
    *,
    echo_request_id: bool = True,
    clock: Clock = time.monotonic,
) -> Api:
    """The HTTP API over the router that `get_router` returns; it is called once for each request.

    It only declares routes: the app pickles, holds nothing open, and asks for its router on each request, so that a
    Serve deployment can host it before the router exists.

    Set `echo_request_id` to False where the host adds `x-request-id` to responses itself, as Ray Serve does: the
    header would come twice. `clock` times how long response headers are held. `authenticator` decides who may use
    each route but those that are declared open; `under_way` is the account of what is being read, when it is shared.
    """
    under_way = under_way or BytesUnderWay(config.max_bytes_under_way)
    context = ApiContext(get_router, config, echo_request_id, clock, authenticator, under_way)
    api = Api(ErrorAnswers(context), context.identity, partial(preflight_response, context))
    add_completion_routes(api, context)
    add_server_info_routes(api, context)
    add_resume_routes(api, context)
    if config.get_streams:
        add_prompt_routes(api, context)
    add_responses_routes(api, context)
    add_websocket_routes(api, context)
    add_web_page_routes(api, context)
    add_reference_routes(api, context)
    return api
