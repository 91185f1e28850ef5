"""The HTTP API over the routers of a `World`, as the router deployment puts the two together."""

from __future__ import annotations

from typing import Any

from serve_app.core.departure import Departure
from serve_app.core.errors import ServeAppError
from serve_app.core.interfaces import KeptState, RateLimitState, ResumedStream, TokenStream
from serve_app.core.request import GenerationRequest, Priority
from serve_app.ingress.api import build_api
from serve_app.ingress.config import IngressConfig
from serve_app.ingress.http.application import Api
from tests.support.retained_world import RouterReplica, World


class RouterOf:
    """The part of `core.interfaces.Router` that kept answers use, as the router deployment puts it together."""

    signing_key = b"the same for all"
    departure = Departure()

    def __init__(self, replica: RouterReplica) -> None:
        self._replica = replica

    def open(self, request: GenerationRequest) -> TokenStream:
        lifecycle, streams = self._replica.lifecycle, self._replica.streams
        return lifecycle.open(request) if request.retention is None else streams.open(request)

    async def resume(self, key: str, tenant: str, from_token: int = 0) -> ResumedStream:
        return await self._replica.streams.resume(key, tenant, from_token)

    async def look_up(self, key: str, tenant: str) -> KeptState:
        return await self._replica.streams.look_up(key, tenant)

    async def cancel(self, key: str, tenant: str, *, forget: bool = False) -> KeptState:
        return await self._replica.streams.cancel(key, tenant, forget=forget)

    def rate_limits(self, model: str, priority: Priority) -> RateLimitState:
        return self._replica.lifecycle.rate_limits(model, priority)

    def turned_away(self, request_id: str, tenant: str, error: ServeAppError) -> None:
        raise error


def api_of(world: World, router: str) -> Api:
    """The HTTP API of one router replica."""
    served: Any = RouterOf(world.routers[router])
    return build_api(lambda: served, IngressConfig(resume_grace_s=5.0), clock=world.loop.time)
