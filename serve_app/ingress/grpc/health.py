"""`grpc.health.v1.Health`: whether a request would be admitted now, as `/ready` says it over HTTP.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from serve_app.core.interfaces import Router
from serve_app.ingress.grpc.config import GrpcConfig

SERVICES = ("", "ChatService", "LLMService", "grpc.health.v1.Health")
"""The names that may be asked for; the empty one stands for the server."""


def check(router: Router, request: HealthCheckRequest) -> HealthCheckResponse | None:
    """The state of one service; None when there is no such service."""
    return _state(router) if request.service in SERVICES else None


async def watch(
    router: Router, request: HealthCheckRequest, config: GrpcConfig
) -> AsyncGenerator[HealthCheckResponse, None]:
    """The state now, and again after each change; looks every `health_look_s` seconds.

    Ends after `health_watch_s`, and at once when the replica leaves: clients then watch again, wherever they get to. A
    call that never ends would hold up the replica that is to be replaced for as long as Serve lets it.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + config.health_watch_s
    leaving = asyncio.Event()
    told = None
    with router.departure.told_to(leaving.set):
        while loop.time() < until and not leaving.is_set():
            known = request.service in SERVICES
            state = _state(router) if known else HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
            if state != told:
                told = state
                yield state
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(config.health_look_s, until - loop.time())):
                    await leaving.wait()


def _state(router: Router) -> HealthCheckResponse:
    serving = HealthCheckResponse.SERVING if router.can_admit() else HealthCheckResponse.NOT_SERVING
    return HealthCheckResponse(status=serving)
