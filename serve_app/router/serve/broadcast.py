"""Calls to all router replicas at once, this one included."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

from ray.serve.handle import DeploymentHandle

from serve_app.router.serve.ray_private import replica_results


async def ask_all(routers: DeploymentHandle, method: str, *args: Any, timeout_s: float) -> list[Any]:
    """What each replica answers to `method(*args)`: an exception in place of an answer that fails or takes too long.

    Raises what Serve raises when there is no replica to ask, and `TimeoutError`. Not pinned, as calls to engines are:
    behind HAProxy Serve allows no request router on the ingress deployment.
    """
    # In an empty context: Serve indexes pending calls by the request of the present one. Concurrent calls from one HTTP
    # request hang, and a call would be lost with the request that asked for it.
    asked = contextvars.Context().run(routers.broadcast, method, *args)
    results = await asyncio.wait_for(replica_results(asked), timeout_s)
    # Each has its own time: one that hangs must not cost the answers of the others.
    answers = (asyncio.wait_for(result.get_async(), timeout_s) for result in results)
    return await asyncio.gather(*answers, return_exceptions=True)
