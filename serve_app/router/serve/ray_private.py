"""Everything that we use of Ray's private API: what a new version of Ray may break, each with a test.

Why each is needed is said at its function. Nobody else imports a private name of Ray.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import ray
from ray.experimental import internal_kv
from ray.serve._private import default_impl, grpc_util, replica
from ray.serve.context import ReplicaContext
from ray.serve.handle import DeploymentBroadcastResponse, DeploymentHandle
from ray.serve.request_router import RequestRouter

_ALL_INTERFACES = "[::]:"
_LOOPBACK = "127.0.0.1"

_RECEIVED = "grpc.max_receive_message_length"
MAX_GRPC_MESSAGE_BYTES = 4 * 1024 * 1024
"""As by gRPC itself. A million tokens of text fit; the worst message holds the loop for a tenth of a second."""

AddPort = Callable[[Any, str], Any]


class ReplicaResult(Protocol):
    """What one replica answers to a broadcast."""

    def get_async(self) -> Awaitable[Any]: ...


def connect(handle: DeploymentHandle) -> None:
    """Let `handle` follow Serve's list of replicas from now on, not only from its first call on. Idempotent."""
    if not handle.is_initialized:
        handle._init()


def listed_replicas(handle: DeploymentHandle) -> frozenset[str] | None:
    """The unique ids of the replicas that Serve lists for a connected `handle`; None before it has listed any.

    Serve tells request routers of changes, but behind HAProxy it allows none of our own on the ingress deployment.
    """
    router = handle._router
    if router is None or not router.running_replicas_populated():
        return None
    # The attribute, not the property of that name, which would build it in the wrong thread.
    request_router = router._asyncio_router._request_router
    return None if request_router is None else frozenset(key.unique_id for key in list(request_router.curr_replicas))


async def replica_results(broadcast: DeploymentBroadcastResponse) -> Sequence[ReplicaResult]:
    """The answers that a broadcast waits for, one for each replica.

    The public `results_async` waits for all of them: one replica that hangs costs the answers of the others.
    """
    results: Sequence[ReplicaResult] = await broadcast._fetch_replica_results_async()
    return results


def deployment_name(router: RequestRouter) -> str:
    """The deployment whose replicas a request router chooses from: Serve tells it to nobody else there."""
    name: str = router._deployment_id.name
    return name


def max_ongoing_requests(context: ReplicaContext) -> int:
    """What a replica's deployment was configured with; the config file may have overridden what we wrote."""
    bound: int = context._deployment_config.max_ongoing_requests
    return bound


def stored_once(namespace: str, key: str, value: bytes) -> bytes:
    """Store `value` in the cluster's key-value store unless there is one; the stored value. Blocks.

    Ray has no public store that outlives the processes of an application and takes the first of concurrent writes.
    """
    internal_kv._internal_kv_put(key, value, overwrite=False, namespace=namespace)
    stored: bytes = internal_kv._internal_kv_get(key, namespace=namespace)
    return stored


def listen_on_loopback() -> list[Any]:
    """Keep the gRPC ports that Serve opens in this process from now on on loopback, if Ray knows this machine by that.

    Ray Serve 2.60 opens them on all interfaces. Every replica has one for calls between deployments, which unpickles
    what it gets; each router replica and Serve's proxy have another one for gRPC clients.

    Otherwise other machines may have to reach them, and nothing changes. Returns the middlewares to add where Serve
    starts a proxy (`proxy_start`): none.
    """
    if ray.util.get_node_ip_address() == _LOOPBACK:
        replica.add_port_to_grpc_server = _on_loopback(replica.add_port_to_grpc_server)
        default_impl.add_grpc_address = _on_loopback(default_impl.add_grpc_address)
    return []


def bound_grpc_messages() -> None:
    """Bound what the gRPC servers that Serve starts in this process from now on take as one message. Idempotent.

    Ray Serve 2.60 lets a client send 2 GiB, which are in memory and parsed before any of our code sees them.
    """
    options = grpc_util.DEFAULT_GRPC_SERVER_OPTIONS
    options[:] = [option for option in options if option[0] != _RECEIVED]
    options.append((_RECEIVED, MAX_GRPC_MESSAGE_BYTES))


def _on_loopback(add: AddPort) -> AddPort:
    @functools.wraps(add)
    def add_local(server: Any, address: str) -> Any:
        return add(server, address.replace(_ALL_INTERFACES, f"{_LOOPBACK}:", 1))

    return add_local
