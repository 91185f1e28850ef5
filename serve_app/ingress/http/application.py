"""The FastAPI application that holds the routes, with nothing between server and handler.

FastAPI declares the routes and describes them in `/openapi.json`. It does not run them: its own way to a handler is ten
coroutines deep, and they stay for as long as a request streams: 9 KB of memory and microseconds for each token that is
awaited through them. Nothing here needs what they do: errors become answers in one place, and what a response raises
once it has begun is the server's to log. See docs/adr/0007-fastapi-front.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from serve_app.ingress.http.document import ABOUT, complete
from serve_app.ingress.http.operation import Operation

Handler = Callable[[Request], Awaitable[Response]]
"""Path parameters are in `request.path_params`."""


class Api(FastAPI):
    """Routes to handlers; the handlers' errors, unknown paths and wrong methods go to `on_error`.

    `check` is called before a handler is, and raises when the request may not be served. What is open to everybody
    says so when it is added: a route that somebody forgets to think about is checked. `on_options` answers OPTIONS on a
    path whose methods it is told.
    """

    def __init__(
        self,
        on_error: Callable[[Request, Exception], Response],
        check: Callable[[Request], object],
        on_options: Callable[[Request, Sequence[str]], Response] | None = None,
    ) -> None:
        # `docs_url` tells Ray's dashboard where the page is; without `openapi_url` FastAPI adds no routes of its own.
        super().__init__(**ABOUT, docs_url="/docs", redoc_url=None, openapi_url=None, redirect_slashes=False)
        self._on_error = on_error
        self._check = check
        self._on_options = on_options
        self.open_paths: set[str] = set()
        self.operations: list[Operation] = []

    def route_to(
        self,
        path: str,
        handler: Handler,
        method: str,
        operation: Operation | None = None,
        *,
        head: bool = False,
        open_to_all: bool = False,
    ) -> None:
        """Answer requests of this method to `path`, a Starlette route pattern, with what `handler` returns.

        `operation` describes the route in `/openapi.json`, where a route without one is missing. `head` answers HEAD
        like GET: only for documents, since a HEAD must never generate anything.
        """
        described: dict[str, Any] = {"include_in_schema": False}
        if operation is not None:
            self.operations.append(operation)
            described = {
                "operation_id": operation.id,
                "tags": [operation.tag],
                "summary": operation.summary,
                "responses": operation.responses(),
                "openapi_extra": operation.extra(open_to_all),
            }
        self.add_api_route(path, handler, methods=[method], response_model=None, response_class=Response, **described)
        if head:
            self.add_route(path, handler, ["HEAD"], include_in_schema=False)
        if open_to_all:
            self.open_paths.add(path)

    def openapi(self) -> dict[str, Any]:
        """The document of all routes, the same object each time."""
        if not self.openapi_schema:
            self.openapi_schema = complete(super().openapi(), self.operations)
        return self.openapi_schema

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request, WebSocket or lifespan."""
        if scope["type"] == "http":
            response = await self._response(Request(scope, receive, send))
            await response(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def _response(self, request: Request) -> Response:
        try:
            handler, open_to_all = self._handler(request.scope)
            if not open_to_all:
                self._check(request)
            return await handler(request)
        except Exception as error:
            return self._on_error(request, error)

    def _handler(self, scope: Scope) -> tuple[Handler, bool]:
        """That of the first route that takes the request, whose path parameters are put into `scope`; and whether the
        route is open to everybody."""
        allowed: list[str] = []
        for route in self.routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                handler: Handler = found["endpoint"]
                return handler, getattr(route, "path", None) in self.open_paths
            if match is Match.PARTIAL:
                allowed += sorted(getattr(route, "methods", None) or ())
        if allowed and scope["method"] == "OPTIONS" and self._on_options is not None:
            return self._options(allowed), True  # browsers send it without the token
        if allowed:
            raise HTTPException(405, headers={"Allow": ", ".join(allowed)})
        raise HTTPException(404)

    def _options(self, methods: Sequence[str]) -> Handler:
        async def answer(request: Request) -> Response:
            assert self._on_options is not None
            return self._on_options(request, methods)

        return answer

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        for route in self.routes:
            match, found = route.matches(scope) if isinstance(route, WebSocketRoute) else (Match.NONE, {})
            if match is Match.FULL:
                scope.update(found)
                await route.handle(scope, receive, send)
                return
        await WebSocketClose()(scope, receive, send)
