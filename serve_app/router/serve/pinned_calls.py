"""Serve handle calls to one named replica, with Serve's errors translated to ours."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

from ray.exceptions import RayActorError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from serve_app.core.errors import EngineFull, EngineLost, ServeAppError
from serve_app.router.serve.ray_private import connect

PINNED_REQUEST_ROUTER = "serve_app.router.serve.pinned_request_router:PinnedRequestRouter"


class PinnedCalls:
    """Unary calls to the replicas of one deployment. Safe to use concurrently on one event loop."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._methods: dict[str, DeploymentHandle] = {}

    def connect(self) -> None:
        """Begin to listen to Serve's replica list. Idempotent."""
        connect(self._handle)

    async def call(self, method: str, target: str, *args: Any) -> Any:
        """Call `method(*args, target=target)` at replica `target` and return its result.

        Cancelling this cancels the call. Raises `EngineLost` when the replica died, `EngineFull` when Serve refuses
        the call, and whatever of ours the method raises.
        """
        response = self._start(method, target, args)
        try:
            return await response
        except asyncio.CancelledError:
            # Without this the replica goes on computing for nobody.
            response.cancel()
            raise
        except RayTaskError as error:
            if isinstance(error.cause, ServeAppError):
                raise error.cause from error
            raise
        except (RayActorError, RequestCancelledError, TaskCancelledError) as error:
            raise EngineLost(f"Replica {target} is gone.") from error
        except (BackPressureError, DeploymentUnavailableError) as error:
            raise EngineFull(f"Serve did not pass a call on to replica {target}.") from error

    def _start(self, method: str, target: str, args: tuple[Any, ...]) -> DeploymentResponse:
        handle = self._methods.get(method)
        if handle is None:
            # Plain pickle, all in C: what is sent are classes of ours, none of which cloudpickle has to look into.
            handle = self._methods[method] = self._handle.options(
                method_name=method, request_serialization="pickle", response_serialization="pickle"
            )
        # Serve indexes pending calls by the request of the present context: concurrent calls from one request hang,
        # and the engine call would end with the HTTP request that happened to start it.
        response: DeploymentResponse = contextvars.Context().run(handle.remote, *args, target=target)
        return response
