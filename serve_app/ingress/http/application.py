"""The ASGI application that holds the routes, with nothing between server and handler.

A web framework's own application runs every request below ten coroutines, that stay for as long as it streams: 9 KB of
memory and microseconds for each token that is awaited through them. Nothing here needs what they do: errors become
answers in one place, and what a response raises once it has begun is the server's to log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

Handler = Callable[[Request], Awaitable[Response]]
"""Path parameters are in `request.path_params`."""


class Api(Starlette):
    """Routes to handlers; the handlers' errors, unknown paths and wrong methods go to `on_error`.

    `check` is called before a handler is, and raises when the request may not be served. What is open to everybody
    says so when it is added: a route that somebody forgets to think about is checked.
    """

    def __init__(self, on_error: Callable[[Request, Exception], Response], check: Callable[[Request], object]) -> None:
        super().__init__()
        self.router.redirect_slashes = False
        self._on_error = on_error
        self._check = check
        self.open_paths: set[str] = set()

    def route_to(self, path: str, handler: Handler, *methods: str, open_to_all: bool = False) -> None:
        """Answer requests of these methods to `path`, a Starlette route pattern, with what `handler` returns."""
        self.add_route(path, handler, list(methods))
        if open_to_all:
            self.open_paths.add(path)

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
        if allowed:
            raise HTTPException(405, headers={"Allow": ", ".join(allowed)})
        raise HTTPException(404)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        for route in self.routes:
            match, found = route.matches(scope) if isinstance(route, WebSocketRoute) else (Match.NONE, {})
            if match is Match.FULL:
                scope.update(found)
                await route.handle(scope, receive, send)
                return
        await WebSocketClose()(scope, receive, send)
