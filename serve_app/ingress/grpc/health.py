"""`grpc.health.v1.Health`: whether a request would be admitted now, as `/ready` says it over HTTP.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from serve_app.core.interfaces import Router

SERVICES = ("", "ChatService", "LLMService", "grpc.health.v1.Health")
"""The names that may be asked for; the empty one stands for the server."""


def check(router: Router, request: HealthCheckRequest) -> HealthCheckResponse | None:
    """The state of one service; None when there is no such service."""
    return _state(router) if request.service in SERVICES else None


async def watch(
    router: Router, request: HealthCheckRequest, look_s: float
) -> AsyncGenerator[HealthCheckResponse, None]:
    """The state now, and again after each change; looks every `look_s` seconds and does not end."""
    told = None
    while True:
        known = request.service in SERVICES
        state = _state(router) if known else HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        if state != told:
            told = state
            yield state
        await asyncio.sleep(look_s)


def _state(router: Router) -> HealthCheckResponse:
    serving = HealthCheckResponse.SERVING if router.can_admit() else HealthCheckResponse.NOT_SERVING
    return HealthCheckResponse(status=serving)
