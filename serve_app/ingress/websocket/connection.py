"""What everything that serves one socket shares."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from starlette.datastructures import Headers

from serve_app.core.errors import NotAuthenticated
from serve_app.core.interfaces import Clock, Router
from serve_app.core.request import ANONYMOUS_TENANT
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.identity import Authenticator, Identity
from serve_app.ingress.request_context import request_id_of
from serve_app.ingress.websocket.socket import Socket


@dataclass(slots=True)
class Connection:
    """One accepted socket, its handshake, and what its requests go to."""

    router: Router
    socket: Socket
    headers: Headers
    """Of the handshake."""
    token: str | None
    """Of the handshake; None without one."""
    config: IngressConfig
    clock: Clock
    authenticator: Authenticator
    _name: str = ""
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self._name = request_id_of(self.headers)

    def next_request_id(self) -> str:
        """A name for logs: the handshake's request id and a number."""
        return f"{self._name}-{next(self._numbers)}"

    def identify(self, token: str | None) -> Identity:
        """Who presents `token`. Raises `NotAuthenticated`, which the router counts."""
        try:
            return self.authenticator.identify(token)
        except NotAuthenticated as error:
            self.router.turned_away(self.next_request_id(), ANONYMOUS_TENANT, error)
            raise
