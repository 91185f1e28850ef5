"""What every part of the HTTP API works with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.requests import Request

from serve_app.core.errors import NotAuthenticated, ServeAppError
from serve_app.core.interfaces import Clock, Router
from serve_app.core.request import ANONYMOUS_TENANT
from serve_app.ingress.bytes_under_way import BytesUnderWay
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.identity import Authenticator, Identity, bearer_token
from serve_app.ingress.origin import ANY_ORIGIN
from serve_app.ingress.request_context import request_id_of

EXPOSED_HEADERS = ", ".join(
    (
        "x-request-id",
        "x-stream-id",
        "retry-after",
        "retry-after-ms",
        "x-should-retry",
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
    )
)
"""What a page of another origin may read besides the few headers that browsers always show."""


@dataclass(frozen=True, slots=True)
class ApiContext:
    """Shared by all routes; holds nothing that belongs to one request."""

    get_router: Callable[[], Router]
    """Called once for each request: the router may not exist before."""
    config: IngressConfig
    echo_request_id: bool
    """Whether responses carry `x-request-id`."""
    clock: Clock
    authenticator: Authenticator
    under_way: BytesUnderWay

    def request_id(self, request: Request) -> str:
        """The request's id, the same for each call with one request."""
        state = request.state
        if not hasattr(state, "request_id"):
            state.request_id = request_id_of(request.headers)
        request_id: str = state.request_id
        return request_id

    def identity(self, request: Request) -> Identity:
        """Who sent `request`, decided at the first call. Raises `NotAuthenticated`, which the router counts."""
        state = request.state
        if not hasattr(state, "identity"):
            try:
                state.identity = self.authenticator.identify(bearer_token(request.headers))
            except NotAuthenticated as error:
                self.get_router().turned_away(self.request_id(request), ANONYMOUS_TENANT, error)
                raise
        identity: Identity = state.identity
        return identity

    def reply_headers(self, request: Request) -> dict[str, str]:
        """The headers of every response to `request`."""
        headers = {"x-request-id": self.request_id(request)} if self.echo_request_id else {}
        allowed = self.config.allowed_origins
        if allowed and (origin := request.headers.get("origin")) is not None:
            # Whether the page may read it depends on the page: no cache may give it to another one.
            headers["vary"] = "Origin"
            if ANY_ORIGIN in allowed or origin in allowed:
                headers["access-control-allow-origin"] = origin
                headers["access-control-expose-headers"] = EXPOSED_HEADERS
        return headers

    @contextmanager
    def reading(self, request: Request) -> Iterator[None]:
        """For the block that reads `request`: the router, which counts and logs them, is told of its errors."""
        try:
            yield
        except ServeAppError as error:
            self.get_router().turned_away(self.request_id(request), self.identity(request).tenant, error)
            raise
