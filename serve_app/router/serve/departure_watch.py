"""Notices that Serve has taken this replica off its list, which is all that a replica ever hears of its end.

Serve no longer lists a replica when it begins to drain it: on a scale-down, an update, or the end of an application.
"""

from __future__ import annotations

import asyncio
import logging

from ray.serve.handle import DeploymentHandle

from serve_app.core.departure import Departure
from serve_app.router.serve.ray_private import connect, listed_replicas

_LOOK_S = 1.0
"""Seconds between looks at the list, which is in this process: connections are told this late."""

logger = logging.getLogger(__name__)


async def watch_departure(routers: DeploymentHandle, replica_id: str, departure: Departure) -> None:
    """Tell `departure` whether Serve lists `replica_id` among `routers`, until cancelled.

    A list that cannot be read ends this: connections that stay are then not told, and hold up the end of their replica.
    """
    connect(routers)
    while True:
        await asyncio.sleep(_LOOK_S)
        try:
            listed = listed_replicas(routers)
        except Exception:
            logger.exception("Serve's list of routers cannot be read: connections will not hear of this one's end")
            return
        if listed is None:
            continue
        was_leaving = departure.leaving
        departure.observe(replica_id in listed)
        if departure.leaving and not was_leaving:
            logger.info("router %s is about to be stopped: sockets and long calls are told", replica_id)
