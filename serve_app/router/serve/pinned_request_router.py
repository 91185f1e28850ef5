"""Serve's request router for our deployments: obeys the replica id that the caller picked, and tells who lives."""

from __future__ import annotations

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica


class PinnedRequestRouter(RequestRouter):  # type: ignore[misc]  # Ray exports it untyped
    """Sends a call to the replica named by its keyword argument `target`; without one, or when it is gone, to any.

    The policy is not here: Serve pickles this class by value, apart from the rest of the project.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The pinned replica, or all candidates. Never empty: an empty answer without back-off blocks the loop."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        target = pending_request.kwargs.get("target")
        pinned = [replica for replica in candidate_replicas if replica.replica_id.unique_id == target]
        return [pinned or candidate_replicas]

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Serve's list changed."""
        super().update_replicas(replicas)
        from serve_app.router.serve import live_replicas, ray_private

        ids = frozenset(replica.replica_id.unique_id for replica in replicas)
        live_replicas.publish(ray_private.deployment_name(self), ids)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Serve saw an actor die, before its controller did."""
        super().on_replica_actor_died(replica_id)
        from serve_app.router.serve import live_replicas, ray_private

        live_replicas.publish_death(ray_private.deployment_name(self), replica_id.unique_id)
