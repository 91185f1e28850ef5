"""The routes of OpenAI's Responses API. See docs/responses.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from serve_app.core.errors import InvalidRequest
from serve_app.core.interfaces import KeptState
from serve_app.ingress.http.application import Api
from serve_app.ingress.http.context import ApiContext
from serve_app.ingress.http.request_body import json_body
from serve_app.ingress.long_work import by_size
from serve_app.ingress.responses.operations import CANCEL, CREATE, DELETE, RETRIEVE, input_items_operation
from serve_app.ingress.responses.reply import NewResponse, ResumedResponse
from serve_app.ingress.responses.request import look_up_response, response_offer
from serve_app.ingress.responses.response_id import response_found, response_key
from serve_app.ingress.resume.opening import IDEMPOTENCY_KEY, fingerprint
from serve_app.openai_api.collected_answer import CollectedAnswer
from serve_app.openai_api.responses_document import (
    document,
    input_items,
    record_of,
    response_object,
    status_of,
)
from serve_app.openai_api.responses_parse import parse_response_request

_NUMBER = re.compile(r"[0-9]{1,12}")
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}
_MAX_ITEMS = 100
_DEFAULT_ITEMS = 20


def add_responses_routes(api: Api, context: ApiContext) -> None:
    """Add `/v1/responses` and what is below it."""
    routes = _Routes(context)
    one = "/v1/responses/{response_id}"
    api.route_to("/v1/responses", routes.create, "POST", CREATE)
    api.route_to(one, routes.retrieve, "GET", RETRIEVE)
    api.route_to(one, routes.delete, "DELETE", DELETE)
    api.route_to(f"{one}/cancel", routes.cancel, "POST", CANCEL)
    items = input_items_operation(_MAX_ITEMS, _DEFAULT_ITEMS)
    api.route_to(f"{one}/input_items", routes.list_input_items, "GET", items)


@dataclass(frozen=True, slots=True)
class _Routes:
    context: ApiContext

    async def create(self, request: Request) -> Response:
        """A new response, whole, streamed, or in the background."""
        context = self.context
        config, router = context.config, context.get_router()
        request_id = context.request_id(request)
        with context.reading(request):
            async with json_body(context, request) as body:
                parsed = await by_size(len(body), lambda: parse_response_request(body))
                named = IDEMPOTENCY_KEY in request.headers
                seal = await by_size(len(body), lambda: fingerprint(request.url.path, body)) if named else ""
                offer = await response_offer(
                    router, parsed, context.identity(request), request.headers, config, request_id, seal
                )
        headers = context.reply_headers(request)
        return NewResponse(router, offer, parsed.stream, config, context.clock, request_id, headers)

    async def retrieve(self, request: Request) -> Response:
        """A response as it stands; or its events after `starting_after`, with `stream=true`."""
        response_id = request.path_params["response_id"]
        context = self.context
        router, tenant, query = context.get_router(), context.identity(request).tenant, request.query_params
        _refuse_includes(request)
        after = query.get("starting_after")
        if not _truth(query.get("stream", "false"), "stream"):
            if after is not None:
                message = "'starting_after' is only allowed when 'stream' is true."
                raise InvalidRequest(message, "starting_after", "invalid_value")
            return self._object(request, await look_up_response(router, response_id, tenant))
        if after is not None and _NUMBER.fullmatch(after) is None:
            raise InvalidRequest("'starting_after' must be the number of an event.", "starting_after", "invalid_value")
        return ResumedResponse(
            router,
            response_id,
            tenant,
            -1 if after is None else int(after),
            context.config,
            context.clock,
            context.request_id(request),
            context.reply_headers(request),
        )

    async def cancel(self, request: Request) -> Response:
        """End a background response; one that has ended already stays as it is."""
        response_id = request.path_params["response_id"]
        router, tenant = self.context.get_router(), self.context.identity(request).tenant
        answer = await look_up_response(router, response_id, tenant)
        if not record_of(answer.request).background:
            raise InvalidRequest("Cannot cancel a synchronous response.", None, "invalid_value")
        with response_found(response_id):
            answer = await router.cancel(response_key(router, response_id, tenant), tenant)
        return self._object(request, answer)

    async def delete(self, request: Request) -> Response:
        """Forget a response; one that still runs is ended."""
        response_id = request.path_params["response_id"]
        router, tenant = self.context.get_router(), self.context.identity(request).tenant
        await look_up_response(router, response_id, tenant)
        with response_found(response_id):
            await router.cancel(response_key(router, response_id, tenant), tenant, forget=True)
        return self._json(request, {"id": response_id, "object": "response", "deleted": True})

    async def list_input_items(self, request: Request) -> Response:
        """The messages that a response answers."""
        response_id = request.path_params["response_id"]
        router, tenant = self.context.get_router(), self.context.identity(request).tenant
        answer = await look_up_response(router, response_id, tenant)
        items = input_items(record_of(answer.request), answer.request)
        return self._json(request, _page(items, request))

    def _object(self, request: Request, kept: KeptState) -> Response:
        answer = CollectedAnswer(events=kept.events)
        status = status_of(answer, kept.ended, kept.error)
        record = record_of(kept.request)
        return self._json(request, response_object(record, kept.request, answer, status, kept.error))

    def _json(self, request: Request, value: Any) -> Response:
        return Response(document(value), 200, self.context.reply_headers(request), "application/json")


def _truth(value: str, param: str) -> bool:
    if value not in _TRUTHS:
        raise InvalidRequest(f"'{param}' must be true or false.", param, "invalid_value")
    return _TRUTHS[value]


def _refuse_includes(request: Request) -> None:
    for name in ("include", "include[]"):
        if name in request.query_params:
            raise InvalidRequest("The parameter 'include' is not supported.", "include", "unsupported_parameter")


def _page(items: list[dict[str, Any]], request: Request) -> dict[str, Any]:
    query = request.query_params
    _refuse_includes(request)
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("'order' must be 'asc' or 'desc'.", "order", "invalid_value")
    limit = query.get("limit", str(_DEFAULT_ITEMS))
    if _NUMBER.fullmatch(limit) is None or not 1 <= int(limit) <= _MAX_ITEMS:
        raise InvalidRequest(f"'limit' must be 1 to {_MAX_ITEMS}.", "limit", "invalid_value")
    if order == "desc":
        items = items[::-1]
    after = query.get("after")
    if after is not None:
        places = [place for place, item in enumerate(items) if item["id"] == after]
        if not places:
            raise InvalidRequest("'after' names no item of this response.", "after", "invalid_value")
        items = items[places[0] + 1 :]
    page = items[: int(limit)]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(page) < len(items),
    }
