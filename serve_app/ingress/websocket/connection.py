"""What everything that serves one socket shares."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from starlette.datastructures import Headers

from serve_app.core.interfaces import Clock, Router
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.request_context import request_id_of
from serve_app.ingress.websocket.socket import Socket


@dataclass(slots=True)
class Connection:
    """One accepted socket, the headers of its handshake, and what its requests go to."""

    router: Router
    socket: Socket
    headers: Headers
    config: IngressConfig
    clock: Clock
    _name: str = ""
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self._name = request_id_of(self.headers)

    def next_request_id(self) -> str:
        """A name for logs: the handshake's request id and a number."""
        return f"{self._name}-{next(self._numbers)}"
