"""Settings of the gRPC services."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class GrpcConfig(BaseModel):
    """Bounds of one call. Port and services are Serve's own: `grpc_options` of the Serve config file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_requests: Annotated[int, Field(gt=0)] = 64
    """Requests that one call of `BiStreamChat` may have open at once, waiting ones included; one more is refused. Each
    is admitted like an HTTP request: this only bounds what one call keeps in the router's memory."""
    max_unread_messages: Annotated[int, Field(gt=0)] = 64
    """Messages of one call of `BiStreamChat` that may wait for a client that does not read, before its generations are
    no longer read either; the router's own bound on unread output then cuts them."""
    idle_timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """Seconds without an open request and without a message after which a call of `BiStreamChat` ends. Half of the ten
    minutes for which a replica that is being replaced waits, so that idle calls do not hold it up."""
    queue_look_s: Annotated[float, Field(ge=0.1)] = 0.5
    """Seconds between looks at the queue for a request that waits; a client hears of a new position this late."""
    health_look_s: Annotated[float, Field(ge=0.1)] = 1.0
    """Seconds between looks at the router for those who watch its health."""
    health_watch_s: Annotated[float, Field(gt=0)] = 300.0
    """Seconds after which a call of `grpc.health.v1.Health.Watch` ends; clients then watch again, as they do after any
    end. Half of the ten minutes for which a replica that is being replaced waits, like `idle_timeout_s`."""
